//! The tests of the simulation: a fixed number of seeds, a random seed, the seed that `OTTER_SEED`
//! names, and seeds with a deliberate mistake, which must be noticed.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use otter::clock::Clock;

use super::mistakes::Mistake;
use super::{RunOutcome, run};
use crate::mistakes::Mistake as HostMistake;

/// The number of seeds, unless `OTTER_SEEDS` sets another one.
const SEEDS: u64 = 800;

/// The violation in a run. A panic is a violation too.
fn violation(seed: u64, mistake: Option<Mistake>) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| run(seed, mistake, false))) {
        Ok(outcome) => outcome.violation,
        Err(_) => Some("the run panicked".to_owned()),
    }
}

/// Runs a seed. The message of a violation says how to run the seed again.
fn check(seed: u64) {
    if let Some(violation) = violation(seed, None) {
        panic!(
            "an invariant is violated: {violation}. OTTER_SEED={seed} cargo test --test otter \
             simulation::tests::invariants -- --nocapture prints its trace"
        );
    }
}

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

/// Runs every second seed. Another test runs the other half, so that two cores are used.
fn check_half(half: u64) {
    let seeds = from_environment("OTTER_SEEDS").unwrap_or(SEEDS);
    (half..seeds).step_by(2).for_each(check);
}

#[test]
fn invariants_hold_for_many_seeds() {
    if let Some(seed) = from_environment("OTTER_SEED") {
        let RunOutcome {
            violation,
            trace,
            jobs,
            unknowns,
            leases,
            grants,
            host_faults,
            refused,
            repeated,
            starts,
        } = run(seed, None, true);
        println!(
            "{}\n{jobs} jobs, {unknowns} of them unknown, {grants} grants for {leases} leases, \
             {host_faults} faults of the host, {repeated} calls made again, {refused} writes refused, in {starts} starts",
            trace.join("\n")
        );
        assert_eq!(violation, None, "OTTER_SEED={seed}");
        return;
    }
    check_half(0);
}

#[test]
fn invariants_hold_for_the_other_half_of_the_seeds() {
    check_half(1);
}

#[test]
fn invariants_hold_for_a_random_seed() {
    let (high, low) = Clock::system().uuid().as_u64_pair();
    let seed = high ^ low;
    // println! would print nothing if the test passes.
    writeln!(std::io::stderr(), "simulation: OTTER_SEED={seed}").unwrap();
    check(seed);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..100 {
        let [first, second] = [0, 1].map(|_| run(seed, None, true));
        let differs = first.trace.iter().zip(&second.trace).find(|(first, second)| first != second);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(
            (first.trace.len(), first.violation),
            (second.trace.len(), second.violation),
            "seed {seed}"
        );
    }
}

#[test]
fn runs_reach_the_interesting_cases() {
    let outcomes: Vec<RunOutcome> = (0..50).map(|seed| run(seed, None, false)).collect();
    let sum = |field: fn(&RunOutcome) -> usize| outcomes.iter().map(field).sum::<usize>();
    let (jobs, unknowns) = (sum(|outcome| outcome.jobs), sum(|outcome| outcome.unknowns));
    let (grants, repeated) = (sum(|outcome| outcome.grants), sum(|outcome| outcome.repeated));
    let refused = sum(|outcome| outcome.refused);
    let host_faults = sum(|outcome| outcome.host_faults);
    assert!(jobs > 500, "{jobs} jobs are few");
    assert!(grants > 200, "{grants} grants are few");
    assert!(repeated > 20, "{repeated} calls that were made again are few");
    assert!(refused > 100, "{refused} writes that a full disk refused are few");
    assert!(host_faults > 20, "{host_faults} leases that met a fault of the host are few");
    assert!(unknowns > 0 && unknowns * 10 < jobs, "{unknowns} of {jobs} jobs are unknown");
}

#[test]
fn mistakes_are_noticed() {
    for (mistake, seeds, expected_text) in [
        (Mistake::CallBeforeCommit, 20, "without a committed intent"),
        (Mistake::Host(HostMistake::ResetSentAgain), 500, "nothing proves"),
        (Mistake::Host(HostMistake::EndBeforeBarrier), 50, "before the inventory showed"),
        (Mistake::Host(HostMistake::ResyncForgetsRemoval), 200, "the inventory has"),
        (Mistake::KeysForgotten, 200, "gave"),
        (Mistake::EndTakenBack, 20, "taken back"),
        (Mistake::Host(HostMistake::StaleAddress), 100, "is reported with"),
        (Mistake::FenceForgotten, 200, "fence"),
        (Mistake::GrantBeforeCommit, 100, "not on disk"),
        (Mistake::FreeBeforeProven, 200, "did not succeed"),
        (Mistake::ExpiryByWallClock, 200, "too early"),
    ] {
        let found = |seed: &u64| {
            violation(*seed, Some(mistake))
                .is_some_and(|violation| violation.contains(expected_text))
        };
        assert!(
            (0..seeds).any(|seed| found(&seed)),
            "{mistake:?} was not noticed in {seeds} seeds"
        );
    }
}
