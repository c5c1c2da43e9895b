//! The connections to the host: at most [`MAX_SHARED`] for calls, and one more for the wait for
//! updates. Connections are kept open between calls. A call that finds all connections in use waits
//! for its turn.
//!
//! The task that makes a call also drives the call's connection. Therefore an idle connection needs
//! no task, and a call that is dropped closes its connection.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::tunnel;
use crate::domain::proxy_url::ProxyUrl;
use crate::hypervisor::ByteStream;

/// The maximum number of connections for calls. A host serves about a hundred connections for all
/// its clients.
pub const MAX_SHARED: usize = 8;

/// How many of the [`MAX_SHARED`] connections only calls of [`Lane::Reserved`] may use.
const RESERVED: usize = 1;

/// How long otter keeps an idle connection for another call. hostd closes idle connections, and a
/// request that is sent at that moment is lost.
const MAX_IDLE: Duration = Duration::from_secs(20);

/// Which connections a call may use, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// A call of a job, or a read. It waits for a free connection behind earlier calls.
    Ordinary,
    /// A call for the session or for the stream of updates, or of a job that must not wait for
    /// others, such as a kill. One connection is reserved for such calls.
    Reserved,
    /// The wait for updates, which the host holds open for a long time. It has a connection of its
    /// own.
    LongPoll,
}

/// All connections to one host.
#[derive(Debug)]
pub struct Connections {
    endpoint: Endpoint,
    ordinary: Semaphore,
    reserved: Semaphore,
    long_poll: Semaphore,
    /// The idle connections for calls. The connection that was used last is at the end.
    idle: Mutex<Vec<IdleConnection>>,
    idle_long_poll: Mutex<Vec<IdleConnection>>,
}

/// The address of the host, and how otter connects to it.
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    /// The TLS configuration and the expected server name. `None` means plain HTTP.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    pub proxy: Option<ProxyUrl>,
}

/// The right of a call to use one connection.
#[derive(Debug)]
pub struct Turn<'a> {
    lane: Lane,
    /// The permit that the call holds. `None` if the semaphore was closed, which never happens.
    _permit: Option<SemaphorePermit<'a>>,
}

/// An HTTP connection that serves one call after the other.
pub struct Connection<B = Full<Bytes>> {
    sender: http1::SendRequest<B>,
    /// The future that moves the bytes of the connection. `None` once the connection is closed. The
    /// driver is dropped then, because only this shows `sender` that the connection has ended.
    driver: Option<Driver>,
}

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

#[derive(Debug)]
struct IdleConnection {
    connection: Connection,
    since: Instant,
}

impl Connections {
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            ordinary: Semaphore::new(MAX_SHARED - RESERVED),
            reserved: Semaphore::new(RESERVED),
            long_poll: Semaphore::new(1),
            idle: Mutex::default(),
            idle_long_poll: Mutex::default(),
        }
    }

    /// Waits for the right to use a connection.
    pub async fn turn(&self, lane: Lane) -> Turn<'_> {
        let permit = match lane {
            Lane::Ordinary => self.ordinary.acquire().await,
            Lane::LongPoll => self.long_poll.acquire().await,
            // An ordinary connection is tried first, so that the reserved connection stays free for
            // others.
            Lane::Reserved => tokio::select! {
                biased;
                permit = self.ordinary.acquire() => permit,
                permit = self.reserved.acquire() => permit,
            },
        };
        Turn { lane, _permit: permit.ok() }
    }

    /// Takes the idle connection that was used last. `None` if there is no usable idle connection.
    #[must_use]
    pub fn take_idle(&self, turn: &Turn<'_>) -> Option<Connection> {
        let mut idle = self.idle(turn.lane);
        idle.retain(|idle| idle.since.elapsed() < MAX_IDLE);
        while let Some(IdleConnection { mut connection, .. }) = idle.pop() {
            if connection.is_open() {
                return Some(connection);
            }
        }
        None
    }

    /// Opens a new connection to the host.
    ///
    /// # Errors
    /// As [`Connections::dial`].
    pub async fn connect(&self, _turn: &Turn<'_>) -> io::Result<Connection> {
        Connection::new(self.dial().await?).await
    }

    /// Opens a stream of bytes to the API's port, with the TLS of the API. It does not count as one
    /// of the connections.
    ///
    /// # Errors
    /// The error of the connection or of its TLS or HTTP handshake. If otter uses a proxy, the
    /// error may contain a [`TunnelError`](super::tunnel::TunnelError).
    pub async fn dial(&self) -> io::Result<Box<dyn ByteStream>> {
        let Endpoint { host, port, tls, proxy } = &self.endpoint;
        let stream = tunnel::connect(host, *port, proxy.as_ref()).await?;
        // Without `TCP_NODELAY`, the kernel would hold back a small request until the host has
        // acknowledged the previous one.
        stream.set_nodelay(true)?;
        match tls {
            None => Ok(Box::new(stream)),
            Some((config, name)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                Ok(Box::new(connector.connect(name.clone(), stream).await?))
            }
        }
    }

    /// Opens a connection to another port of the host. Nothing was sent on it yet.
    ///
    /// # Errors
    /// As [`Connections::dial`].
    pub async fn dial_port(&self, port: u16) -> io::Result<TcpStream> {
        let Endpoint { host, proxy, .. } = &self.endpoint;
        tunnel::connect(host, port, proxy.as_ref()).await
    }

    /// The name or the address of the host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.endpoint.host
    }

    /// Keeps a connection for the next call, if the host keeps the connection open.
    pub async fn give_back(&self, turn: Turn<'_>, mut connection: Connection) {
        if connection.is_reusable().await {
            self.idle(turn.lane).push(IdleConnection { connection, since: Instant::now() });
        }
    }

    fn idle(&self, lane: Lane) -> MutexGuard<'_, Vec<IdleConnection>> {
        let idle = match lane {
            Lane::Ordinary | Lane::Reserved => &self.idle,
            Lane::LongPoll => &self.idle_long_poll,
        };
        idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// The lane of the call that has this turn.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        self.lane
    }
}

impl<B> Connection<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Prepares HTTP on a stream.
    ///
    /// # Errors
    /// Fails if the stream has failed.
    pub async fn new<S>(stream: S) -> io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self { sender, driver: Some(Box::pin(driver)) })
    }

    /// Sends a request and returns the answer without its body.
    ///
    /// # Errors
    /// Fails if the connection broke, or if the server does not speak HTTP.
    pub async fn send(&mut self, request: Request<B>) -> hyper::Result<Response<Incoming>> {
        let answer = Box::pin(self.sender.send_request(request));
        drive(&mut self.driver, answer).await
    }

    /// Reads the next part of the body of an answer. `None` at the end of the body.
    ///
    /// # Errors
    /// Fails if the connection broke.
    pub async fn next_part(&mut self, body: &mut Incoming) -> hyper::Result<Option<Bytes>> {
        loop {
            let frame = drive(&mut self.driver, body.frame()).await;
            match frame.transpose()? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(part) = frame.into_data() {
                        return Ok(Some(part));
                    }
                }
            }
        }
    }

    /// Whether an idle connection is still open, as far as otter can see without sending anything.
    fn is_open(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        poll_driver(&mut self.driver, &mut context);
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Waits until the connection can serve another call. Returns `false` if it cannot serve one.
    async fn is_reusable(&mut self) -> bool {
        let ready = self.sender.ready();
        drive(&mut self.driver, ready).await.is_ok() && self.driver.is_some()
    }
}

/// Drives the connection, that is, lets it send and receive bytes, until `work` is done.
async fn drive<T>(driver: &mut Option<Driver>, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        // `work` is polled first, so that it hands its request to the connection.
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        // The result of the driver is ignored: if the connection fails, `work` fails too.
        poll_driver(driver, context);
        work.as_mut().poll(context)
    })
    .await
}

fn poll_driver(driver: &mut Option<Driver>, context: &mut Context<'_>) {
    let is_closed = match driver {
        Some(driver) => driver.as_mut().poll(context).is_ready(),
        None => false,
    };
    if is_closed {
        *driver = None;
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Endpoint")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl<B> std::fmt::Debug for Connection<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("is_open", &self.driver.is_some())
            .finish_non_exhaustive()
    }
}
