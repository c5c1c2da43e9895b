//! The fault matrix of leases: every call and wait of a preparation and of a release, at every
//! step, under every fault. `table` says what is right, `check` holds otter to it; the stage is
//! that of jobs.

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

/// The whole matrix. `OTTER_MATRIX` chooses cells whose name contains it.
#[test]
fn every_lease_ends_as_the_table_says() {
    let (mut cells, mut reasons) = (Vec::new(), BTreeMap::new());
    for cell in LeaseCell::all() {
        match cell.expected() {
            Ok(expected) => cells.push((cell, expected)),
            Err(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    report(cells, &reasons);
}
