//! Updates the metrics of leases after a transition, from the table before the transition and from
//! the changes.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use super::command::LeaseCommand;
use super::lease_table::{LeaseTable, TableChanges};
use crate::domain::failure::FailureKind;
use crate::domain::ids::LeaseId;
use crate::domain::lease::LeaseState;
use crate::telemetry::leases::LeaseMetrics;
use crate::telemetry::metrics::Metrics;

/// Sets the metric with the number of leases in each state that is not an end.
pub fn set_open_leases(metrics: &Metrics, table: &LeaseTable) {
    let mut counts: HashMap<LeaseState, usize> = HashMap::new();
    for open in table.open_leases() {
        *counts.entry(open.lease.state).or_default() += 1;
    }
    for state in LeaseState::ALL.iter().filter(|state| !state.is_end()) {
        let count = counts.get(state).copied().unwrap_or_default();
        metrics.leases().set_open(state.as_str(), count);
    }
}

/// Counts the leases that a committed transition made active or ended.
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

/// The counter that a command raises if it reports a failed preparation or release. `None` for
/// every other command, and for a preparation whose machine was removed from the host.
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

/// The time from one reading of the wall clock to a later one. Zero if the wall clock went back.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
