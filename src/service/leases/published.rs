//! The committed lease table for readers, and the machines that are reserved for a grant.
//!
//! A grant reserves its machine before it looks for jobs of the machine. A job enters the queue of
//! its machine before it looks for a reservation. So if both happen at the same time, at least one
//! of them sees the other.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::lease_table::LeaseTable;
use crate::domain::ids::MachineId;

/// The committed lease table, for readers. Reading does not wait for the actor.
#[derive(Default)]
pub struct PublishedLeases {
    table: ArcSwap<LeaseTable>,
    /// Notifies of every new table.
    changes: watch::Sender<()>,
    reserved: Mutex<HashSet<MachineId>>,
}

impl PublishedLeases {
    /// Replaces the published table by a committed one.
    pub fn publish(&self, table: LeaseTable) {
        self.table.store(Arc::new(table));
        self.changes.send_replace(());
    }

    /// Notifies after every change of the published table.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// The committed table.
    #[must_use]
    pub fn load(&self) -> Arc<LeaseTable> {
        self.table.load_full()
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
