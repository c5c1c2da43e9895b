//! Socket activation: takes over the sockets that systemd opened for the service
//! (`sd_listen_fds(3)`).

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;

/// A listening socket that the service manager passed.
#[derive(Clone, Debug)]
pub struct PassedSocket {
    /// The name that the socket unit gives in `FileDescriptorName=`. The default is the name of the
    /// unit.
    pub name: String,
    pub listener: Arc<PassedListener>,
}

/// The kinds of sockets on which otter can serve.
#[derive(Debug)]
pub enum PassedListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl PassedSocket {
    /// Takes the sockets that were passed to this process. Without socket activation there are
    /// none. The function removes their variables from the environment. Therefore it must be called
    /// once, before the process has other threads.
    ///
    /// # Errors
    /// Fails if a descriptor is not a listening TCP socket or Unix stream socket.
    pub fn take_all() -> io::Result<Vec<Self>> {
        // The variables count only if they name this process. It can have inherited them from a
        // parent process that had sockets of its own.
        let pid = std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok());
        let is_ours = pid == Some(std::process::id());
        if !is_ours {
            return Ok(Vec::new());
        }
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').filter(|name| !name.is_empty());
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            let name = names.next().map_or_else(|| format!("number {index}"), str::to_owned);
            let listener = PassedListener::take(&mut passed, index).map_err(|error| {
                let message = format!(
                    "the socket {name} that systemd passes is not a listening stream socket \
                     (ListenStream= and Accept=no in its unit): {error}"
                );
                io::Error::new(error.kind(), message)
            })?;
            sockets.push(Self { name, listener: Arc::new(listener) });
        }
        Ok(sockets)
    }
}

impl PassedListener {
    fn take(passed: &mut ListenFd, index: usize) -> io::Result<Self> {
        // If the socket is of another type, the first call fails and leaves the socket for the
        // second call.
        let listener = match passed.take_unix_listener(index) {
            Ok(listener) => listener.map(Self::Unix),
            Err(_) => passed.take_tcp_listener(index)?.map(Self::Tcp),
        };
        let listener = listener.ok_or(io::ErrorKind::NotFound)?;
        let accepts = match &listener {
            Self::Tcp(listener) => socket_acceptconn(listener)?,
            Self::Unix(listener) => socket_acceptconn(listener)?,
        };
        if accepts {
            Ok(listener)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"))
        }
    }
}
