//! Which seeds run: a fixed number, one that nobody chose, the one that `OTTER_SEED` names, and those with a mistake made
//! on purpose, which must be noticed.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Outcome, run};
use crate::clock::Clock;
use crate::sabotage::{Mistake, Sabotage};

/// How many seeds run each time, unless `OTTER_SEEDS` says otherwise.
const SEEDS: u64 = 2_000;

/// What a run broke; a panic in it is a broken promise too.
fn broken(seed: u64, sabotage: Sabotage) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| run(seed, sabotage, false))) {
        Ok(outcome) => outcome.broken,
        Err(_) => Some("it panicked".to_owned()),
    }
}

/// Runs a seed, and tells how to run it again where it broke a promise.
fn check(seed: u64) {
    if let Some(broken) = broken(seed, Sabotage::new()) {
        panic!(
            "a promise is broken: {broken}. OTTER_SEED={seed} cargo test --lib simulation shows what led to it"
        );
    }
}

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

#[test]
fn promises_hold_for_many_seeds() {
    if let Some(seed) = from_environment("OTTER_SEED") {
        let Outcome { broken, trace, jobs, unknowns, leases, grants, refused, repeated, events } =
            run(seed, Sabotage::new(), true);
        println!(
            "{}\n{jobs} jobs, {unknowns} of them unknown, {grants} grants for {leases} leases, {repeated} asked for \
             again, {refused} writes refused, in {events} events",
            trace.join("\n")
        );
        assert_eq!(broken, None, "OTTER_SEED={seed}");
        return;
    }
    let seeds = from_environment("OTTER_SEEDS").unwrap_or(SEEDS);
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || (half..seeds).step_by(2).for_each(check));
        }
    });
}

#[test]
fn promises_hold_for_a_seed_that_nobody_chose() {
    let (high, low) = Clock::system().uuid().as_u64_pair();
    let seed = high ^ low;
    // Not by println!, which shows nothing of a test that passes.
    writeln!(std::io::stderr(), "simulation: OTTER_SEED={seed}").unwrap();
    check(seed);
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in 0..20 {
        let story = || run(seed, Sabotage::new(), true).trace;
        assert!(story() == story(), "seed {seed}");
    }
}

#[test]
fn runs_are_worth_their_time() {
    let outcomes: Vec<Outcome> = (0..100).map(|seed| run(seed, Sabotage::new(), false)).collect();
    let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(of).sum::<usize>();
    let (jobs, unknowns) = (sum(|outcome| outcome.jobs), sum(|outcome| outcome.unknowns));
    let (grants, repeated) = (sum(|outcome| outcome.grants), sum(|outcome| outcome.repeated));
    let refused = sum(|outcome| outcome.refused);
    assert!(jobs > 500, "{jobs} jobs are few");
    assert!(grants > 200, "{grants} grants are few");
    assert!(repeated > 20, "{repeated} calls for a lease that were made again are few");
    assert!(refused > 200, "{refused} writes that a full disk refused are few");
    assert!(unknowns > 0 && unknowns * 10 < jobs, "{unknowns} of {jobs} jobs are unknown");
}

#[test]
fn mistakes_are_noticed() {
    for (mistake, seeds, noticed) in [
        (Mistake::CallBeforeCommit, 20, "without a committed intent"),
        (Mistake::ResetSentAgain, 500, "nothing proves"),
        (Mistake::EndBeforeBarrier, 50, "before the picture showed"),
        (Mistake::ResyncForgetsRemoval, 200, "the picture has"),
        (Mistake::KeysForgotten, 200, "gave"),
        (Mistake::EndTakenBack, 20, "taken back"),
        (Mistake::StaleAddress, 50, "is shown with"),
        (Mistake::FenceForgotten, 200, "fence"),
        (Mistake::GrantOutsideTransaction, 1_000, "two holders"),
        (Mistake::FreeBeforeProven, 200, "was not proven"),
        (Mistake::ExpiryByWallClock, 1_000, "before its time"),
    ] {
        let found = |seed: &u64| broken(*seed, mistake.into()).is_some_and(|broken| broken.contains(noticed));
        let seed = (0..seeds).find(found);
        assert!(seed.is_some(), "{} was not noticed in {seeds} seeds", mistake.name());
        let again = || seed.map(|seed| run(seed, mistake.into(), true)).map(|run| (run.broken, run.trace));
        assert!(again() == again(), "{} is not played again as it was", mistake.name());
    }
}
