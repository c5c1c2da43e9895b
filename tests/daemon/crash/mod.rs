//! The daemon is killed many times under a mixed load, with a host that outlives it. No accepted
//! job is lost, the end of a job does not change, no call is sent more often than allowed, and
//! every idempotency key is answered with its first job.
//!
//! A round has a kill at a random moment and a kill at a fail point (`fail_points`). All fail
//! points come in turn. `tests/soak --rounds N --seed S` runs more rounds. The same seed makes the same
//! choices.

mod audit;
mod call_log;
mod event_reader;
pub mod fail_points;
mod load_client;
pub mod random;
mod worker;

use std::collections::BTreeMap;

use futures_util::StreamExt;

use self::fail_points::FailPoint;
use self::random::SeededRandom;
use self::worker::{Worker, WorkerOptions, WorkerResult};

/// The number of workers that run at a time.
const WORKERS: usize = 4;

/// The number of rounds of one worker. Each worker has its own host and state directory.
const ROUNDS_PER_WORKER: usize = 25;

/// The number of kills that each fail point must have.
const HITS_PER_FAIL_POINT: usize = 3;

/// The number in an environment variable, or `otherwise` if it is not set.
pub fn env_number(variable: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(variable) else { return otherwise };
    text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, which is not a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_survive_a_kill_at_any_moment() {
    let rounds = usize::try_from(env_number("OTTER_CRASH_ROUNDS", 100)).unwrap();
    let seed = env_number("OTTER_CRASH_SEED", 1);
    let mut fail_points = FailPoint::ALL.to_vec();
    SeededRandom::from_seed(seed, &[]).shuffle(&mut fail_points);
    let plan: Vec<FailPoint> = fail_points.into_iter().cycle().take(rounds).collect();
    let workers = plan.chunks(ROUNDS_PER_WORKER).enumerate().map(async |(number, fail_points)| {
        let mut worker =
            Worker::start(seed.wrapping_add(number as u64), WorkerOptions::default()).await;
        for fail_point in fail_points {
            worker.round(*fail_point).await;
        }
        worker.finish().await
    });
    let all: Vec<WorkerResult> =
        futures_util::stream::iter(workers).buffer_unordered(WORKERS).collect().await;
    let report = Report::from_results(all);
    println!("{rounds} rounds, seed {seed}\n{report}");
    assert!(report.violations.is_empty(), "seed {seed}:\n{}", report.violations.join("\n"));
    let required = u32::try_from((rounds / FailPoint::ALL.len()).min(HITS_PER_FAIL_POINT)).unwrap();
    let missed: Vec<&str> = FailPoint::ALL
        .iter()
        .filter(|point| report.hits(**point) < required)
        .map(|point| point.name())
        .collect();
    assert!(missed.is_empty(), "killed less than {required} times: {missed:?}");
    // The other jobs ended `unknown` because a caller cancelled them or killed their machine before
    // otter could repeat the call.
    let unknown = report.unknown() - report.cancelled_or_killed;
    assert!(unknown * 50 <= report.jobs, "{unknown} of {} jobs ended unknown", report.jobs);
}

/// With host faults more jobs may end `unknown`. All other rules are the same.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_survive_kills_while_the_host_has_faults() {
    let seed = env_number("OTTER_CRASH_SEED", 1);
    let mut fail_points = FailPoint::ALL.to_vec();
    SeededRandom::from_seed(seed, &[1]).shuffle(&mut fail_points);
    let rounds = usize::try_from(env_number("OTTER_CRASH_ROUNDS", 100) / 10).unwrap();
    let mut worker = Worker::start(seed, WorkerOptions { host_faults: true }).await;
    for fail_point in fail_points.into_iter().cycle().take(rounds) {
        worker.round(fail_point).await;
    }
    let report = Report::from_results(vec![worker.finish().await]);
    println!("{rounds} rounds with host faults, seed {seed}\n{report}");
    assert!(report.violations.is_empty(), "seed {seed}:\n{}", report.violations.join("\n"));
}

/// The results of all workers.
struct Report {
    runs: u32,
    jobs: u32,
    reached: BTreeMap<FailPoint, u32>,
    unfinished_at_kill: BTreeMap<&'static str, u32>,
    states: BTreeMap<String, u32>,
    unknown: BTreeMap<String, u32>,
    cancelled_or_killed: u32,
    violations: Vec<String>,
}

fn add<K: Ord>(to: &mut BTreeMap<K, u32>, counts: BTreeMap<K, u32>) {
    for (what, count) in counts {
        *to.entry(what).or_default() += count;
    }
}

impl Report {
    fn from_results(all: Vec<WorkerResult>) -> Self {
        let mut report = Self {
            runs: 0,
            jobs: 0,
            reached: BTreeMap::new(),
            unfinished_at_kill: BTreeMap::new(),
            states: BTreeMap::new(),
            unknown: BTreeMap::new(),
            cancelled_or_killed: 0,
            violations: Vec::new(),
        };
        for WorkerResult { runs, reached, unfinished_at_kill, violations, audit } in all {
            report.runs += runs;
            report.jobs += u32::try_from(audit.jobs).unwrap();
            report.cancelled_or_killed += audit.cancelled_or_killed;
            add(&mut report.reached, reached);
            add(&mut report.unfinished_at_kill, unfinished_at_kill);
            add(&mut report.states, audit.states);
            add(&mut report.unknown, audit.unknown);
            report.violations.extend(violations);
        }
        report
    }

    fn hits(&self, step: FailPoint) -> u32 {
        self.reached.get(&step).copied().unwrap_or(0)
    }

    fn unknown(&self) -> u32 {
        self.unknown.values().sum()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bar = |count: u32| "#".repeat(usize::try_from(count.min(60)).unwrap());
        writeln!(formatter, "{} daemon runs, {} jobs: {:?}", self.runs, self.jobs, self.states)?;
        writeln!(
            formatter,
            "unknown: {:?}, of these cancelled or with a concurrent kill: {}",
            self.unknown, self.cancelled_or_killed
        )?;
        writeln!(formatter, "stages of jobs at random kills:")?;
        for (stage, count) in &self.unfinished_at_kill {
            writeln!(formatter, "  {stage:20} {count:4} {}", bar(*count))?;
        }
        writeln!(formatter, "kills at fail points:")?;
        for step in FailPoint::ALL {
            let count = self.hits(*step);
            writeln!(formatter, "  {:20} {count:4} {}", step.name(), bar(count))?;
        }
        Ok(())
    }
}
