//! The committed lease table for readers, and the machines that are reserved for a grant.
//!
//! A grant reserves its machine first and then looks for jobs of the machine. A job enters the
//! queue of its machine first and then looks for a reservation. So if a grant and a job come at the
//! same time, at least one of them notices the other.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::lease_table::LeaseTable;
use crate::domain::ids::MachineId;

/// The lease table as it was last committed. A reader does not wait for the lease actor.
#[derive(Default)]
pub struct PublishedLeases {
    table: ArcSwap<LeaseTable>,
    /// Notifies of every new table.
    changes: watch::Sender<()>,
    reserved: Mutex<HashSet<MachineId>>,
}

impl PublishedLeases {
    /// Replaces the published table by a newer committed table.
    pub fn publish(&self, table: LeaseTable) {
        self.table.store(Arc::new(table));
        self.changes.send_replace(());
    }

    /// Notifies after every change of the published table.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// The lease table as it was last committed.
    #[must_use]
    pub fn load(&self) -> Arc<LeaseTable> {
        self.table.load_full()
    }

    /// Reserves these machines for a grant. Until the reservation is dropped, new jobs on them are
    /// rejected.
    pub fn reserve(self: &Arc<Self>, machines: &[MachineId]) -> GrantReservation {
        self.reserved().extend(machines.iter().cloned());
        GrantReservation { published: Arc::clone(self), machines: machines.to_vec() }
    }

    /// Whether a grant of the machine is being committed just now.
    pub fn is_reserved(&self, machine: &MachineId) -> bool {
        self.reserved().contains(machine)
    }

    fn reserved(&self) -> MutexGuard<'_, HashSet<MachineId>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Machines that are reserved because their grant is being committed. Until this value is dropped,
/// new jobs on them are rejected.
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
