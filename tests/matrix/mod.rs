//! The fault matrix: every kind of job × every point of it × every fault. `table` has the expected
//! result of each cell, `cell_run` runs a cell against a whole otter, and `check` compares the two.

mod cell_run;
mod check;
mod expected_devices;
mod lease;
mod table;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use otter::app::Settings;

use self::cell_run::{CellRun, TestBench};
use self::table::{Cell, Expected, Fault, InjectionPoint, Kind};
use crate::harness::BackendWrapper;
use crate::mistakes::{HostWithMistake, Mistake};

/// The number of test benches at the same time. Benches that wait for time-outs need little CPU.
const MAX_BENCHES: usize = 6;
const MAX_SHORT_TIMEOUT_BENCHES: usize = 24;

/// The settings of the otters of a group, and a decorator between otter and its host.
#[derive(Clone, Copy)]
struct OtterSetup {
    settings: fn(&mut Settings),
    between: BackendWrapper,
}

impl OtterSetup {
    fn new(settings: fn(&mut Settings)) -> Self {
        Self { settings, between: |host| host }
    }
}

/// Cells, the setup of their otters, and the maximum number of otters.
type Group<C> = (Vec<Case<C>>, OtterSetup, usize);
/// A cell and its expected result.
type Case<C> = (C, <C as MatrixCell>::Expected);
/// The cells that still have to run.
type CaseQueue<C> = Arc<Mutex<Vec<Case<C>>>>;

/// A kind of cell: a job or a lease, at one step, with one fault. A cell runs on an otter and a
/// simulated host that it shares with other cells.
trait MatrixCell: Copy + Ord + Send + 'static {
    type Expected: Send + 'static;

    /// The name in reports.
    fn name(&self) -> String;

    /// Whether the fault takes effect by a time-out.
    fn waits_for_time_outs(&self) -> bool;

    /// Runs the cell and checks its result. Returns the result in a word.
    ///
    /// # Errors
    /// A description of what is wrong.
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

/// Groups cells by their setup.
fn grouped_by_setup<C: MatrixCell>(cells: Vec<Case<C>>) -> Vec<Group<C>> {
    let (timeout_cells, other_cells): (Vec<_>, Vec<_>) =
        cells.into_iter().partition(|(cell, _)| cell.waits_for_time_outs());
    vec![
        (timeout_cells, OtterSetup::new(cell_run::short_timeouts), MAX_SHORT_TIMEOUT_BENCHES),
        (other_cells, OtterSetup::new(cell_run::settings), MAX_BENCHES),
    ]
}

/// Runs groups of cells, many cells at the same time. Returns the result of each cell.
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

/// Runs a cell. A bench is not used again after a failed cell.
async fn run_cell<C: MatrixCell>(
    bench: &mut Option<TestBench>,
    settings: OtterSetup,
    cell: C,
    expected: C::Expected,
) -> Result<String, String> {
    let taken = bench.take();
    let finished = tokio::task::spawn_local(async move {
        let mut bench = match taken {
            Some(bench) => bench,
            None => TestBench::start(settings).await,
        };
        let result = cell.run_cell(&mut bench, &expected).await;
        (bench, result)
    });
    match finished.await {
        Ok((used, Ok(state))) => {
            *bench = Some(used);
            Ok(state)
        }
        Ok((_, wrong)) => wrong,
        Err(panic) => Err(format!("the cell panicked: {panic}")),
    }
}

/// Runs the possible cells, prints their results and the reasons why other cells are impossible,
/// and panics if a cell has failed. `OTTER_MATRIX` selects the cells whose names contain it.
fn report<C: MatrixCell>(mut cells: Vec<Case<C>>, reasons: &BTreeMap<&'static str, usize>) {
    if let Ok(part) = std::env::var("OTTER_MATRIX") {
        cells.retain(|(cell, _)| cell.name().contains(&part));
    }
    let results = run_cells(grouped_by_setup(cells));
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (cell, result) in &results {
        match result {
            Ok(state) => *ends.entry(state).or_default() += 1,
            Err(why) => wrong.push(format!("{}\n  {why}", cell.name())),
        }
    }
    println!("{} cells were run: {ends:?}", results.len());
    println!("{} cells are impossible:", reasons.values().sum::<usize>());
    for (reason, count) in reasons {
        println!("{count:>5}  {reason}");
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cells failed:\n{}",
        wrong.len(),
        results.len(),
        wrong.join("\n")
    );
}

/// Runs the whole matrix.
#[test]
fn every_cell_ends_as_expected() {
    let (mut cells, mut reasons) = (Vec::new(), BTreeMap::new());
    for cell in Cell::all() {
        match cell.expected() {
            Ok(expected) => cells.push((cell, expected)),
            Err(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    report(cells, &reasons);
}

/// A setup with a deliberate mistake between otter and its host.
macro_rules! with_mistake {
    ($mistake:ident) => {
        OtterSetup {
            settings: cell_run::short_timeouts,
            between: |host| Arc::new(HostWithMistake::new(host, Mistake::$mistake)),
        }
    };
}

/// Runs a cell with a deliberate mistake, and asserts that the check fails with this text.
#[track_caller]
fn assert_caught(
    settings: OtterSetup,
    (kind, point, fault): (Kind, InjectionPoint, Fault),
    text: &str,
) {
    let cell = Cell { kind, point, fault };
    let results = run_cells(vec![(vec![(cell, cell.expected().unwrap())], settings, 1)]);
    let error = results[&cell].as_ref().expect_err("the mistake was not noticed");
    assert!(error.contains(text), "{} failed otherwise: {error}", cell.name());
}

#[test]
fn a_reset_that_is_sent_again_is_caught() {
    let cell = (Kind::Reset, InjectionPoint::Unanswered, Fault::CutBefore);
    assert_caught(with_mistake!(ResetSentAgain), cell, "it ended succeeded");
}

#[test]
fn an_end_before_the_inventory_is_current_is_caught() {
    let cell = (Kind::Rename, InjectionPoint::ResultRead, Fault::SlowDone);
    assert_caught(with_mistake!(EndBeforeBarrier), cell, "otter does not report what it did");
}

#[test]
fn a_removed_machine_that_stays_in_the_inventory_is_caught() {
    let cell = (Kind::Reset, InjectionPoint::Accepted, Fault::GoneInOutage);
    assert_caught(with_mistake!(ResyncForgetsRemoval), cell, "otter and the host differ");
}

#[test]
fn an_address_of_an_earlier_guest_is_caught() {
    let cell = (Kind::Reset, InjectionPoint::Before, Fault::CutBefore);
    assert_caught(with_mistake!(StaleAddress), cell, "/ip_address is null on the host");
}

#[test]
fn repeated_logins_of_a_refused_account_are_caught() {
    let cell = (Kind::PowerOff, InjectionPoint::Before, Fault::AccountRefused);
    let impatient = |settings: &mut Settings| {
        cell_run::short_timeouts(settings);
        settings.esx.login_backoff = Duration::ZERO;
    };
    assert_caught(OtterSetup::new(impatient), cell, "a refused account was tried");
}
