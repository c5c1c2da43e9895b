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
    let record = contents.machine(&machine.id)?;
    let meant = machine.agrees_with(&record.machine.identity());
    meant.then(|| Glimpse {
        power_state: record.machine.power_state,
        tools_running: record.machine.guest.tools_running,
        tools_went: record.tools_stops() > tools_stops,
    })
}

/// How often the tools of the machine's guest have stopped so far.
#[must_use]
pub fn tools_stops(contents: &InventoryContents, machine: &MachineId) -> u64 {
    contents.machine(machine).map_or(0, |record| record.tools_stops())
}

/// What the machine asks.
#[must_use]
pub fn question(contents: &InventoryContents, machine: &MachineId) -> Option<QuestionId> {
    contents.machine(machine)?.machine.question.as_ref().map(|question| question.id.clone())
}

/// The machine as readers see it.
#[must_use]
pub fn shown(contents: &InventoryContents, machine: &MachineId) -> Shown {
    let record = contents.machine(machine);
    Shown {
        power_state: record.and_then(|record| record.machine.power_state),
        ip_address: record.and_then(|record| record.ip_address()).map(str::to_owned),
    }
}
