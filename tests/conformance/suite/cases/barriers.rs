//! Barriers: what the host knew when one began has been told when it returns.

use std::sync::Arc;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use otter::hypervisor::HostErrorKind;

use super::super::case_table;
use super::super::trial::Trial;

case_table! {
    Brisk:
        a_barrier_shows_what_was_so_before_it,
        a_barrier_that_begins_during_another_shows_more,
        many_barriers_return,
        a_barrier_of_a_session_that_is_being_lost_returns needs [LoseSession],
        a_barrier_of_a_host_that_goes_away_returns needs [GoAway];
}

async fn a_barrier_shows_what_was_so_before_it(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.steady;
    for round in 0..10 {
        let text = format!("round {round}");
        trial.stage.rename(machine, &text).await?;
        trial.barrier().await?;
        let seen = trial.machine(machine)?.name;
        ensure!(seen == text, "{text:?} was written before, and told is {seen:?}");
    }
    Ok(())
}

async fn a_barrier_that_begins_during_another_shows_more(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.steady;
    for round in 0..8 {
        let earlier: Vec<_> = (0..3)
            .map(|_| {
                let backend = Arc::clone(&trial.backend);
                tokio::spawn(async move { backend.barrier().await })
            })
            .collect();
        // They are under way, more or less: at no point of theirs may the later one ride on what
        // was read before.
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        let text = format!("during round {round}");
        trial.stage.rename(machine, &text).await?;
        trial.barrier().await?;
        let seen = trial.machine(machine)?.name;
        ensure!(seen == text, "{text:?} was written before, and told is {seen:?}");
        for barrier in earlier {
            trial.soon("an earlier barrier", barrier).await???;
        }
    }
    Ok(())
}

async fn many_barriers_return(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.steady;
    trial.stage.rename(machine, "for all").await?;
    let seen = (0..200).map(|_| async {
        trial.barrier().await?;
        anyhow::Ok(trial.machine(machine)?.name)
    });
    let seen = try_join_all(seen).await?;
    let late = seen.iter().filter(|name| *name != "for all").count();
    ensure!(late == 0, "{late} barriers returned before what was so was told");
    Ok(())
}

async fn a_barrier_of_a_session_that_is_being_lost_returns(trial: &Trial) -> Result<()> {
    let sets = trial.whole_sets();
    trial.stage.lose_session().await?;
    trial.stage.rename(&trial.cast.steady, "after the loss").await?;
    let passed = trial.soon("a barrier of a lost session", trial.backend.barrier()).await?;
    let seen = trial.machine(&trial.cast.steady)?.name;
    match passed {
        Ok(()) => ensure!(seen == "after the loss", "it passed, and told is {seen:?}"),
        Err(error) => ensure!(error.kind == HostErrorKind::Unreachable, "{error:?}"),
    }
    trial.connected_after(sets).await?;
    trial.agrees().await.map(drop)
}

async fn a_barrier_of_a_host_that_goes_away_returns(trial: &Trial) -> Result<()> {
    let barriers: Vec<_> = (0..10)
        .map(|_| {
            let backend = Arc::clone(&trial.backend);
            tokio::spawn(async move { backend.barrier().await })
        })
        .collect();
    trial.stage.go_away().await?;
    for barrier in barriers {
        // Whether it was in time or not, it returns.
        if let Err(error) = trial.soon("a barrier of a host that goes away", barrier).await?? {
            ensure!(error.kind == HostErrorKind::Unreachable, "{error:?}");
        }
    }
    let sets = trial.whole_sets();
    trial.stage.come_back().await?;
    trial.barrier_at_last().await?;
    ensure!(trial.whole_sets() >= sets, "whole pictures are not untold");
    trial.agrees().await.map(drop)
}
