//! The metrics of leases.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The histogram buckets for the times of waits and of leases, in seconds: from a grant without a
/// wait to a lease of one week.
const LEASE_DURATION_BUCKETS: [f64; 10] =
    [0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0, 604_800.0];

/// The metrics of leases. The lease service calls its functions for each event, and sets the
/// gauges.
pub struct LeaseMetrics {
    open: Family<StateLabels, Gauge>,
    waited: Histogram,
    held: Histogram,
    ended: Family<ReasonLabels, Counter>,
    prepare_failures: Counter,
    release_failures: Counter,
    machines_quarantined: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

impl LeaseMetrics {
    /// Makes the metrics and registers them in `table`.
    pub fn register(table: &mut Registry) -> Self {
        let metrics = Self {
            open: Family::default(),
            waited: Histogram::new(LEASE_DURATION_BUCKETS),
            held: Histogram::new(LEASE_DURATION_BUCKETS),
            ended: Family::default(),
            prepare_failures: Counter::default(),
            release_failures: Counter::default(),
            machines_quarantined: Gauge::default(),
        };
        let Self {
            open,
            waited,
            held,
            ended,
            prepare_failures,
            release_failures,
            machines_quarantined,
        } = &metrics;
        table.register("leases_open", "Leases that have not ended, by state", open.clone());
        table.register_with_unit(
            "lease_wait",
            "Leases that became active, and the time from the request to then",
            Unit::Seconds,
            waited.clone(),
        );
        table.register_with_unit(
            "lease_held",
            "Leases that ended after they were active, and the time from active to the release",
            Unit::Seconds,
            held.clone(),
        );
        table.register("leases_ended", "Leases that ended, by reason", ended.clone());
        table.register(
            "lease_prepare_failures",
            "Machines that could not be prepared for a lease and were quarantined",
            prepare_failures.clone(),
        );
        table.register(
            "lease_release_failures",
            "Machines that could not be released after a lease and were quarantined",
            release_failures.clone(),
        );
        table.register(
            "machines_quarantined",
            "Machines on the host that an operator or otter has quarantined",
            machines_quarantined.clone(),
        );
        metrics
    }

    /// Sets the number of leases that are in this state.
    pub fn set_open(&self, state: &'static str, count: usize) {
        self.open.get_or_create(&StateLabels { state }).set(number(count));
    }

    /// Sets the number of quarantined machines.
    pub fn set_quarantined(&self, count: usize) {
        self.machines_quarantined.set(number(count));
    }

    /// Records that a lease became active. `waited` is the time from its request until then.
    pub fn record_active(&self, waited: Duration) {
        self.waited.observe(waited.as_secs_f64());
    }

    /// Records the end of a lease. `held` is the time for which the lease was active. `None` if it
    /// was never active.
    pub fn record_ended(&self, reason: &'static str, held: Option<Duration>) {
        self.ended.get_or_create(&ReasonLabels { reason }).inc();
        if let Some(held) = held {
            self.held.observe(held.as_secs_f64());
        }
    }

    /// Records that a machine could not be prepared for a lease.
    pub fn record_prepare_failure(&self) {
        self.prepare_failures.inc();
    }

    /// Records that a machine could not be released after a lease.
    pub fn record_release_failure(&self) {
        self.release_failures.inc();
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
