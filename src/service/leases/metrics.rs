//! What the metrics are told of leases: from the table before a step, and what the step changed.

use std::time::Duration;

use jiff::Timestamp;

use super::command::LeaseCommand;
use super::lease_table::{LeaseTable, TableChanges};
use crate::domain::failure::FailureKind;
use crate::domain::ids::LeaseId;
use crate::domain::lease::LeaseState;
use crate::telemetry::leases::LeaseMetrics;
use crate::telemetry::metrics::Metrics;

/// How many leases there are in each state that is no end.
pub fn set_open_leases(metrics: &Metrics, table: &LeaseTable) {
    for state in LeaseState::ALL.iter().filter(|state| !state.is_end()) {
        let count = table.open_leases().filter(|open| open.lease.state == *state).count();
        metrics.leases().set_open(state.as_str(), count);
    }
}

/// Counts what a step did, once it is committed.
pub fn record_transition(metrics: &Metrics, before: &LeaseTable, changes: &TableChanges) {
    for (id, lease) in &changes.leases {
        let was = before.get(*id).map(|open| open.lease.state);
        if let (LeaseState::Active, Some(active_at)) = (lease.state, lease.active_at)
            && was != Some(LeaseState::Active)
        {
            metrics.leases().record_active(between(lease.created_at, active_at));
        }
        if let (true, Some(end)) = (lease.state.is_end(), &lease.end) {
            let held = lease.active_at.zip(lease.ended_at).map(|(from, to)| between(from, to));
            metrics.leases().record_ended(end.reason.as_str(), held);
        }
    }
}

/// What counts a step of this table that tells of a failed preparation or release. A machine that is
/// gone has failed no preparation.
pub fn failure_counter(table: &LeaseTable, command: &LeaseCommand) -> Option<fn(&LeaseMetrics)> {
    let is_in = |id: LeaseId, state| table.get(id).is_some_and(|open| open.lease.state == state);
    match command {
        LeaseCommand::PrepareFinished(id, Err(failure)) => (is_in(*id, LeaseState::Preparing)
            && failure.kind != FailureKind::MachineGone)
            .then_some(LeaseMetrics::record_prepare_failure),
        LeaseCommand::ReleaseFinished(id, Err(_)) => {
            is_in(*id, LeaseState::Releasing).then_some(LeaseMetrics::record_release_failure)
        }
        _ => None,
    }
}

/// By the wall clock, which a restart does not stop; never negative where it was put back.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
