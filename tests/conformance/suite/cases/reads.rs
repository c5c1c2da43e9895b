//! Direct reads: evidence, the guest, and properties.

use anyhow::{Context, Result, bail, ensure};
use otter::domain::call::{CallKind, HostCall, SnapshotEvidence};
use otter::domain::ids::MachineId;
use otter::domain::power::PowerState;
use otter::hypervisor::{Capability, Fact, HostErrorKind};

use super::super::case_table;
use super::super::recording_observer::Reported;
use super::super::test_context::TestContext;

case_table! {
    Automatic:
        evidence_matches_the_machine,
        evidence_is_read_directly,
        recent_tasks_name_the_call_and_the_account needs [RecentTasks],
        the_boot_time_changes_when_the_host_restarts needs [RebootHost],
        confirm_guest_returns_after_the_fact,
        properties_are_read_by_path,
        reads_of_an_unknown_machine_are_not_found;
    Stepped:
        recent_tasks_include_running_tasks needs [StepTasks, RecentTasks];
}

async fn evidence_matches_the_machine(test: &TestContext) -> Result<()> {
    let machines = &test.machines;
    let actual = test.check_matches_host().await?;
    for id in [&machines.running, &machines.stopped, &machines.with_snapshots, &machines.with_tools]
    {
        let machine = actual.machines.get(id).context("a test machine is missing")?;
        let evidence = test.backend.read_evidence(id).await?;
        ensure!(evidence.identity == machine.identity(), "{:?}", evidence.identity);
        ensure!(evidence.power_state == machine.power_state, "{:?}", evidence.power_state);
        ensure!(
            evidence.current_snapshot == machine.snapshots.current,
            "{:?}",
            evidence.current_snapshot
        );
        ensure!(
            evidence.tools_running == machine.guest.tools_running,
            "tools: {}",
            evidence.tools_running
        );
        ensure!(
            evidence.question == machine.question.as_ref().map(|question| question.id.clone()),
            "question: {:?}",
            evidence.question
        );
        let snapshots = machine.snapshots.items.iter().map(|snapshot| SnapshotEvidence {
            id: snapshot.id.clone(),
            parent: snapshot.parent.clone(),
            name: snapshot.name.clone(),
            description: snapshot.description.clone(),
        });
        ensure!(
            snapshots.eq(evidence.snapshots.iter().cloned()),
            "snapshots: {:?}",
            evidence.snapshots
        );
        ensure!(!evidence.has_running_task(), "no task runs: {:?}", evidence.recent_tasks);
    }
    Ok(())
}

async fn evidence_is_read_directly(test: &TestContext) -> Result<()> {
    for on in [true, false] {
        test.control.set_power(&test.machines.stopped, on).await?;
        let seen = test.backend.read_evidence(&test.machines.stopped).await?.power_state;
        let expected = if on { PowerState::On } else { PowerState::Off };
        ensure!(
            seen == Some(expected),
            "the machine is {}, a direct read returned {seen:?}",
            expected.as_str()
        );
    }
    Ok(())
}

async fn recent_tasks_name_the_call_and_the_account(test: &TestContext) -> Result<()> {
    let machine = &test.machines.stopped;
    let own = test.start_task(machine, &HostCall::PowerOn).await?;
    test.wait_task_end(&own).await?;
    test.control.set_power(machine, false).await?;
    let evidence = test.backend.read_evidence(machine).await?;
    let task = evidence
        .recent_tasks
        .iter()
        .find(|task| task.id == own)
        .context("the backend's own task is missing")?;
    ensure!(task.by_us && !task.running && task.call == Some(CallKind::PowerOn), "ours: {task:?}");
    ensure!(
        evidence.recent_tasks.iter().all(|task| task.id == own || !task.by_us),
        "the task of another client is marked as own: {:?}",
        evidence.recent_tasks
    );
    Ok(())
}

async fn recent_tasks_include_running_tasks(test: &TestContext) -> Result<()> {
    let machines = &test.machines;
    let own = test.start_task(&machines.running, &HostCall::PowerOff).await?;
    let foreign = test.control.start_power_on(&machines.stopped).await?;
    test.control.step_tasks().await?;
    for (machine, id, by_us, call) in [
        (&machines.running, &own, true, CallKind::PowerOff),
        (&machines.stopped, &foreign, false, CallKind::PowerOn),
    ] {
        let evidence = test.backend.read_evidence(machine).await?;
        ensure!(evidence.has_running_task(), "a task runs: {evidence:?}");
        let task = evidence
            .recent_tasks
            .iter()
            .find(|task| task.id == *id)
            .context("the running task is missing")?;
        ensure!(task.running && task.by_us == by_us && task.call == Some(call), "{task:?}");
    }
    test.control.finish_tasks().await?;
    for machine in [&machines.running, &machines.stopped] {
        let evidence = test.backend.read_evidence(machine).await?;
        ensure!(!evidence.has_running_task(), "the task has ended: {evidence:?}");
    }
    Ok(())
}

async fn the_boot_time_changes_when_the_host_restarts(test: &TestContext) -> Result<()> {
    let machine = &test.machines.running;
    let before = test.backend.read_evidence(machine).await?.host_boot_time;
    let again = test.backend.read_evidence(&test.machines.stopped).await?.host_boot_time;
    ensure!(before.is_some() && before == again, "{before:?}, then {again:?}");
    let sets = test.complete_sets();
    test.control.reboot_host().await?;
    test.wait_resynced(sets).await?;
    test.check_matches_host().await?;
    let after = test.backend.read_evidence(machine).await?;
    ensure!(
        after.host_boot_time.is_some() && after.host_boot_time != before,
        "{before:?} before and after"
    );
    ensure!(after.power_state == Some(PowerState::Off), "a machine is not off after the reboot");
    Ok(())
}

async fn confirm_guest_returns_after_the_fact(test: &TestContext) -> Result<()> {
    let id = &test.machines.with_tools;
    let actual = test
        .control
        .contents()
        .await?
        .machines
        .remove(id)
        .context("a test machine is missing")?
        .guest;
    test.in_time("a confirmation", test.backend.confirm_guest(id)).await??;
    let confirmed = test.observer.read(|recording| {
        recording.reports.iter().rev().find_map(|report| match report {
            Reported::GuestConfirmed(fact) => Some(fact.clone()),
            _ => None,
        })
    });
    let expected = Fact::GuestConfirmed {
        machine: id.clone(),
        tools_running: actual.tools_running,
        ip_address: actual.ip_address,
        interfaces: actual.interfaces,
    };
    ensure!(confirmed.as_ref() == Some(&expected), "reported {confirmed:?}, expected {expected:?}");
    Ok(())
}

async fn properties_are_read_by_path(test: &TestContext) -> Result<()> {
    let backend = &test.backend;
    if !backend.capabilities().contains(&Capability::Properties) {
        return match backend.properties(&test.machines.running, &["name".to_owned()]).await {
            Err(error) if error.kind == HostErrorKind::NotSupported => Ok(()),
            other => bail!("without the capability, properties returned {other:?}"),
        };
    }
    let paths = ["runtime.powerState", "name", "runtime.question"].map(str::to_owned);
    let values = backend.properties(&test.machines.running, &paths).await?;
    let mut requested: Vec<_> = paths.iter().map(String::as_str).collect();
    requested.sort_unstable();
    let mut read: Vec<_> = values.keys().map(String::as_str).collect();
    read.sort_unstable();
    ensure!(read == requested, "requested {requested:?}, read {read:?}");
    ensure!(values["runtime.powerState"] == "poweredOn", "{values:?}");
    let name = test.machine(&test.machines.running)?.name;
    ensure!(values["name"] == name.as_str() && values["runtime.question"].is_null(), "{values:?}");
    for path in ["nonsense", "config.nonsense"] {
        match backend
            .properties(&test.machines.running, &["name".to_owned(), path.to_owned()])
            .await
        {
            Err(error) if error.kind == HostErrorKind::InvalidProperty => {}
            other => bail!("{path} returned {other:?}"),
        }
    }
    let none = backend.properties(&test.machines.running, &[]).await?;
    ensure!(none.is_empty(), "requested no property, read {none:?}");
    Ok(())
}

async fn reads_of_an_unknown_machine_are_not_found(test: &TestContext) -> Result<()> {
    let unknown = MachineId::from_backend("no-such-machine");
    let backend = &test.backend;
    let read = backend.read_evidence(&unknown).await.map(|_| ());
    let confirmed = backend.confirm_guest(&unknown).await;
    let mut results = vec![("examine", read), ("confirm_guest", confirmed)];
    if backend.capabilities().contains(&Capability::Properties) {
        let properties = backend.properties(&unknown, &["name".to_owned()]).await.map(|_| ());
        results.push(("properties", properties));
    }
    for (what, result) in results {
        match result {
            Err(error) if error.kind == HostErrorKind::NotFound => {}
            other => bail!("{what} of an unknown machine returned {other:?}"),
        }
    }
    // The backend did not treat its session as lost.
    let logins = test.observer.read(|recording| recording.status().map(|status| status.logins));
    ensure!(logins == Some(1), "{logins:?} logins");
    Ok(())
}
