//! The pools as a caller sees them.

use std::collections::BTreeMap;

use super::lease_actor::LeaseActor;
use super::lease_table::{MachineKey, OpenLease};
use super::matching::CandidateMachine;
use crate::domain::failure::Failure;
use crate::domain::lease::LeaseState;
use crate::service::callers::Caller;

/// A pool and the state of its machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    pub name: String,
    pub machines: usize,
    pub free: usize,
    pub held: usize,
    pub quarantined: usize,
    /// The queued leases that select this pool.
    pub waiting: usize,
}

impl LeaseActor {
    /// The pools that exist for a caller, by name. For a restricted scope, the pools with a machine
    /// in the scope.
    ///
    /// # Errors
    /// `inventory-loading`.
    pub fn pools(&self, caller: &Caller) -> Result<Vec<PoolView>, Failure> {
        self.parts.machines.contents()?;
        let state = self.parts.published.load();
        let configured = self.parts.pools.0.keys().filter(|_| !caller.scope.is_restricted());
        let mut pools: BTreeMap<String, PoolView> =
            configured.map(|name| (name.clone(), PoolView::empty(name))).collect();
        let in_scope =
            |candidate: &CandidateMachine| caller.scope.contains(&candidate.name, &candidate.pools);
        for candidate in self.candidates([]).into_iter().filter(in_scope) {
            let held = state.holder_of(&candidate.identity).is_some();
            let quarantined = state
                .table
                .ledger(&MachineKey::from_identity(&candidate.identity))
                .is_some_and(|ledger| ledger.quarantine.is_some());
            for name in &candidate.pools {
                let pool = pools.entry(name.clone()).or_insert_with(|| PoolView::empty(name));
                pool.machines += 1;
                pool.held += usize::from(held);
                pool.quarantined += usize::from(quarantined);
                pool.free +=
                    usize::from(candidate.free && !candidate.excluded && !held && !quarantined);
            }
        }
        let visibility = self.parts.machines.visibility();
        let waits = |open: &&OpenLease| {
            open.lease.state == LeaseState::Queued && visibility.shows_lease(caller, &open.lease)
        };
        for open in state.table.open_leases().filter(waits) {
            if let Some(pool) = open.lease.select.pool.as_ref().and_then(|pool| pools.get_mut(pool))
            {
                pool.waiting += 1;
            }
        }
        Ok(pools.into_values().collect())
    }
}

impl PoolView {
    fn empty(name: &str) -> Self {
        Self { name: name.to_owned(), machines: 0, free: 0, held: 0, quarantined: 0, waiting: 0 }
    }
}
