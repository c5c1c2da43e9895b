//! Snapshots: made, gone back to, renamed and removed.

use anyhow::{Context, Result, ensure};
use otter::domain::call::HostCall;
use otter::domain::ids::{MachineId, SnapshotId};
use otter::domain::power::PowerState;
use otter::domain::snapshot::Snapshots;
use otter::hypervisor::HostErrorKind;

use super::super::case_table;
use super::super::trial::Trial;

case_table! {
    Brisk:
        a_snapshot_is_made_below_the_current_one_and_named_by_its_task,
        a_name_of_any_characters_comes_back_as_it_was,
        a_revert_moves_the_current_snapshot,
        a_revert_leaves_the_power_as_recorded needs [RecordedPower],
        a_removed_snapshot_leaves_its_children,
        a_branch_is_removed_whole,
        all_snapshots_are_removed,
        a_snapshot_is_renamed needs [Rename],
        a_snapshot_that_is_not_there_is_not_found;
}

fn create(name: &str, memory: bool) -> HostCall {
    HostCall::CreateSnapshot {
        name: name.to_owned(),
        description: format!("of {name}"),
        memory,
        quiesce: false,
    }
}

fn revert(snapshot: &SnapshotId, suppress_power_on: bool) -> HostCall {
    HostCall::RevertToSnapshot { snapshot: snapshot.clone(), suppress_power_on }
}

async fn made(trial: &Trial, machine: &MachineId, call: &HostCall) -> Result<SnapshotId> {
    trial.done(machine, call).await?.context("the task names no snapshot")
}

fn snapshots(trial: &Trial, machine: &MachineId) -> Result<Snapshots> {
    Ok(trial.machine(machine)?.snapshots)
}

/// The chain of the cast, the root first.
fn chain(trial: &Trial) -> Result<Vec<SnapshotId>> {
    let snapshots = snapshots(trial, &trial.cast.reverted)?;
    let above = |id: &SnapshotId| snapshots.get(id).and_then(|snapshot| snapshot.parent.clone());
    let mut chain: Vec<_> = std::iter::successors(snapshots.current.clone(), above).collect();
    chain.reverse();
    ensure!(chain.len() >= 3, "the cast has a chain of {} snapshots", chain.len());
    Ok(chain)
}

async fn a_snapshot_is_made_below_the_current_one_and_named_by_its_task(
    trial: &Trial,
) -> Result<()> {
    let machine = &trial.cast.reverted;
    let before = snapshots(trial, machine)?;
    let id = made(trial, machine, &create("clean", false)).await?;
    let after = snapshots(trial, machine)?;
    let made = after.get(&id).context("it is not told of")?;
    ensure!((made.name.as_str(), made.description.as_str()) == ("clean", "of clean"), "{made:?}");
    ensure!(
        made.parent == before.current && after.current.as_ref() == Some(&id),
        "{made:?} of {after:?}"
    );
    ensure!(before.get(&id).is_none() && after.items.len() == before.items.len() + 1, "{after:?}");
    trial.agrees().await.map(drop)
}

async fn a_name_of_any_characters_comes_back_as_it_was(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.stopped;
    for name in ["50% / 100%", "a\\b", "<été> & \"co\"", "%2f"] {
        let id = made(trial, machine, &create(name, false)).await?;
        let seen = snapshots(trial, machine)?.get(&id).map(|snapshot| snapshot.name.clone());
        ensure!(seen.as_deref() == Some(name), "{name:?} is told as {seen:?}");
    }
    Ok(())
}

async fn a_revert_moves_the_current_snapshot(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.reverted;
    for id in chain(trial)?.into_iter().rev() {
        trial.done(machine, &revert(&id, false)).await?;
        let current = snapshots(trial, machine)?.current;
        ensure!(
            current.as_ref() == Some(&id),
            "after a revert to {id} the current one is {current:?}"
        );
    }
    trial.agrees().await.map(drop)
}

async fn a_revert_leaves_the_power_as_recorded(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.running;
    let without_memory = made(trial, machine, &create("without memory", false)).await?;
    let with_memory = made(trial, machine, &create("with memory", true)).await?;
    for (snapshot, suppress, wanted) in [
        (&without_memory, false, PowerState::Off),
        (&with_memory, false, PowerState::On),
        (&without_memory, true, PowerState::Off),
    ] {
        trial.done(machine, &revert(snapshot, suppress)).await?;
        let seen = trial.machine(machine)?;
        ensure!(
            seen.power_state == Some(wanted),
            "reverted to {snapshot}, it is {:?}",
            seen.power_state
        );
        let recorded = seen.snapshots.get(snapshot).and_then(|snapshot| snapshot.power_state);
        ensure!(recorded == Some(wanted), "{snapshot} says that it recorded {recorded:?}");
    }
    trial.done(machine, &revert(&with_memory, true)).await?;
    ensure!(
        trial.machine(machine)?.power_state != Some(PowerState::On),
        "its power-on was suppressed"
    );
    Ok(())
}

async fn a_removed_snapshot_leaves_its_children(trial: &Trial) -> Result<()> {
    let (machine, chain) = (&trial.cast.reverted, chain(trial)?);
    trial
        .done(machine, &HostCall::RemoveSnapshot { snapshot: chain[1].clone(), children: false })
        .await?;
    let after = snapshots(trial, machine)?;
    ensure!(after.get(&chain[1]).is_none(), "it is still told of");
    let parent = after.get(&chain[2]).context("its child went along")?.parent.clone();
    ensure!(parent.as_ref() == Some(&chain[0]), "its child is now below {parent:?}");
    trial.agrees().await.map(drop)
}

async fn a_branch_is_removed_whole(trial: &Trial) -> Result<()> {
    let (machine, chain) = (&trial.cast.reverted, chain(trial)?);
    trial
        .done(machine, &HostCall::RemoveSnapshot { snapshot: chain[1].clone(), children: true })
        .await?;
    let after = snapshots(trial, machine)?;
    let left: Vec<_> = chain[1..].iter().filter(|id| after.get(id).is_some()).collect();
    ensure!(left.is_empty() && after.get(&chain[0]).is_some(), "of the branch there is {left:?}");
    trial.agrees().await.map(drop)
}

async fn all_snapshots_are_removed(trial: &Trial) -> Result<()> {
    trial.done(&trial.cast.reverted, &HostCall::RemoveAllSnapshots).await?;
    let after = snapshots(trial, &trial.cast.reverted)?;
    ensure!(after == Snapshots::default(), "there is {after:?}");
    trial.agrees().await.map(drop)
}

async fn a_snapshot_is_renamed(trial: &Trial) -> Result<()> {
    let (machine, chain) = (&trial.cast.reverted, chain(trial)?);
    let rename = |name: Option<&str>, description: Option<&str>| HostCall::RenameSnapshot {
        snapshot: chain[1].clone(),
        name: name.map(str::to_owned),
        description: description.map(str::to_owned),
    };
    for (call, wanted) in [
        (rename(Some("10% / b"), Some("one")), ("10% / b", "one")),
        (rename(None, Some("two")), ("10% / b", "two")),
        (rename(Some("c"), None), ("c", "two")),
    ] {
        trial.at_once(machine, &call).await?;
        trial.barrier().await?;
        let after = snapshots(trial, machine)?;
        let seen = after.get(&chain[1]).context("it is gone")?;
        ensure!(
            (seen.name.as_str(), seen.description.as_str()) == wanted,
            "{call:?} made {seen:?}"
        );
    }
    Ok(())
}

async fn a_snapshot_that_is_not_there_is_not_found(trial: &Trial) -> Result<()> {
    let nothing = SnapshotId::from_backend("snapshot-99999");
    for call in [
        revert(&nothing, false),
        HostCall::RemoveSnapshot { snapshot: nothing.clone(), children: false },
    ] {
        let error = trial.failure(&trial.cast.reverted, &call).await?;
        ensure!(error.kind == HostErrorKind::NotFound, "{call:?}: {error:?}");
    }
    Ok(())
}
