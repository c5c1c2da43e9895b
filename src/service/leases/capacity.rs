//! The limits of the machines that run at the same time, and how much of each limit is used. Pure.
//!
//! A machine counts if it runs or if a lease holds it, because the holder of the lease may power
//! the machine on at any time. A lease whose grant would exceed a limit waits. If it waits only for
//! machines of other leases, no later lease gets what remains of that limit. Otherwise leases of
//! small machines could keep the lease of a large machine waiting forever.

use std::collections::BTreeMap;

use super::matching::CandidateMachine;
use crate::domain::pool::{LimitScope, RunningLimits, ScopedLimits};

/// A limit that a grant would exceed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachedLimit {
    pub scope: LimitScope,
    pub kind: LimitKind,
    /// The maximum that the limit allows: a number of machines, or a number of bytes.
    pub maximum: u64,
}

/// Whether a limit is a number of machines or an amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// The setting `max_running`.
    Machines,
    /// The setting `max_memory_bytes`.
    Memory,
}

/// A number of machines, and their memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub machines: u64,
    pub memory_bytes: u64,
}

/// How much of every limit is used, during a series of grants.
#[derive(Debug)]
pub struct Capacity {
    /// The machines that run or are leased.
    used: BTreeMap<LimitScope, Usage>,
    /// The machines that run and are not leased. They go on running when leases end, so the end of
    /// a lease makes no room for a grant that they prevent.
    unleased: BTreeMap<LimitScope, Usage>,
    /// The limits for which an earlier lease waits.
    reserved: BTreeMap<LimitScope, ReachedLimit>,
}

impl Capacity {
    /// How much of every limit is used before the first grant.
    ///
    /// # Parameters
    /// - `machines`: every machine of the host.
    /// - `is_leased`: whether a lease holds a machine.
    pub fn new(
        machines: &[CandidateMachine],
        is_leased: impl Fn(&CandidateMachine) -> bool,
    ) -> Self {
        let (mut used, mut unleased) = (BTreeMap::new(), BTreeMap::new());
        for machine in machines.iter().filter(|machine| !machine.limits.is_empty()) {
            let leased = is_leased(machine);
            if machine.running || leased {
                count(&mut used, machine);
            }
            if machine.running && !leased {
                count(&mut unleased, machine);
            }
        }
        Self { used, unleased, reserved: BTreeMap::new() }
    }

    /// The limit that prevents a grant of this machine: the grant would exceed the limit, or an
    /// earlier lease waits for it. `None` if the machine can be granted.
    #[must_use]
    pub fn obstacle(&self, machine: &CandidateMachine) -> Option<ReachedLimit> {
        let reserved = |scoped: &ScopedLimits| self.reserved.get(&scoped.scope).cloned();
        machine
            .limits
            .iter()
            .find_map(|scoped| reserved(scoped).or_else(|| exceeded(scoped, &self.used, machine)))
    }

    /// Counts a machine that is granted to a lease.
    pub fn take(&mut self, machine: &CandidateMachine) {
        count(&mut self.used, machine);
    }

    /// Reserves what remains of the limits that a grant of this machine would exceed, but only of
    /// the limits for which ends of leases can make enough room. Returns whether a limit was
    /// reserved that was not reserved before.
    pub fn reserve(&mut self, machine: &CandidateMachine) -> bool {
        let before = self.reserved.len();
        for scoped in &machine.limits {
            if let Some(limit) = exceeded(scoped, &self.used, machine)
                && exceeded(scoped, &self.unleased, machine).is_none()
            {
                self.reserved.entry(scoped.scope.clone()).or_insert(limit);
            }
        }
        self.reserved.len() > before
    }
}

impl Usage {
    /// Adds one machine, and its memory, to the usage.
    pub fn add(&mut self, machine: &CandidateMachine) {
        self.machines += 1;
        self.memory_bytes = self.memory_bytes.saturating_add(machine.memory_bytes);
    }
}

impl ReachedLimit {
    /// A clause that says what the limit allows, such as "the pool qubes runs at most 4 machines at
    /// the same time".
    #[must_use]
    pub fn rule(&self) -> String {
        let Self { scope, kind, maximum } = self;
        let of = match scope {
            LimitScope::Host => "the host".to_owned(),
            LimitScope::Pool(name) => format!("the pool {name}"),
        };
        match kind {
            LimitKind::Machines => {
                let noun = if *maximum == 1 { "machine" } else { "machines" };
                format!("{of} runs at most {maximum} {noun} at the same time (max_running)")
            }
            LimitKind::Memory => format!(
                "{of} runs machines with at most {maximum} bytes of memory in all \
                 (max_memory_bytes)"
            ),
        }
    }

    /// The pool of the limit. `None` if it is a limit of the host.
    #[must_use]
    pub fn pool(&self) -> Option<&str> {
        match &self.scope {
            LimitScope::Host => None,
            LimitScope::Pool(name) => Some(name),
        }
    }
}

impl LimitKind {
    /// The name of the setting that sets the limit.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Machines => "max_running",
            Self::Memory => "max_memory_bytes",
        }
    }
}

/// The limit that a machine exceeds by itself, even if no other machine runs. `None` if there is no
/// such limit.
#[must_use]
pub fn never_fits(machine: &CandidateMachine) -> Option<ReachedLimit> {
    machine.limits.iter().find_map(|scoped| exceeded(scoped, &BTreeMap::new(), machine))
}

fn count(usage: &mut BTreeMap<LimitScope, Usage>, machine: &CandidateMachine) {
    for scoped in &machine.limits {
        usage.entry(scoped.scope.clone()).or_default().add(machine);
    }
}

/// The limit of a scope that is exceeded if one more machine is added to the usage. `None` if no
/// limit is exceeded.
fn exceeded(
    scoped: &ScopedLimits,
    used: &BTreeMap<LimitScope, Usage>,
    machine: &CandidateMachine,
) -> Option<ReachedLimit> {
    let ScopedLimits { scope, limits: RunningLimits { max_running, max_memory_bytes } } = scoped;
    let mut usage = used.get(scope).copied().unwrap_or_default();
    usage.add(machine);
    let reached = |kind, needed: u64, maximum: Option<u64>| {
        let maximum = maximum.filter(|maximum| needed > *maximum)?;
        Some(ReachedLimit { scope: scope.clone(), kind, maximum })
    };
    reached(LimitKind::Machines, usage.machines, max_running.map(u64::from))
        .or_else(|| reached(LimitKind::Memory, usage.memory_bytes, *max_memory_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::leases::tests::machine;

    const GIB: u64 = 1 << 30;

    fn limits(max_running: Option<u32>, gibibytes: Option<u64>) -> RunningLimits {
        let max_memory_bytes = gibibytes.map(|gibibytes| gibibytes * GIB);
        RunningLimits { max_running, max_memory_bytes }
    }

    /// A machine of the pool `ci`. The host and the pool have limits.
    fn limited(
        number: u32,
        gibibytes: u64,
        host: RunningLimits,
        pool: RunningLimits,
    ) -> CandidateMachine {
        CandidateMachine {
            memory_bytes: gibibytes * GIB,
            limits: vec![
                ScopedLimits { scope: LimitScope::Host, limits: host },
                ScopedLimits { scope: LimitScope::Pool("ci".to_owned()), limits: pool },
            ],
            ..machine(number, true)
        }
    }

    fn running(machine: CandidateMachine) -> CandidateMachine {
        CandidateMachine { running: true, free: false, ..machine }
    }

    #[test]
    fn a_machine_counts_once_if_it_runs_and_is_leased() {
        let two = limits(Some(2), None);
        let machine = |number| limited(number, 1, two, RunningLimits::default());
        let machines = [running(machine(1)), machine(2), machine(3)];
        let none_leased = Capacity::new(&machines, |_| false);
        assert_eq!(none_leased.obstacle(&machines[1]), None);
        let first_leased = Capacity::new(&machines, |leased| *leased == machines[0]);
        assert_eq!(first_leased.obstacle(&machines[1]), None);
        let two_used = Capacity::new(&machines, |leased| *leased == machines[1]);
        let limit = ReachedLimit { scope: LimitScope::Host, kind: LimitKind::Machines, maximum: 2 };
        assert_eq!(two_used.obstacle(&machines[2]), Some(limit));
    }

    #[test]
    fn every_limit_of_a_machine_must_allow_it() {
        let pool = limits(None, Some(4));
        let machines = [1, 2].map(|number| limited(number, 3, limits(Some(9), Some(99)), pool));
        let mut capacity = Capacity::new(&machines, |_| false);
        assert_eq!(capacity.obstacle(&machines[0]), None);
        capacity.take(&machines[0]);
        let limit = capacity.obstacle(&machines[1]).unwrap();
        assert_eq!(
            (limit.pool(), limit.kind, limit.maximum),
            (Some("ci"), LimitKind::Memory, 4 * GIB)
        );
        assert!(limit.rule().contains("the pool ci"), "{}", limit.rule());
        let unlimited = machine(9, true);
        assert_eq!(capacity.obstacle(&unlimited), None);
    }

    #[test]
    fn a_limit_is_reserved_only_for_a_machine_that_ends_of_leases_make_room_for() {
        let host = limits(None, Some(8));
        let machine =
            |number, gibibytes| limited(number, gibibytes, host, RunningLimits::default());
        let (large, small) = (machine(2, 7), machine(3, 1));
        for (is_leased, is_reserved) in [(true, true), (false, false)] {
            let machines = [running(machine(1, 4)), large.clone(), small.clone()];
            let mut capacity =
                Capacity::new(&machines, |leased| is_leased && *leased == machines[0]);
            assert!(capacity.obstacle(&large).is_some());
            assert_eq!(capacity.obstacle(&small), None);
            capacity.reserve(&large);
            assert_eq!(capacity.obstacle(&small).is_some(), is_reserved);
        }
    }

    #[test]
    fn a_machine_that_is_larger_than_a_limit_never_fits() {
        let none = RunningLimits::default();
        assert_eq!(never_fits(&limited(1, 8, limits(Some(1), Some(8)), none)), None);
        let limit = never_fits(&limited(1, 9, none, limits(None, Some(8)))).unwrap();
        assert_eq!((limit.pool(), limit.kind), (Some("ci"), LimitKind::Memory));
    }
}
