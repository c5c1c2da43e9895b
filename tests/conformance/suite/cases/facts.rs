//! Facts: first the complete set, then every change and every removal of any client. No fact is
//! lost or invented.

use anyhow::{Context, Result, bail, ensure};
use otter::domain::call::HostCall;
use otter::domain::power::PowerState;

use super::super::case_table;
use super::super::host_control::HostContents;
use super::super::test_context::TestContext;

case_table! {
    Automatic:
        the_first_facts_are_complete,
        a_change_by_another_client_is_reported,
        a_new_machine_is_reported needs [AddMachines],
        a_datastore_reports_its_machine_count needs [AddMachines, RemoveMachines, DatastoreUpdates],
        a_removal_is_reported needs [RemoveMachines],
        snapshots_by_another_client_are_reported_as_a_tree,
        a_question_is_reported_until_it_is_answered needs [Questions],
        changes_are_reported_without_a_barrier,
        no_fact_is_lost_or_invented_under_many_changes,
        added_and_removed_machines_are_tracked needs [AddMachines, RemoveMachines];
}

async fn the_first_facts_are_complete(test: &TestContext) -> Result<()> {
    let known = test.observer.recording();
    let actual = test.control.contents().await?;
    ensure!(known.complete_sets() == 1, "{} complete sets at the start", known.complete_sets());
    test.compare(&known.contents, &actual)?;
    ensure!(!actual.datastores.is_empty(), "the host has no datastore");
    let machines = &test.machines;
    for (id, state) in [(&machines.running, PowerState::On), (&machines.stopped, PowerState::Off)] {
        ensure!(
            test.machine(id)?.power_state == Some(state),
            "machine {id} is not {}",
            state.as_str()
        );
    }
    Ok(())
}

async fn a_change_by_another_client_is_reported(test: &TestContext) -> Result<()> {
    let machine = &test.machines.stopped;
    for on in [true, false, true] {
        test.control.set_power(machine, on).await?;
        let state = if on { PowerState::On } else { PowerState::Off };
        test.barrier().await?;
        let seen = test.machine(machine)?.power_state;
        ensure!(
            seen == Some(state),
            "the machine was powered {}, reported is {seen:?}",
            state.as_str()
        );
    }
    ensure!(test.complete_sets() == 1, "a change was reported as a complete set");
    test.check_matches_host().await.map(drop)
}

async fn a_new_machine_is_reported(test: &TestContext) -> Result<()> {
    let id = test.control.add_machine("added").await?;
    test.barrier().await?;
    ensure!(test.machine(&id)?.name == "added", "the new machine has another name");
    test.check_matches_host().await.map(drop)
}

async fn a_datastore_reports_its_machine_count(test: &TestContext) -> Result<()> {
    let machines = |actual: &HostContents| {
        actual.datastores.values().map(|datastore| datastore.machine_count).sum::<u32>()
    };
    let before = test.check_matches_host().await?;
    let added = test.control.add_machine("added").await?;
    let with_it = test.check_matches_host().await?;
    test.control.remove_machine(&added).await?;
    let after = test.check_matches_host().await?;
    let counts = [&before, &with_it, &after].map(machines);
    ensure!(
        counts[1] == counts[0] + 1 && counts[2] == counts[0],
        "one machine was added and removed: {counts:?}"
    );
    Ok(())
}

async fn a_removal_is_reported(test: &TestContext) -> Result<()> {
    let machine = &test.machines.stopped;
    test.control.remove_machine(machine).await?;
    test.barrier().await?;
    ensure!(test.machine(machine).is_err(), "the deleted machine {machine} is still reported");
    test.check_matches_host().await.map(drop)
}

async fn snapshots_by_another_client_are_reported_as_a_tree(test: &TestContext) -> Result<()> {
    let machine = &test.machines.running;
    test.control.remove_snapshots(machine).await?;
    let first = test.control.create_snapshot(machine, "first").await?;
    let second = test.control.create_snapshot(machine, "second").await?;
    test.barrier().await?;
    let snapshots = test.machine(machine)?.snapshots;
    ensure!(
        snapshots.current.as_ref() == Some(&second),
        "the current snapshot is {:?}",
        snapshots.current
    );
    let seen = snapshots.get(&second).context("the second snapshot")?;
    ensure!((seen.name.as_str(), &seen.parent) == ("second", &Some(first.clone())), "{seen:?}");
    ensure!(
        snapshots.get(&first).context("the first snapshot")?.children == [second],
        "{snapshots:?}"
    );
    test.control.remove_snapshots(machine).await?;
    test.barrier().await?;
    let snapshots = test.machine(machine)?.snapshots;
    ensure!(
        snapshots.items.is_empty() && snapshots.current.is_none(),
        "all snapshots were removed: {snapshots:?}"
    );
    Ok(())
}

async fn a_question_is_reported_until_it_is_answered(test: &TestContext) -> Result<()> {
    let machine = &test.machines.stopped;
    test.control.ask_at_power_on(machine).await?;
    let task = test.start_task(machine, &HostCall::PowerOn).await?;
    let asked = |recording: &super::super::recording_observer::Recording| {
        recording.contents.machines.get(machine)?.question.clone()
    };
    let question = test.wait_until("the question", asked).await?;
    let Some(choice) = question.choices.first() else {
        bail!("a question without a choice: {question:?}")
    };
    ensure!(!question.text.is_empty(), "a question without a text");
    let evidence = test.backend.read_evidence(machine).await?;
    ensure!(
        evidence.question.as_ref() == Some(&question.id),
        "a direct read shows {:?}",
        evidence.question
    );
    let answer = HostCall::Answer { question: question.id.clone(), choice: choice.key.clone() };
    test.call_without_task(machine, &answer).await?;
    super::super::test_context::expect_success(test.wait_task_end(&task).await?)?;
    test.barrier().await?;
    let seen = test.machine(machine)?;
    ensure!(seen.question.is_none(), "the answered question is still reported");
    ensure!(seen.power_state == Some(PowerState::On), "it is {:?}", seen.power_state);
    ensure!(
        test.call_failure(machine, &answer).await.is_ok(),
        "an answer to an answered question succeeded"
    );
    Ok(())
}

async fn changes_are_reported_without_a_barrier(test: &TestContext) -> Result<()> {
    let machine = &test.machines.permanent;
    test.control.rename_machine(machine, "renamed without a barrier").await?;
    test.wait_until("a change without a barrier", |recording| {
        (recording.contents.machines.get(machine)?.name == "renamed without a barrier")
            .then_some(())
    })
    .await
}

async fn no_fact_is_lost_or_invented_under_many_changes(test: &TestContext) -> Result<()> {
    let machines = &test.machines;
    for round in 0..4 {
        let on = round % 2 == 0;
        test.control.set_power(&machines.stopped, on).await?;
        test.control.rename_machine(&machines.permanent, &format!("round {round}")).await?;
        let own = test
            .start_task(&machines.running, &if on { HostCall::PowerOff } else { HostCall::PowerOn })
            .await?;
        test.control.create_snapshot(&machines.permanent, &format!("snapshot {round}")).await?;
        test.wait_task_end(&own).await?;
        test.check_matches_host().await.with_context(|| format!("after round {round}"))?;
    }
    test.control.remove_snapshots(&machines.permanent).await?;
    test.check_matches_host().await?;
    let missed = test.observer.read(|recording| recording.removed.clone());
    ensure!(missed.is_empty(), "existing machines were reported as removed: {missed:?}");
    Ok(())
}

async fn added_and_removed_machines_are_tracked(test: &TestContext) -> Result<()> {
    let mut gone = std::collections::BTreeSet::new();
    for round in 0..5 {
        let stays = test.control.add_machine(&format!("stays {round}")).await?;
        let leaves = test.control.add_machine(&format!("leaves {round}")).await?;
        test.control.rename_machine(&stays, &format!("renamed {round}")).await?;
        if round % 2 == 0 {
            test.barrier().await?;
        }
        test.control.remove_machine(&leaves).await?;
        gone.insert(leaves);
    }
    let actual = test.check_matches_host().await?;
    ensure!(gone.iter().all(|id| !actual.machines.contains_key(id)), "the control removed nothing");
    let missed = test.observer.read(|recording| recording.removed.clone());
    ensure!(missed.is_subset(&gone), "existing machines were reported as removed: {missed:?}");
    Ok(())
}
