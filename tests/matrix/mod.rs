//! The fault matrix: every kind of job, at every step of it, under every fault. `table` says what is right, `stage`
//! lets it happen, `check` holds otter to it.

mod check;
mod stage;
mod table;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use otter::app::Settings;

use self::stage::{Bench, Play};
use self::table::{Cell, Expected, Fault};

/// How many whole otters work at once: those that wait for time-outs cost little.
const BENCHES: usize = 6;
const HASTY_BENCHES: usize = 24;

type Todo = Arc<Mutex<Vec<(Cell, Expected)>>>;

/// Plays cells on one bench after the other.
fn play_all(cells: Vec<(Cell, Expected)>) -> BTreeMap<Cell, Result<String, String>> {
    let (hasty, calm): (Vec<_>, Vec<_>) =
        cells.into_iter().partition(|(cell, _)| matches!(cell.fault, Fault::SlowDone | Fault::SlowUndone));
    let results = Arc::new(Mutex::new(BTreeMap::new()));
    let mut workers = Vec::new();
    for (cells, settings, benches) in [
        (hasty, stage::hasty as fn(&mut Settings), HASTY_BENCHES),
        (calm, stage::settings as fn(&mut Settings), BENCHES),
    ] {
        let benches = benches.min(cells.len());
        let todo: Todo = Arc::new(Mutex::new(cells));
        for _ in 0..benches {
            let (todo, results) = (Arc::clone(&todo), Arc::clone(&results));
            workers.push(std::thread::spawn(move || {
                let work = async {
                    let mut bench = None;
                    while let Some((cell, expected)) = next(&todo) {
                        let result = play(&mut bench, settings, cell, expected).await;
                        results.lock().unwrap().insert(cell, result);
                    }
                };
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                tokio::task::LocalSet::new().block_on(&runtime, work);
            }));
        }
    }
    for worker in workers {
        worker.join().unwrap();
    }
    Arc::try_unwrap(results).unwrap().into_inner().unwrap()
}

fn next(todo: &Todo) -> Option<(Cell, Expected)> {
    todo.lock().unwrap().pop()
}

/// Plays one cell; a bench on which one went wrong is not used again.
async fn play(
    bench: &mut Option<Bench>,
    settings: fn(&mut Settings),
    cell: Cell,
    expected: Expected,
) -> Result<String, String> {
    let taken = bench.take();
    let played = tokio::task::spawn_local(async move {
        let mut bench = match taken {
            Some(bench) => bench,
            None => Bench::start(settings).await,
        };
        let result = match Play::run(&mut bench, cell, &expected).await {
            Ok((play, proof)) => check::check(play, proof).await,
            Err(wrong) => Err(wrong),
        };
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

/// The cells that can be, and why the others cannot.
fn cells() -> (Vec<(Cell, Expected)>, BTreeMap<&'static str, usize>) {
    let (mut cells, mut reasons) = (Vec::new(), BTreeMap::new());
    for cell in Cell::all() {
        match cell.expected() {
            Ok(expected) => cells.push((cell, expected)),
            Err(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    (cells, reasons)
}

/// The whole matrix. `OTTER_MATRIX` chooses cells whose name contains it.
#[test]
fn every_cell_ends_as_the_table_says() {
    let (mut cells, reasons) = cells();
    if let Ok(part) = std::env::var("OTTER_MATRIX") {
        cells.retain(|(cell, _)| cell.name().contains(&part));
    }
    let results = play_all(cells);
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
    for (reason, count) in &reasons {
        println!("{count:>5}  {reason}");
    }
    assert!(wrong.is_empty(), "{} of {} cells are wrong:\n{}", wrong.len(), results.len(), wrong.join("\n"));
}
