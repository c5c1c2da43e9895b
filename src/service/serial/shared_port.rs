//! What the task of a serial port and the users of the port share: the output, the status of the
//! connection, and the way to send input.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::port_log::PortLog;
use crate::domain::failure::Failure;
use crate::domain::machine::Machine;
use crate::domain::serial::PortAccess;

/// The pieces of input that can wait for the task. Further senders wait.
const INPUTS: usize = 64;

/// The most calls of input that wait for their turn.
pub const MAX_WAITING_CALLS: usize = 8;

/// One port that is in use, or was a short time ago.
pub struct SharedPort {
    /// The machine as it was when the port was opened.
    pub machine: Arc<Machine>,
    /// The key of the port.
    pub key: i32,
    pub log: Arc<PortLog>,
    pub status: watch::Sender<PortStatus>,
    pub inputs: mpsc::Sender<InputMessage>,
    /// The number of users. Only the registry increases it.
    pub users: watch::Sender<usize>,
    /// Ends the task.
    pub stop: CancellationToken,
    /// The places of the calls of input that run or wait.
    pub places: Arc<Semaphore>,
    /// The turn of the call of input that runs.
    pub turn: Arc<Semaphore>,
}

/// The status of the connection to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortStatus {
    pub access: PortAccess,
    /// Why otter is not connected. `None` while it is.
    pub reason: Option<String>,
    /// Whether the port takes input. Meaningful while otter is connected.
    pub takes_input: bool,
    /// Changes whenever a connection begins and whenever one ends.
    pub epoch: u64,
    /// Whether the output that is kept was read from the disk.
    pub is_loaded: bool,
    /// Why there will be no more output.
    pub end: Option<Failure>,
}

/// Input on its way to the task.
pub struct InputMessage {
    pub bytes: Bytes,
    /// The connection on which it may be sent. `None`: the one that is open.
    pub epoch: Option<u64>,
    pub reply: oneshot::Sender<Result<(), InputLost>>,
}

/// Input did not certainly reach the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLost {
    /// Whether the port may have got a part of it.
    pub maybe_sent: bool,
}

/// One use of a port. While there is one, otter stays connected. It ends when the value is dropped.
pub struct PortUse(Arc<SharedPort>);

impl SharedPort {
    /// A port without users, and the inbox of its task.
    pub fn new(
        machine: Arc<Machine>,
        key: i32,
        log: Arc<PortLog>,
        stop: CancellationToken,
    ) -> (Self, mpsc::Receiver<InputMessage>) {
        let (inputs, inbox) = mpsc::channel(INPUTS);
        let status = PortStatus {
            access: PortAccess::Closed,
            reason: Some("otter is connecting to the port.".to_owned()),
            takes_input: false,
            epoch: 0,
            is_loaded: false,
            end: None,
        };
        let port = Self {
            machine,
            key,
            log,
            status: watch::Sender::new(status),
            inputs,
            users: watch::Sender::new(0),
            stop,
            places: Arc::new(Semaphore::new(1 + MAX_WAITING_CALLS)),
            turn: Arc::new(Semaphore::new(1)),
        };
        (port, inbox)
    }

    /// Publishes that there will be no more output.
    pub fn publish_end(&self, failure: Failure) {
        self.status.send_modify(|status| {
            status.access = PortAccess::Closed;
            status.reason = Some(failure.detail.clone());
            status.end.get_or_insert(failure);
        });
    }
}

impl PortUse {
    /// Begins a use. The registry must be locked, so that the port is not removed meanwhile.
    #[must_use]
    pub fn of(port: &Arc<SharedPort>) -> Self {
        port.users.send_modify(|users| *users += 1);
        Self(Arc::clone(port))
    }

    /// The port that is used.
    #[must_use]
    pub const fn port(&self) -> &Arc<SharedPort> {
        &self.0
    }

    /// The status of the connection.
    #[must_use]
    pub fn status(&self) -> PortStatus {
        self.0.status.borrow().clone()
    }

    /// Waits until the output that is kept was read from the disk.
    ///
    /// # Errors
    /// The end of the port: `machine-gone`, `shutting-down`, `storage-unavailable`.
    pub async fn loaded(&self) -> Result<(), Failure> {
        let mut status = self.0.status.subscribe();
        let is_over = |status: &PortStatus| status.is_loaded || status.end.is_some();
        // The sender lives as long as `self`.
        let Ok(status) = status.wait_for(is_over).await else { return Ok(()) };
        match &status.end {
            Some(end) if !status.is_loaded => Err(end.clone()),
            _ => Ok(()),
        }
    }

    /// Hands input to the connection. Returns when the connection has taken it. Nothing is ever
    /// sent twice.
    ///
    /// # Parameters
    /// - `epoch`: the connection on which it may be sent. `None`: the one that is open.
    ///
    /// # Errors
    /// [`InputLost`] if no connection is open, or if it broke meanwhile.
    pub async fn send(&self, epoch: Option<u64>, bytes: Bytes) -> Result<(), InputLost> {
        let (reply, taken) = oneshot::channel();
        let message = InputMessage { bytes, epoch, reply };
        self.0.inputs.send(message).await.map_err(|_| InputLost { maybe_sent: false })?;
        // The task replies to each message, unless it panics.
        taken.await.unwrap_or(Err(InputLost { maybe_sent: true }))
    }
}

impl Clone for PortUse {
    fn clone(&self) -> Self {
        Self::of(&self.0)
    }
}

impl Drop for PortUse {
    fn drop(&mut self) {
        self.0.users.send_modify(|users| *users -= 1);
    }
}
