//! The connections to the host: at most [`MAX_SHARED`] for calls, and one for the wait for updates.
//! They are kept open between calls. A call that finds all of them in use waits for its turn.
//!
//! The task that makes a call also drives its connection, so an idle connection needs no task, and
//! a call that is dropped closes its connection.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::tunnel;
use crate::domain::proxy_url::ProxyUrl;
use crate::hypervisor::ByteStream;

/// The most connections for calls. A host serves about a hundred connections for all its clients.
pub const MAX_SHARED: usize = 8;

/// How many of the [`MAX_SHARED`] connections are reserved for [`Lane::Reserved`].
const RESERVED: usize = 1;

/// How long an idle connection can be reused. hostd drops idle connections, and a request that is
/// sent at that moment is lost.
const MAX_IDLE: Duration = Duration::from_secs(20);

/// Which connections a call may use, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// A call of a job, or a read. It waits for its turn behind earlier calls.
    Ordinary,
    /// The session, the stream of updates, and jobs that must not wait for others, such as a kill.
    /// One connection is reserved for these.
    Reserved,
    /// The wait for updates, which the host holds open. It has a connection of its own.
    LongPoll,
}

/// The connections to one host.
#[derive(Debug)]
pub struct Connections {
    endpoint: Endpoint,
    ordinary: Semaphore,
    reserved: Semaphore,
    long_poll: Semaphore,
    /// The idle connections for calls. The last used one is last.
    idle: Mutex<Vec<IdleConnection>>,
    idle_long_poll: Mutex<Vec<IdleConnection>>,
}

/// Where and how to connect.
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    /// `None` for plain HTTP.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    pub proxy: Option<ProxyUrl>,
}

/// The right to have one connection.
#[derive(Debug)]
pub struct Turn<'a> {
    lane: Lane,
    /// `None` if the semaphore was closed, which never happens.
    _permit: Option<SemaphorePermit<'a>>,
}

/// A connection that serves one call after the other.
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once the connection is closed. `sender` notices the end only when the driver is
    /// dropped.
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

    /// Waits for the right to have a connection.
    pub async fn turn(&self, lane: Lane) -> Turn<'_> {
        let permit = match lane {
            Lane::Ordinary => self.ordinary.acquire().await,
            Lane::LongPoll => self.long_poll.acquire().await,
            // The reserved connection is the last choice.
            Lane::Reserved => tokio::select! {
                biased;
                permit = self.ordinary.acquire() => permit,
                permit = self.reserved.acquire() => permit,
            },
        };
        Turn { lane, _permit: permit.ok() }
    }

    /// An idle connection, the last used one. `None` if there is none that can be used.
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

    /// Connects to the host.
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
    /// The error of the connection or of its handshake. Through a proxy, the error contains a
    /// [`TunnelError`](super::tunnel::TunnelError).
    pub async fn dial(&self) -> io::Result<Box<dyn ByteStream>> {
        let Endpoint { host, port, tls, proxy } = &self.endpoint;
        let stream = tunnel::connect(host, *port, proxy.as_ref()).await?;
        // Without this option, a small request waits for the acknowledgement of the previous one.
        stream.set_nodelay(true)?;
        match tls {
            None => Ok(Box::new(stream)),
            Some((config, name)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                Ok(Box::new(connector.connect(name.clone(), stream).await?))
            }
        }
    }

    /// Keeps a connection for the next call, if the host keeps it open.
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
    /// The lane of the connection.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        self.lane
    }
}

impl Connection {
    async fn new<S>(stream: S) -> io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self { sender, driver: Some(Box::pin(driver)) })
    }

    /// Sends a request. Returns the answer without its body.
    ///
    /// # Errors
    /// The connection broke, or the server does not speak HTTP.
    pub async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        let answer = Box::pin(self.sender.send_request(request));
        drive(&mut self.driver, answer).await
    }

    /// The next part of a body. `None` at its end.
    ///
    /// # Errors
    /// The connection broke.
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

    /// Whether the idle connection is still open, as far as otter knows.
    fn is_open(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        poll_driver(&mut self.driver, &mut context);
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Waits until the connection can serve another call. Returns `false` if it cannot.
    async fn is_reusable(&mut self) -> bool {
        let ready = self.sender.ready();
        drive(&mut self.driver, ready).await.is_ok() && self.driver.is_some()
    }
}

/// Drives the connection until `work` is done.
async fn drive<T>(driver: &mut Option<Driver>, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        // Poll `work` first, so that it hands its request to the connection.
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        // An error of the connection is the error of the work too.
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

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("is_open", &self.driver.is_some())
            .finish_non_exhaustive()
    }
}
