//! Reads past the picture: evidence, the guest, and raw properties.

use anyhow::{Context, Result, bail, ensure};
use otter::domain::call::{CallKind, HostCall, SeenSnapshot};
use otter::domain::ids::MachineId;
use otter::domain::power::PowerState;
use otter::hypervisor::{Capability, Fact, HostErrorKind};

use super::super::case_table;
use super::super::trial::Trial;
use super::super::watching::Told;

case_table! {
    Brisk:
        evidence_is_what_the_machine_is,
        evidence_goes_past_the_picture,
        recent_tasks_tell_what_was_called_and_by_whom needs [RecentTasks],
        the_boot_time_tells_a_restart_of_the_host needs [Reboot],
        a_guest_is_confirmed_by_the_time_it_returns,
        properties_are_read_by_their_paths,
        reads_of_a_machine_that_is_not_there_are_not_found;
    Held:
        a_running_task_is_among_the_recent_ones needs [Hold, RecentTasks];
}

async fn evidence_is_what_the_machine_is(trial: &Trial) -> Result<()> {
    let cast = &trial.cast;
    let truth = trial.agrees().await?;
    for id in [&cast.running, &cast.stopped, &cast.reverted, &cast.with_tools] {
        let machine = truth.machines.get(id).context("the cast is not there")?;
        let evidence = trial.backend.examine(id).await?;
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
            "a question"
        );
        let snapshots = machine.snapshots.items.iter().map(|snapshot| SeenSnapshot {
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
        ensure!(!evidence.has_running_task(), "nothing runs: {:?}", evidence.recent_tasks);
    }
    Ok(())
}

async fn evidence_goes_past_the_picture(trial: &Trial) -> Result<()> {
    for on in [true, false] {
        trial.stage.power(&trial.cast.stopped, on).await?;
        let seen = trial.backend.examine(&trial.cast.stopped).await?.power_state;
        let wanted = if on { PowerState::On } else { PowerState::Off };
        ensure!(seen == Some(wanted), "it is {}, and a direct read says {seen:?}", wanted.as_str());
    }
    Ok(())
}

async fn recent_tasks_tell_what_was_called_and_by_whom(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.stopped;
    let ours = trial.task(machine, &HostCall::PowerOn).await?;
    trial.end_of(&ours).await?;
    trial.stage.power(machine, false).await?;
    let evidence = trial.backend.examine(machine).await?;
    let task = evidence
        .recent_tasks
        .iter()
        .find(|task| task.id == ours)
        .context("our task is not among them")?;
    ensure!(task.by_us && !task.running && task.call == Some(CallKind::PowerOn), "ours: {task:?}");
    ensure!(
        evidence.recent_tasks.iter().all(|task| task.id == ours || !task.by_us),
        "a colleague's task is said to be ours: {:?}",
        evidence.recent_tasks
    );
    Ok(())
}

async fn a_running_task_is_among_the_recent_ones(trial: &Trial) -> Result<()> {
    let cast = &trial.cast;
    let ours = trial.task(&cast.running, &HostCall::PowerOff).await?;
    let theirs = trial.stage.start_task(&cast.stopped).await?;
    trial.stage.step_tasks().await?;
    for (machine, id, by_us, call) in [
        (&cast.running, &ours, true, CallKind::PowerOff),
        (&cast.stopped, &theirs, false, CallKind::PowerOn),
    ] {
        let evidence = trial.backend.examine(machine).await?;
        ensure!(evidence.has_running_task(), "one runs: {evidence:?}");
        let task = evidence
            .recent_tasks
            .iter()
            .find(|task| task.id == *id)
            .context("the task that runs")?;
        ensure!(task.running && task.by_us == by_us && task.call == Some(call), "{task:?}");
    }
    trial.stage.finish_tasks().await?;
    for machine in [&cast.running, &cast.stopped] {
        let evidence = trial.backend.examine(machine).await?;
        ensure!(!evidence.has_running_task(), "it ended: {evidence:?}");
    }
    Ok(())
}

async fn the_boot_time_tells_a_restart_of_the_host(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.running;
    let before = trial.backend.examine(machine).await?.host_boot_time;
    let again = trial.backend.examine(&trial.cast.stopped).await?.host_boot_time;
    ensure!(before.is_some() && before == again, "{before:?}, then {again:?}");
    let sets = trial.whole_sets();
    trial.stage.reboot().await?;
    trial.connected_after(sets).await?;
    trial.agrees().await?;
    let after = trial.backend.examine(machine).await?;
    ensure!(
        after.host_boot_time.is_some() && after.host_boot_time != before,
        "{before:?} before and after"
    );
    ensure!(after.power_state == Some(PowerState::Off), "every machine is off after it");
    Ok(())
}

async fn a_guest_is_confirmed_by_the_time_it_returns(trial: &Trial) -> Result<()> {
    let id = &trial.cast.with_tools;
    let truth =
        trial.stage.truth().await?.machines.remove(id).context("the cast is not there")?.guest;
    trial.soon("a confirmation", trial.backend.confirm_guest(id)).await??;
    let confirmed = trial.watching.look(|picture| {
        picture.told.iter().rev().find_map(|told| match told {
            Told::Confirmed(fact) => Some(fact.clone()),
            _ => None,
        })
    });
    let wanted = Fact::GuestConfirmed {
        machine: id.clone(),
        tools_running: truth.tools_running,
        ip_address: truth.ip_address,
        ip_addresses: truth.ip_addresses,
    };
    ensure!(confirmed.as_ref() == Some(&wanted), "told is {confirmed:?}, the truth is {wanted:?}");
    Ok(())
}

async fn properties_are_read_by_their_paths(trial: &Trial) -> Result<()> {
    let backend = &trial.backend;
    if !backend.capabilities().contains(&Capability::Properties) {
        return match backend.properties(&trial.cast.running, &["name".to_owned()]).await {
            Err(error) if error.kind == HostErrorKind::NotSupported => Ok(()),
            other => bail!("properties are said not to be there, and {other:?} was read"),
        };
    }
    let paths = ["runtime.powerState", "name", "runtime.question"].map(str::to_owned);
    let values = backend.properties(&trial.cast.running, &paths).await?;
    let mut asked: Vec<_> = paths.iter().map(String::as_str).collect();
    asked.sort_unstable();
    let mut read: Vec<_> = values.keys().map(String::as_str).collect();
    read.sort_unstable();
    ensure!(read == asked, "asked for {asked:?}, and read {read:?}");
    ensure!(values["runtime.powerState"] == "poweredOn", "{values:?}");
    let name = trial.machine(&trial.cast.running)?.name;
    ensure!(values["name"] == name.as_str() && values["runtime.question"].is_null(), "{values:?}");
    for path in ["nonsense", "config.nonsense"] {
        match backend.properties(&trial.cast.running, &["name".to_owned(), path.to_owned()]).await {
            Err(error) if error.kind == HostErrorKind::InvalidProperty => {}
            other => bail!("{path} gave {other:?}"),
        }
    }
    let none = backend.properties(&trial.cast.running, &[]).await?;
    ensure!(none.is_empty(), "asked for nothing, and read {none:?}");
    Ok(())
}

async fn reads_of_a_machine_that_is_not_there_are_not_found(trial: &Trial) -> Result<()> {
    let nobody = MachineId::from_backend("no-such-machine");
    let backend = &trial.backend;
    let read = backend.examine(&nobody).await.map(|_| ());
    let confirmed = backend.confirm_guest(&nobody).await;
    let mut results = vec![("examine", read), ("confirm_guest", confirmed)];
    if backend.capabilities().contains(&Capability::Properties) {
        let properties = backend.properties(&nobody, &["name".to_owned()]).await.map(|_| ());
        results.push(("properties", properties));
    }
    for (what, result) in results {
        match result {
            Err(error) if error.kind == HostErrorKind::NotFound => {}
            other => bail!("{what} of no machine gave {other:?}"),
        }
    }
    // It said so, and did not believe that its session was lost.
    let logins = trial.watching.look(|picture| picture.status().map(|status| status.logins));
    ensure!(logins == Some(1), "{logins:?} logins");
    Ok(())
}
