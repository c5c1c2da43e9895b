//! Connects to a serial port on which the host listens.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

use super::telnet_stream::TelnetStream;
use crate::domain::serial::WireProtocol;
use crate::esx::transport::Transport;
use crate::hypervisor::{ByteStream, HostError, HostErrorKind};
use crate::telnet::{Telnet, TelnetRole};

/// A connection on which nothing comes is tested after this time.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How often a test without an answer is repeated, before the connection counts as broken.
const KEEP_ALIVE_TRIES: u32 = 3;

/// Dials a port of the host's address, through the proxy if there is one.
///
/// # Errors
/// `Unreachable` if no one listens there.
pub async fn open(
    transport: &Transport,
    port: u16,
    protocol: WireProtocol,
) -> Result<Box<dyn ByteStream>, HostError> {
    let refused = |error: io::Error| {
        let message = if error.kind() == io::ErrorKind::ConnectionRefused {
            format!(
                "The host refuses the port {port}. Its firewall must allow remoteSerialPort, its \
                 licence must allow network serial ports, and the port takes one client at a time."
            )
        } else {
            format!("No connection to the port {port} of the host: {error}.")
        };
        HostError::new(HostErrorKind::Unreachable, message).caused_by(error)
    };
    let stream = transport.dial_port(port).await.map_err(refused)?;
    watch(&stream);
    let stream: Box<dyn ByteStream> = match protocol {
        WireProtocol::Raw => Box::new(stream),
        WireProtocol::Telnet => {
            Box::new(TelnetStream::new(stream, Telnet::new(TelnetRole::Client)))
        }
    };
    Ok(stream)
}

/// Makes a connection notice that the other side is gone, and send small pieces at once. A system
/// that refuses a setting has its own defaults.
pub fn watch(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEP_ALIVE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE / KEEP_ALIVE_TRIES);
    let _ = sockopt::set_tcp_keepcnt(stream, KEEP_ALIVE_TRIES);
}
