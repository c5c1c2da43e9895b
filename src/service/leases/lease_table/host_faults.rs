//! The faults of the host, the account and the licence that leases meet: the pauses before a step
//! is tried again, and the pools whose grants wait because two of their machines met the same
//! fault. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::{MachineKey, Moment};
use crate::domain::failure::{Failure, FailureKind};
use crate::service::leases::matching::CandidateMachine;

/// The number of machines that must meet a fault before it counts as one of their pool.
const MACHINES_OF_A_POOL_FAULT: usize = 2;

/// The step that met a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseStep {
    Preparation,
    Release,
}

/// The last fault that each machine met and that is not its own. A success of the same step on any
/// machine shows that the host works again, and removes the faults.
#[derive(Clone, Debug, Default)]
pub struct HostFaults(BTreeMap<MachineKey, MetFault>);

#[derive(Clone, Debug)]
struct MetFault {
    step: LeaseStep,
    code: FailureKind,
    /// The type of the host's fault.
    fault: Option<String>,
    detail: String,
    since: Timestamp,
    retry_at: Timestamp,
    /// When the step is tried again, by the monotonic clock. `None` once this time has passed.
    retry: Option<Duration>,
}

/// The fault that two machines of a pool met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFault {
    pub code: FailureKind,
    /// When a machine of the pool first met it.
    pub since: Timestamp,
    /// What happened last.
    pub detail: String,
    /// When otter tries again.
    pub retry_at: Timestamp,
    /// The same by the monotonic clock. `None` if this time has passed.
    pub(super) retry: Option<Duration>,
}

/// The pause after the given number of failures: `first`, doubled after each failure, at most
/// `longest`.
#[must_use]
pub fn pause_after(failures: u32, first: Duration, longest: Duration) -> Duration {
    let doubled = 2_u32.checked_pow(failures.saturating_sub(1));
    doubled.and_then(|factor| first.checked_mul(factor)).unwrap_or(longest).min(longest)
}

impl HostFaults {
    /// Records that a machine met a fault, and that the step is tried again after `pause`.
    pub fn record(
        &mut self,
        machine: MachineKey,
        step: LeaseStep,
        failure: &Failure,
        pause: Duration,
        now: Moment,
    ) {
        let fault = failure.fault.as_ref().map(|fault| fault.name.clone());
        let code = failure.cause.unwrap_or(failure.kind);
        let same = |before: &&MetFault| before.code == code && before.fault == fault;
        let since = self.0.get(&machine).filter(same).map_or(now.wall, |before| before.since);
        let met = MetFault {
            step,
            code,
            fault,
            detail: failure.detail.clone(),
            since,
            retry_at: now.wall.saturating_add(pause).unwrap_or(Timestamp::MAX),
            retry: Some(now.elapsed.saturating_add(pause)),
        };
        self.0.insert(machine, met);
    }

    /// A step succeeded, so the host works.
    pub fn succeeded(&mut self, step: LeaseStep) {
        self.0.retain(|_, met| met.step != step);
    }

    /// Forgets a machine that is absent from the host.
    pub fn forget(&mut self, machine: &MachineKey) {
        self.0.remove(machine);
    }

    /// Ends the pauses that are over.
    pub fn time_passed(&mut self, elapsed: Duration) {
        for met in self.0.values_mut().filter(|met| met.retry.is_some_and(|at| at <= elapsed)) {
            met.retry = None;
        }
    }

    /// When the first pause is over. `None` if there is none.
    pub fn next_retry(&self) -> Option<Duration> {
        self.0.values().filter_map(|met| met.retry).min()
    }

    /// The fault that at least two of these machines met, the one with the latest retry if there
    /// are several. `None` if there is none.
    pub fn of_pool<'m>(&self, machines: impl Iterator<Item = &'m MachineKey>) -> Option<PoolFault> {
        if self.0.len() < MACHINES_OF_A_POOL_FAULT {
            return None;
        }
        let keys: BTreeSet<&MachineKey> = machines.collect();
        let met: Vec<&MetFault> = keys.into_iter().filter_map(|key| self.0.get(key)).collect();
        let is_same =
            |one: &MetFault, other: &MetFault| one.code == other.code && one.fault == other.fault;
        let last = met.iter().copied().filter(|one| {
            let count = met.iter().filter(|other| is_same(one, other)).count();
            count >= MACHINES_OF_A_POOL_FAULT
        });
        let last = last.max_by_key(|one| one.retry_at)?;
        let same = || met.iter().copied().filter(|other| is_same(last, other));
        Some(PoolFault {
            code: last.code,
            since: same().map(|met| met.since).min().unwrap_or(last.since),
            detail: last.detail.clone(),
            retry_at: last.retry_at,
            retry: same().filter_map(|met| met.retry).max(),
        })
    }

    /// The pools whose grants wait for a retry.
    pub fn waiting_pools(
        &self,
        candidates: &[CandidateMachine],
        elapsed: Duration,
    ) -> BTreeSet<String> {
        if self.0.len() < MACHINES_OF_A_POOL_FAULT {
            return BTreeSet::new();
        }
        let mut machines: BTreeMap<&String, Vec<MachineKey>> = BTreeMap::new();
        for candidate in candidates {
            for pool in &candidate.pools {
                let key = MachineKey::from_identity(&candidate.identity);
                machines.entry(pool).or_default().push(key);
            }
        }
        let waits = |keys: &[MachineKey]| {
            let fault = self.of_pool(keys.iter());
            fault.and_then(|fault| fault.retry).is_some_and(|retry| retry > elapsed)
        };
        let waiting = machines.into_iter().filter(|(_, keys)| waits(keys));
        waiting.map(|(pool, _)| pool.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_the_longest() {
        let seconds = |failures| {
            pause_after(failures, Duration::from_secs(5), Duration::from_mins(1)).as_secs()
        };
        let pauses: Vec<u64> = (1..=6).map(seconds).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        assert_eq!((seconds(0), seconds(u32::MAX)), (5, 60));
    }
}
