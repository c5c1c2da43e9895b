//! The session: its states in order, what an absence leaves behind, and that no login is made in
//! vain.

use std::sync::Arc;

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use otter::domain::call::HostCall;
use otter::domain::power::PowerState;
use otter::hypervisor::{CallError, HostErrorKind, SessionState};

use super::super::case_table;
use super::super::trial::Trial;
use super::super::watching::Picture;

case_table! {
    Brisk:
        a_connection_is_told_once_with_what_the_host_is,
        a_lost_session_is_renewed_by_one_login needs [LoseSession],
        the_picture_is_whole_after_a_lost_session needs [LoseSession],
        the_picture_is_whole_after_an_absence needs [GoAway],
        a_removal_during_an_absence_shows_after_it needs [GoAway, Removals],
        nothing_hangs_while_the_host_is_away needs [GoAway],
        a_refused_account_is_told_and_left_alone needs [LoseSession, RefuseLogins];
}

async fn a_connection_is_told_once_with_what_the_host_is(trial: &Trial) -> Result<()> {
    trial.barrier().await?;
    let picture = trial.watching.picture();
    let states: Vec<_> = picture.statuses().map(|status| &status.state).collect();
    ensure!(states == [&SessionState::Connecting, &SessionState::Connected], "told: {states:?}");
    let product = picture.status().and_then(|status| status.product.as_ref());
    ensure!(
        product.is_some_and(|product| !product.full_name.is_empty()),
        "the host is {product:?}"
    );
    let since: Vec<_> = picture.statuses().map(|status| status.since).collect();
    ensure!(since.is_sorted(), "a state begins before the one that it follows: {since:?}");
    Ok(())
}

async fn a_lost_session_is_renewed_by_one_login(trial: &Trial) -> Result<()> {
    let sets = trial.whole_sets();
    trial.stage.lose_session().await?;
    let reads = (0..30).map(|_| trial.backend.examine(&trial.cast.running));
    for read in trial.soon("reads after a lost session", join_all(reads)).await? {
        read?;
    }
    trial.connected_after(sets).await?;
    let logins = trial.watching.look(|picture| picture.status().map(|status| status.logins));
    ensure!(
        logins == Some(2),
        "thirty callers met one lost session, and there were {logins:?} logins"
    );
    trial.agrees().await.map(drop)
}

async fn the_picture_is_whole_after_a_lost_session(trial: &Trial) -> Result<()> {
    for round in 0..3 {
        let sets = trial.whole_sets();
        trial.stage.lose_session().await?;
        trial.stage.power(&trial.cast.stopped, round % 2 == 0).await?;
        trial.stage.rename(&trial.cast.steady, &format!("meanwhile {round}")).await?;
        trial.backend.examine(&trial.cast.running).await?;
        trial.connected_after(sets).await?;
        trial.agrees().await?;
    }
    Ok(())
}

async fn the_picture_is_whole_after_an_absence(trial: &Trial) -> Result<()> {
    let sets = trial.whole_sets();
    trial.stage.go_away().await?;
    trial.seen("the absence", is_away).await?;
    trial.stage.power(&trial.cast.stopped, true).await?;
    trial.stage.take_snapshot(&trial.cast.steady, "meanwhile").await?;
    trial.stage.come_back().await?;
    trial.connected_after(sets).await?;
    trial.agrees().await?;
    ensure!(
        trial.machine(&trial.cast.stopped)?.power_state == Some(PowerState::On),
        "it was turned on meanwhile"
    );
    let missed = trial.watching.look(|picture| picture.missed.clone());
    ensure!(missed.is_empty(), "an absence of the host is no absence of machines: {missed:?}");
    Ok(())
}

async fn a_removal_during_an_absence_shows_after_it(trial: &Trial) -> Result<()> {
    let sets = trial.whole_sets();
    trial.stage.go_away().await?;
    trial.seen("the absence", is_away).await?;
    trial.stage.remove_machine(&trial.cast.stopped).await?;
    ensure!(trial.machine(&trial.cast.stopped).is_ok(), "nobody could know that it is gone");
    trial.stage.come_back().await?;
    trial.connected_after(sets).await?;
    trial.agrees().await?;
    ensure!(
        trial.machine(&trial.cast.stopped).is_err(),
        "it was deleted meanwhile, and is still told of"
    );
    Ok(())
}

async fn nothing_hangs_while_the_host_is_away(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.running;
    trial.stage.go_away().await?;
    trial.seen("the absence", is_away).await?;
    let barriers = join_all((0..20).map(|_| trial.backend.barrier()));
    for passed in trial.soon("barriers while the host is away", barriers).await? {
        let Err(error) = passed else { anyhow::bail!("a barrier passed while the host was away") };
        ensure!(error.kind == HostErrorKind::Unreachable, "a barrier failed as {error:?}");
    }
    let read = trial.soon("a read while the host is away", trial.backend.examine(machine)).await?;
    ensure!(
        matches!(&read, Err(error) if error.kind == HostErrorKind::Unreachable),
        "a read gave {read:?}"
    );
    match trial.call(machine, &HostCall::PowerOff).await? {
        Err(CallError::Refused(error) | CallError::Lost(error)) => {
            ensure!(error.kind == HostErrorKind::Unreachable, "a call failed as {error:?}");
        }
        Ok(accepted) => anyhow::bail!("a host that is away took a call: {accepted:?}"),
    }
    trial.stage.come_back().await?;
    trial.connected_with(1).await?;
    let machine = trial.agrees().await?.machines.remove(machine);
    let state = machine.and_then(|machine| machine.power_state);
    ensure!(state == Some(PowerState::On), "a call that nobody took made the machine {state:?}");
    Ok(())
}

async fn a_refused_account_is_told_and_left_alone(trial: &Trial) -> Result<()> {
    let Trial { stage, backend, cast, .. } = trial;
    stage.refuse_logins(true).await?;
    let (attempts, sets) = (stage.login_attempts(), trial.whole_sets());
    stage.lose_session().await?;
    let refused = |picture: &Picture| {
        matches!(picture.status()?.state, SessionState::LoginRefused { .. }).then_some(())
    };
    trial.seen("that the account is refused", refused).await?;
    for _ in 0..20 {
        let read =
            trial.soon("a read with a refused account", backend.examine(&cast.running)).await?;
        ensure!(
            matches!(&read, Err(error) if error.kind == HostErrorKind::LoginRefused),
            "a read gave {read:?}"
        );
        match trial.call(&cast.running, &HostCall::PowerOff).await? {
            Err(CallError::Refused(error)) if error.kind == HostErrorKind::LoginRefused => {}
            other => anyhow::bail!("a call gave {other:?}"),
        }
        let passed = trial.soon("a barrier with a refused account", backend.barrier()).await?;
        ensure!(passed.is_err(), "a barrier passed without a session");
    }
    let attempts = stage.login_attempts() - attempts;
    ensure!(attempts == 1, "a refused account was tried {attempts} times");
    stage.refuse_logins(false).await?;
    Arc::clone(backend).renew_password(stage.password());
    trial.connected_after(sets).await?;
    trial.agrees().await.map(drop)
}

fn is_away(picture: &Picture) -> Option<()> {
    matches!(picture.status()?.state, SessionState::Away { .. }).then_some(())
}
