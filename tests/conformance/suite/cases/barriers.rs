//! Barriers: when a barrier returns, every earlier change has been reported.

use std::sync::Arc;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use otter::hypervisor::HostErrorKind;

use super::super::case_table;
use super::super::test_context::TestContext;

case_table! {
    Automatic:
        a_barrier_shows_earlier_changes,
        a_barrier_does_not_join_a_round_in_flight,
        many_barriers_return,
        a_barrier_returns_when_the_session_is_lost needs [ExpireSessions],
        a_barrier_returns_when_the_host_disconnects needs [Disconnect];
}

async fn a_barrier_shows_earlier_changes(test: &TestContext) -> Result<()> {
    let machine = &test.machines.permanent;
    for round in 0..10 {
        let name = format!("round {round}");
        test.control.rename_machine(machine, &name).await?;
        test.barrier().await?;
        let seen = test.machine(machine)?.name;
        ensure!(seen == name, "the name was set to {name:?}, reported is {seen:?}");
    }
    Ok(())
}

async fn a_barrier_does_not_join_a_round_in_flight(test: &TestContext) -> Result<()> {
    let machine = &test.machines.permanent;
    for round in 0..8 {
        let earlier: Vec<_> = (0..3)
            .map(|_| {
                let backend = Arc::clone(&test.backend);
                tokio::spawn(async move { backend.barrier().await })
            })
            .collect();
        // Depending on `round`, the earlier barriers are at different points of their read of the
        // host. A later barrier must not join that read, which may have begun before the rename.
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        let name = format!("during round {round}");
        test.control.rename_machine(machine, &name).await?;
        test.barrier().await?;
        let seen = test.machine(machine)?.name;
        ensure!(seen == name, "the name was set to {name:?}, reported is {seen:?}");
        for barrier in earlier {
            test.in_time("an earlier barrier", barrier).await???;
        }
    }
    Ok(())
}

async fn many_barriers_return(test: &TestContext) -> Result<()> {
    let machine = &test.machines.permanent;
    test.control.rename_machine(machine, "for all").await?;
    let seen = (0..200).map(|_| async {
        test.barrier().await?;
        anyhow::Ok(test.machine(machine)?.name)
    });
    let seen = try_join_all(seen).await?;
    let late = seen.iter().filter(|name| *name != "for all").count();
    ensure!(late == 0, "{late} barriers returned before the rename was reported");
    Ok(())
}

async fn a_barrier_returns_when_the_session_is_lost(test: &TestContext) -> Result<()> {
    let sets = test.complete_sets();
    test.control.expire_sessions().await?;
    test.control.rename_machine(&test.machines.permanent, "after the loss").await?;
    let passed = test.in_time("a barrier of a lost session", test.backend.barrier()).await?;
    let seen = test.machine(&test.machines.permanent)?.name;
    match passed {
        Ok(()) => ensure!(seen == "after the loss", "the barrier passed, the name is {seen:?}"),
        Err(error) => ensure!(error.kind == HostErrorKind::Unreachable, "{error:?}"),
    }
    test.wait_resynced(sets).await?;
    test.check_matches_host().await.map(drop)
}

async fn a_barrier_returns_when_the_host_disconnects(test: &TestContext) -> Result<()> {
    let barriers: Vec<_> = (0..10)
        .map(|_| {
            let backend = Arc::clone(&test.backend);
            tokio::spawn(async move { backend.barrier().await })
        })
        .collect();
    test.control.disconnect().await?;
    for barrier in barriers {
        // A barrier that was complete before the host disconnected succeeds.
        if let Err(error) = test.in_time("a barrier of a disconnected host", barrier).await?? {
            ensure!(error.kind == HostErrorKind::Unreachable, "{error:?}");
        }
    }
    let sets = test.complete_sets();
    test.control.reconnect().await?;
    test.barrier_once_connected().await?;
    ensure!(test.complete_sets() >= sets, "the number of complete sets decreased");
    test.check_matches_host().await.map(drop)
}
