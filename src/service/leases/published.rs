//! The committed lease table for readers, and the machines that are reserved for a grant.
//!
//! A grant takes its machine here before it looks whether a job is there, and a job takes its place
//! in the queue before it looks whether the machine is taken: of two that come at one moment one
//! sees the other, and none is overlooked.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::lease_table::{LeaseTable, MachineKey, MachineLedger, OpenLease};
use crate::domain::ids::{LeaseId, MachineId};
use crate::domain::machine::{Machine, MachineIdentity};

/// The table as it is committed, for readers.
#[derive(Default)]
pub struct PublishedLeases {
    state: ArcSwap<PublishedState>,
    reserved: Mutex<HashSet<MachineId>>,
}

/// One state of the table.
#[derive(Debug, Default)]
pub struct PublishedState {
    pub table: LeaseTable,
    /// More than one where a machine came to the id of another, whose lease has not been ended yet.
    holders: HashMap<MachineId, Vec<LeaseId>>,
}

impl PublishedLeases {
    /// Shows a state of the table, once it is committed.
    pub fn publish(&self, table: LeaseTable) {
        let mut holders: HashMap<MachineId, Vec<LeaseId>> = HashMap::new();
        for open in table.open_leases().filter(|open| open.lease.state.holds_machine()) {
            if let Some(machine) = &open.lease.machine {
                holders.entry(machine.id.clone()).or_default().push(open.lease.id);
            }
        }
        self.state.store(Arc::new(PublishedState { table, holders }));
    }

    /// The table as it is committed.
    #[must_use]
    pub fn load(&self) -> Arc<PublishedState> {
        self.state.load_full()
    }

    /// Keeps jobs from a machine until its grant is committed, or dropped.
    pub fn reserve(self: &Arc<Self>, machines: &[MachineId]) -> GrantReservation {
        self.reserved().extend(machines.iter().cloned());
        GrantReservation { published: Arc::clone(self), machines: machines.to_vec() }
    }

    /// Whether a grant of the machine is being committed.
    pub fn is_reserved(&self, machine: &MachineId) -> bool {
        self.reserved().contains(machine)
    }

    fn reserved(&self) -> MutexGuard<'_, HashSet<MachineId>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps jobs from machines until it is dropped.
#[must_use]
pub struct GrantReservation {
    published: Arc<PublishedLeases>,
    machines: Vec<MachineId>,
}

impl Drop for GrantReservation {
    fn drop(&mut self) {
        let mut reserved = self.published.reserved();
        for machine in &self.machines {
            reserved.remove(machine);
        }
    }
}

impl PublishedState {
    /// The lease that holds a machine: that very one, and not another which has come to its id.
    #[must_use]
    pub fn holder_of(&self, machine: &MachineIdentity) -> Option<&OpenLease> {
        let mut holders =
            self.holders.get(&machine.id)?.iter().filter_map(|lease| self.table.get(*lease));
        holders
            .find(|open| open.lease.machine.as_ref().is_some_and(|held| held.agrees_with(machine)))
    }

    /// What is kept of a machine.
    #[must_use]
    pub fn ledger(&self, machine: &Machine) -> Option<&MachineLedger> {
        self.table.ledger(&MachineKey::from_identity(&machine.identity()))
    }
}
