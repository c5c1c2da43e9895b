//! Serves HTTP/1.1 on the connections of the listeners. Limits the time and memory that a slow or
//! hostile client can take.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use futures_util::future::select_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use http::header::CONNECTION;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::HttpSettings;
use super::client_address::Peer;
use super::connections::{Admission, Admitted, AnswerBody, ConnectionSlot, Connections, InFlight};
use super::hyper_errors::HyperErrorReplacer;
use super::listener::{Accepted, Listener, Stream};
use super::read_limits::{LimitedStream, ReadLimits};
use crate::clock::Clock;
use crate::connection_stream::ConnectionStream;
use crate::supervisor::Supervisor;

/// The time that clients have at shutdown to send the rest of a request and to read the response.
const LINGER: Duration = Duration::from_secs(3);

/// The time after which a write fails if the client reads nothing. Otherwise the client would
/// occupy memory, and the permit of a stream, for ever.
const WRITE_TIMEOUT: Duration = Duration::from_mins(2);

/// The least time between two warnings of one kind.
const BETWEEN_WARNINGS: Duration = Duration::from_mins(1);

/// How long otter keeps an idle connection beyond the time that it announces in `Keep-Alive`. So a
/// request that a client sends at the last moment arrives on an open connection.
const IDLE_MARGIN: Duration = Duration::from_secs(1);

/// The header that announces how long an idle connection is kept (RFC 2068, section 19.7.1.1).
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The time in which a client must read the rest of its response after its idle connection was
/// selected for closing.
const IDLE_CLOSE_LINGER: Duration = Duration::from_millis(500);

/// A service that answers every request, and is always ready for the next one. Each connection has
/// a clone.
pub trait HttpService:
    Service<Request, Response = Response, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> HttpService for S where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Serves requests until `stop` is cancelled, then finishes the responses in progress. An upgraded
/// connection counts as open until its stream is dropped. Its stream fails some time after `stop`.
///
/// # Parameters
/// - `listeners`: at least one. All of them share the limit of connections.
pub async fn serve(
    listeners: Vec<Listener>,
    service: impl HttpService,
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
    let mut accept = AcceptInTurn { listeners: &listeners, first: 0 };
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept.next() => accepted,
        };
        let (connection, peer) = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                // This error is not fatal: otter has no free file descriptor, or the peer
                // disconnected early. The next accept may succeed.
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
        let (service, announced) = (service.clone(), HeaderValue::from_str(&announced).ok());
        let (clock, stop) = (clock.clone(), stop.clone());
        let base_path = settings.base_path.clone();
        let held = (Arc::clone(&slot), connections.token());
        let tracked = connections.track_future(async move {
            let secured = tokio::select! {
                secured = connection.handshake() => secured,
                () = slot.close_requested() => Err(io::ErrorKind::ConnectionAborted.into()),
                () = clock.sleep(limits.header) => Err(io::ErrorKind::TimedOut.into()),
                () = stop.cancelled() => Err(io::ErrorKind::Interrupted.into()),
            };
            match secured {
                Ok(connection) => {
                    let connection = with_write_timeout(connection, WRITE_TIMEOUT);
                    let connection = HyperErrorReplacer::new(
                        connection,
                        clock.clone(),
                        slot.is_upgraded(),
                        base_path,
                    );
                    let end = drain_deadline(stop.clone(), clock.clone(), slot.is_upgraded());
                    let connection = ConnectionStream::new(connection, held, end);
                    let connection =
                        LimitedStream::new(connection, Arc::clone(&slot), limits, clock.clone());
                    serve_one(connection, &slot, peer, service, announced, clock, stop).await;
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
        supervisor.spawn_connection(tracked);
    }
    for listener in &listeners {
        listener.remove_file().await;
    }
    drop(listeners);
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        // Wait no longer for an upgraded connection: the code that uses its stream notices that the
        // stream has failed only when it reads or writes.
        () = clock.sleep(2 * LINGER) => {}
    }
}

/// Accepts connections from several listeners. The listener that is polled first changes at each
/// accept, so that a busy listener does not delay the others.
struct AcceptInTurn<'a> {
    listeners: &'a [Listener],
    first: usize,
}

impl AcceptInTurn<'_> {
    /// The next connection of any listener.
    async fn next(&mut self) -> io::Result<(Accepted, Peer)> {
        self.first = (self.first + 1) % self.listeners.len();
        let (others, first) = self.listeners.split_at(self.first);
        select_all(first.iter().chain(others).map(|listener| Box::pin(listener.accept()))).await.0
    }
}

/// Completes when an upgraded connection that is still open after `stop` must end. Any other
/// connection ends by itself. For such a connection this future polls no timer, because each read
/// and write polls the future.
fn drain_deadline(
    stop: CancellationToken,
    clock: Clock,
    is_upgraded: Arc<AtomicBool>,
) -> impl Future<Output = ()> + Send {
    let mut deadline = Box::pin(async move {
        stop.cancelled().await;
        clock.sleep(LINGER).await;
    });
    poll_fn(move |context| {
        if is_upgraded.load(Ordering::Relaxed) {
            deadline.as_mut().poll(context)
        } else {
            Poll::Pending
        }
    })
}

/// Wraps a stream. A write to the result fails with `TimedOut` if the peer reads nothing for the
/// time `timeout`.
fn with_write_timeout<S: Stream>(stream: S, timeout: Duration) -> Pin<Box<TimeoutWriter<S>>> {
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(timeout));
    Box::pin(stream)
}

/// Logs warnings about connections: at most one line of each kind in a minute. A line has the
/// number of occurrences since the last line of its kind.
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
    /// Counts one occurrence of what the warning reports. Returns the number of occurrences if a
    /// line is due.
    fn count(&mut self, now: Duration) -> Option<u64> {
        self.since_last += 1;
        if self.last.is_some_and(|last| now.saturating_sub(last) < BETWEEN_WARNINGS) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.since_last))
    }
}

/// Serves the requests of a connection.
///
/// # Parameters
/// - `announced`: the value of `Keep-Alive` in responses after which the connection stays open.
async fn serve_one(
    connection: impl Stream + 'static,
    slot: &Arc<ConnectionSlot>,
    peer: Peer,
    service: impl HttpService,
    announced: Option<HeaderValue>,
    clock: Clock,
    stop: CancellationToken,
) {
    let (at, stopping) = (Arc::clone(slot), stop.clone());
    let answering = service_fn(move |request: http::Request<Incoming>| {
        let in_flight = at.begin_request();
        let mut request = request.map(|body| {
            // A request without a body gets `Body::empty`, which allocates no memory. Most requests
            // have no body.
            if body.is_end_stream() { Body::empty() } else { Body::new(body) }
        });
        request.extensions_mut().insert(peer);
        let announced = announced.clone().filter(|_| keeps_connection(&request));
        answer(service.clone(), request, in_flight, announced, stopping.clone())
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            // hyper needs no limit of its own, because `LimitedStream` limits the time of a
            // request's head.
            .header_read_timeout(None)
            // hyper's limit of the head is above otter's own limit, so that otter refuses most
            // oversized requests itself. The number of headers keeps hyper's default limit, which
            // is the same as otter's: with any other limit hyper would allocate memory for each
            // request.
            .max_buf_size(256 * 1024)
            .serve_connection(TokioIo::new(connection), answering)
            .with_upgrades()
    );
    let stopped = async {
        stop.cancelled().await;
        Some(LINGER)
    };
    let closed = async {
        slot.close_requested().await;
        // Close a connection that never had a request at once: it has no response that could be
        // truncated.
        slot.has_accepted_request().then_some(IDLE_CLOSE_LINGER)
    };
    // `FuturesUnordered` polls only the futures that were woken. Every request wakes this task, and
    // polling both futures each time would take the locks of their tokens, which all connections
    // share.
    let mut ends = FuturesUnordered::from_iter([stopped.boxed(), closed.boxed()]);
    let linger = tokio::select! {
        biased;
        ended = connection.as_mut() => return log_end(ended),
        Some(linger) = ends.next() => linger,
    };
    let Some(linger) = linger else { return };
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => log_end(ended),
        () = clock.sleep(linger) => {}
    }
}

/// Answers a request. The service is called in here: a future that is called outside and passed in
/// would take its memory twice, as an argument and where it is awaited.
///
/// # Parameters
/// - `in_flight`: `None` if otter has selected the connection for closing.
/// - `announced`: the value of `Keep-Alive`. `None` if the client closes the connection.
///
/// # Errors
/// Fails if the connection was selected for closing. The request had no effect then, so the client
/// may repeat it.
async fn answer(
    mut service: impl HttpService,
    request: Request,
    in_flight: Option<InFlight>,
    announced: Option<HeaderValue>,
    stopping: CancellationToken,
) -> io::Result<http::Response<AnswerBody>> {
    let in_flight = in_flight.ok_or(io::ErrorKind::ConnectionAborted)?;
    let Ok(mut answer) = service.call(request).await;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        in_flight.mark_upgraded();
    } else if let Some(announced) = announced.filter(|_| !stopping.is_cancelled()) {
        announce(announced, answer.headers_mut());
    }
    Ok(answer.map(|body| AnswerBody::new(body, in_flight)))
}

/// Whether a client keeps the connection open after its request (RFC 9112, section 9.3). A client
/// of HTTP/1.0 closes the connection unless its request says otherwise, and gets no `Keep-Alive`.
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

/// Adds the header `Keep-Alive`, which announces how long otter keeps the connection. The header
/// `Connection` names `Keep-Alive`, so that proxies do not forward it.
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn an_answer_takes_the_memory_of_its_service_once() {
        const LARGE: usize = 8 * 1024;
        let service = tower::service_fn(|_: Request| async {
            let kept = [0_u8; LARGE];
            std::future::pending::<()>().await;
            Ok::<_, Infallible>(Response::new(Body::from(kept.to_vec())))
        });
        let request = Request::new(Body::empty());
        let answer = answer(service, request, None, None, CancellationToken::new());
        let size = size_of_val(&answer);
        assert!((LARGE..LARGE * 3 / 2).contains(&size), "{size} bytes");
    }

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
}
