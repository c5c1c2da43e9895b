//! The screen of a machine on an ESX host: a ticket, a WebSocket with RFB in it, and single
//! pictures.
//!
//! ```text
//! AcquireTicket ──► ticket ──► TLS to the API's address ──► GET /ticket/<ticket> ──► RFB
//! ```
//! `ticket` asks for the ticket, `web_socket` makes the handshake and turns the messages into a
//! stream of bytes, and `picture` reads `/screen`.

mod picture;
mod ticket;
mod web_socket;

use super::session::Session;
use crate::domain::ids::MachineId;
use crate::hypervisor::{HostError, HostErrorKind, ScreenConnection};

pub use picture::read_picture;

/// Opens a connection to the screen of a machine, with a new ticket: a ticket serves one connection
/// and is valid for about 30 s.
///
/// The ticket names a URL with the host's own name for itself, which often cannot be resolved. So
/// the connection goes to the address of the API, like every other.
///
/// # Errors
/// As [`Hypervisor::open_screen`](crate::hypervisor::Hypervisor::open_screen).
pub async fn open(session: &Session, machine: &MachineId) -> Result<ScreenConnection, HostError> {
    let login = session.current_login().await?;
    if !login.content.product.is_standalone_host() {
        let message = "The host is a vCenter, whose consoles are on other servers, which otter \
                       does not connect to. Connect otter to the ESX host itself.";
        return Err(HostError::new(HostErrorKind::NotSupported, message));
    }
    let ticket = ticket::acquire(session, machine).await?;
    let stream = web_socket::open(session.transport(), &ticket).await?;
    Ok(ScreenConnection { stream: Box::new(stream) })
}
