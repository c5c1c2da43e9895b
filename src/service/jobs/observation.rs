//! The state of a job's machine in the inventory. Pure.

use super::state_machine::{GuestObservation, ObservedMachine};
use crate::domain::ids::{MachineId, QuestionId};
use crate::domain::machine::MachineIdentity;
use crate::domain::network::Network;
use crate::service::inventory::InventoryContents;

/// The guest's state. `None` if the inventory does not have the job's machine.
///
/// # Parameters
/// - `tools_stops`: how often VMware Tools had stopped before the call.
#[must_use]
pub fn guest(
    contents: &InventoryContents,
    machine: &MachineIdentity,
    tools_stops: u64,
) -> Option<GuestObservation> {
    let known = contents.machine(&machine.id)?;
    let is_same = machine.can_be(&known.identity());
    is_same.then(|| GuestObservation {
        power_state: known.power_state,
        tools_running: known.guest.tools_running,
        tools_stopped: contents.tools_stops(&machine.id) > tools_stops,
    })
}

/// The question that the machine waits on. `None` if there is no question.
#[must_use]
pub fn question(contents: &InventoryContents, machine: &MachineId) -> Option<QuestionId> {
    contents.machine(machine)?.question.as_ref().map(|question| question.id.clone())
}

/// The state of the machine as readers of the inventory see it.
///
/// # Parameters
/// - `cidr`: the network in which the machine's address must be.
#[must_use]
pub fn machine(
    contents: &InventoryContents,
    machine: &MachineId,
    cidr: Option<Network>,
) -> ObservedMachine {
    ObservedMachine {
        consolidation_needed: contents
            .machine(machine)
            .and_then(|machine| machine.consolidation_needed),
        power_state: contents.machine(machine).and_then(|machine| machine.power_state),
        ip_address: contents.ip_address(machine, cidr).map(|address| address.to_string()),
    }
}
