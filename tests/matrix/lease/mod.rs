//! The fault matrix of leases: every call and wait of a preparation and of a release × every
//! injection point × every fault. `table` has the expected results, `check` compares, and the cells
//! run like those of jobs (`super::cell_run`).

mod check;
pub mod table;

use std::collections::BTreeMap;

use self::table::{LeaseCell, LeaseExpected, LeaseFault};
use super::cell_run::{CellRun, TestBench};
use super::table::Fault;
use super::{MatrixCell, report};

impl MatrixCell for LeaseCell {
    type Expected = LeaseExpected;

    fn name(&self) -> String {
        LeaseCell::name(*self)
    }

    fn waits_for_time_outs(&self) -> bool {
        matches!(self.fault, LeaseFault::Injected(Fault::SlowDone | Fault::SlowUndone))
    }

    async fn run_cell(
        self,
        bench: &mut TestBench,
        expected: &LeaseExpected,
    ) -> Result<String, String> {
        let (run, proof) = CellRun::run_lease(bench, self, self.as_job(), &expected.job).await?;
        check::check(run, proof, self, expected).await
    }
}

/// Runs the whole matrix. `OTTER_MATRIX` selects the cells whose names contain it.
#[test]
fn every_lease_ends_as_expected() {
    let (mut cells, mut reasons) = (Vec::new(), BTreeMap::new());
    for cell in LeaseCell::all() {
        match cell.expected() {
            Ok(expected) => cells.push((cell, expected)),
            Err(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    report(cells, &reasons);
}
