//! The turn of one call of input: sends its bytes, as long as the right to drive, the connection to
//! the port, the client and otter itself last, and then waits for what the port outputs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use secrecy::ExposeSecret;

use super::ReadFrom;
use super::conditions::SerialMatch;
use super::input_call::{
    InputOutcome, SerialInput, SerialInputCall, SerialInputDone, SerialInputsParts, WaitFor,
};
use super::shared_port::{InputLost, PortUse};
use super::wait::SerialWaitTerms;
use super::writer::{WriterSeat, label};
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::duration;
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::domain::input::SentInput;
use crate::domain::machine::Machine;
use crate::domain::power::PowerState;
use crate::service::call_ends::{CallEnds, reason_after_input};
use crate::service::idempotency::KeyClaim;
use crate::service::jobs::authorization::Authorization;
use crate::service::screens::{DriveRight, RightChanges};
use crate::storage::InputAnswer;

/// The bytes that are sent at once, if the call sets no pace.
const PIECE: usize = 1024;

/// The turn of one call.
pub(super) struct InputRun<'c> {
    parts: &'c SerialInputsParts,
    call: &'c SerialInputCall,
    machine: Arc<Machine>,
    right: DriveRight,
    right_changes: RightChanges,
    usage: PortUse,
    /// The connection on which the call began. It never sends on another one.
    epoch: u64,
    seat: WriterSeat,
    ends: &'c CallEnds,
    claim: Option<&'c KeyClaim>,
    started: Duration,
    sent: SentInput,
    /// Whether the key is committed, or the port may have got a byte. From then on a repeat could
    /// send it twice.
    has_begun: bool,
    /// Why the call was allowed to send its last piece. `None` before the first one.
    allowed_by: Option<Authorization>,
    /// The offset of the next byte of the output when the first byte of the input was sent.
    since: u64,
}

impl<'c> InputRun<'c> {
    /// The turn of a call whose port is open. Nothing is sent yet.
    #[expect(clippy::too_many_arguments, reason = "one call site, and all are of other types")]
    pub(super) fn new(
        parts: &'c SerialInputsParts,
        call: &'c SerialInputCall,
        machine: Arc<Machine>,
        right: DriveRight,
        usage: PortUse,
        epoch: u64,
        seat: WriterSeat,
        ends: &'c CallEnds,
        claim: Option<&'c KeyClaim>,
    ) -> Self {
        Self {
            parts,
            call,
            machine,
            right,
            right_changes: parts.serial.screens.right_changes(),
            since: usage.port().log.bounds().next,
            usage,
            epoch,
            seat,
            ends,
            claim,
            started: parts.serial.clock.elapsed(),
            sent: SentInput::default(),
            has_begun: false,
            allowed_by: None,
        }
    }

    /// Sends the input, waits for the output, and stores the answer and the audit record.
    ///
    /// # Errors
    /// The failure of the call: itself if the port got nothing, otherwise `input-interrupted`.
    pub(super) async fn run(mut self) -> Result<SerialInputDone, Failure> {
        let result = match self.send_all().await {
            Ok(()) => self.wait().await,
            Err(failure) => Err(failure),
        };
        self.finish(result).await
    }

    async fn send_all(&mut self) -> Result<(), Failure> {
        let ends = self.ends;
        ends.or(self.seat.ready()).await?;
        let SerialInput { bytes, pace, is_secret, .. } = &self.call.input;
        // Recordings of the machine leave a secret out, from before its first byte on.
        let _secret = is_secret.then(|| self.parts.pauses.begin(&self.machine.id));
        let size = if pace.is_some() { 1 } else { PIECE };
        for (index, piece) in bytes.expose_secret().chunks(size).enumerate() {
            if let Some(pace) = pace.filter(|_| index > 0) {
                let clock = self.parts.serial.clock.clone();
                self.unless_ended(true, async move { clock.sleep(pace).await }).await?;
            }
            self.send(piece).await?;
        }
        self.sent.events = 1;
        Ok(())
    }

    async fn send(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let mut right = self.check_now()?;
        if !self.has_begun {
            // The commit takes time.
            self.begin().await?;
            right = self.check_now()?;
            self.since = self.usage.port().log.bounds().next;
        }
        self.record_override(right);
        let sent = self.usage.send(Some(self.epoch), Bytes::copy_from_slice(piece)).await;
        self.has_begun |= !matches!(sent, Err(InputLost { maybe_sent: false }));
        if sent.is_err() {
            return Err(self.connection_lost());
        }
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        self.sent.characters = self.sent.characters.saturating_add(length);
        Ok(())
    }

    /// Waits for the output. A connection that ends meanwhile is no failure: the machine may be
    /// restarted by what it got.
    async fn wait(&mut self) -> Result<Option<SerialMatch>, Failure> {
        let call = self.call;
        let Some(WaitFor { conditions, wait: longest }) = &call.input.wait_for else {
            return Ok(None);
        };
        let SerialInputsParts { serial, .. } = self.parts;
        let machine = Arc::clone(&self.machine);
        let may_look = |machine: &Machine| serial.screens.may_look(&call.requester, machine);
        let first = self.usage.port().log.bounds().first;
        let terms = SerialWaitTerms {
            conditions,
            since: ReadFrom::Offset(self.since.max(first)),
            limit: Some(*longest),
            may_look: &may_look,
            has_job: &|_| false,
        };
        let waiting = serial.wait(&machine, &call.input.port, &terms);
        match self.unless_ended(false, waiting).await? {
            Err(failure) if failure.kind == FailureKind::WaitTimeout => {
                let (name, time) = (&machine.name, duration::format(*longest));
                let detail = format!("wait_for did not become true on {name} within {time}.");
                Err(serial.timed_out(&machine, &call.input.port, &detail).await)
            }
            found => found.map(Some),
        }
    }

    /// Commits the key of the call, before the first byte.
    async fn begin(&mut self) -> Result<(), Failure> {
        if let Some(claim) = self.claim {
            self.parts.records.begin(claim).await?;
            self.has_begun = true;
        }
        Ok(())
    }

    /// Records, before a piece is sent, that the call overrides a lease: once for each lease, as
    /// the machine can be leased while the call sends.
    fn record_override(&mut self, right: DriveRight) {
        let authorization = right.authorization;
        if self.allowed_by.replace(authorization) != Some(authorization) {
            let (overrides, requester) = (&self.parts.overrides, &self.call.requester);
            overrides.record(&self.machine, requester, authorization, AuditAction::SerialInput);
        }
    }

    /// Waits for `work`, unless the call must end before.
    ///
    /// # Parameters
    /// - `needs_connection`: whether the call ends with the connection to the port.
    async fn unless_ended<T>(
        &mut self,
        needs_connection: bool,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        let Self { parts, call, machine, right_changes, usage, epoch, seat, ends, .. } = self;
        let screens = &parts.serial.screens;
        let taken_over = seat.taken_over();
        tokio::select! {
            biased;
            failure = ends.ended() => return Err(failure),
            failure = right_changes.drive_right_ended(screens, &call.requester, machine) => {
                return Err(failure);
            }
            () = taken_over.cancelled() => return Err(self.taken_over()),
            () = connection_ended(usage, *epoch), if needs_connection => {}
            done = work => return Ok(done),
        }
        Err(self.connection_lost())
    }

    /// Checks that the call may send the next piece.
    fn check_now(&self) -> Result<DriveRight, Failure> {
        let Self { parts, call, machine, usage, epoch, seat, ends, .. } = self;
        if let Some(failure) = ends.failure() {
            return Err(failure);
        }
        if seat.taken_over().is_cancelled() {
            return Err(self.taken_over());
        }
        if usage.status().epoch != *epoch {
            return Err(self.connection_lost());
        }
        parts.serial.screens.may_drive(&call.requester, machine)
    }

    fn taken_over(&self) -> Failure {
        let detail = format!("Another client took over {}.", label(&self.call.input.port));
        Failure::new(FailureKind::SerialBusy, detail)
            .with_machine(&self.machine.id, &self.machine.name)
    }

    /// The failure of a connection to the port that ended while the call used it.
    fn connection_lost(&self) -> Failure {
        let machine = &self.machine;
        let contents = self.parts.serial.inventory.contents();
        let power_state = contents.machine(&machine.id).and_then(|machine| machine.power_state);
        let (kind, what) = match power_state {
            Some(PowerState::Off) => (FailureKind::InvalidPowerState, "the machine was turned off"),
            Some(PowerState::Suspended) => {
                (FailureKind::InvalidPowerState, "the machine was suspended")
            }
            Some(PowerState::On) | None => {
                (FailureKind::ConsoleUnavailable, "the connection to the serial port ended")
            }
        };
        let detail = format!("The input to {} ended: {what}.", machine.name);
        Failure::new(kind, detail).with_machine(&machine.id, &machine.name)
    }

    async fn finish(
        self,
        result: Result<Option<SerialMatch>, Failure>,
    ) -> Result<SerialInputDone, Failure> {
        let (interruption, matched) = match result {
            Err(failure) if !self.has_begun => return Err(failure),
            Err(failure) => (Some(self.interrupted(failure)), None),
            Ok(matched) => (None, matched),
        };
        let finished_at = self.parts.serial.clock.now();
        let outcome = InputOutcome {
            machine: self.machine.id.clone(),
            port: self.call.input.port.key,
            since: self.since,
            matched,
        };
        let answer = InputAnswer {
            sent: self.sent,
            finished_at,
            interruption: interruption.clone().map(Box::new),
            // Plain data is always JSON.
            result: serde_json::to_string(&outcome).ok().filter(|_| interruption.is_none()),
        };
        let record = self.audit_record(interruption.as_ref());
        self.parts.records.finish(self.claim, answer, record).await;
        match interruption {
            Some(failure) => Err(failure),
            None => Ok(SerialInputDone { sent: self.sent, finished_at, outcome }),
        }
    }

    /// The failure of a call that may have sent something: no status of it invites a repeat.
    fn interrupted(&self, cause: Failure) -> Failure {
        let sent = self.sent.characters;
        let all = self.call.input.bytes.expose_secret().len();
        let reason = reason_after_input(&cause.detail);
        let mut errors = cause.errors.clone();
        if errors.is_empty() {
            errors.push(InputError {
                pointer: None,
                parameter: None,
                code: cause.kind.code().into(),
                detail: reason.clone(),
            });
        }
        let code = errors.first().map_or(cause.kind.code(), |error| &*error.code);
        let detail = format!(
            "{} of {} got {sent} of {all} bytes, then the call ended ({code}). {reason} Look at \
             the output of the port before you send more.",
            label(&self.call.input.port),
            self.machine.name,
        );
        Failure {
            kind: FailureKind::InputInterrupted,
            detail,
            errors,
            retry_after: None,
            sent: Some(self.sent),
            ..cause
        }
        .with_machine(&self.machine.id, &self.machine.name)
    }

    fn audit_record(&self, interruption: Option<&Failure>) -> AuditRecord {
        let outcome = match interruption {
            None => AuditOutcome::Done,
            Some(_) => AuditOutcome::Failed,
        };
        let SerialInputCall { requester, reference, input } = self.call;
        let clock = &self.parts.serial.clock;
        let record = AuditRecord::new(clock.now(), AuditAction::SerialInput, outcome)
            .with_actor(&requester.caller.actor())
            .with_detail(format!("port: {}, bytes: {}", label(&input.port), self.sent.characters))
            .with_failure(interruption);
        AuditRecord {
            machine: Some((self.machine.id.clone(), self.machine.name.clone())),
            lease: self.right.lease(),
            reference: reference.clone(),
            duration: Some(clock.elapsed().saturating_sub(self.started)),
            ..record
        }
    }
}

/// Waits until the connection with this epoch has ended.
async fn connection_ended(usage: &PortUse, epoch: u64) {
    let mut status = usage.port().status.subscribe();
    // The sender lives as long as the use.
    let _ = status.wait_for(|status| status.epoch != epoch).await;
}
