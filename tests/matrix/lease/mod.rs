//! The fault matrix of leases: every call and wait of a preparation and of a release, at every
//! step, under every fault. `table` says what is right, `check` holds otter to it; the stage is
//! that of jobs.

mod check;
pub mod table;

use std::collections::BTreeMap;

use self::table::{LeaseCell, LeaseExpected, Trouble};
use super::stage::{Bench, Play};
use super::table::Fault;
use super::{Playable, report};

impl Playable for LeaseCell {
    type Expected = LeaseExpected;

    fn name(&self) -> String {
        LeaseCell::name(*self)
    }

    fn waits_for_time_outs(&self) -> bool {
        matches!(self.trouble, Trouble::Of(Fault::SlowDone | Fault::SlowUndone))
    }

    async fn play(self, bench: &mut Bench, expected: &LeaseExpected) -> Result<String, String> {
        let (play, proof) = Play::of_lease(bench, self, self.as_job(), &expected.job).await?;
        check::check(play, proof, self, expected).await
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
