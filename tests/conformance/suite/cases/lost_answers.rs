//! Lost answers and refusals: a refused call did not run, a lost call may have, and no call runs
//! twice.

use anyhow::{Result, bail, ensure};
use otter::domain::call::HostCall;
use otter::hypervisor::{Accepted, CallError, HostErrorKind};

use super::super::case_table;
use super::super::host_control::ConnectionCut;
use super::super::test_context::{TestContext, call_error};

case_table! {
    Automatic:
        a_call_with_a_lost_answer_is_lost_and_ran_once needs [CutConnection],
        a_call_cut_before_it_ran_is_not_repeated needs [CutConnection],
        a_refused_call_has_its_kind_and_did_not_run needs [RefuseCalls],
        a_call_on_a_lost_session_runs_once needs [ExpireSessions];
}

fn create_snapshot(name: &str) -> HostCall {
    HostCall::CreateSnapshot {
        name: name.to_owned(),
        description: String::new(),
        memory: false,
        quiesce: false,
    }
}

/// The number of snapshots of this name on the host, of the machine that these cases use.
async fn snapshot_count(test: &TestContext, name: &str) -> Result<usize> {
    test.barrier_once_connected().await?;
    let actual = test.control.contents().await?;
    let Some(machine) = actual.machines.get(&test.machines.running) else {
        bail!("the machine is gone")
    };
    Ok(machine.snapshots.items.iter().filter(|snapshot| snapshot.name == name).count())
}

async fn a_call_with_a_lost_answer_is_lost_and_ran_once(test: &TestContext) -> Result<()> {
    let machine = &test.machines.running;
    for name in ["lost once", "lost again"] {
        // Open a connection first, so that the cut hits the call.
        test.backend.read_evidence(machine).await?;
        test.control.cut_next_snapshot(ConnectionCut::AfterItRan).await?;
        match test.call(machine, &create_snapshot(name)).await? {
            Err(CallError::Lost(error)) if error.kind == HostErrorKind::Unreachable => {}
            other => bail!("a call with a lost answer returned {other:?}"),
        }
        let known = |recording: &super::super::recording_observer::Recording| {
            let items = &recording.contents.machines.get(machine)?.snapshots.items;
            items.iter().any(|snapshot| snapshot.name == name).then_some(())
        };
        test.wait_until("the snapshot of the lost call", known).await?;
        let times = snapshot_count(test, name).await?;
        ensure!(times == 1, "the call ran {times} times");
    }
    test.check_matches_host().await.map(drop)
}

async fn a_call_cut_before_it_ran_is_not_repeated(test: &TestContext) -> Result<()> {
    let machine = &test.machines.running;
    test.backend.read_evidence(machine).await?;
    test.control.cut_next_snapshot(ConnectionCut::BeforeItRuns).await?;
    match test.call(machine, &create_snapshot("never")).await? {
        Err(CallError::Lost(error) | CallError::Refused(error)) => {
            ensure!(error.kind == HostErrorKind::Unreachable, "{error:?}");
        }
        Ok(accepted) => bail!("a call that did not run returned {accepted:?}"),
    }
    let times = snapshot_count(test, "never").await?;
    ensure!(times == 0, "the call ran {times} times");
    test.run_task(machine, &create_snapshot("afterwards")).await?;
    test.check_matches_host().await.map(drop)
}

async fn a_refused_call_has_its_kind_and_did_not_run(test: &TestContext) -> Result<()> {
    for kind in [
        HostErrorKind::Busy,
        HostErrorKind::InvalidPowerState,
        HostErrorKind::InsufficientResources,
        HostErrorKind::Forbidden,
        HostErrorKind::LicenseRestricted,
        HostErrorKind::NotSupported,
        HostErrorKind::NotFound,
        HostErrorKind::Rejected,
    ] {
        test.control.refuse_next_snapshot(kind).await?;
        match test.call(&test.machines.running, &create_snapshot("refused")).await? {
            Err(CallError::Refused(error)) => {
                ensure!(error.kind == kind, "refused as {kind:?}, reported as {error:?}");
                ensure!(
                    error.fault.is_some() && !error.message.is_empty(),
                    "the fault or its message is missing: {error:?}"
                );
            }
            other => bail!("a call refused as {kind:?} returned {other:?}"),
        }
    }
    let times = snapshot_count(test, "refused").await?;
    ensure!(times == 0, "a refused call ran {times} times");
    Ok(())
}

async fn a_call_on_a_lost_session_runs_once(test: &TestContext) -> Result<()> {
    for name in ["one", "two", "three"] {
        let sets = test.complete_sets();
        test.control.expire_sessions().await?;
        match test
            .call(&test.machines.running, &create_snapshot(name))
            .await?
            .map_err(call_error)?
        {
            Accepted::Task(task) => {
                drop(super::super::test_context::expect_success(test.wait_task_end(&task).await?)?);
            }
            Accepted::Done => bail!("the creation of a snapshot has no task"),
        }
        test.wait_resynced(sets).await?;
        let times = snapshot_count(test, name).await?;
        ensure!(times == 1, "the call ran {times} times");
    }
    test.check_matches_host().await.map(drop)
}
