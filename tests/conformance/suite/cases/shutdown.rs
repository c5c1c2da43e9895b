//! The shutdown: `run` returns when it is stopped, and no later call hangs.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use otter::domain::call::HostCall;
use otter::domain::ids::TaskId;
use otter::hypervisor::{CallError, SessionState, TaskStatus};
use tokio_util::sync::CancellationToken;

use super::super::case_table;
use super::super::recording_observer::RecordingObserver;
use super::super::test_context::TestContext;

case_table! {
    Automatic:
        run_returns_when_stopped_and_later_calls_fail,
        run_can_be_called_once,
        run_stops_during_an_outage needs [Disconnect],
        run_stops_while_the_login_is_refused needs [ExpireSessions, RefuseLogins],
        nothing_is_reported_after_run_returns;
    Stepped:
        followers_are_closed_when_run_returns needs [StepTasks];
}

/// Fails if a call succeeds or hangs after `run` has returned.
async fn check_stopped(test: &TestContext) -> Result<()> {
    let (backend, machine) = (&test.backend, &test.machines.running);
    let call = test.call(machine, &HostCall::PowerOff).await?;
    ensure!(matches!(call, Err(CallError::Refused(_))), "a call after the end returned {call:?}");
    let barrier = test.in_time("a barrier after the end", backend.barrier()).await?;
    let read = test.in_time("a read after the end", backend.read_evidence(machine)).await?;
    let guest =
        test.in_time("a confirmation after the end", backend.confirm_guest(machine)).await?;
    let properties = test
        .in_time("properties after the end", backend.properties(machine, &["name".to_owned()]))
        .await?;
    let cancel = test
        .in_time("a cancel after the end", backend.cancel(&TaskId::from_backend("any")))
        .await?;
    ensure!(
        barrier.is_err()
            && read.is_err()
            && guest.is_err()
            && properties.is_err()
            && cancel.is_err(),
        "a call succeeded after the end"
    );
    let mut follower = test
        .in_time("a follower after the end", backend.follow(&TaskId::from_backend("any")))
        .await?;
    let over = async { while follower.changed().await.is_ok() {} };
    test.in_time("a closed follower", over).await
}

async fn run_returns_when_stopped_and_later_calls_fail(test: &TestContext) -> Result<()> {
    test.barrier().await?;
    test.stop().await?;
    check_stopped(test).await?;
    let state = test
        .control
        .contents()
        .await?
        .machines
        .remove(&test.machines.running)
        .and_then(|machine| machine.power_state);
    ensure!(
        state == test.machine(&test.machines.running)?.power_state,
        "after a call after the end the machine is {state:?}"
    );
    Ok(())
}

async fn run_can_be_called_once(test: &TestContext) -> Result<()> {
    let second = test.backend.run(Arc::new(RecordingObserver::default()), CancellationToken::new());
    match test.in_time("the end of a second run", second).await? {
        Err(_) => {}
        Ok(()) => bail!("a second run succeeded"),
    }
    test.check_matches_host().await?;
    test.stop().await?;
    let third = test.backend.run(Arc::new(RecordingObserver::default()), CancellationToken::new());
    ensure!(test.in_time("the end of a third run", third).await?.is_err(), "a run after the end");
    Ok(())
}

async fn run_stops_during_an_outage(test: &TestContext) -> Result<()> {
    test.control.disconnect().await?;
    test.wait_until("the outage", |recording| {
        matches!(recording.status()?.state, SessionState::Away { .. }).then_some(())
    })
    .await?;
    test.stop().await?;
    check_stopped(test).await
}

async fn run_stops_while_the_login_is_refused(test: &TestContext) -> Result<()> {
    test.control.refuse_logins(true).await?;
    test.control.expire_sessions().await?;
    test.wait_until("a refused login", |recording| {
        matches!(recording.status()?.state, SessionState::LoginRefused { .. }).then_some(())
    })
    .await?;
    test.stop().await?;
    check_stopped(test).await
}

async fn nothing_is_reported_after_run_returns(test: &TestContext) -> Result<()> {
    test.stop().await?;
    let before = test.observer.read(|recording| recording.reports.len());
    test.control.rename_machine(&test.machines.permanent, "after the end").await?;
    check_stopped(test).await?;
    let later = test.observer.read(|recording| recording.reports.len());
    ensure!(before == later, "{} reports after the end", later - before);
    Ok(())
}

async fn followers_are_closed_when_run_returns(test: &TestContext) -> Result<()> {
    let task = test.start_task(&test.machines.stopped, &HostCall::PowerOn).await?;
    let mut follower = test.backend.follow(&task).await;
    test.barrier().await?;
    test.stop().await?;
    let over = async { while follower.changed().await.is_ok() {} };
    test.in_time("a closed follower", over).await?;
    let last = follower.borrow().clone();
    ensure!(
        matches!(last, TaskStatus::Running { .. }),
        "the task has not ended, the last status is {last:?}"
    );
    check_stopped(test).await
}
