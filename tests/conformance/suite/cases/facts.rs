//! Facts: the whole picture first, then every change and every removal, whoever made it; nothing
//! lost or invented.

use anyhow::{Context, Result, bail, ensure};
use otter::domain::call::HostCall;
use otter::domain::power::PowerState;

use super::super::case_table;
use super::super::stage::Truth;
use super::super::trial::Trial;

case_table! {
    Brisk:
        the_first_set_is_the_whole_picture,
        a_change_by_somebody_else_is_told,
        an_arrival_is_told needs [Arrivals],
        a_datastore_is_told_with_its_machines needs [Arrivals, Removals, DatastoreNews],
        a_removal_is_told needs [Removals],
        snapshots_by_somebody_else_are_told_as_a_tree,
        a_question_is_told_and_is_gone_once_answered needs [Questions],
        an_observer_that_asks_for_nothing_is_told_all_the_same,
        nothing_is_lost_or_invented_while_much_changes,
        machines_that_come_and_go_are_neither_lost_nor_kept needs [Arrivals, Removals];
}

async fn the_first_set_is_the_whole_picture(trial: &Trial) -> Result<()> {
    let known = trial.watching.picture();
    let truth = trial.stage.truth().await?;
    ensure!(known.whole_sets() == 1, "{} whole pictures at the start", known.whole_sets());
    trial.compare(&known.all, &truth)?;
    ensure!(!truth.datastores.is_empty(), "the host has no datastore to tell of");
    let cast = &trial.cast;
    for (id, state) in [(&cast.running, PowerState::On), (&cast.stopped, PowerState::Off)] {
        ensure!(
            trial.machine(id)?.power_state == Some(state),
            "machine {id} is not {}",
            state.as_str()
        );
    }
    Ok(())
}

async fn a_change_by_somebody_else_is_told(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.stopped;
    for on in [true, false, true] {
        trial.stage.power(machine, on).await?;
        let state = if on { PowerState::On } else { PowerState::Off };
        trial.barrier().await?;
        let seen = trial.machine(machine)?.power_state;
        ensure!(
            seen == Some(state),
            "somebody turned it {}, and it is told as {seen:?}",
            state.as_str()
        );
    }
    ensure!(trial.whole_sets() == 1, "a change is told as a change, not as a whole picture");
    trial.agrees().await.map(drop)
}

async fn an_arrival_is_told(trial: &Trial) -> Result<()> {
    let id = trial.stage.add_machine("newcomer").await?;
    trial.barrier().await?;
    ensure!(trial.machine(&id)?.name == "newcomer", "the new machine has another name");
    trial.agrees().await.map(drop)
}

async fn a_datastore_is_told_with_its_machines(trial: &Trial) -> Result<()> {
    let machines = |truth: &Truth| {
        truth.datastores.values().map(|datastore| datastore.machine_count).sum::<u32>()
    };
    let before = trial.agrees().await?;
    let added = trial.stage.add_machine("newcomer").await?;
    let with_it = trial.agrees().await?;
    trial.stage.remove_machine(&added).await?;
    let after = trial.agrees().await?;
    let counts = [&before, &with_it, &after].map(machines);
    ensure!(counts[1] == counts[0] + 1 && counts[2] == counts[0], "one came and went: {counts:?}");
    Ok(())
}

async fn a_removal_is_told(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.stopped;
    trial.stage.remove_machine(machine).await?;
    trial.barrier().await?;
    ensure!(trial.machine(machine).is_err(), "machine {machine} was deleted, and is still told of");
    trial.agrees().await.map(drop)
}

async fn snapshots_by_somebody_else_are_told_as_a_tree(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.running;
    trial.stage.remove_snapshots(machine).await?;
    let first = trial.stage.take_snapshot(machine, "first").await?;
    let second = trial.stage.take_snapshot(machine, "second").await?;
    trial.barrier().await?;
    let snapshots = trial.machine(machine)?.snapshots;
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
    trial.stage.remove_snapshots(machine).await?;
    trial.barrier().await?;
    let snapshots = trial.machine(machine)?.snapshots;
    ensure!(
        snapshots.items.is_empty() && snapshots.current.is_none(),
        "they were removed: {snapshots:?}"
    );
    Ok(())
}

async fn a_question_is_told_and_is_gone_once_answered(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.stopped;
    trial.stage.ask_at_power_on(machine).await?;
    let task = trial.task(machine, &HostCall::PowerOn).await?;
    let asked = |picture: &super::super::watching::Picture| {
        picture.all.machines.get(machine)?.question.clone()
    };
    let question = trial.seen("the question", asked).await?;
    let Some(choice) = question.choices.first() else {
        bail!("a question without a choice: {question:?}")
    };
    ensure!(!question.text.is_empty(), "a question without a text");
    let evidence = trial.backend.examine(machine).await?;
    ensure!(
        evidence.question.as_ref() == Some(&question.id),
        "a direct read shows {:?}",
        evidence.question
    );
    let answer = HostCall::Answer { question: question.id.clone(), choice: choice.key.clone() };
    trial.at_once(machine, &answer).await?;
    super::super::trial::succeeded(trial.end_of(&task).await?)?;
    trial.barrier().await?;
    let seen = trial.machine(machine)?;
    ensure!(seen.question.is_none(), "the question was answered, and is still told of");
    ensure!(seen.power_state == Some(PowerState::On), "it is {:?}", seen.power_state);
    ensure!(trial.failure(machine, &answer).await.is_ok(), "an answer to a question that is gone");
    Ok(())
}

async fn an_observer_that_asks_for_nothing_is_told_all_the_same(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.steady;
    trial.stage.rename(machine, "renamed by nobody").await?;
    trial
        .seen("a change that nobody asked for", |picture| {
            (picture.all.machines.get(machine)?.name == "renamed by nobody").then_some(())
        })
        .await
}

async fn nothing_is_lost_or_invented_while_much_changes(trial: &Trial) -> Result<()> {
    let cast = &trial.cast;
    for round in 0..4 {
        let on = round % 2 == 0;
        trial.stage.power(&cast.stopped, on).await?;
        trial.stage.rename(&cast.steady, &format!("round {round}")).await?;
        let ours = trial
            .task(&cast.running, &if on { HostCall::PowerOff } else { HostCall::PowerOn })
            .await?;
        trial.stage.take_snapshot(&cast.steady, &format!("snapshot {round}")).await?;
        trial.end_of(&ours).await?;
        trial.agrees().await.with_context(|| format!("after round {round}"))?;
    }
    trial.stage.remove_snapshots(&cast.steady).await?;
    trial.agrees().await?;
    let missed = trial.watching.look(|picture| picture.missed.clone());
    ensure!(missed.is_empty(), "machines were told to be gone that never were: {missed:?}");
    Ok(())
}

async fn machines_that_come_and_go_are_neither_lost_nor_kept(trial: &Trial) -> Result<()> {
    let mut gone = std::collections::BTreeSet::new();
    for round in 0..5 {
        let stays = trial.stage.add_machine(&format!("stays {round}")).await?;
        let leaves = trial.stage.add_machine(&format!("leaves {round}")).await?;
        trial.stage.rename(&stays, &format!("renamed {round}")).await?;
        if round % 2 == 0 {
            trial.barrier().await?;
        }
        trial.stage.remove_machine(&leaves).await?;
        gone.insert(leaves);
    }
    let truth = trial.agrees().await?;
    ensure!(gone.iter().all(|id| !truth.machines.contains_key(id)), "the stage removed nothing");
    let missed = trial.watching.look(|picture| picture.missed.clone());
    ensure!(missed.is_subset(&gone), "machines were told to be gone that never were: {missed:?}");
    Ok(())
}
