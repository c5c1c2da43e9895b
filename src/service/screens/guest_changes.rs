//! The reverts and resets of a machine while a call types on it.

use tokio::sync::watch;

use crate::domain::ids::MachineId;
use crate::service::inventory::Inventory;

/// The reverts and resets of a machine since a call began. A connection may survive them, and then
/// goes to another guest, or another start of it, than the one for which the input is meant.
pub struct GuestChanges {
    before: Counts,
    changes: watch::Receiver<()>,
}

/// The numbers at one moment.
#[derive(Clone, Copy)]
struct Counts {
    reverts: u64,
    resets: u64,
}

impl Counts {
    fn now(inventory: &Inventory, machine: &MachineId) -> Self {
        let contents = inventory.contents();
        Self { reverts: contents.reverts(machine), resets: contents.resets(machine) }
    }
}

impl GuestChanges {
    /// The reverts and resets from now on.
    pub fn since_now(inventory: &Inventory, machine: &MachineId) -> Self {
        // In this order, so that none is missed.
        let changes = inventory.watch(machine);
        Self { before: Counts::now(inventory, machine), changes }
    }

    /// What happened to the machine since the call began: "was reverted" or "was reset". `None` if
    /// nothing did.
    pub fn seen(&self, inventory: &Inventory, machine: &MachineId) -> Option<&'static str> {
        let now = Counts::now(inventory, machine);
        if now.reverts > self.before.reverts {
            Some("was reverted")
        } else if now.resets > self.before.resets {
            Some("was reset")
        } else {
            None
        }
    }

    /// Waits until the machine is reverted or reset.
    pub async fn next(&mut self, inventory: &Inventory, machine: &MachineId) {
        while self.seen(inventory, machine).is_none() {
            if self.changes.changed().await.is_err() {
                // The inventory dropped the watcher between two changes.
                self.changes = inventory.watch(machine);
            }
        }
    }
}
