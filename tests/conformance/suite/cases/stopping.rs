//! The end: `run` returns when told to, and nothing that comes later hangs.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use otter::domain::call::HostCall;
use otter::domain::ids::TaskId;
use otter::hypervisor::{CallError, SessionState, TaskStatus};
use tokio_util::sync::CancellationToken;

use super::super::case_table;
use super::super::trial::Trial;
use super::super::watching::Watching;

case_table! {
    Brisk:
        run_returns_when_told_and_later_calls_fail,
        run_is_called_once,
        it_stops_while_the_host_is_away needs [GoAway],
        it_stops_while_the_account_is_refused needs [LoseSession, RefuseLogins],
        nothing_is_told_after_the_end;
    Held:
        a_follower_is_let_go_at_the_end needs [Hold];
}

/// Everything fails, and nothing hangs.
async fn is_over(trial: &Trial) -> Result<()> {
    let (backend, machine) = (&trial.backend, &trial.cast.running);
    let call = trial.call(machine, &HostCall::PowerOff).await?;
    ensure!(matches!(call, Err(CallError::Refused(_))), "a call after the end gave {call:?}");
    let barrier = trial.soon("a barrier after the end", backend.barrier()).await?;
    let read = trial.soon("a read after the end", backend.examine(machine)).await?;
    let guest = trial.soon("a confirmation after the end", backend.confirm_guest(machine)).await?;
    let properties = trial
        .soon("properties after the end", backend.properties(machine, &["name".to_owned()]))
        .await?;
    let cancel =
        trial.soon("a cancel after the end", backend.cancel(&TaskId::from_backend("any"))).await?;
    ensure!(
        barrier.is_err()
            && read.is_err()
            && guest.is_err()
            && properties.is_err()
            && cancel.is_err(),
        "something succeeded after the end"
    );
    let mut follower = trial
        .soon("a follower after the end", backend.follow(&TaskId::from_backend("any")))
        .await?;
    let over = async { while follower.changed().await.is_ok() {} };
    trial.soon("a follower that is let go", over).await
}

async fn run_returns_when_told_and_later_calls_fail(trial: &Trial) -> Result<()> {
    trial.barrier().await?;
    trial.stop().await?;
    is_over(trial).await?;
    let state = trial
        .stage
        .truth()
        .await?
        .machines
        .remove(&trial.cast.running)
        .and_then(|machine| machine.power_state);
    ensure!(
        state == trial.machine(&trial.cast.running)?.power_state,
        "a call after the end made it {state:?}"
    );
    Ok(())
}

async fn run_is_called_once(trial: &Trial) -> Result<()> {
    let second = trial.backend.run(Arc::new(Watching::default()), CancellationToken::new());
    match trial.soon("the end of a second run", second).await? {
        Err(_) => {}
        Ok(()) => bail!("a second run is as good as the first"),
    }
    trial.agrees().await?;
    trial.stop().await?;
    let third = trial.backend.run(Arc::new(Watching::default()), CancellationToken::new());
    ensure!(trial.soon("the end of a third run", third).await?.is_err(), "a run after the end");
    Ok(())
}

async fn it_stops_while_the_host_is_away(trial: &Trial) -> Result<()> {
    trial.stage.go_away().await?;
    trial
        .seen("the absence", |picture| {
            matches!(picture.status()?.state, SessionState::Away { .. }).then_some(())
        })
        .await?;
    trial.stop().await?;
    is_over(trial).await
}

async fn it_stops_while_the_account_is_refused(trial: &Trial) -> Result<()> {
    trial.stage.refuse_logins(true).await?;
    trial.stage.lose_session().await?;
    trial
        .seen("that the account is refused", |picture| {
            matches!(picture.status()?.state, SessionState::LoginRefused { .. }).then_some(())
        })
        .await?;
    trial.stop().await?;
    is_over(trial).await
}

async fn nothing_is_told_after_the_end(trial: &Trial) -> Result<()> {
    trial.stop().await?;
    let told = trial.watching.look(|picture| picture.told.len());
    trial.stage.rename(&trial.cast.steady, "after the end").await?;
    is_over(trial).await?;
    let later = trial.watching.look(|picture| picture.told.len());
    ensure!(told == later, "{} things were told after the end", later - told);
    Ok(())
}

async fn a_follower_is_let_go_at_the_end(trial: &Trial) -> Result<()> {
    let task = trial.task(&trial.cast.stopped, &HostCall::PowerOn).await?;
    let mut follower = trial.backend.follow(&task).await;
    trial.barrier().await?;
    trial.stop().await?;
    let over = async { while follower.changed().await.is_ok() {} };
    trial.soon("a follower that is let go", over).await?;
    let last = follower.borrow().clone();
    ensure!(
        matches!(last, TaskStatus::Running { .. }),
        "nobody knows how it ended, and it is {last:?}"
    );
    is_over(trial).await
}
