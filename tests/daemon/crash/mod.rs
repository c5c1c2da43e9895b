//! The real binary before a host that outlives it, killed again and again under a mixed load: no
//! accepted job is lost, every end stands, nothing is sent more often than it may be, and every key
//! is answered with its first job.
//!
//! A round is a kill at random and a kill at a named step (`steps`), which all come in turn.
//! `tests/soak --rounds N --seed S` makes it longer; the same seed makes the same choices.

mod audit;
pub mod dice;
mod lane;
mod ledger;
mod load;
pub mod steps;
mod stream;

use std::collections::BTreeMap;

use futures_util::StreamExt;

use self::dice::Dice;
use self::lane::{Lane, Plan, Seen};
use self::steps::Step;

/// Lanes at a time.
const LANES: usize = 4;

/// Rounds of one lane, which then has a host and a state of its own no more.
const ROUNDS_OF_A_LANE: usize = 25;

/// How often each step is to be hit.
const HITS: usize = 3;

/// A number that a variable of the environment gives.
pub fn number(variable: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(variable) else { return otherwise };
    text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}; a number is wanted"))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_moment_it_is_killed_at() {
    let rounds = usize::try_from(number("OTTER_CRASH_ROUNDS", 100)).unwrap();
    let seed = number("OTTER_CRASH_SEED", 1);
    let mut steps = Step::ALL.to_vec();
    Dice::of(seed, &[]).shuffle(&mut steps);
    let plan: Vec<Step> = steps.into_iter().cycle().take(rounds).collect();
    let lanes = plan.chunks(ROUNDS_OF_A_LANE).enumerate().map(async |(number, steps)| {
        let mut lane = Lane::start(seed.wrapping_add(number as u64), Plan::default()).await;
        for step in steps {
            lane.round(*step).await;
        }
        lane.finish().await
    });
    let all: Vec<Seen> = futures_util::stream::iter(lanes).buffer_unordered(LANES).collect().await;
    let report = Report::of(all);
    println!("{rounds} rounds, seed {seed}\n{report}");
    assert!(report.wrongs.is_empty(), "seed {seed}:\n{}", report.wrongs.join("\n"));
    let wanted = u32::try_from((rounds / Step::ALL.len()).min(HITS)).unwrap();
    let missed: Vec<&str> = Step::ALL
        .iter()
        .filter(|step| report.hits(**step) < wanted)
        .map(|step| step.name())
        .collect();
    assert!(missed.is_empty(), "hit less than {wanted} times: {missed:?}");
    // The rest could not be known since somebody cancelled it, or killed the machine, before it
    // could be asked again.
    let unknown = report.unknown() - report.disturbed;
    assert!(unknown * 50 <= report.jobs, "{unknown} of {} jobs ended unknown", report.jobs);
}

/// More may end `unknown` then; all else holds.
#[tokio::test(flavor = "multi_thread")]
async fn and_the_host_has_troubles_of_its_own() {
    let seed = number("OTTER_CRASH_SEED", 1);
    let mut steps = Step::ALL.to_vec();
    Dice::of(seed, &[1]).shuffle(&mut steps);
    let rounds = usize::try_from(number("OTTER_CRASH_ROUNDS", 100) / 10).unwrap();
    let mut lane = Lane::start(seed, Plan { trouble: true }).await;
    for step in steps.into_iter().cycle().take(rounds) {
        lane.round(step).await;
    }
    let report = Report::of(vec![lane.finish().await]);
    println!("{rounds} rounds with troubles, seed {seed}\n{report}");
    assert!(report.wrongs.is_empty(), "seed {seed}:\n{}", report.wrongs.join("\n"));
}

/// What all lanes saw.
struct Report {
    lives: u32,
    jobs: u32,
    reached: BTreeMap<Step, u32>,
    at_random: BTreeMap<&'static str, u32>,
    states: BTreeMap<String, u32>,
    unknown: BTreeMap<String, u32>,
    disturbed: u32,
    wrongs: Vec<String>,
}

fn add<K: Ord>(to: &mut BTreeMap<K, u32>, counts: BTreeMap<K, u32>) {
    for (what, count) in counts {
        *to.entry(what).or_default() += count;
    }
}

impl Report {
    fn of(all: Vec<Seen>) -> Self {
        let mut report = Self {
            lives: 0,
            jobs: 0,
            reached: BTreeMap::new(),
            at_random: BTreeMap::new(),
            states: BTreeMap::new(),
            unknown: BTreeMap::new(),
            disturbed: 0,
            wrongs: Vec::new(),
        };
        for Seen { lives, reached, at_random, wrongs, audit } in all {
            report.lives += lives;
            report.jobs += u32::try_from(audit.jobs).unwrap();
            report.disturbed += audit.disturbed;
            add(&mut report.reached, reached);
            add(&mut report.at_random, at_random);
            add(&mut report.states, audit.states);
            add(&mut report.unknown, audit.unknown);
            report.wrongs.extend(wrongs);
        }
        report
    }

    fn hits(&self, step: Step) -> u32 {
        self.reached.get(&step).copied().unwrap_or(0)
    }

    fn unknown(&self) -> u32 {
        self.unknown.values().sum()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bar = |count: u32| "#".repeat(usize::try_from(count.min(60)).unwrap());
        writeln!(formatter, "{} lives, {} jobs: {:?}", self.lives, self.jobs, self.states)?;
        writeln!(
            formatter,
            "unknown: {:?}, of these cancelled or beside a kill: {}",
            self.unknown, self.disturbed
        )?;
        writeln!(formatter, "where jobs were at the kills at random:")?;
        for (stage, count) in &self.at_random {
            writeln!(formatter, "  {stage:20} {count:4} {}", bar(*count))?;
        }
        writeln!(formatter, "kills at named steps:")?;
        for step in Step::ALL {
            let count = self.hits(*step);
            writeln!(formatter, "  {:20} {count:4} {}", step.name(), bar(count))?;
        }
        Ok(())
    }
}
