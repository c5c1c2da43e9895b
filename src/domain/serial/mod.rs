//! Serial ports of machines: their names, the way on which otter reaches them, the numbers of the
//! bytes that they output, and the conditions that wait for a text in them.

mod gap;
mod port_name;
mod route;
mod serial_text;

pub use gap::{Gap, GapReason};
pub use port_name::{InvalidPortName, PortName};
pub use route::{RouteTerms, SerialRoute, WireProtocol, route};
pub use serial_text::SerialText;

/// Whether otter is connected to a serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortAccess {
    /// otter is connected, and keeps what the port outputs.
    Open,
    /// otter is not connected now, for example because no one uses the port or because its machine
    /// is off.
    Closed,
    /// otter cannot connect. The state of the port says why.
    Unavailable,
}

impl PortAccess {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::Open, Self::Closed, Self::Unavailable];

    /// The word in the HTTP API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Unavailable => "unavailable",
        }
    }
}
