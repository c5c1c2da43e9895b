//! `/v1/machines/{machine}/serial`: the serial ports of machines, what they output, waits for it,
//! input, and the streams of terminals.

mod input;
mod log;
mod since;
mod state;
mod stream;
pub mod wait;
mod wait_request;

use utoipa::IntoParams;
use utoipa_axum::routes;

use super::ApiState;
use super::roles::Routes;
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::machine::Machine;
use crate::service::jobs::authorization::Requester;

/// The routes of this folder.
pub fn routes() -> Routes {
    Routes::default()
        .role(Role::Viewer, routes!(state::get_serial_ports))
        .role(Role::Viewer, routes!(log::read_serial_log))
        .role(Role::Viewer, routes!(wait::wait_for_serial))
        .watching(Role::Runner, routes!(input::send_serial_input))
        .console(Role::Viewer, routes!(stream::open_serial_stream))
}

/// The path parameter that names a serial port.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the segment")]
pub struct PortPath {
    /// A serial port of the machine: its key, or its name in Linux, such as `ttyS0`.
    port: String,
}

/// Checks that a caller sees a machine and may read its serial ports.
///
/// # Errors
/// `machine-gone`, and the failures of the right to look.
pub fn check_may_look(
    api: &ApiState,
    requester: &Requester,
    machine: &Machine,
) -> Result<(), Failure> {
    let services = api.services();
    if services.machines.get_in(&requester.caller.scope, &machine.id).is_none() {
        let detail = "The machine was removed from the host while its serial port was read.";
        return Err(Failure::new(FailureKind::MachineGone, detail));
    }
    services.screens.may_look(requester, machine)
}
