//! Accepts connections and serves HTTP/1.1 over TCP, TLS or a Unix socket. Limits the time and
//! memory that a slow or hostile client can take.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::SocketAddr as SocketAddress;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::fs::Access;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::HttpSettings;
use super::client_address::Peer;
use super::connections::{Admission, Admitted, AnswerBody, ConnectionSlot, Connections};
use super::hyper_errors::HyperErrorReplacer;
use super::read_limits::{LimitedStream, ReadLimits};
use super::tls::Tls;
use crate::clock::Clock;
use crate::connection_stream::ConnectionStream;
use crate::supervisor::Supervisor;

/// At shutdown, the time in which clients must send the rest of a request and read the response.
const LINGER: Duration = Duration::from_secs(3);

/// The time after which a write fails if the client reads nothing. Otherwise the client would
/// occupy memory, and the permit of a stream, for ever.
const WRITE_TIMEOUT: Duration = Duration::from_mins(2);

/// The least time between two warnings of one kind.
const BETWEEN_WARNINGS: Duration = Duration::from_mins(1);

/// How long otter keeps an idle connection beyond the time that it announces. A request that a
/// client sends at the last moment thus arrives on an open connection.
const IDLE_MARGIN: Duration = Duration::from_secs(1);

/// The header that announces how long an idle connection is kept (RFC 2068, section 19.7.1.1).
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The time in which a client must read the rest of its response after its idle connection was
/// selected for closing.
const IDLE_CLOSE_LINGER: Duration = Duration::from_millis(500);

/// A bound socket on which otter accepts connections.
pub enum Listener {
    Tcp(TcpListener),
    /// TCP with TLS.
    Tls(TcpListener, Tls),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Binds a TCP address. Port 0 selects any free port.
    ///
    /// # Errors
    /// Those of the system.
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
    /// socket in use, nor a file of another type.
    ///
    /// # Errors
    /// Those of the system; `AddrInUse` if a process listens on the socket, `AlreadyExists` if the
    /// path is not a socket.
    pub async fn unix(path: &Path) -> io::Result<Self> {
        Self::check_socket_path(path)?;
        if tokio::fs::symlink_metadata(path).await.is_ok() {
            if tokio::net::UnixStream::connect(path).await.is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            tokio::fs::remove_file(path).await?;
        }
        UnixListener::bind(path).map(|listener| Self::Unix(listener, path.to_owned()))
    }

    /// Checks that a Unix socket can be created at a path: the path is not too long, its directory
    /// exists and is writable, and no file of another type is there.
    ///
    /// # Errors
    /// The reason why the socket cannot be created.
    pub fn check_socket_path(path: &Path) -> io::Result<()> {
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
    /// Those of the system.
    pub fn describe(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(format!("http://{}", listener.local_addr()?)),
            Self::Tls(listener, _) => Ok(format!("https://{}", listener.local_addr()?)),
            Self::Unix(_, path) => Ok(format!("unix:{}", path.display())),
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
}

/// Serves until `stop` is cancelled, then finishes the responses in progress. An upgraded
/// connection counts as open until its stream is dropped; the stream fails some time after `stop`.
pub async fn serve(
    listener: Listener,
    router: Router,
    settings: HttpSettings,
    clock: Clock,
    supervisor: Supervisor,
    stop: CancellationToken,
) {
    let slots = Connections::new(settings.max_connections);
    let mut warnings = Warnings::new(clock.clone());
    let limits = ReadLimits {
        idle: settings.idle_timeout.saturating_add(IDLE_MARGIN),
        header: settings.header_timeout,
    };
    let announced = format!("timeout={}", settings.idle_timeout.as_secs());
    let connections = tokio_util::task::TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        let (connection, peer) = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                // otter has no free file descriptor, or the peer disconnected early. The next
                // accept may succeed.
                warnings.count_accept_error(&error);
                clock.sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Admitted { slot, admission } = tokio::select! {
            () = stop.cancelled() => break,
            admitted = slots.admit() => admitted,
        };
        warnings.count_admission(admission, settings.max_connections);
        let (router, announced) = (router.clone(), HeaderValue::from_str(&announced).ok());
        let (clock, stop) = (clock.clone(), stop.clone());
        let held = (Arc::clone(&slot), connections.token());
        let tracked = connections.track_future(async move {
            let secured = tokio::select! {
                secured = handshake(connection) => secured,
                () = slot.close_requested() => Err(io::ErrorKind::ConnectionAborted.into()),
                () = clock.sleep(limits.header) => Err(io::ErrorKind::TimedOut.into()),
                () = stop.cancelled() => Err(io::ErrorKind::Interrupted.into()),
            };
            match secured {
                Ok(connection) => {
                    let connection = with_write_timeout(connection, WRITE_TIMEOUT);
                    let connection =
                        HyperErrorReplacer::new(connection, clock.clone(), slot.is_upgraded());
                    let end = drain_deadline(stop.clone(), clock.clone());
                    let connection = ConnectionStream::new(connection, held, end);
                    let connection =
                        LimitedStream::new(connection, Arc::clone(&slot), limits, clock.clone());
                    serve_one(connection, &slot, peer, router, announced, clock, stop).await;
                }
                Err(error) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "a TLS handshake failed"
                    );
                }
            }
            drop(slot);
        });
        drop(supervisor.spawn_isolated("connection", tracked));
    }
    if let Listener::Unix(_, path) = &listener {
        // If this fails, the next start replaces the socket.
        let _ = tokio::fs::remove_file(path).await;
    }
    drop(listener);
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        // The user of an upgraded stream notices its failure only when it reads or writes.
        () = clock.sleep(2 * LINGER) => {}
    }
}

/// Completes when connections that are still open after `stop` must end.
async fn drain_deadline(stop: CancellationToken, clock: Clock) {
    stop.cancelled().await;
    clock.sleep(LINGER).await;
}

/// A stream whose writes fail with `TimedOut` if the peer reads nothing for this time.
fn with_write_timeout<S: Stream>(stream: S, timeout: Duration) -> Pin<Box<TimeoutWriter<S>>> {
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(timeout));
    Box::pin(stream)
}

/// Warnings about connections: at most one line of each kind in a minute, with the number of
/// occurrences since the last line.
struct Warnings {
    clock: Clock,
    not_accepted: Throttle,
    idle_closed: Throttle,
    waited: Throttle,
}

#[derive(Default)]
struct Throttle {
    last: Option<Duration>,
    since_last: u64,
}

impl Warnings {
    fn new(clock: Clock) -> Self {
        let [not_accepted, idle_closed, waited] = Default::default();
        Self { clock, not_accepted, idle_closed, waited }
    }

    fn count_accept_error(&mut self, error: &io::Error) {
        if let Some(times) = self.not_accepted.count(self.clock.elapsed()) {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                times,
                "a connection could not be accepted"
            );
        }
    }

    fn count_admission(&mut self, admission: Admission, limit: usize) {
        let now = self.clock.elapsed();
        match admission {
            Admission::Free => {}
            Admission::IdleClosed => {
                if let Some(times) = self.idle_closed.count(now) {
                    tracing::warn!(
                        limit,
                        times,
                        "the limit of connections is reached: idle ones are closed for new ones"
                    );
                }
            }
            Admission::Waited => {
                if let Some(times) = self.waited.count(now) {
                    tracing::warn!(
                        limit,
                        times,
                        "the limit of connections is reached and all are busy: new ones wait"
                    );
                }
            }
        }
    }
}

impl Throttle {
    /// Counts one occurrence. Returns the number of occurrences if a line is due.
    fn count(&mut self, now: Duration) -> Option<u64> {
        self.since_last += 1;
        if self.last.is_some_and(|last| now.saturating_sub(last) < BETWEEN_WARNINGS) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.since_last))
    }
}

/// Any byte stream.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An accepted connection, before the TLS handshake.
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

async fn handshake(accepted: Accepted) -> io::Result<Box<dyn Stream>> {
    match accepted {
        Accepted::Plain(stream) => Ok(stream),
        Accepted::Tls(stream, tls) if speaks_tls(&stream).await? => {
            Ok(Box::new(tls.accept(stream).await?))
        }
        Accepted::Tls(stream, _) => {
            answer_https_only(stream).await?;
            Err(io::Error::new(io::ErrorKind::InvalidData, "the client speaks HTTP without TLS"))
        }
    }
}

/// Whether the client speaks TLS. An HTTP request begins with a letter, TLS with the byte 22.
async fn speaks_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    Ok(read == 0 || !first[0].is_ascii_alphabetic())
}

/// Answers a request without TLS. The caller limits the time.
async fn answer_https_only(mut stream: TcpStream) -> io::Result<()> {
    const ANSWER: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
        x-content-type-options: nosniff\r\nconnection: close\r\ncontent-length: 60\r\n\r\n\
        This port serves HTTPS: write https:// in place of http://.\n";
    // If a connection is closed while bytes are unread, the kernel discards the answer in transit.
    const UNREAD: u64 = 64 * 1024;
    stream.write_all(ANSWER.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(UNREAD), &mut tokio::io::sink()).await.map(drop)
}

/// Serves the requests of a connection.
///
/// # Parameters
/// - `announced`: the `Keep-Alive` of responses after which the connection stays open.
async fn serve_one(
    connection: impl Stream + 'static,
    slot: &Arc<ConnectionSlot>,
    peer: Peer,
    router: Router,
    announced: Option<HeaderValue>,
    clock: Clock,
    stop: CancellationToken,
) {
    let (at, stopping) = (Arc::clone(slot), stop.clone());
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        let in_flight = at.begin_request();
        request.extensions_mut().insert(peer);
        let announced = announced.clone().filter(|_| keeps_connection(&request));
        let stopping = stopping.clone();
        let answer = router.clone().oneshot(request);
        async move {
            // The connection was selected for closing. The request had no effect, so the client may
            // repeat it.
            let in_flight = in_flight.ok_or(io::ErrorKind::ConnectionAborted)?;
            let Ok(mut answer) = answer.await;
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                in_flight.mark_upgraded();
            } else if let Some(announced) = announced.filter(|_| !stopping.is_cancelled()) {
                announce(announced, answer.headers_mut());
            }
            Ok::<_, io::Error>(answer.map(|body| AnswerBody::new(body, in_flight)))
        }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            // `LimitedStream` limits the time of a head.
            .header_read_timeout(None)
            // Above otter's own limits, so that otter refuses most oversized requests itself.
            .max_headers(4 * super::request_checks::MAX_HEADERS)
            .max_buf_size(256 * 1024)
            .writev(false)
            .serve_connection(TokioIo::new(connection), service)
            .with_upgrades()
    );
    let linger = tokio::select! {
        ended = connection.as_mut() => return log_end(ended),
        () = stop.cancelled() => LINGER,
        // A connection without a request has no response that could be truncated.
        () = slot.close_requested() => {
            if slot.has_accepted_request() { IDLE_CLOSE_LINGER } else { return }
        }
    };
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => log_end(ended),
        () = clock.sleep(linger) => {}
    }
}

/// Whether a client keeps the connection open after its request (RFC 9112, section 9.3). A client of
/// HTTP/1.0 closes it unless it says otherwise, and gets no `Keep-Alive`.
fn keeps_connection<B>(request: &http::Request<B>) -> bool {
    let closes = |value: &HeaderValue| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    };
    request.version() == Version::HTTP_11
        && !request.headers().get_all(CONNECTION).iter().any(closes)
}

/// Announces how long the connection is kept. `Connection` names the header, so that proxies drop
/// it.
fn announce(timeout: HeaderValue, headers: &mut HeaderMap) {
    if !headers.contains_key(CONNECTION) {
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
        headers.insert(KEEP_ALIVE, timeout);
    }
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "a connection ended with an \
                                                                   error"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_comes_once_a_minute_with_its_count() {
        let mut throttle = Throttle::default();
        let counts = [0, 1, 59, 60, 61, 300].map(|now| throttle.count(Duration::from_secs(now)));
        assert_eq!(counts, [Some(1), None, None, Some(3), None, Some(2)]);
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_ends_the_connection() {
        let (server, _client) = tokio::io::duplex(4);
        let mut server = with_write_timeout(server, Duration::from_millis(50));
        let failed = server.write_all(b"0123456789").await.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_is_served() {
        let (server, mut client) = tokio::io::duplex(1);
        let timeout = Duration::from_secs(1);
        let mut server = with_write_timeout(server, timeout);
        let clock = Clock::system();
        let reading = async {
            for _ in 0..4 {
                clock.sleep(timeout / 2).await;
                client.read_u8().await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(server.write_all(b"0123"), reading);
        written.unwrap();
        assert!(clock.elapsed() >= 2 * timeout);
    }

    #[tokio::test]
    async fn only_an_unused_socket_is_replaced() {
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
