//! Asks the host for a ticket: the right to open one connection to the console of a machine.

use secrecy::SecretString;

use crate::domain::ids::MachineId;
use crate::esx::calls::send_authenticated;
use crate::esx::connections::Lane;
use crate::esx::session::Session;
use crate::esx::soap::Reference;
use crate::esx::soap::request;
use crate::hypervisor::{CallError, HostError, HostErrorKind};

/// The type of tickets for a console over WebSocket.
const WEB_CONSOLE: &str = "webmks";

/// Calls `AcquireTicket`. The result is a secret: everyone who has it sees the screen and can type.
///
/// # Errors
/// `InvalidPowerState` or `InvalidState` if the machine is not on, `ScreenLimitReached`,
/// `Forbidden` without the privilege `VirtualMachine.Interact.ConsoleInteract`, `NotFound`, and the
/// failures of calls.
pub async fn acquire(session: &Session, machine: &MachineId) -> Result<SecretString, HostError> {
    let object = Reference::new("VirtualMachine", machine.backend_text());
    let prefix = format!("The host refused a console of machine {machine}");
    let build = || request::acquire_ticket(&object, WEB_CONSOLE);
    let reply = match send_authenticated(session, build, &prefix, Lane::Ordinary.into()).await {
        Ok(reply) => reply,
        Err(CallError::Refused(error) | CallError::Lost(error)) => return Err(error),
    };
    let ticket = reply.return_value().and_then(|result| result.child_text("ticket"));
    let is_valid = |ticket: &&str| {
        !ticket.is_empty() && ticket.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    ticket.filter(is_valid).map(SecretString::from).ok_or_else(|| {
        let message = format!("The host gave no usable ticket for the console of {machine}.");
        HostError::new(HostErrorKind::Protocol, message)
    })
}
