//! Which seeds run: a fixed number, one that nobody chose, the one that `OTTER_SEED` names, and those with a mistake made
//! on purpose, which must be noticed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Outcome, run};
use crate::clock::Clock;
use crate::sabotage::{Mistake, Sabotage};

/// How many seeds run each time.
const SEEDS: u64 = 2_000;

/// Runs a seed; a panic in it is a broken promise too.
fn tried(seed: u64, sabotage: Sabotage) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| run(seed, sabotage, false))) {
        Ok(outcome) => outcome.broken,
        Err(_) => Some("it panicked".to_owned()),
    }
}

/// Runs a seed, and shows what led to a broken promise.
fn check(seed: u64) {
    if let Some(broken) = tried(seed, Sabotage::new()) {
        let last = catch_unwind(AssertUnwindSafe(|| run(seed, Sabotage::new(), true)));
        let trace = last.map(|Outcome { trace, .. }| trace.join("\n")).unwrap_or_default();
        panic!("{trace}\nOTTER_SEED={seed} broke a promise: {broken}");
    }
}

#[test]
fn promises_hold_for_many_seeds() {
    if let Ok(seed) = std::env::var("OTTER_SEED") {
        let seed: u64 = seed.parse().expect("OTTER_SEED is a number");
        let Outcome { broken, trace, jobs, unknowns, events } = run(seed, Sabotage::new(), true);
        println!("{}\n{jobs} jobs, {unknowns} of them unknown, in {events} events", trace.join("\n"));
        assert_eq!(broken, None, "OTTER_SEED={seed}");
        return;
    }
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || (half..SEEDS).step_by(2).for_each(check));
        }
    });
}

#[test]
fn promises_hold_for_a_seed_that_nobody_chose() {
    let (high, low) = Clock::system().uuid().as_u64_pair();
    let seed = high ^ low;
    println!("OTTER_SEED={seed}");
    check(seed);
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in 0..20 {
        let (first, second) = (run(seed, Sabotage::new(), true), run(seed, Sabotage::new(), true));
        assert!(first.trace == second.trace, "seed {seed}");
    }
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
    ] {
        let found = (0..seeds)
            .find(|seed| tried(*seed, mistake.into()).is_some_and(|broken| broken.contains(noticed)));
        assert!(found.is_some(), "{} was not noticed in {seeds} seeds", mistake.name());
    }
}
