//! The candidates: the machines of the host as the grants of leases see them. They are built once,
//! and updated for the machines that changed, because every request for a lease needs all of them.

use std::sync::{Arc, Mutex, PoisonError};

use super::LeasesParts;
use super::matching::CandidateMachine;
use crate::domain::machine::Machine;
use crate::domain::pool::{LimitScope, RunningLimits, ScopedLimits};
use crate::service::inventory::{InventoryContents, MachineList};
use crate::service::live_settings::ReloadableSettings;
use crate::service::machines::NotFreeReason;

/// Every machine of the host at one moment, as a candidate for a lease.
#[derive(Clone, Default)]
pub struct Candidates {
    pub machines: Arc<Vec<CandidateMachine>>,
    /// A number that increases with every change of the machines. `None` if the machines are not
    /// those of the host.
    pub version: Option<u64>,
}

/// The candidates as they were at their last use.
#[derive(Default)]
pub struct CandidateCache(Mutex<CachedCandidates>);

#[derive(Default)]
struct CachedCandidates {
    machines: Arc<Vec<CandidateMachine>>,
    version: u64,
    settings: Arc<ReloadableSettings>,
    /// The machines from which the candidates were built, in the same order.
    sources: Vec<Source>,
}

struct Source {
    machine: Arc<Machine>,
    /// Whether the machine is free as far as only the host and the configuration are concerned.
    is_idle: bool,
}

impl CandidateCache {
    /// Every machine of the host, and whether the machine is free. Leases and quarantines do not
    /// count here. No machine is free while the host is unreachable.
    pub fn load(&self, parts: &LeasesParts) -> Candidates {
        let contents = parts.inventory.contents();
        let settings = parts.settings.load();
        let is_connected = parts.inventory.away_for().is_none();
        // `activities` has only the machines that have a job or an orphaned task, and these are not
        // free.
        let activities = parts.jobs.activities();
        let is_free = |Source { machine, is_idle }: &Source| {
            is_connected && *is_idle && !activities.contains_key(&machine.id)
        };
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let host_limits = parts.rules.host_limits;
        let build = |machine: &Machine| new_candidate(machine, &settings, host_limits);
        cache.follow(&contents, &settings, build);
        cache.set_free(is_free);
        Candidates { machines: Arc::clone(&cache.machines), version: Some(cache.version) }
    }
}

impl CachedCandidates {
    /// Brings the candidates up to date: builds those whose machines are new or changed since the
    /// last use.
    fn follow(
        &mut self,
        contents: &InventoryContents,
        settings: &Arc<ReloadableSettings>,
        build: impl Fn(&Machine) -> (CandidateMachine, bool),
    ) {
        // There are no candidates until otter has read the host completely.
        let none = MachineList::default();
        let machines = if contents.loaded { &contents.machines } else { &none };
        let has_new_settings = !Arc::ptr_eq(&self.settings, settings);
        self.settings = Arc::clone(settings);
        if machines.len() < self.sources.len() {
            self.sources.truncate(machines.len());
            Arc::make_mut(&mut self.machines).truncate(machines.len());
            self.version += 1;
        }
        for (index, machine) in machines.iter().enumerate() {
            let known = self.sources.get(index);
            if !has_new_settings && known.is_some_and(|known| Arc::ptr_eq(&known.machine, machine))
            {
                continue;
            }
            let (candidate, is_idle) = build(machine);
            let source = Source { machine: Arc::clone(machine), is_idle };
            match self.sources.get_mut(index) {
                Some(known) => *known = source,
                None => self.sources.push(source),
            }
            self.set(index, candidate);
        }
    }

    /// Sets for each candidate whether it is free.
    fn set_free(&mut self, is_free: impl Fn(&Source) -> bool) {
        for index in 0..self.sources.len() {
            let free = is_free(&self.sources[index]);
            if self.machines[index].free != free {
                Arc::make_mut(&mut self.machines)[index].free = free;
                self.version += 1;
            }
        }
    }

    /// Replaces the candidate at an index if it differs from the new one. The new candidate keeps
    /// whether the old one was free, which [`set_free`](Self::set_free) updates later.
    fn set(&mut self, index: usize, candidate: CandidateMachine) {
        let known = self.machines.get(index);
        let candidate =
            CandidateMachine { free: known.is_some_and(|known| known.free), ..candidate };
        if known == Some(&candidate) {
            return;
        }
        let machines = Arc::make_mut(&mut self.machines);
        match machines.get_mut(index) {
            Some(known) => *known = candidate,
            None => machines.push(candidate),
        }
        self.version += 1;
    }
}

/// The candidate for a machine, and whether the machine is idle: free as far as only the host and
/// the configuration are concerned.
fn new_candidate(
    machine: &Machine,
    settings: &ReloadableSettings,
    host_limits: RunningLimits,
) -> (CandidateMachine, bool) {
    let ReloadableSettings { pools, protection, .. } = settings;
    let is_protected = protection.is_self(machine) || protection.covers(machine);
    let is_idle = NotFreeReason::from_state(machine).iter().all(|(_, applies)| !applies);
    let of_machine = pools.for_machine(machine);
    let limits = limits_of(settings, &of_machine, host_limits);
    let excluded = is_protected || machine.template;
    let candidate = CandidateMachine::new(machine, of_machine, false, excluded);
    (CandidateMachine { limits, ..candidate }, is_idle && !is_protected)
}

/// The limits of the host and of these pools.
fn limits_of(
    settings: &ReloadableSettings,
    pools: &[String],
    host_limits: RunningLimits,
) -> Vec<ScopedLimits> {
    let of_pools = pools.iter().filter_map(|name| {
        let limits = settings.pools.get(name)?.limits;
        Some(ScopedLimits { scope: LimitScope::Pool(name.clone()), limits })
    });
    let of_host = ScopedLimits { scope: LimitScope::Host, limits: host_limits };
    let all = std::iter::once(of_host).chain(of_pools);
    all.filter(|scoped| !scoped.limits.is_unlimited()).collect()
}
