//! The session: its states in order, what an absence leaves behind, and that no login is made in
//! vain.

use std::sync::Arc;

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use otter::domain::call::HostCall;
use otter::domain::power::PowerState;
use otter::hypervisor::{CallError, HostErrorKind, SessionState};

use super::super::case_table;
use super::super::recording_observer::Recording;
use super::super::test_context::TestContext;

case_table! {
    Automatic:
        a_connection_is_reported_once_with_the_product,
        a_lost_session_causes_one_login needs [ExpireSessions],
        facts_are_complete_after_a_lost_session needs [ExpireSessions],
        facts_are_complete_after_an_outage needs [Disconnect],
        a_removal_during_an_outage_is_reported_after_it needs [Disconnect, RemoveMachines],
        no_call_hangs_during_an_outage needs [Disconnect],
        a_refused_login_is_reported_and_not_repeated needs [ExpireSessions, RefuseLogins];
}

async fn a_connection_is_reported_once_with_the_product(test: &TestContext) -> Result<()> {
    test.barrier().await?;
    let recording = test.observer.recording();
    let states: Vec<_> = recording.statuses().map(|status| &status.state).collect();
    ensure!(states == [&SessionState::Connecting, &SessionState::Connected], "told: {states:?}");
    let product = recording.status().and_then(|status| status.product.as_ref());
    ensure!(
        product.is_some_and(|product| !product.full_name.is_empty()),
        "the host is {product:?}"
    );
    let since: Vec<_> = recording.statuses().map(|status| status.since).collect();
    ensure!(since.is_sorted(), "a state begins before the one that it follows: {since:?}");
    Ok(())
}

async fn a_lost_session_causes_one_login(test: &TestContext) -> Result<()> {
    let sets = test.complete_sets();
    test.control.expire_sessions().await?;
    let reads = (0..30).map(|_| test.backend.read_evidence(&test.machines.running));
    for read in test.in_time("reads after a lost session", join_all(reads)).await? {
        read?;
    }
    test.wait_resynced(sets).await?;
    let logins = test.observer.read(|recording| recording.status().map(|status| status.logins));
    ensure!(
        logins == Some(2),
        "thirty callers met one lost session, and there were {logins:?} logins"
    );
    test.check_matches_host().await.map(drop)
}

async fn facts_are_complete_after_a_lost_session(test: &TestContext) -> Result<()> {
    for round in 0..3 {
        let sets = test.complete_sets();
        test.control.expire_sessions().await?;
        test.control.set_power(&test.machines.stopped, round % 2 == 0).await?;
        test.control
            .rename_machine(&test.machines.permanent, &format!("meanwhile {round}"))
            .await?;
        test.backend.read_evidence(&test.machines.running).await?;
        test.wait_resynced(sets).await?;
        test.check_matches_host().await?;
    }
    Ok(())
}

async fn facts_are_complete_after_an_outage(test: &TestContext) -> Result<()> {
    let sets = test.complete_sets();
    test.control.disconnect().await?;
    test.wait_until("the absence", is_away).await?;
    test.control.set_power(&test.machines.stopped, true).await?;
    test.control.create_snapshot(&test.machines.permanent, "meanwhile").await?;
    test.control.reconnect().await?;
    test.wait_resynced(sets).await?;
    test.check_matches_host().await?;
    ensure!(
        test.machine(&test.machines.stopped)?.power_state == Some(PowerState::On),
        "it was turned on meanwhile"
    );
    let missed = test.observer.read(|recording| recording.removed.clone());
    ensure!(missed.is_empty(), "an absence of the host is no absence of machines: {missed:?}");
    Ok(())
}

async fn a_removal_during_an_outage_is_reported_after_it(test: &TestContext) -> Result<()> {
    let sets = test.complete_sets();
    test.control.disconnect().await?;
    test.wait_until("the absence", is_away).await?;
    test.control.remove_machine(&test.machines.stopped).await?;
    ensure!(test.machine(&test.machines.stopped).is_ok(), "nobody could know that it is gone");
    test.control.reconnect().await?;
    test.wait_resynced(sets).await?;
    test.check_matches_host().await?;
    ensure!(
        test.machine(&test.machines.stopped).is_err(),
        "it was deleted meanwhile, and is still told of"
    );
    Ok(())
}

async fn no_call_hangs_during_an_outage(test: &TestContext) -> Result<()> {
    let machine = &test.machines.running;
    test.control.disconnect().await?;
    test.wait_until("the absence", is_away).await?;
    let barriers = join_all((0..20).map(|_| test.backend.barrier()));
    for passed in test.in_time("barriers while the host is away", barriers).await? {
        let Err(error) = passed else { anyhow::bail!("a barrier passed while the host was away") };
        ensure!(error.kind == HostErrorKind::Unreachable, "a barrier failed as {error:?}");
    }
    let read =
        test.in_time("a read while the host is away", test.backend.read_evidence(machine)).await?;
    ensure!(
        matches!(&read, Err(error) if error.kind == HostErrorKind::Unreachable),
        "a read gave {read:?}"
    );
    match test.call(machine, &HostCall::PowerOff).await? {
        Err(CallError::Refused(error) | CallError::Lost(error)) => {
            ensure!(error.kind == HostErrorKind::Unreachable, "a call failed as {error:?}");
        }
        Ok(accepted) => anyhow::bail!("a host that is away took a call: {accepted:?}"),
    }
    test.control.reconnect().await?;
    test.wait_connected(1).await?;
    let machine = test.check_matches_host().await?.machines.remove(machine);
    let state = machine.and_then(|machine| machine.power_state);
    ensure!(state == Some(PowerState::On), "a call that nobody took made the machine {state:?}");
    Ok(())
}

async fn a_refused_login_is_reported_and_not_repeated(test: &TestContext) -> Result<()> {
    let TestContext { control, backend, machines, .. } = test;
    control.refuse_logins(true).await?;
    let (attempts, sets) = (control.login_attempts(), test.complete_sets());
    control.expire_sessions().await?;
    let refused = |recording: &Recording| {
        matches!(recording.status()?.state, SessionState::LoginRefused { .. }).then_some(())
    };
    test.wait_until("that the account is refused", refused).await?;
    for _ in 0..20 {
        let read = test
            .in_time("a read with a refused account", backend.read_evidence(&machines.running))
            .await?;
        ensure!(
            matches!(&read, Err(error) if error.kind == HostErrorKind::LoginRefused),
            "a read gave {read:?}"
        );
        match test.call(&machines.running, &HostCall::PowerOff).await? {
            Err(CallError::Refused(error)) if error.kind == HostErrorKind::LoginRefused => {}
            other => anyhow::bail!("a call gave {other:?}"),
        }
        let passed = test.in_time("a barrier with a refused account", backend.barrier()).await?;
        ensure!(passed.is_err(), "a barrier passed without a session");
    }
    let attempts = control.login_attempts() - attempts;
    ensure!(attempts == 1, "a refused account was tried {attempts} times");
    control.refuse_logins(false).await?;
    Arc::clone(backend).set_password(control.password());
    test.wait_resynced(sets).await?;
    test.check_matches_host().await.map(drop)
}

fn is_away(recording: &Recording) -> Option<()> {
    matches!(recording.status()?.state, SessionState::Away { .. }).then_some(())
}
