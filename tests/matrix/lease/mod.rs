//! The fault matrix of leases: every call and wait of a preparation and of a release, at every step, under every fault.
//! `table` says what is right, `check` holds otter to it; the stage is that of jobs.

mod check;
pub mod table;

use std::collections::BTreeMap;

use otter::app::Settings;
use otter::sabotage::Mistake;

use self::table::{Hand, LeaseCell, LeaseExpected, LeaseKind, Trouble};
use super::stage::{self, Bench, Play};
use super::table::{Fault, Step};
use super::{Playable, play_on, report};

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

#[test]
fn a_preparation_that_is_not_looked_at_is_caught() {
    let unchecked = |settings: &mut Settings| {
        stage::settings(settings);
        settings.sabotage = Mistake::PrepareUnchecked.into();
    };
    let cell = LeaseCell {
        kind: LeaseKind::Settle,
        step: Step::Progress,
        trouble: Trouble::ByHand(Hand::PowersOff),
        spare: false,
    };
    let results = play_on(vec![(vec![(cell, cell.expected().unwrap())], unchecked, 1)]);
    let told = results[&cell].as_ref().expect_err("the mistake went unseen");
    assert!(told.contains("it was sent 1 times, where 2 to 2 are right"), "told of something else: {told}");
}
