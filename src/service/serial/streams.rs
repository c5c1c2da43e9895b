//! The streams of all ports: opens them within the limits, makes the tokens with which browsers
//! open them, and audits writers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Sink, Stream as MessageStream};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::stream::{InputCounts, StreamParts, ToStream, serve_stream};
use super::writer::{WriterInfo, label};
use super::{ReadFrom, Serial};
use crate::clock::Clock;
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord, between};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{LeaseId, MachineId, ViewerId};
use crate::domain::machine::{Machine, SerialBacking, SerialPort};
use crate::hypervisor::Capability;
use crate::service::audit::Audit;
use crate::service::jobs::authorization::Requester;
use crate::service::overrides::Overrides;
use crate::service::screens::console_tokens::{Console, ConsoleGrant, ConsoleKind, IssuedToken};
use crate::service::screens::viewer_end::ViewerEnd;
use crate::service::screens::viewer_rights::{self, ViewerRights};
use crate::service::screens::viewer_session::FromViewer;
use crate::service::screens::viewers::ViewerRequest;
use crate::service::screens::{DriverInfo, ViewerMode};
use crate::telemetry::serial::SerialMetrics;

/// The most streams of one machine.
const MAX_OF_MACHINE: usize = 32;

/// The most streams of all machines together.
const MAX_STREAMS: usize = 256;

/// The streams that are open, by their machines.
#[derive(Default)]
pub struct OpenStreams {
    counts: Mutex<HashMap<MachineId, usize>>,
}

/// The place of an open stream. It is free again when this value is dropped.
struct StreamPlace {
    open: Arc<OpenStreams>,
    metrics: SerialMetrics,
    machine: MachineId,
    mode: ViewerMode,
}

/// An open stream.
pub struct SerialStream {
    // Dropped in this order: the seat of a writer is given back, then its end is audited.
    parts: StreamParts,
    record: Option<WriteRecord>,
    _place: StreamPlace,
}

impl Serial {
    /// Checks that a stream could be opened now. Opens nothing.
    ///
    /// # Errors
    /// As for [`Serial::open_stream`].
    pub fn check_stream(
        &self,
        request: &ViewerRequest,
        machine: &Machine,
        port: &SerialPort,
    ) -> Result<(), Failure> {
        let ViewerRequest { requester, mode, force, .. } = request;
        viewer_rights::check(&self.screens, requester, *mode, machine)?;
        let with_machine = |failure: Failure| failure.with_machine(&machine.id, &machine.name);
        if self.supervisor.shutdown_token().is_cancelled() {
            let detail = "otter is shutting down; open the port when it is back.";
            return Err(with_machine(Failure::new(FailureKind::ShuttingDown, detail)));
        }
        self.hosts.with_capability(Capability::Serial, machine)?;
        check_room(&self.streams.counts(), machine)?;
        if *mode == ViewerMode::View {
            return Ok(());
        }
        if let SerialBacking::File { .. } = port.backing {
            let detail = format!(
                "{} of {} writes to a file, so it takes no input. Open it with mode=view.",
                label(port),
                machine.name
            );
            return Err(with_machine(Failure::new(FailureKind::NotSupported, detail)));
        }
        self.writers.check(machine, port, *force)
    }

    /// Opens a stream of a port. It counts as open until it is dropped. While the machine is off,
    /// the stream is silent.
    ///
    /// # Parameters
    /// - `since`: the first byte of the output.
    /// - `overrides`: records that the client writes to a machine that another caller leases.
    ///
    /// # Errors
    /// `forbidden`, `machine-leased`, `lease-ended`, `lease-not-active`, `self-protection` if the
    /// caller may not look or write; `serial-busy`; `offset-out-of-range`; `too-many-consoles` if
    /// the machine or otter has as many streams as it may, or as many ports are open;
    /// `not-supported`, `shutting-down`.
    pub async fn open_stream(
        &self,
        request: ViewerRequest,
        machine: &Machine,
        port: &SerialPort,
        since: ReadFrom,
        overrides: &Arc<Overrides>,
    ) -> Result<SerialStream, Failure> {
        self.check_stream(&request, machine, port)?;
        let ViewerRequest { requester, credential, mode, force } = request;
        let place = self.streams.enter(machine, mode, &self.metrics)?;
        // Opened before the seat is taken, so that a failure takes over from no writer.
        let reader = self.subscribe(machine, port.key, since).await?;
        let (mut seat, mut record) = (None, None);
        if mode == ViewerMode::Drive {
            let right = self.screens.may_drive(&requester, machine)?;
            let now = self.clock.now();
            let caller = requester.caller.name.to_string();
            let driver = DriverInfo { caller, lease: right.lease(), since: now };
            let info = WriterInfo { driver, is_call: false };
            let holder = ViewerId::new(self.clock.uuid());
            seat = Some(self.writers.take(machine, port, holder, info, force)?);
            let writer = writer_record(now, &requester, machine, right.lease());
            self.audit.record(started(writer.clone(), &requester, port, force));
            record = Some(WriteRecord {
                record: writer,
                port: label(port),
                audit: Arc::clone(&self.audit),
                clock: self.clock.clone(),
                end: None,
                counts: InputCounts::default(),
            });
        }
        let rights = ViewerRights::new(
            Arc::clone(&self.screens),
            Arc::clone(overrides),
            self.clock.clone(),
            requester,
            credential,
            mode,
            machine,
        );
        let rights = rights.with_action(AuditAction::SerialWriterStarted);
        let (clock, counts) = (self.clock.clone(), InputCounts::default());
        let parts = StreamParts { reader, seat, rights, clock, counts };
        Ok(SerialStream { parts, record, _place: place })
    }

    /// Makes a token with which a browser opens a stream. All checks are made now, because a
    /// browser does not show its page why a WebSocket was refused.
    ///
    /// # Errors
    /// As for [`Serial::open_stream`], and `too-many-requests` if the caller has too many tokens.
    pub fn issue_console_token(
        &self,
        request: ViewerRequest,
        machine: &Machine,
        port: &SerialPort,
    ) -> Result<IssuedToken, Failure> {
        self.check_stream(&request, machine, port)?;
        let ViewerRequest { requester, credential, mode, force } = request;
        self.screens.viewers().tokens().issue(ConsoleGrant {
            requester,
            credential,
            machine: machine.identity(),
            console: Console { kind: ConsoleKind::Serial(port.key), mode, force },
            fence: self.screens.fence_of(machine),
        })
    }

    /// Runs a stream until it ends. A shutdown waits for it.
    pub fn spawn_stream(&self, stream: impl Future<Output = ()> + Send + 'static) {
        drop(self.supervisor.spawn_isolated("serial stream", stream));
    }
}

impl SerialStream {
    /// Serves the stream until it ends.
    ///
    /// # Parameters
    /// - `incoming`: what the connection received. It ends with the connection.
    /// - `outgoing`: what the connection has to send.
    /// - `stop`: is cancelled when otter stops.
    pub async fn serve<I, O>(
        mut self,
        incoming: &mut I,
        outgoing: &mut O,
        stop: &CancellationToken,
    ) -> ViewerEnd
    where
        I: MessageStream<Item = FromViewer> + Unpin,
        O: Sink<ToStream> + Unpin,
    {
        let end = serve_stream(&mut self.parts, incoming, outgoing, stop).await;
        if let Some(record) = &mut self.record {
            record.end = Some(end.clone());
            record.counts = self.parts.counts;
        }
        end
    }
}

impl OpenStreams {
    /// Takes a place.
    fn enter(
        self: &Arc<Self>,
        machine: &Machine,
        mode: ViewerMode,
        metrics: &SerialMetrics,
    ) -> Result<StreamPlace, Failure> {
        let mut counts = self.counts();
        check_room(&counts, machine)?;
        *counts.entry(machine.id.clone()).or_default() += 1;
        metrics.stream(mode.as_str(), true);
        let (open, metrics) = (Arc::clone(self), metrics.clone());
        Ok(StreamPlace { open, metrics, machine: machine.id.clone(), mode })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<MachineId, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.metrics.stream(self.mode.as_str(), false);
        let mut counts = self.open.counts();
        if let Some(count) = counts.get_mut(&self.machine) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.machine);
            }
        }
    }
}

fn check_room(counts: &HashMap<MachineId, usize>, machine: &Machine) -> Result<(), Failure> {
    let own = counts.get(&machine.id).copied().unwrap_or_default();
    let all: usize = counts.values().sum();
    let detail = if own >= MAX_OF_MACHINE {
        format!("{} has {own} streams of serial ports, which is the most. Close one.", machine.name)
    } else if all >= MAX_STREAMS {
        format!("otter serves {all} streams of serial ports, which is the most. Close one.")
    } else {
        return Ok(());
    };
    Err(Failure::new(FailureKind::TooManyConsoles, detail).with_machine(&machine.id, &machine.name))
}

/// The record of the end of a writer, without its end.
///
/// # Parameters
/// - `at`: when it began to write.
fn writer_record(
    at: Timestamp,
    requester: &Requester,
    machine: &Machine,
    lease: Option<LeaseId>,
) -> AuditRecord {
    let record = AuditRecord::new(at, AuditAction::SerialWriterEnded, AuditOutcome::Done);
    AuditRecord {
        machine: Some((machine.id.clone(), machine.name.clone())),
        lease,
        ..record.with_actor(&requester.caller.actor())
    }
}

/// The record that a writer began.
fn started(
    record: AuditRecord,
    requester: &Requester,
    port: &SerialPort,
    force: bool,
) -> AuditRecord {
    let record = AuditRecord { action: AuditAction::SerialWriterStarted, ..record };
    let port = label(port);
    record.with_detail(match (&requester.override_reason, force) {
        (Some(reason), _) => format!("port: {port}; override: {reason}"),
        (None, true) => format!("port: {port}; with force"),
        (None, false) => format!("port: {port}"),
    })
}

/// Audits the end of a writer when it is dropped.
struct WriteRecord {
    record: AuditRecord,
    /// The name of the port.
    port: String,
    audit: Arc<Audit>,
    clock: Clock,
    /// `None` if the stream was never served, or panicked.
    end: Option<ViewerEnd>,
    counts: InputCounts,
}

impl Drop for WriteRecord {
    fn drop(&mut self) {
        let InputCounts { bytes, lost } = self.counts;
        let reason = self.end.as_ref().map_or("interrupted", ViewerEnd::as_str);
        let lost = if lost > 0 { format!(", {lost} of them lost") } else { String::new() };
        let detail = format!("port: {}; {reason}; {bytes} bytes{lost}", self.port);
        let at = self.clock.now();
        let duration = Some(between(self.record.at, at));
        self.audit.record(AuditRecord { at, duration, ..self.record.clone() }.with_detail(detail));
    }
}
