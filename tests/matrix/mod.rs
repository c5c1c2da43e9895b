//! The fault matrix: every kind of job, at every step of it, under every fault. `table` says what
//! is right, `stage` lets it happen, `check` holds otter to it.

mod cell_run;
mod check;
mod lease;
mod table;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use otter::app::Settings;

use self::cell_run::{CellRun, TestBench};
use self::table::{Cell, Expected, Fault, InjectionPoint, Kind};
use crate::harness::Between;
use crate::mistakes::{HostWithMistake, Mistake};

/// How many whole otters work at once: those that wait for time-outs cost little.
const MAX_BENCHES: usize = 6;
const MAX_SHORT_TIMEOUT_BENCHES: usize = 24;

/// How the otters of a group are.
#[derive(Clone, Copy)]
struct OtterSetup {
    settings: fn(&mut Settings),
    between: Between,
}

impl OtterSetup {
    fn new(settings: fn(&mut Settings)) -> Self {
        Self { settings, between: |host| host }
    }
}

/// Cells, the settings that they are played with, and how many otters play them.
type Group<C> = (Vec<Case<C>>, OtterSetup, usize);
/// A cell, and what must come of it.
type Case<C> = (C, <C as MatrixCell>::Expected);
type CaseQueue<C> = Arc<Mutex<Vec<Case<C>>>>;

/// A cell that can be played on a bench.
trait MatrixCell: Copy + Ord + Send + 'static {
    type Expected: Send + 'static;

    fn name(&self) -> String;

    fn waits_for_time_outs(&self) -> bool;

    /// Plays it and checks all that must hold; gives what came of it.
    async fn run_cell(
        self,
        bench: &mut TestBench,
        expected: &Self::Expected,
    ) -> Result<String, String>;
}

impl MatrixCell for Cell {
    type Expected = Expected;

    fn name(&self) -> String {
        Cell::name(*self)
    }

    fn waits_for_time_outs(&self) -> bool {
        matches!(self.fault, Fault::SlowDone | Fault::SlowUndone)
    }

    async fn run_cell(self, bench: &mut TestBench, expected: &Expected) -> Result<String, String> {
        let (run, proof) = CellRun::run(bench, self, expected).await?;
        check::check(run, proof).await
    }
}

/// Cells by how they are played.
fn sorted<C: MatrixCell>(cells: Vec<Case<C>>) -> Vec<Group<C>> {
    let (short_timeouts, calm): (Vec<_>, Vec<_>) =
        cells.into_iter().partition(|(cell, _)| cell.waits_for_time_outs());
    vec![
        (short_timeouts, OtterSetup::new(cell_run::short_timeouts), MAX_SHORT_TIMEOUT_BENCHES),
        (calm, OtterSetup::new(cell_run::settings), MAX_BENCHES),
    ]
}

/// Plays cells on benches of these settings, many at once.
fn run_cells<C: MatrixCell>(groups: Vec<Group<C>>) -> BTreeMap<C, Result<String, String>> {
    let results = Arc::new(Mutex::new(BTreeMap::new()));
    let mut workers = Vec::new();
    for (cells, settings, benches) in groups {
        let benches = benches.min(cells.len());
        let queue: CaseQueue<C> = Arc::new(Mutex::new(cells));
        for _ in 0..benches {
            let (queue, results) = (Arc::clone(&queue), Arc::clone(&results));
            workers.push(std::thread::spawn(move || {
                let work = async {
                    let mut bench = None;
                    while let Some((cell, expected)) = next(&queue) {
                        let result = run_cell(&mut bench, settings, cell, expected).await;
                        results.lock().unwrap().insert(cell, result);
                    }
                };
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                tokio::task::LocalSet::new().block_on(&runtime, work);
            }));
        }
    }
    for worker in workers {
        worker.join().unwrap();
    }
    Arc::try_unwrap(results).ok().unwrap().into_inner().unwrap()
}

fn next<C: MatrixCell>(queue: &CaseQueue<C>) -> Option<Case<C>> {
    queue.lock().unwrap().pop()
}

/// Plays one cell; a bench on which one went wrong is not used again.
async fn run_cell<C: MatrixCell>(
    bench: &mut Option<TestBench>,
    settings: OtterSetup,
    cell: C,
    expected: C::Expected,
) -> Result<String, String> {
    let taken = bench.take();
    let played = tokio::task::spawn_local(async move {
        let mut bench = match taken {
            Some(bench) => bench,
            None => TestBench::start(settings).await,
        };
        let result = cell.run_cell(&mut bench, &expected).await;
        (bench, result)
    });
    match played.await {
        Ok((used, Ok(state))) => {
            *bench = Some(used);
            Ok(state)
        }
        Ok((_, wrong)) => wrong,
        Err(panic) => Err(format!("it panicked: {panic}")),
    }
}

/// Plays the cells that can be, prints what came of them and why the others cannot be, and fails
/// for one that is wrong. `OTTER_MATRIX` chooses cells whose name contains it.
fn report<C: MatrixCell>(mut cells: Vec<Case<C>>, reasons: &BTreeMap<&'static str, usize>) {
    if let Ok(part) = std::env::var("OTTER_MATRIX") {
        cells.retain(|(cell, _)| cell.name().contains(&part));
    }
    let results = run_cells(sorted(cells));
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (cell, result) in &results {
        match result {
            Ok(state) => *ends.entry(state).or_default() += 1,
            Err(why) => wrong.push(format!("{}\n  {why}", cell.name())),
        }
    }
    println!("{} cells were played: {ends:?}", results.len());
    println!("{} cells cannot be:", reasons.values().sum::<usize>());
    for (reason, count) in reasons {
        println!("{count:>5}  {reason}");
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cells are wrong:\n{}",
        wrong.len(),
        results.len(),
        wrong.join("\n")
    );
}

/// The whole matrix.
#[test]
fn every_cell_ends_as_the_table_says() {
    let (mut cells, mut reasons) = (Vec::new(), BTreeMap::new());
    for cell in Cell::all() {
        match cell.expected() {
            Ok(expected) => cells.push((cell, expected)),
            Err(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    report(cells, &reasons);
}

/// A mistake on purpose behind the host.
macro_rules! with_mistake {
    ($mistake:ident) => {
        OtterSetup {
            settings: cell_run::short_timeouts,
            between: |host| Arc::new(HostWithMistake::new(host, Mistake::$mistake)),
        }
    };
}

/// Plays one cell with a mistake, and asserts that the check says so in these words.
#[track_caller]
fn assert_caught(
    settings: OtterSetup,
    (kind, point, fault): (Kind, InjectionPoint, Fault),
    words: &str,
) {
    let cell = Cell { kind, point, fault };
    let results = run_cells(vec![(vec![(cell, cell.expected().unwrap())], settings, 1)]);
    let told = results[&cell].as_ref().expect_err("the mistake went unseen");
    assert!(told.contains(words), "{} told of something else: {told}", cell.name());
}

#[test]
fn a_reset_that_is_sent_again_is_caught() {
    let cell = (Kind::Reset, InjectionPoint::Unanswered, Fault::CutBefore);
    assert_caught(with_mistake!(ResetSentAgain), cell, "it ended succeeded");
}

#[test]
fn an_end_before_the_picture_caught_up_is_caught() {
    let cell = (Kind::Rename, InjectionPoint::ResultRead, Fault::SlowDone);
    assert_caught(with_mistake!(EndBeforeBarrier), cell, "otter does not show what it did");
}

#[test]
fn a_machine_that_stays_in_the_picture_is_caught() {
    let cell = (Kind::Reset, InjectionPoint::Accepted, Fault::GoneInOutage);
    assert_caught(
        with_mistake!(ResyncForgetsRemoval),
        cell,
        "otter shows otherwise than the host is",
    );
}

#[test]
fn an_address_of_a_guest_that_is_gone_is_caught() {
    let cell = (Kind::Reset, InjectionPoint::Before, Fault::CutBefore);
    assert_caught(with_mistake!(StaleAddress), cell, "/ip_address is null on the host");
}

#[test]
fn a_login_that_is_tried_again_and_again_is_caught() {
    let cell = (Kind::PowerOff, InjectionPoint::Before, Fault::AccountRefused);
    let impatient = |settings: &mut Settings| {
        cell_run::short_timeouts(settings);
        settings.esx.login_backoff = Duration::ZERO;
    };
    assert_caught(OtterSetup::new(impatient), cell, "a refused account was tried");
}
