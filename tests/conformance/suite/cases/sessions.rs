//! The session: its states in order, the facts after an outage, and the number of logins.

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
    ensure!(
        states == [&SessionState::Connecting, &SessionState::Connected],
        "reported states: {states:?}"
    );
    let product = recording.status().and_then(|status| status.product.as_ref());
    ensure!(
        product.is_some_and(|product| !product.full_name.is_empty()),
        "the product is {product:?}"
    );
    let since: Vec<_> = recording.statuses().map(|status| status.since).collect();
    ensure!(since.is_sorted(), "a state began before the previous one: {since:?}");
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
    ensure!(logins == Some(2), "thirty reads on one lost session caused {logins:?} logins");
    test.check_matches_host().await.map(drop)
}

async fn facts_are_complete_after_a_lost_session(test: &TestContext) -> Result<()> {
    for round in 0..3 {
        let sets = test.complete_sets();
        test.control.expire_sessions().await?;
        test.control.set_power(&test.machines.stopped, round % 2 == 0).await?;
        test.control
            .rename_machine(&test.machines.permanent, &format!("during the outage {round}"))
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
    test.wait_until("the outage", is_away).await?;
    test.control.set_power(&test.machines.stopped, true).await?;
    test.control.create_snapshot(&test.machines.permanent, "during the outage").await?;
    test.control.reconnect().await?;
    test.wait_resynced(sets).await?;
    test.check_matches_host().await?;
    ensure!(
        test.machine(&test.machines.stopped)?.power_state == Some(PowerState::On),
        "the machine was powered on during the outage"
    );
    let missed = test.observer.read(|recording| recording.removed.clone());
    ensure!(missed.is_empty(), "the outage reported machines as removed: {missed:?}");
    Ok(())
}

async fn a_removal_during_an_outage_is_reported_after_it(test: &TestContext) -> Result<()> {
    let sets = test.complete_sets();
    test.control.disconnect().await?;
    test.wait_until("the outage", is_away).await?;
    test.control.remove_machine(&test.machines.stopped).await?;
    ensure!(test.machine(&test.machines.stopped).is_ok(), "the removal was reported too early");
    test.control.reconnect().await?;
    test.wait_resynced(sets).await?;
    test.check_matches_host().await?;
    ensure!(
        test.machine(&test.machines.stopped).is_err(),
        "the machine deleted during the outage is still reported"
    );
    Ok(())
}

async fn no_call_hangs_during_an_outage(test: &TestContext) -> Result<()> {
    let machine = &test.machines.running;
    test.control.disconnect().await?;
    test.wait_until("the outage", is_away).await?;
    let barriers = join_all((0..20).map(|_| test.backend.barrier()));
    for passed in test.in_time("barriers during an outage", barriers).await? {
        let Err(error) = passed else { anyhow::bail!("a barrier passed during an outage") };
        ensure!(error.kind == HostErrorKind::Unreachable, "a barrier failed as {error:?}");
    }
    let read = test.in_time("a read during an outage", test.backend.read_evidence(machine)).await?;
    ensure!(
        matches!(&read, Err(error) if error.kind == HostErrorKind::Unreachable),
        "a read returned {read:?}"
    );
    match test.call(machine, &HostCall::PowerOff).await? {
        Err(CallError::Refused(error) | CallError::Lost(error)) => {
            ensure!(error.kind == HostErrorKind::Unreachable, "a call failed as {error:?}");
        }
        Ok(accepted) => anyhow::bail!("a call during an outage returned {accepted:?}"),
    }
    test.control.reconnect().await?;
    test.wait_connected(1).await?;
    let machine = test.check_matches_host().await?.machines.remove(machine);
    let state = machine.and_then(|machine| machine.power_state);
    ensure!(state == Some(PowerState::On), "after a call during an outage it is {state:?}");
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
    test.wait_until("a refused login", refused).await?;
    for _ in 0..20 {
        let read = test
            .in_time("a read with a refused login", backend.read_evidence(&machines.running))
            .await?;
        ensure!(
            matches!(&read, Err(error) if error.kind == HostErrorKind::LoginRefused),
            "a read returned {read:?}"
        );
        match test.call(&machines.running, &HostCall::PowerOff).await? {
            Err(CallError::Refused(error)) if error.kind == HostErrorKind::LoginRefused => {}
            other => anyhow::bail!("a call returned {other:?}"),
        }
        let passed = test.in_time("a barrier with a refused login", backend.barrier()).await?;
        ensure!(passed.is_err(), "a barrier passed without a session");
    }
    let attempts = control.login_attempts() - attempts;
    ensure!(attempts == 1, "the backend tried a refused login {attempts} times");
    control.refuse_logins(false).await?;
    Arc::clone(backend).set_password(control.password());
    test.wait_resynced(sets).await?;
    test.check_matches_host().await.map(drop)
}

fn is_away(recording: &Recording) -> Option<()> {
    matches!(recording.status()?.state, SessionState::Away { .. }).then_some(())
}
