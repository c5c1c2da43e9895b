//! Accepting connections: HTTP/1.1 over TCP, TLS or a Unix socket, with limits on what a slow or hostile client can cost.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::HttpSettings;
use super::client_address::Peer;
use super::refusal::Refusals;
use super::stalled::Stalled;
use super::tls::Tls;
use crate::clock::Clock;
use crate::supervisor::Supervisor;

/// How long a client may take, once the daemon stops, for the rest of its request and for taking its answer.
const LINGER: Duration = Duration::from_secs(3);

/// Where callers come in.
pub enum Listener {
    Tcp(TcpListener),
    /// The same, with TLS.
    Tls(TcpListener, Tls),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Binds a TCP address; port 0 is any free one.
    ///
    /// # Errors
    /// The system's.
    pub async fn tcp(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self::Tcp)
    }

    /// The same address, with TLS where it is a TCP one.
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Self {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => Self::Tls(listener, tls),
            unix @ Self::Unix(..) => unix,
        }
    }

    /// Binds a Unix socket. One that a dead daemon left is replaced; one that is answered on is not, nor is anything
    /// else that stands there.
    ///
    /// # Errors
    /// The system's; `AddrInUse` where somebody listens there, `AlreadyExists` where it is no socket.
    pub async fn unix(path: &Path) -> io::Result<Self> {
        if let Ok(found) = tokio::fs::symlink_metadata(path).await {
            if !found.file_type().is_socket() {
                let error = "something stands there that is no socket; it is left as it is";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, error));
            }
            if tokio::net::UnixStream::connect(path).await.is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            tokio::fs::remove_file(path).await?;
        }
        UnixListener::bind(path).map(|listener| Self::Unix(listener, path.to_owned()))
    }

    /// Where it is bound, for people.
    ///
    /// # Errors
    /// The system's.
    pub fn describe(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(format!("http://{}", listener.local_addr()?)),
            Self::Tls(listener, _) => Ok(format!("https://{}", listener.local_addr()?)),
            Self::Unix(_, path) => Ok(format!("unix:{}", path.display())),
        }
    }

    /// The TCP address, where it is one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }
}

/// Serves until told to stop; then lets the answers under way finish.
pub async fn serve(
    listener: Listener,
    router: Router,
    settings: HttpSettings,
    clock: Clock,
    supervisor: Supervisor,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(settings.max_connections));
    let connections = tokio_util::task::TaskTracker::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        let (connection, peer) = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                // Out of file descriptors, or the peer left before we came: the next may work.
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a connection could not be accepted"
                );
                clock.sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (router, timeout) = (router.clone(), settings.header_timeout);
        let (clock, stop) = (clock.clone(), stop.clone());
        let tracked = connections.track_future(async move {
            let secured = tokio::select! {
                secured = secure(connection) => secured,
                () = clock.sleep(timeout) => Err(io::ErrorKind::TimedOut.into()),
                () = stop.cancelled() => Err(io::ErrorKind::Interrupted.into()),
            };
            match secured {
                Ok(connection) => {
                    let connection = Refusals::new(Stalled::new(connection, clock.clone()), clock.clone());
                    one(connection, peer, router, timeout, clock, stop).await;
                }
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a handshake of TLS failed");
                }
            }
            drop(place);
        });
        drop(supervisor.contain("connection", tracked));
    }
    if let Listener::Unix(_, path) = &listener {
        // What is left behind is replaced by the next start anyway.
        let _ = tokio::fs::remove_file(path).await;
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Any byte stream.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that was accepted, and how it is to be secured.
enum Accepted {
    Plain(Box<dyn Stream>),
    Tls(tokio::net::TcpStream, Tls),
}

async fn accept(listener: &Listener) -> io::Result<(Accepted, Peer)> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Accepted::Plain(Box::new(stream)), Peer::Tcp(address.ip())))
        }
        Listener::Tls(listener, tls) => {
            let (stream, address) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Accepted::Tls(stream, tls.clone()), Peer::Tcp(address.ip())))
        }
        Listener::Unix(listener, _) => {
            let (stream, _) = listener.accept().await?;
            Ok((Accepted::Plain(Box::new(stream)), Peer::Unix))
        }
    }
}

async fn secure(accepted: Accepted) -> io::Result<Box<dyn Stream>> {
    match accepted {
        Accepted::Plain(stream) => Ok(stream),
        Accepted::Tls(stream, tls) => Ok(Box::new(tls.accept(stream).await?)),
    }
}

async fn one(
    connection: impl Stream + 'static,
    peer: Peer,
    router: Router,
    header_timeout: Duration,
    clock: Clock,
    stop: CancellationToken,
) {
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request)
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            // Above our own limits, so that what passes here and not there is refused by us.
            .max_headers(4 * super::request_checks::MAX_HEADERS)
            .max_buf_size(256 * 1024)
            .writev(false)
            .serve_connection(TokioIo::new(connection), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = clock.sleep(LINGER) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended badly");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_dead_daemons_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("otter.sock");
        let listening = Listener::unix(&socket).await.unwrap();
        let second = Listener::unix(&socket).await.err().unwrap();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(listening);
        drop(Listener::unix(&socket).await.unwrap());

        let file = directory.path().join("notes.txt");
        std::fs::write(&file, "mine").unwrap();
        let refused = Listener::unix(&file).await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    }
}
