//! Snapshots: create, revert, rename and remove.

use anyhow::{Context, Result, ensure};
use otter::domain::call::HostCall;
use otter::domain::ids::{MachineId, SnapshotId};
use otter::domain::power::PowerState;
use otter::domain::snapshot::Snapshots;
use otter::hypervisor::HostErrorKind;

use super::super::case_table;
use super::super::test_context::TestContext;

case_table! {
    Automatic:
        a_new_snapshot_is_a_child_of_the_current_one,
        special_characters_in_names_are_kept,
        a_revert_changes_the_current_snapshot,
        a_revert_restores_the_recorded_power_state needs [RecordedPowerStates],
        removing_a_snapshot_keeps_its_children,
        removing_a_branch_removes_its_children,
        all_snapshots_are_removed,
        a_snapshot_is_renamed needs [RenameSnapshots],
        disks_are_consolidated needs [Consolidation],
        calls_of_an_unknown_snapshot_are_not_found;
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

async fn create_and_wait(
    test: &TestContext,
    machine: &MachineId,
    call: &HostCall,
) -> Result<SnapshotId> {
    test.run_task(machine, call).await?.context("the task names no snapshot")
}

fn snapshots(test: &TestContext, machine: &MachineId) -> Result<Snapshots> {
    Ok(test.machine(machine)?.snapshots)
}

/// The chain of [`TestMachines::with_snapshots`](super::super::TestMachines), root first.
fn snapshot_chain(test: &TestContext) -> Result<Vec<SnapshotId>> {
    let snapshots = snapshots(test, &test.machines.with_snapshots)?;
    let above = |id: &SnapshotId| snapshots.get(id).and_then(|snapshot| snapshot.parent.clone());
    let mut chain: Vec<_> = std::iter::successors(snapshots.current.clone(), above).collect();
    chain.reverse();
    ensure!(chain.len() >= 3, "the chain has {} snapshots", chain.len());
    Ok(chain)
}

async fn a_new_snapshot_is_a_child_of_the_current_one(test: &TestContext) -> Result<()> {
    let machine = &test.machines.with_snapshots;
    let before = snapshots(test, machine)?;
    let id = create_and_wait(test, machine, &create("clean", false)).await?;
    let after = snapshots(test, machine)?;
    let created = after.get(&id).context("the snapshot is not reported")?;
    ensure!(
        (created.name.as_str(), created.description.as_str()) == ("clean", "of clean"),
        "{created:?}"
    );
    ensure!(
        created.parent == before.current && after.current.as_ref() == Some(&id),
        "the new snapshot is {created:?} in {after:?}"
    );
    ensure!(before.get(&id).is_none() && after.items.len() == before.items.len() + 1, "{after:?}");
    test.check_matches_host().await.map(drop)
}

async fn special_characters_in_names_are_kept(test: &TestContext) -> Result<()> {
    let machine = &test.machines.stopped;
    for name in ["50% / 100%", "a\\b", "<été> & \"co\"", "%2f"] {
        let id = create_and_wait(test, machine, &create(name, false)).await?;
        let seen = snapshots(test, machine)?.get(&id).map(|snapshot| snapshot.name.clone());
        ensure!(seen.as_deref() == Some(name), "{name:?} is reported as {seen:?}");
    }
    Ok(())
}

async fn a_revert_changes_the_current_snapshot(test: &TestContext) -> Result<()> {
    let machine = &test.machines.with_snapshots;
    for id in snapshot_chain(test)?.into_iter().rev() {
        test.run_task(machine, &revert(&id, false)).await?;
        let current = snapshots(test, machine)?.current;
        ensure!(
            current.as_ref() == Some(&id),
            "after a revert to {id} the current snapshot is {current:?}"
        );
    }
    test.check_matches_host().await.map(drop)
}

async fn a_revert_restores_the_recorded_power_state(test: &TestContext) -> Result<()> {
    let machine = &test.machines.running;
    let without_memory = create_and_wait(test, machine, &create("without memory", false)).await?;
    let with_memory = create_and_wait(test, machine, &create("with memory", true)).await?;
    for (snapshot, suppress, expected) in [
        (&without_memory, false, PowerState::Off),
        (&with_memory, false, PowerState::On),
        (&without_memory, true, PowerState::Off),
    ] {
        test.run_task(machine, &revert(snapshot, suppress)).await?;
        let seen = test.machine(machine)?;
        ensure!(
            seen.power_state == Some(expected),
            "after a revert to {snapshot} the machine is {:?}",
            seen.power_state
        );
        let recorded = seen.snapshots.get(snapshot).and_then(|snapshot| snapshot.power_state);
        ensure!(recorded == Some(expected), "{snapshot} recorded {recorded:?}");
    }
    test.run_task(machine, &revert(&with_memory, true)).await?;
    ensure!(
        test.machine(machine)?.power_state != Some(PowerState::On),
        "the revert powered the machine on despite suppress_power_on"
    );
    Ok(())
}

async fn removing_a_snapshot_keeps_its_children(test: &TestContext) -> Result<()> {
    let (machine, chain) = (&test.machines.with_snapshots, snapshot_chain(test)?);
    test.run_task(
        machine,
        &HostCall::RemoveSnapshot { snapshot: chain[1].clone(), children: false },
    )
    .await?;
    let after = snapshots(test, machine)?;
    ensure!(after.get(&chain[1]).is_none(), "the removed snapshot is still reported");
    let parent = after.get(&chain[2]).context("the child was removed too")?.parent.clone();
    ensure!(parent.as_ref() == Some(&chain[0]), "the parent of the child is {parent:?}");
    test.check_matches_host().await.map(drop)
}

async fn removing_a_branch_removes_its_children(test: &TestContext) -> Result<()> {
    let (machine, chain) = (&test.machines.with_snapshots, snapshot_chain(test)?);
    test.run_task(
        machine,
        &HostCall::RemoveSnapshot { snapshot: chain[1].clone(), children: true },
    )
    .await?;
    let after = snapshots(test, machine)?;
    let left: Vec<_> = chain[1..].iter().filter(|id| after.get(id).is_some()).collect();
    ensure!(left.is_empty() && after.get(&chain[0]).is_some(), "left of the branch: {left:?}");
    test.check_matches_host().await.map(drop)
}

async fn all_snapshots_are_removed(test: &TestContext) -> Result<()> {
    test.run_task(&test.machines.with_snapshots, &HostCall::RemoveAllSnapshots).await?;
    let after = snapshots(test, &test.machines.with_snapshots)?;
    ensure!(after == Snapshots::default(), "left: {after:?}");
    test.check_matches_host().await.map(drop)
}

async fn a_snapshot_is_renamed(test: &TestContext) -> Result<()> {
    let (machine, chain) = (&test.machines.with_snapshots, snapshot_chain(test)?);
    let rename = |name: Option<&str>, description: Option<&str>| HostCall::RenameSnapshot {
        snapshot: chain[1].clone(),
        name: name.map(str::to_owned),
        description: description.map(str::to_owned),
    };
    for (call, expected) in [
        (rename(Some("10% / b"), Some("one")), ("10% / b", "one")),
        (rename(None, Some("two")), ("10% / b", "two")),
        (rename(Some("c"), None), ("c", "two")),
    ] {
        test.call_without_task(machine, &call).await?;
        test.barrier().await?;
        let after = snapshots(test, machine)?;
        let seen = after.get(&chain[1]).context("the snapshot is gone")?;
        ensure!(
            (seen.name.as_str(), seen.description.as_str()) == expected,
            "{call:?} resulted in {seen:?}"
        );
    }
    Ok(())
}

async fn disks_are_consolidated(test: &TestContext) -> Result<()> {
    let machine = &test.machines.with_snapshots;
    test.control.leave_disks(machine).await?;
    test.barrier().await?;
    ensure!(test.machine(machine)?.consolidation_needed == Some(true), "it is not reported");
    let evidence = test.backend.read_evidence(machine).await?;
    ensure!(evidence.consolidation_needed == Some(true), "it is not read: {evidence:?}");
    // A second consolidation has nothing to do.
    for _ in 0..2 {
        test.run_task(machine, &HostCall::ConsolidateDisks).await?;
        let evidence = test.backend.read_evidence(machine).await?;
        ensure!(evidence.consolidation_needed == Some(false), "still needed: {evidence:?}");
    }
    test.check_matches_host().await.map(drop)
}

async fn calls_of_an_unknown_snapshot_are_not_found(test: &TestContext) -> Result<()> {
    let nothing = SnapshotId::from_backend("snapshot-99999");
    for call in [
        revert(&nothing, false),
        HostCall::RemoveSnapshot { snapshot: nothing.clone(), children: false },
    ] {
        let error = test.call_failure(&test.machines.with_snapshots, &call).await?;
        ensure!(error.kind == HostErrorKind::NotFound, "{call:?}: {error:?}");
    }
    Ok(())
}
