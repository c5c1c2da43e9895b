//! The sockets on which otter accepts connections: TCP, TLS on TCP, and Unix sockets. otter binds
//! them, or the service manager passes them.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, lchown};
use std::os::unix::net::SocketAddr as SocketAddress;
use std::path::{Path, PathBuf};

use nix::unistd::Group;
use rustix::fs::{Access, Mode, fchmod};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixSocket};

use super::client_address::Peer;
use super::tls::Tls;
use crate::domain::socket_access::{SocketAccess, SocketGroup};
use crate::supervisor::PassedListener;

/// The number of connections that can wait until otter accepts them.
const BACKLOG: u32 = 1_024;

/// The mode that a socket's file has until the file gets its group.
const PRIVATE: Mode = Mode::from_raw_mode(0o600);

/// A socket on which otter accepts connections.
pub enum Listener {
    Tcp(TcpListener),
    /// TCP with TLS.
    Tls(TcpListener, Tls),
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketFile {
    /// otter made the file, and removes it when it stops.
    Own(PathBuf),
    /// The file belongs to the service manager. `None` if the socket has no file.
    Passed(Option<PathBuf>),
}

/// Any byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An accepted connection, before the TLS handshake.
pub enum Accepted {
    Plain(Box<dyn Stream>),
    Tls(TcpStream, Tls),
}

impl Listener {
    /// Binds a TCP address. Port 0 selects any free port.
    ///
    /// # Errors
    /// The errors of the operating system.
    pub async fn tcp(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self::Tcp)
    }

    /// Adds TLS to a TCP listener. A Unix listener stays unchanged.
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Self {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => Self::Tls(listener, tls),
            unix @ Self::Unix(..) => unix,
        }
    }

    /// Binds a Unix socket. Replaces a socket on which no process listens. Does not replace a
    /// socket in use, nor a file of another type. Only accounts that `access` allows can connect,
    /// from the moment that the file exists.
    ///
    /// # Errors
    /// The errors of the operating system; `AddrInUse` if a process listens on the socket,
    /// `AlreadyExists` if the path is not a socket, `NotFound` if the group does not exist,
    /// `PermissionDenied` if otter may not give the file to the group.
    pub async fn unix(path: &Path, access: &SocketAccess) -> io::Result<Self> {
        Self::check_socket_path(path)?;
        let group = group_id(access)?;
        if tokio::fs::symlink_metadata(path).await.is_ok() {
            if tokio::net::UnixStream::connect(path).await.is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            tokio::fs::remove_file(path).await?;
        }
        let socket = bind_privately(path)?;
        if let Err(error) = give_access(path, access, group) {
            // If the file cannot be removed now, the next start replaces the socket.
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(Self::Unix(socket.listen(BACKLOG)?, SocketFile::Own(path.to_owned())))
    }

    /// Takes over a socket that the service manager passed.
    ///
    /// # Errors
    /// The errors of the operating system.
    pub fn passed(socket: &PassedListener) -> io::Result<Self> {
        Ok(match socket {
            PassedListener::Tcp(listener) => {
                let listener = listener.try_clone()?;
                listener.set_nonblocking(true)?;
                Self::Tcp(TcpListener::from_std(listener)?)
            }
            PassedListener::Unix(listener) => {
                let path = listener.local_addr()?.as_pathname().map(Path::to_owned);
                let listener = listener.try_clone()?;
                listener.set_nonblocking(true)?;
                Self::Unix(UnixListener::from_std(listener)?, SocketFile::Passed(path))
            }
        })
    }

    /// Checks that a Unix socket can be created at a path: the path is not too long, its directory
    /// exists and is writable, no file of another type is there, and the group exists.
    ///
    /// # Errors
    /// Fails with the reason why the socket cannot be created.
    pub fn check_unix(path: &Path, access: &SocketAccess) -> io::Result<()> {
        Self::check_socket_path(path)?;
        group_id(access).map(drop)
    }

    fn check_socket_path(path: &Path) -> io::Result<()> {
        if SocketAddress::from_pathname(path).is_err() {
            let error = format!(
                "its path has {} bytes, which is too long for a socket",
                path.as_os_str().len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                let error =
                    "a file with this name exists and is not a socket; otter does not remove it";
                Err(io::Error::new(io::ErrorKind::AlreadyExists, error))
            }
            Ok(_) => Ok(()),
            Err(_) => match path.parent() {
                Some(parent) if !parent.is_dir() => {
                    let error = format!("the directory {} does not exist", parent.display());
                    Err(io::Error::new(io::ErrorKind::NotFound, error))
                }
                Some(parent) => rustix::fs::access(parent, Access::WRITE_OK | Access::EXEC_OK)
                    .map_err(|error| {
                        let kind = io::Error::from(error).kind();
                        let error =
                            format!("a socket cannot be created in {}: {error}", parent.display());
                        io::Error::new(kind, error)
                    }),
                None => Ok(()),
            },
        }
    }

    /// The bound address as a URL, for the log.
    ///
    /// # Errors
    /// The errors of the operating system.
    pub fn describe(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(format!("http://{}", listener.local_addr()?)),
            Self::Tls(listener, _) => Ok(format!("https://{}", listener.local_addr()?)),
            Self::Unix(_, SocketFile::Own(path) | SocketFile::Passed(Some(path))) => {
                Ok(format!("unix:{}", path.display()))
            }
            Self::Unix(_, SocketFile::Passed(None)) => Ok("unix:(a socket without a file)".into()),
        }
    }

    /// The TCP address. `None` for a Unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// Accepts a connection. The future can be dropped at any time without losing a connection.
    ///
    /// # Errors
    /// Fails if otter has no free file descriptor, or the peer disconnected early.
    pub async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Accepted::Plain(Box::new(stream)), Peer::Tcp(address.ip())))
            }
            Self::Tls(listener, tls) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Accepted::Tls(stream, tls.clone()), Peer::Tcp(address.ip())))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Accepted::Plain(Box::new(stream)), Peer::Unix))
            }
        }
    }

    /// Removes the file of a Unix socket that otter made.
    pub async fn remove_file(&self) {
        if let Self::Unix(_, SocketFile::Own(path)) = self {
            // If the file cannot be removed, the next start replaces the socket.
            let _ = tokio::fs::remove_file(path).await;
        }
    }
}

impl Accepted {
    /// Performs the TLS handshake, if the connection is to a TLS listener. The caller limits the
    /// time that it may take.
    ///
    /// # Errors
    /// Fails if the client breaks the handshake, or speaks HTTP without TLS.
    pub async fn handshake(self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Plain(stream) => Ok(stream),
            Self::Tls(stream, tls) if speaks_tls(&stream).await? => {
                Ok(Box::new(tls.accept(stream).await?))
            }
            Self::Tls(stream, _) => {
                answer_https_only(stream).await?;
                let error = "the client speaks HTTP without TLS";
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }
}

/// Binds a Unix socket whose file only its owner can use from the moment that it exists. No client
/// can connect before `listen`.
fn bind_privately(path: &Path) -> io::Result<UnixSocket> {
    let socket = UnixSocket::new_stream()?;
    // On Linux the file gets the mode of the socket, restricted by the umask.
    fchmod(&socket, PRIVATE)?;
    socket.bind(path)?;
    Ok(socket)
}

/// Gives the file its group first and its mode after that. In the other order, the file's first
/// group would get permissions that are meant for the configured group.
fn give_access(path: &Path, access: &SocketAccess, group: Option<u32>) -> io::Result<()> {
    if let (Some(id), Some(group)) = (group, &access.group) {
        lchown(path, None, Some(id)).map_err(|error| {
            let message = format!(
                "otter's account cannot give the socket to the group {group} ({error}): add the \
                 account to this group, or let systemd make the socket (otter.socket)"
            );
            io::Error::new(error.kind(), message)
        })?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(access.mode.bits()))
}

fn group_id(access: &SocketAccess) -> io::Result<Option<u32>> {
    match &access.group {
        None => Ok(None),
        Some(SocketGroup::Id(id)) => Ok(Some(*id)),
        Some(SocketGroup::Name(name)) => {
            let group = Group::from_name(name)?.ok_or_else(|| {
                let error = format!("there is no group {name} (http.socket_group)");
                io::Error::new(io::ErrorKind::NotFound, error)
            })?;
            Ok(Some(group.gid.as_raw()))
        }
    }
}

/// Whether the client speaks TLS. An HTTP request begins with a letter, TLS with the byte 22.
async fn speaks_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    Ok(read == 0 || !first[0].is_ascii_alphabetic())
}

/// Answers a request that a client sent without TLS to a TLS listener. The caller limits the time
/// that this may take.
async fn answer_https_only(mut stream: TcpStream) -> io::Result<()> {
    const ANSWER: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
        x-content-type-options: nosniff\r\nconnection: close\r\ncontent-length: 60\r\n\r\n\
        This port serves HTTPS: write https:// in place of http://.\n";
    // The number of bytes of the request to read before the connection closes. If a connection
    // closes while bytes are unread, the kernel discards the answer in transit.
    const UNREAD: u64 = 64 * 1024;
    stream.write_all(ANSWER.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(UNREAD), &mut tokio::io::sink()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn access(mode: &str, group: Option<u32>) -> SocketAccess {
        SocketAccess { mode: mode.parse().unwrap(), group: group.map(SocketGroup::Id) }
    }

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn only_an_unused_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("otter.sock");
        let access = SocketAccess::default();
        let listening = Listener::unix(&socket, &access).await.unwrap();
        let second = Listener::unix(&socket, &access).await.err().unwrap();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(listening);
        drop(Listener::unix(&socket, &access).await.unwrap());

        let file = directory.path().join("notes.txt");
        std::fs::write(&file, "mine").unwrap();
        let refused = Listener::unix(&file, &access).await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    }

    #[tokio::test]
    async fn a_socket_is_private_until_it_has_its_group_and_then_has_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("otter.sock");
        let socket = bind_privately(&path).unwrap();
        assert_eq!(mode_of(&path), 0o600, "whatever the umask is");
        let early = tokio::net::UnixStream::connect(&path).await;
        assert!(early.is_err(), "no client can connect before otter listens");
        drop(socket);
        for mode in ["0660", "0666", "0600"] {
            let listening = Listener::unix(&path, &access(mode, None)).await.unwrap();
            assert_eq!(format!("{:04o}", mode_of(&path)), mode);
            drop(listening);
        }
    }

    #[tokio::test]
    async fn a_socket_belongs_to_its_group() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("otter.sock");
        let own = rustix::process::getegid().as_raw();
        // Try a foreign group only as root, because only root may give a file to any group.
        let is_root = rustix::process::geteuid().is_root();
        for group in [own, if is_root { 12_345 } else { own }] {
            drop(Listener::unix(&path, &access("0660", Some(group))).await.unwrap());
            assert_eq!(std::fs::metadata(&path).unwrap().gid(), group);
            assert_eq!(mode_of(&path), 0o660);
        }
    }

    #[tokio::test]
    async fn a_group_that_does_not_exist_leaves_no_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("otter.sock");
        let group = Some("no-such-group".parse().unwrap());
        let missing = SocketAccess { group, ..SocketAccess::default() };
        for error in [
            Listener::check_unix(&path, &missing).unwrap_err(),
            Listener::unix(&path, &missing).await.err().unwrap(),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            assert!(error.to_string().contains("no-such-group"), "{error}");
        }
        assert!(!path.exists());
    }
}
