//! The faults of the host, the account and the licence that leases meet. This file has the pauses
//! before a step is tried again, and the pools whose grants wait because two of their machines met
//! the same fault. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{MachineKey, Moment};
use crate::domain::failure::{Failure, FailureKind};
use crate::service::leases::matching::CandidateMachine;

/// The number of machines of a pool that must meet the same fault before the fault counts as one of
/// the pool.
const MACHINES_OF_A_POOL_FAULT: usize = 2;

/// The step of a lease that met a fault: the preparation or the release of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseStep {
    Preparation,
    Release,
}

/// For each machine, the last fault that a step met on the machine and that the machine did not
/// cause. If the same step succeeds on a machine, this shows that the host works again for the
/// pools of that machine, and the faults of these pools are removed.
#[derive(Clone, Debug, Default)]
pub struct HostFaults {
    met: BTreeMap<MachineKey, MetFault>,
    /// The machines of each pool, as they were at the last grants.
    pools: Arc<MachinePools>,
}

/// The pools of the host's machines.
#[derive(Debug, Default)]
struct MachinePools {
    /// The pools of each machine.
    of_machines: Vec<(MachineKey, Vec<String>)>,
    /// The machines of each pool.
    members: BTreeMap<String, BTreeSet<MachineKey>>,
}

#[derive(Clone, Debug)]
struct MetFault {
    step: LeaseStep,
    code: FailureKind,
    /// The type of the fault that the host reported. `None` if the host reported none.
    fault: Option<String>,
    detail: String,
    since: Timestamp,
    retry_at: Timestamp,
    /// The length of the pause that ends at `retry_at`.
    pause: Duration,
    /// When the step is tried again, by the clock that never jumps. `None` once this time has
    /// passed.
    retry: Option<Duration>,
}

impl MetFault {
    fn is_same(&self, code: FailureKind, fault: Option<&String>) -> bool {
        self.code == code && self.fault.as_ref() == fault
    }
}

/// The fault that two machines of a pool met and that no machine caused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFault {
    pub code: FailureKind,
    /// When a machine of the pool first met the fault.
    pub since: Timestamp,
    /// The detail of the last failure that the fault caused.
    pub detail: String,
    /// When otter tries again to prepare or release a machine of the pool.
    pub retry_at: Timestamp,
    /// The same time as `retry_at`, by the clock that never jumps. `None` if this time has passed.
    pub(super) retry: Option<Duration>,
}

/// The pause after this number of failures. The pause after the first failure is `first`. The pause
/// doubles with each failure, and is never longer than `longest`.
#[must_use]
pub fn pause_after(failures: u32, first: Duration, longest: Duration) -> Duration {
    let doubled = 2_u32.checked_pow(failures.saturating_sub(1));
    doubled.and_then(|factor| first.checked_mul(factor)).unwrap_or(longest).min(longest)
}

impl HostFaults {
    /// Sets which pools the machines of the host are in.
    pub fn set_pools(&mut self, candidates: &[CandidateMachine]) {
        let known = self.pools.of_machines.iter().map(|(key, pools)| (key, pools));
        if known.eq(candidates.iter().map(|candidate| (&candidate.key, &candidate.pools))) {
            return;
        }
        let mut pools = MachinePools::default();
        for CandidateMachine { key, pools: of_machine, .. } in candidates {
            pools.of_machines.push((key.clone(), of_machine.clone()));
            for pool in of_machine {
                pools.members.entry(pool.clone()).or_default().insert(key.clone());
            }
        }
        self.pools = Arc::new(pools);
    }

    /// Whether two machines are the same or have a pool in common.
    fn share_a_pool(&self, one: &MachineKey, other: &MachineKey) -> bool {
        let mut pools = self.pools.members.values();
        one == other || pools.any(|pool| pool.contains(one) && pool.contains(other))
    }

    /// The pause after one more failure of a machine. If a pause for the same fault runs in a pool
    /// of the machine, the new pause is at least as long. If no such pause runs, it is at least
    /// twice as long as the last one. Without this rule, each new lease of the pool would begin
    /// with the shortest pause.
    #[must_use]
    pub fn pool_pause(
        &self,
        machine: &MachineKey,
        failure: &Failure,
        pause: Duration,
        longest: Duration,
    ) -> Duration {
        let (code, fault) = identify(failure);
        let same = || {
            let met = self.met.iter();
            met.filter(|(other, met)| met.is_same(code, fault) && self.share_a_pool(machine, other))
                .map(|(_, met)| met)
        };
        let running = same().filter(|met| met.retry.is_some()).map(|met| met.pause).max();
        let of_pool = running.or_else(|| {
            let last = same().map(|met| met.pause).max();
            last.map(|last| last.saturating_mul(2))
        });
        pause.max(of_pool.unwrap_or_default()).min(longest)
    }

    /// Records that a machine met a fault that it did not cause.
    ///
    /// # Parameters
    /// - `since`: when the machine first met the fault. An earlier record of the same fault takes
    ///   precedence.
    /// - `pause`: the pause before the step is tried again.
    pub fn record(
        &mut self,
        machine: MachineKey,
        step: LeaseStep,
        failure: &Failure,
        (since, pause): (Timestamp, Duration),
        now: Moment,
    ) {
        let (code, fault) = identify(failure);
        let before = self.met.get(&machine).filter(|before| before.is_same(code, fault));
        let since = before.map_or(since, |before| before.since);
        let met = MetFault {
            step,
            code,
            fault: fault.cloned(),
            detail: failure.detail.clone(),
            since,
            retry_at: now.wall.saturating_add(pause).unwrap_or(Timestamp::MAX),
            pause,
            retry: Some(now.elapsed.saturating_add(pause)),
        };
        self.met.insert(machine, met);
    }

    /// Records that a step succeeded on a machine. This shows that the host works for the pools of
    /// the machine.
    pub fn succeeded(&mut self, machine: &MachineKey, step: LeaseStep) {
        let met = self.met.iter();
        let over = met.filter(|(other, met)| met.step == step && self.share_a_pool(machine, other));
        let over: Vec<MachineKey> = over.map(|(other, _)| other.clone()).collect();
        for other in over {
            self.met.remove(&other);
        }
    }

    /// Removes the fault of a machine that is absent from the host.
    pub fn forget(&mut self, machine: &MachineKey) {
        self.met.remove(machine);
    }

    /// Clears the pauses that are over at this time. Returns whether any pause was over.
    pub fn time_passed(&mut self, elapsed: Duration) -> bool {
        let over = self.met.values_mut().filter(|met| met.retry.is_some_and(|at| at <= elapsed));
        over.map(|met| met.retry = None).count() > 0
    }

    /// When the pause that ends first is over, by the clock that never jumps. `None` if no pause
    /// runs.
    pub fn next_retry(&self) -> Option<Duration> {
        self.met.values().filter_map(|met| met.retry).min()
    }

    /// The fault that at least two of these machines met. If there are several such faults, the one
    /// whose retry is latest. `None` if there is no such fault.
    pub fn of_pool<'m>(&self, machines: impl Iterator<Item = &'m MachineKey>) -> Option<PoolFault> {
        if self.met.len() < MACHINES_OF_A_POOL_FAULT {
            return None;
        }
        let keys: BTreeSet<&MachineKey> = machines.collect();
        let met: Vec<&MetFault> = keys.into_iter().filter_map(|key| self.met.get(key)).collect();
        let is_same =
            |one: &MetFault, other: &MetFault| one.is_same(other.code, other.fault.as_ref());
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

    /// The pools whose grants wait until a step is tried again.
    pub fn waiting_pools(&self, elapsed: Duration) -> BTreeSet<String> {
        if self.met.len() < MACHINES_OF_A_POOL_FAULT {
            return BTreeSet::new();
        }
        let waits = |machines: &BTreeSet<MachineKey>| {
            let fault = self.of_pool(machines.iter());
            fault.and_then(|fault| fault.retry).is_some_and(|retry| retry > elapsed)
        };
        let waiting = self.pools.members.iter().filter(|(_, machines)| waits(machines));
        waiting.map(|(pool, _)| pool.clone()).collect()
    }
}

/// What identifies a fault: the code of the failure, and the type of the fault that the host
/// reported.
fn identify(failure: &Failure) -> (FailureKind, Option<&String>) {
    let fault = failure.fault.as_ref().map(|fault| &fault.name);
    (failure.cause.unwrap_or(failure.kind), fault)
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
