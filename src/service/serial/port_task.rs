//! The task of one serial port: connects to it while someone uses it, keeps its output, and sends
//! input.
//!
//! ```text
//! load ─► no way (off, no route) ─► connecting ─► open ─► lost ─┐
//!             ▲                          ▲                      │
//!             └──────────────────────────┴──── a pause ─────────┘
//! ```
//! It ends when no one has used the port for a while, when the machine is gone, and when otter
//! stops.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};

use super::port_log::PortLog;
use super::shared_port::{InputLost, InputMessage, PortStatus, SharedPort};
use super::ways::{NoWay, Ways};
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::machine::Machine;
use crate::domain::serial::{GapReason, PortAccess, SerialRoute};
use crate::hypervisor::{ByteStream, HostError, Hypervisor, SerialConnection};
use crate::service::storage_watch::store_failure;
use crate::storage::StorageError;
use crate::supervisor::Supervisor;
use crate::telemetry::serial::SerialMetrics;

/// How long otter stays connected without a user: the next call of a client that reads again and
/// again finds no gap.
const LINGER: Duration = Duration::from_secs(10);

/// The bytes that are read from a port at once.
const READ_SIZE: usize = 64 * 1024;

/// The first pause before another try to connect. Each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause before another try to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A host that has another client ends a connection within this time.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How long the port may take for one piece of input.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// The pause before otter tries again to reserve offsets.
const STORAGE_PAUSE: Duration = Duration::from_secs(1);

/// What the task of a port needs.
pub struct TaskParts {
    pub host: Arc<dyn Hypervisor>,
    pub supervisor: Supervisor,
    pub clock: Clock,
    pub metrics: SerialMetrics,
    pub ways: Ways,
    pub shared: Arc<SharedPort>,
}

/// The task of one port.
pub struct PortTask {
    parts: TaskParts,
    inputs: mpsc::Receiver<InputMessage>,
}

impl PortTask {
    /// # Parameters
    /// - `inputs`: the inbox of the port.
    #[must_use]
    pub const fn new(parts: TaskParts, inputs: mpsc::Receiver<InputMessage>) -> Self {
        Self { parts, inputs }
    }

    /// Runs until the port is stopped, or the machine is gone, or no one uses the port.
    ///
    /// # Parameters
    /// - `may_end`: called when no one has used the port for a while. Returns whether the task
    ///   ends.
    pub async fn run(self, may_end: impl Fn(&Arc<SharedPort>) -> bool + Send + Sync) {
        let Self { parts, mut inputs } = self;
        let shared = Arc::clone(&parts.shared);
        let log = Arc::clone(&shared.log);
        let turn = tokio::select! {
            biased;
            () = shared.stop.cancelled() => None,
            turn = log.turn() => Some(turn),
        };
        let end = if turn.is_none() {
            Some(parts.stopped())
        } else {
            match log.load().await {
                Ok(()) => {
                    shared.status.send_modify(|status| status.is_loaded = true);
                    tokio::select! {
                        biased;
                        end = parts.until_ended(may_end) => end,
                        end = parts.keep_connected(&mut inputs) => Some(end),
                    }
                }
                Err(error) => Some(store_failure(&error)),
            }
        };
        if let Some(failure) = end {
            let machine = &shared.machine;
            shared.publish_end(failure.with_machine(&machine.id, &machine.name));
        }
        inputs.close();
        while let Ok(message) = inputs.try_recv() {
            refuse(message);
        }
        shared.status.send_modify(|status| status.epoch += 1);
        if turn.is_some() {
            log.close().await;
        }
    }
}

impl TaskParts {
    /// Waits until the task has to end.
    ///
    /// # Returns
    /// The end of the port. `None` if no one uses it.
    async fn until_ended(
        &self,
        may_end: impl Fn(&Arc<SharedPort>) -> bool + Send + Sync,
    ) -> Option<Failure> {
        let shared = &self.shared;
        let mut machine_changes = self.ways.inventory.watch(&shared.machine.id);
        let mut users = shared.users.subscribe();
        let mut unused_since = None;
        loop {
            if self.machine().is_none() {
                let detail = "The machine was removed from the host, and its serial ports with it.";
                return Some(Failure::new(FailureKind::MachineGone, detail));
            }
            let now = self.clock.elapsed();
            let is_unused = *users.borrow_and_update() == 0;
            unused_since = unused_since.or(Some(now)).filter(|_| is_unused);
            let unused_for = unused_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
            if is_unused && unused_for >= LINGER {
                if may_end(shared) {
                    return None;
                }
                unused_since = None;
            }
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => return Some(self.stopped()),
                // The sender lives as long as `shared`.
                Ok(()) = users.changed() => {}
                changed = machine_changes.changed() => {
                    if changed.is_err() {
                        // The inventory dropped the watcher between two changes.
                        machine_changes = self.ways.inventory.watch(&shared.machine.id);
                    }
                }
                () = self.clock.sleep(LINGER.saturating_sub(unused_for)), if is_unused => {}
            }
        }
    }

    /// Connects to the port again and again.
    ///
    /// # Returns
    /// The end of the port, if the storage is closed.
    async fn keep_connected(&self, inputs: &mut mpsc::Receiver<InputMessage>) -> Failure {
        let mut pause = FIRST_PAUSE;
        let mut has_failed = false;
        loop {
            let (route, has_waited) = refusing(inputs, self.wait_for_route()).await;
            // The reason of the last failure stays while otter tries again.
            if has_waited || !has_failed {
                self.publish(PortAccess::Closed, Some(waiting(&route)));
            }
            let (machine, key) = (&self.shared.machine.id, self.shared.key);
            let opened = refusing(inputs, self.host.open_serial(machine, key, &route)).await;
            match opened {
                Ok(connection) => match self.serve(connection, inputs).await {
                    Ok(is_meant) => {
                        has_failed = !is_meant;
                        if is_meant {
                            pause = FIRST_PAUSE;
                        }
                    }
                    Err(failure) => return failure,
                },
                Err(error) => {
                    has_failed = true;
                    self.not_connected(&error);
                }
            }
            refusing(inputs, self.clock.sleep(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits until there is a way to the port. Publishes why there is none meanwhile.
    ///
    /// # Returns
    /// The way, and whether there was none at first.
    async fn wait_for_route(&self) -> (SerialRoute, bool) {
        let mut machine_changes = self.ways.inventory.watch(&self.shared.machine.id);
        let mut settings = self.ways.live.changes();
        let mut has_waited = false;
        loop {
            match self.route() {
                Ok(route) => return (route, has_waited),
                Err(NoWay { access, reason }) => self.publish(access, Some(reason)),
            }
            has_waited = true;
            tokio::select! {
                changed = machine_changes.changed() => {
                    if changed.is_err() {
                        machine_changes = self.ways.inventory.watch(&self.shared.machine.id);
                    }
                }
                // The sender lives as long as the services.
                Ok(()) = settings.changed() => {}
            }
        }
    }

    /// The way to the port now.
    fn route(&self) -> Result<SerialRoute, NoWay> {
        let gone = || NoWay {
            access: PortAccess::Unavailable,
            reason: "The machine does not have this port any more.".to_owned(),
        };
        let machine = self.machine().ok_or_else(gone)?;
        let port = machine.serial_ports.iter().find(|port| port.key == self.shared.key);
        self.ways.to(&machine, port.ok_or_else(gone)?)
    }

    /// Keeps the output of a connection, and sends input on it, until it ends.
    ///
    /// # Returns
    /// Whether the connection was one that the host meant for otter.
    ///
    /// # Errors
    /// The end of the port, if the storage is closed.
    async fn serve(
        &self,
        connection: SerialConnection,
        inputs: &mut mpsc::Receiver<InputMessage>,
    ) -> Result<bool, Failure> {
        let SerialConnection { stream, takes_input } = connection;
        let _open = OpenConnection::new(self, takes_input);
        if let Some(reason) = self.shared.log.connected().await {
            self.metrics.record_gap(reason.as_str());
        }
        let began = self.clock.elapsed();
        let mut received = false;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let epoch = self.shared.status.borrow().epoch;
        let ended = tokio::select! {
            biased;
            ended = self.write_inputs(&mut writer, inputs, epoch) => Ok(Err(ended)),
            ended = self.read_output(&mut reader, &mut received) => ended,
        };
        let lasted = self.clock.elapsed().saturating_sub(began);
        let is_meant = received || lasted >= AT_ONCE;
        self.shared.log.disconnected(GapReason::Reconnect);
        let reason = match &ended {
            Ok(Ok(())) if !is_meant => {
                "The host closed the connection at once. A port takes one client: another one may \
                 be connected."
                    .to_owned()
            }
            Ok(Ok(())) => "The connection to the port ended.".to_owned(),
            Ok(Err(error)) => format!("The connection to the port broke: {error}."),
            Err(_) => "otter is shutting down.".to_owned(),
        };
        let access = if is_meant { PortAccess::Closed } else { PortAccess::Unavailable };
        self.publish(access, Some(reason));
        // The host may count a connection that is only cut as open.
        let closing = async { writer.shutdown().await };
        tokio::select! {
            biased;
            _ = closing => {}
            () = self.clock.sleep(AT_ONCE) => {}
        }
        ended.map(|_| is_meant)
    }

    /// Keeps the output until the connection ends.
    ///
    /// # Parameters
    /// - `received`: set with the first byte.
    ///
    /// # Errors
    /// The end of the port, if the storage is closed.
    async fn read_output(
        &self,
        reader: &mut ReadHalf<Box<dyn ByteStream>>,
        received: &mut bool,
    ) -> Result<io::Result<()>, Failure> {
        let mut buffer = vec![0; READ_SIZE];
        loop {
            let length = match reader.read(&mut buffer).await {
                Ok(0) => return Ok(Ok(())),
                Ok(length) => length,
                Err(error) => return Ok(Err(error)),
            };
            *received = true;
            self.metrics.record_bytes(length);
            let bytes = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
            self.keep(&self.shared.log, bytes).await?;
        }
    }

    /// Adds bytes to the log. Waits while the storage refuses to reserve offsets for them.
    async fn keep(&self, log: &Arc<PortLog>, bytes: Bytes) -> Result<(), Failure> {
        let mut is_refused = false;
        loop {
            match log.append(bytes.clone()).await {
                Ok(()) => return Ok(()),
                Err(StorageError::Closed) => return Err(self.stopped()),
                Err(error) => {
                    if !std::mem::replace(&mut is_refused, true) {
                        tracing::warn!(
                            machine = %self.shared.machine.id,
                            port = self.shared.key,
                            error = &error as &dyn std::error::Error,
                            "a serial port is not read, because the store refuses its offsets"
                        );
                    }
                    self.clock.sleep(STORAGE_PAUSE).await;
                }
            }
        }
    }

    /// Sends input until the connection breaks.
    async fn write_inputs(
        &self,
        writer: &mut WriteHalf<Box<dyn ByteStream>>,
        inputs: &mut mpsc::Receiver<InputMessage>,
        epoch: u64,
    ) -> io::Error {
        while let Some(message) = inputs.recv().await {
            if message.epoch.is_some_and(|wanted| wanted != epoch) {
                refuse(message);
                continue;
            }
            let InputMessage { bytes, reply, .. } = message;
            let written = self.write(writer, &bytes).await;
            let answer = match &written {
                Ok(()) => Ok(()),
                Err(error) => {
                    Err(InputLost { maybe_sent: error.kind() != io::ErrorKind::Unsupported })
                }
            };
            // The sender may have gone.
            let _ = reply.send(answer);
            match written {
                Err(error) if error.kind() != io::ErrorKind::Unsupported => return error,
                _ => {}
            }
        }
        io::Error::from(io::ErrorKind::BrokenPipe)
    }

    async fn write(
        &self,
        writer: &mut WriteHalf<Box<dyn ByteStream>>,
        bytes: &[u8],
    ) -> io::Result<()> {
        let write = async {
            writer.write_all(bytes).await?;
            writer.flush().await
        };
        let slow = || io::Error::new(io::ErrorKind::TimedOut, "the port does not take input");
        tokio::select! {
            biased;
            written = write => written,
            () = self.clock.sleep(WRITE_LIMIT) => Err(slow()),
        }
    }

    fn not_connected(&self, error: &HostError) {
        self.metrics.record_connection("failed");
        tracing::debug!(
            machine = %self.shared.machine.id,
            port = self.shared.key,
            error = error as &dyn std::error::Error,
            "no connection to a serial port"
        );
        self.publish(PortAccess::Unavailable, Some(error.message.clone()));
    }

    fn publish(&self, access: PortAccess, reason: Option<String>) {
        publish(&self.shared.status, access, reason);
    }

    /// The machine as it is now. `None` if it is gone.
    fn machine(&self) -> Option<Arc<Machine>> {
        let contents = self.ways.inventory.contents();
        let machine = contents.machine(&self.shared.machine.id);
        let opened_for = self.shared.machine.identity();
        machine.filter(|machine| opened_for.can_be(&machine.identity())).cloned()
    }

    fn stopped(&self) -> Failure {
        if self.supervisor.shutdown_token().is_cancelled() {
            Failure::new(FailureKind::ShuttingDown, "otter is shutting down.")
        } else {
            let detail = "The machine was registered again, and this port belongs to the earlier \
                          one.";
            Failure::new(FailureKind::MachineGone, detail)
        }
    }
}

/// A connection that is open. Its end is published when it is dropped.
struct OpenConnection<'p>(&'p TaskParts);

impl<'p> OpenConnection<'p> {
    fn new(parts: &'p TaskParts, takes_input: bool) -> Self {
        parts.metrics.record_connection("ok");
        parts.metrics.connection_open(true);
        parts.shared.status.send_modify(|status| {
            status.access = PortAccess::Open;
            status.reason = None;
            status.takes_input = takes_input;
            status.epoch += 1;
        });
        Self(parts)
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        let Self(parts) = self;
        parts.metrics.connection_open(false);
        parts.shared.log.disconnected(GapReason::Reconnect);
        parts.shared.status.send_modify(|status| {
            status.epoch += 1;
            if status.access == PortAccess::Open {
                status.access = PortAccess::Closed;
                status.reason = Some("otter ended the connection.".to_owned());
            }
        });
    }
}

fn publish(status: &watch::Sender<PortStatus>, access: PortAccess, reason: Option<String>) {
    status.send_if_modified(|status| {
        let is_new = status.access != access || status.reason != reason;
        status.access = access;
        status.reason = reason;
        is_new
    });
}

/// What a port waits for while otter connects to it.
fn waiting(route: &SerialRoute) -> String {
    match route {
        SerialRoute::Concentrator { .. } => {
            "The machine has not dialled otter yet. It does so when it is powered on.".to_owned()
        }
        SerialRoute::Dial { .. } | SerialRoute::OwnPort(_) | SerialRoute::File { .. } => {
            "otter is connecting to the port.".to_owned()
        }
    }
}

/// Waits for `work`, and refuses the input that comes meanwhile.
async fn refusing<T>(
    inputs: &mut mpsc::Receiver<InputMessage>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            Some(message) = inputs.recv() => refuse(message),
        }
    }
}

fn refuse(message: InputMessage) {
    // The sender may have gone.
    let _ = message.reply.send(Err(InputLost { maybe_sent: false }));
}
