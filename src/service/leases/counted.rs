//! What the metrics are told of leases: from the book before a step, and what the step changed.

use std::time::Duration;

use jiff::Timestamp;

use super::book::{Book, Changes};
use super::stepped::Stepped;
use crate::domain::failure::FailureKind;
use crate::domain::ids::LeaseId;
use crate::domain::lease::LeaseState;
use crate::telemetry::leases::LeaseMetrics;
use crate::telemetry::metrics::Metrics;

/// How many leases there are in each state that is no end.
pub fn open(metrics: &Metrics, book: &Book) {
    for state in LeaseState::ALL.iter().filter(|state| !state.is_end()) {
        let count = book.open().filter(|open| open.lease.state == *state).count();
        metrics.leases().open(state.as_str(), count);
    }
}

/// Counts what a step did, once it is committed.
pub fn step(metrics: &Metrics, before: &Book, changes: &Changes) {
    for (id, lease) in &changes.leases {
        let was = before.get(*id).map(|open| open.lease.state);
        if let (LeaseState::Active, Some(active_at)) = (lease.state, lease.active_at)
            && was != Some(LeaseState::Active)
        {
            metrics.leases().active(between(lease.created_at, active_at));
        }
        if let (true, Some(end)) = (lease.state.is_end(), &lease.end) {
            let held = lease.active_at.zip(lease.ended_at).map(|(from, to)| between(from, to));
            metrics.leases().ended(end.reason.as_str(), held);
        }
    }
}

/// What counts a step of this book that tells of a failed preparation or release. A machine that is
/// gone has failed no preparation.
pub fn failure(book: &Book, step: &Stepped) -> Option<fn(&LeaseMetrics)> {
    let is = |id: LeaseId, state| book.get(id).is_some_and(|open| open.lease.state == state);
    match step {
        Stepped::Prepared(id, Err(failure)) => (is(*id, LeaseState::Preparing)
            && failure.kind != FailureKind::MachineGone)
            .then_some(LeaseMetrics::prepare_failed),
        Stepped::Freed(id, Err(_)) => {
            is(*id, LeaseState::Releasing).then_some(LeaseMetrics::release_failed)
        }
        _ => None,
    }
}

/// By the wall clock, which a restart does not stop; never negative where it was put back.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
