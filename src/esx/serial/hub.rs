//! The connections of machines that dialled otter, each for one port: those that no one uses wait
//! here, and those who want one wait for it here.
//!
//! ```text
//! machine dials ─► registered ─► handed to who waits ─► in use ─┐
//!                     ▲  └─► parked: its output is dropped      │ given back
//!                     └─────────────────────────────────────────┘
//! ```

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};

use super::telnet_stream::TelnetStream;
use crate::domain::ids::MachineId;

/// The most requests for one connection that wait. There is one user of each port.
const REQUESTS: usize = 4;

/// A port of a machine.
type PortName = (MachineId, i32);

/// Gets the connection of a port.
type Request = oneshot::Sender<HubStream>;

/// The connections of machines, by their ports.
#[derive(Debug, Default)]
pub struct Hub {
    ports: Mutex<HashMap<PortName, Port>>,
}

#[derive(Debug, Default)]
struct Port {
    /// Passes requests to the connection. `None` if there is no connection.
    connection: Option<mpsc::Sender<Request>>,
    /// Those who wait for a connection.
    waiting: Vec<Request>,
}

/// The place of the connection of a port. It leaves the hub when this value is dropped.
pub struct Registered {
    hub: Arc<Hub>,
    port: PortName,
    requests: mpsc::Receiver<Request>,
}

/// A connection in the hands of its user. When it is dropped, it goes back to the hub, unless it
/// has ended.
#[derive(Debug)]
pub struct HubStream {
    /// `None` once it has ended.
    stream: Option<TelnetStream>,
    back: Option<oneshot::Sender<TelnetStream>>,
}

impl Hub {
    /// Registers the connection of a port.
    ///
    /// # Returns
    /// `None` if the port has one already.
    pub fn register(self: &Arc<Self>, machine: MachineId, key: i32) -> Option<Registered> {
        let port = (machine, key);
        let mut ports = self.ports();
        let entry = ports.entry(port.clone()).or_default();
        if entry.connection.is_some() {
            return None;
        }
        let (sender, requests) = mpsc::channel(REQUESTS);
        for request in entry.waiting.drain(..).filter(|request| !request.is_closed()) {
            // There are no more of them than the channel takes; a further one asks again.
            let _ = sender.try_send(request);
        }
        entry.connection = Some(sender);
        Some(Registered { hub: Arc::clone(self), port, requests })
    }

    /// Whether a port has a connection.
    #[cfg(test)]
    pub fn has(&self, machine: &MachineId, key: i32) -> bool {
        let ports = self.ports();
        let port = ports.get(&(machine.clone(), key));
        port.is_some_and(|port| port.connection.is_some())
    }

    /// Waits for the connection of a port. Cancel safe.
    pub async fn take(&self, machine: &MachineId, key: i32) -> HubStream {
        loop {
            let (request, connection) = oneshot::channel();
            self.ask((machine.clone(), key), request);
            if let Ok(stream) = connection.await {
                return stream;
            }
            // The connection ended at this moment, or too many asked for it.
            tokio::task::yield_now().await;
        }
    }

    fn ask(&self, port: PortName, request: Request) {
        let mut ports = self.ports();
        let entry = ports.entry(port).or_default();
        let request = match &entry.connection {
            None => request,
            Some(connection) => match connection.try_send(request) {
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => return,
                // It is about to leave the hub.
                Err(mpsc::error::TrySendError::Closed(request)) => request,
            },
        };
        entry.waiting.retain(|waiting| !waiting.is_closed());
        if entry.waiting.len() < REQUESTS {
            entry.waiting.push(request);
        }
    }

    fn ports(&self) -> MutexGuard<'_, HashMap<PortName, Port>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registered {
    /// The next request for the connection, by one who still waits.
    pub async fn request(&mut self) -> Request {
        loop {
            match self.requests.recv().await {
                Some(request) if request.is_closed() => {}
                Some(request) => return request,
                // The hub has the sender as long as this value exists.
                None => std::future::pending().await,
            }
        }
    }

    /// The next request that is there already.
    pub fn waiting(&mut self) -> Option<Request> {
        loop {
            let request = self.requests.try_recv().ok()?;
            if !request.is_closed() {
                return Some(request);
            }
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut ports = self.hub.ports();
        if let Some(port) = ports.get_mut(&self.port) {
            port.connection = None;
            if port.waiting.is_empty() {
                ports.remove(&self.port);
            }
        }
    }
}

impl HubStream {
    /// Hands a connection to its user.
    ///
    /// # Returns
    /// The connection, as soon as the user gives it back; an error if it has ended.
    pub fn lend(stream: TelnetStream, request: Request) -> oneshot::Receiver<TelnetStream> {
        let (back, returned) = oneshot::channel();
        // If the user has gone meanwhile, the stream is dropped here, which gives it back.
        drop(request.send(Self { stream: Some(stream), back: Some(back) }));
        returned
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TelnetStream>> {
        let ended = || io::Error::from(io::ErrorKind::NotConnected);
        self.stream.as_mut().map(Pin::new).ok_or_else(ended)
    }

    /// Forgets a connection that has ended.
    fn ended<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            self.stream = None;
        }
        result
    }
}

impl Drop for HubStream {
    fn drop(&mut self) {
        if let (Some(stream), Some(back)) = (self.stream.take(), self.back.take()) {
            // Without the hub, the connection ends.
            let _ = back.send(stream);
        }
    }
}

impl AsyncRead for HubStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(self.stream()?.poll_read(context, buffer));
        let is_end = read.is_ok() && buffer.filled().len() == before && buffer.remaining() > 0;
        if is_end {
            self.stream = None;
        }
        Poll::Ready(self.ended(read))
    }
}

impl AsyncWrite for HubStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.stream()?.poll_write(context, bytes));
        Poll::Ready(self.ended(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(self.stream()?.poll_flush(context));
        Poll::Ready(self.ended(flushed))
    }

    /// Ends the use, not the connection: the machine dials at its next power-on only.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
