//! A port on loopback that stays the same over power cycles of its machine. While nothing listens,
//! the port is bound, so that connections are refused and no other program takes it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// The maximum number of connections that wait to be accepted.
const BACKLOG: u32 = 16;

/// A port that the simulator has.
#[derive(Debug)]
pub struct ReservedPort {
    address: SocketAddr,
    _bound: TcpSocket,
}

impl ReservedPort {
    /// Takes a port; 0 takes a free one.
    ///
    /// # Errors
    /// Fails if the port is in use.
    pub fn take(port: u16) -> io::Result<Self> {
        let socket = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        Ok(Self { address: socket.local_addr()?, _bound: socket })
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens on the port until the listener is dropped.
    ///
    /// # Errors
    /// Fails if another program listens on the port.
    pub fn listen(&self) -> io::Result<TcpListener> {
        // A listener can share a port with a socket that is only bound, if both allow it.
        bind(self.address)?.listen(BACKLOG)
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}
