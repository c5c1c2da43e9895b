//! The pools as a caller sees them. Also lifts the quarantines that otter set by itself in a pool.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::capacity::Usage;
use super::command::LeaseCommand;
use super::lease_actor::LeaseActor;
use super::lease_table::{MachineKey, MachineLedger, PoolFault};
use super::matching::CandidateMachine;
use crate::domain::failure::Failure;
use crate::domain::ids::MachineId;
use crate::domain::machine::Machine;
use crate::domain::pool::RunningLimits;
use crate::service::callers::Caller;
use crate::service::machines::{MachineFilter, MachineView};

/// A pool and the state of its machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    pub name: String,
    pub machines: usize,
    pub free: usize,
    pub held: usize,
    pub quarantined: usize,
    /// The number of queued leases that select this pool.
    pub waiting: usize,
    /// The fault that two machines of the pool met and that no machine caused. `None` if there is
    /// no such fault.
    pub fault: Option<PoolFault>,
    pub running: RunningMachines,
}

/// How many machines run or are leased, how much memory they have, and the limits of both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunningMachines {
    pub limits: RunningLimits,
    pub usage: Usage,
}

impl LeaseActor {
    /// The pools that exist for a caller, sorted by name. For a caller with a restricted scope,
    /// only the pools that have a machine in the scope exist.
    ///
    /// # Errors
    /// `inventory-loading`.
    pub fn pools(&self, caller: &Caller) -> Result<Vec<PoolView>, Failure> {
        self.parts.machines.contents()?;
        let state = self.parts.published.load();
        let settings = self.parts.settings.load();
        let configured = settings.pools.0.keys().filter(|_| !caller.scope.is_restricted());
        let mut pools: BTreeMap<String, PoolView> =
            configured.map(|name| (name.clone(), self.empty_pool(name))).collect();
        let in_scope =
            |candidate: &CandidateMachine| caller.scope.contains(&candidate.name, &candidate.pools);
        let mut keys: BTreeMap<&str, Vec<&MachineKey>> = BTreeMap::new();
        let candidates = self.candidates.load(&self.parts).machines;
        for candidate in candidates.iter().filter(|candidate| in_scope(candidate)) {
            let held = state.holder_of(&candidate.identity).is_some();
            let ledger = state.ledger(&candidate.key);
            let quarantined = ledger.is_some_and(|ledger| ledger.quarantine.is_some());
            let set_aside = ledger.is_some_and(MachineLedger::is_set_aside);
            for name in &candidate.pools {
                let pool = pools.entry(name.clone()).or_insert_with(|| self.empty_pool(name));
                pool.machines += 1;
                if candidate.running || held {
                    pool.running.usage.add(candidate);
                }
                pool.held += usize::from(held);
                pool.quarantined += usize::from(quarantined);
                pool.free +=
                    usize::from(candidate.free && !candidate.excluded && !held && !set_aside);
                keys.entry(name).or_default().push(&candidate.key);
            }
        }
        for (name, keys) in keys {
            if let Some(pool) = pools.get_mut(name) {
                pool.fault = state.pool_fault(keys.into_iter());
            }
        }
        let visibility = self.parts.machines.visibility();
        let queued = state.queued_leases();
        for lease in queued.filter(|lease| visibility.shows_lease(caller, lease)) {
            for name in lease.select.pool_names() {
                if let Some(pool) = pools.get_mut(name) {
                    pool.waiting += 1;
                }
            }
        }
        Ok(pools.into_values().collect())
    }

    /// Lifts the quarantines that otter set by itself in a pool. Returns the machines whose
    /// quarantines were lifted, sorted by name.
    ///
    /// # Errors
    /// `not-found` if the pool does not exist for the caller; `inventory-loading`;
    /// `storage-unavailable`.
    pub async fn clear_automatic_quarantines(
        &self,
        caller: &Caller,
        pool: &str,
    ) -> Result<Vec<MachineId>, Failure> {
        let pool = self.parts.machines.find_pool(&caller.scope, pool)?;
        let filter = MachineFilter { pool: Some(pool), ..MachineFilter::default() };
        let views = self.parts.machines.list(&caller.scope, &filter)?;
        let by_otter = |view: &MachineView| {
            view.quarantine.as_ref().is_some_and(|quarantine| quarantine.automatic)
        };
        let machines: Vec<Arc<Machine>> =
            views.into_iter().filter(by_otter).map(|view| view.machine).collect();
        let keys =
            machines.iter().map(|machine| MachineKey::from_identity(&machine.identity())).collect();
        self.submit_as(caller.actor(), LeaseCommand::ClearAutomaticQuarantines(keys)).await?;
        Ok(machines.iter().map(|machine| machine.id.clone()).collect())
    }

    /// How many machines of the host run or are leased, and the host's limits.
    pub fn running_on_host(&self) -> RunningMachines {
        let state = self.parts.published.load();
        let mut usage = Usage::default();
        for candidate in self.candidates.load(&self.parts).machines.iter() {
            if candidate.running || state.holder_of(&candidate.identity).is_some() {
                usage.add(candidate);
            }
        }
        RunningMachines { limits: self.parts.rules.host_limits, usage }
    }

    fn empty_pool(&self, name: &str) -> PoolView {
        let settings = self.parts.settings.load();
        let limits = settings.pools.get(name).map(|pool| pool.limits).unwrap_or_default();
        PoolView {
            name: name.to_owned(),
            machines: 0,
            free: 0,
            held: 0,
            quarantined: 0,
            waiting: 0,
            fault: None,
            running: RunningMachines { limits, usage: Usage::default() },
        }
    }
}
