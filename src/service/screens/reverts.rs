//! The reverts of a machine while a call types on it.

use tokio::sync::watch;

use crate::domain::ids::MachineId;
use crate::service::inventory::Inventory;

/// The reverts of a machine since a call began. A connection may survive one, and then goes to
/// another guest than the one for which the input is meant.
pub struct Reverts {
    /// The number when the call began.
    before: u64,
    changes: watch::Receiver<()>,
}

impl Reverts {
    /// The reverts from now on.
    pub fn since_now(inventory: &Inventory, machine: &MachineId) -> Self {
        // In this order, so that no revert is missed.
        let changes = inventory.watch(machine);
        Self { before: inventory.contents().reverts(machine), changes }
    }

    /// Whether the machine was reverted since the call began.
    pub fn have_grown(&self, inventory: &Inventory, machine: &MachineId) -> bool {
        inventory.contents().reverts(machine) > self.before
    }

    /// Waits until the machine is reverted.
    pub async fn grown(&mut self, inventory: &Inventory, machine: &MachineId) {
        while !self.have_grown(inventory, machine) {
            if self.changes.changed().await.is_err() {
                // The inventory dropped the watcher between two changes.
                self.changes = inventory.watch(machine);
            }
        }
    }
}
