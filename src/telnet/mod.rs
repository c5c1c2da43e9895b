//! The telnet protocol of serial ports (RFC 854 to 858), and VMware's extension, by which a machine
//! names itself. No I/O.

mod codec;
mod concentrator;
pub mod constants;

pub use codec::{Subnegotiation, Telnet, TelnetRole};
pub use concentrator::Identification;
