//! The committed lease table for readers, and the machines that are reserved for a grant.
//!
//! A grant reserves its machine before it looks for jobs of the machine. A job enters the queue of
//! its machine before it looks for a reservation. So if both happen at the same time, at least one
//! of them sees the other.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::lease_table::{LeaseTable, MachineKey, MachineLedger, OpenLease};
use crate::domain::ids::{LeaseId, MachineId};
use crate::domain::machine::{Machine, MachineIdentity};

/// The committed lease table, for readers. Reading does not wait for the actor.
#[derive(Default)]
pub struct PublishedLeases {
    state: ArcSwap<PublishedState>,
    reserved: Mutex<HashSet<MachineId>>,
}

/// One version of the lease table, with an index of the holders.
#[derive(Debug, Default)]
pub struct PublishedState {
    pub table: LeaseTable,
    /// The leases by the machine id at their grant. An id has several if the host gave the id of a
    /// leased machine to another machine.
    holders: HashMap<MachineId, Vec<LeaseId>>,
}

impl PublishedLeases {
    /// Replaces the published table by a committed one.
    pub fn publish(&self, table: LeaseTable) {
        let mut holders: HashMap<MachineId, Vec<LeaseId>> = HashMap::new();
        for open in table.open_leases().filter(|open| open.lease.state.holds_machine()) {
            if let Some(machine) = &open.lease.machine {
                holders.entry(machine.id.clone()).or_default().push(open.lease.id);
            }
        }
        self.state.store(Arc::new(PublishedState { table, holders }));
    }

    /// The committed table.
    #[must_use]
    pub fn load(&self) -> Arc<PublishedState> {
        self.state.load_full()
    }

    /// Rejects jobs on these machines until the reservation is dropped.
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

/// Machines that reject jobs until this value is dropped, because a grant is being committed.
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
    /// The lease that holds a machine. Compares identities, because the host reuses machine ids. A
    /// machine that the host cannot read counts as the one that is held.
    #[must_use]
    pub fn holder_of(&self, machine: &MachineIdentity) -> Option<&OpenLease> {
        let mut holders =
            self.holders.get(&machine.id)?.iter().filter_map(|lease| self.table.get(*lease));
        holders.find(|open| open.lease.machine.as_ref().is_some_and(|held| held.can_be(machine)))
    }

    /// The ledger of a machine. `None` if otter stores nothing about it.
    #[must_use]
    pub fn ledger(&self, machine: &Machine) -> Option<&MachineLedger> {
        self.table.ledger(&MachineKey::from_identity(&machine.identity()))
    }
}
