//! What a job sees of its machine in the contents. Pure.

use super::driver::{Glimpse, Shown};
use crate::domain::ids::{MachineId, QuestionId};
use crate::domain::machine::MachineIdentity;
use crate::service::inventory::InventoryContents;

/// The guest of a machine, whose tools had stopped this often before the call; none where the
/// machine that was meant is not there.
#[must_use]
pub fn glimpse(
    contents: &InventoryContents,
    machine: &MachineIdentity,
    tools_stops: u64,
) -> Option<Glimpse> {
    let known = contents.machine(&machine.id)?;
    let meant = machine.agrees_with(&known.identity());
    meant.then(|| Glimpse {
        power_state: known.power_state,
        tools_running: known.guest.tools_running,
        tools_went: contents.tools_stops(&machine.id) > tools_stops,
    })
}

/// What the machine asks.
#[must_use]
pub fn question(contents: &InventoryContents, machine: &MachineId) -> Option<QuestionId> {
    contents.machine(machine)?.question.as_ref().map(|question| question.id.clone())
}

/// The machine as readers see it.
#[must_use]
pub fn shown(contents: &InventoryContents, machine: &MachineId) -> Shown {
    Shown {
        power_state: contents.machine(machine).and_then(|machine| machine.power_state),
        ip_address: contents.ip_address(machine).map(str::to_owned),
    }
}
