//! The calls that send input to serial ports, from the claim of their key to their answer.
//!
//! ```text
//! claim the key ─► check ─► take a place ─► its turn ─► port open ─► bytes ─► output ─► answer
//!       │            │           │             │            │          │
//!       └────────────┴───────────┴─────────────┴────────────┘          │ first byte: the key is
//!                    nothing was sent: the failure itself              ▼ committed before it
//!                                                       every failure is `input-interrupted`
//! ```
//! Each call runs in a task of its own, so that it stores its answer also if its client hangs up.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Serial;
use super::input_call::{
    BegunSerialInput, InputOutcome, NewSerialInput, SerialInput, SerialInputCall, SerialInputDone,
    SerialInputsParts,
};
use super::input_run::InputRun;
use super::shared_port::{MAX_WAITING_CALLS, PortStatus, PortUse};
use super::writer::{WriterInfo, busy, label};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::ViewerId;
use crate::domain::machine::{Machine, SerialPort};
use crate::domain::serial::PortAccess;
use crate::service::call_ends::CallEnds;
use crate::service::idempotency::KeyClaim;
use crate::service::screens::DriverInfo;
use crate::service::screens::input_call::InputTerms;
use crate::service::screens::input_record::ClaimedInput;
use crate::storage::InputAnswer;

/// How long a call waits until otter is connected to the port.
const OPEN_LIMIT: Duration = Duration::from_secs(5);

/// Sends input to serial ports.
pub struct SerialInputs(Arc<SerialInputsParts>);

impl SerialInputs {
    #[must_use]
    pub fn new(parts: SerialInputsParts) -> Self {
        Self(Arc::new(parts))
    }

    /// The fingerprint of a request, for its idempotency key.
    #[must_use]
    pub fn fingerprint(&self, body: &[u8]) -> [u8; 32] {
        self.0.records.fingerprint(body)
    }

    /// Begins a call: waits until no other call with its key runs, and finds the answer of the
    /// first one.
    ///
    /// # Errors
    /// `idempotency-mismatch`, `wait-timeout`, `shutting-down`, `unauthenticated`,
    /// `input-interrupted` if the first call with the key has no answer; if the storage cannot be
    /// read.
    pub async fn begin(&self, terms: InputTerms) -> Result<BegunSerialInput, Failure> {
        let ended = CancellationToken::new();
        let hang_up = ended.clone().drop_guard();
        let InputTerms { requester, credential, reference, key, limit } = terms;
        let SerialInputsParts { serial, callers, .. } = &*self.0;
        let (shutdown, callers) = (serial.supervisor.shutdown_token(), Arc::clone(callers));
        let clock = serial.clock.clone();
        let ends = CallEnds::new(ended, shutdown, callers, credential, limit, clock);
        let mut claim = None;
        if let Some(key) = key {
            match ends.or(self.0.records.claim(key)).await?? {
                ClaimedInput::New(new) => claim = Some(new),
                ClaimedInput::Answered(answer) => {
                    return Ok(BegunSerialInput::Repeat(result_of(answer)));
                }
            }
        }
        Ok(BegunSerialInput::New(NewSerialInput { requester, reference, claim, ends, hang_up }))
    }

    /// Sends the input of a call, after the calls for the same port that came before it. If the
    /// future is dropped, the call ends after its current piece.
    ///
    /// # Errors
    /// - before the first byte: the failures of the right to drive, `serial-busy` if a stream
    ///   writes, `queue-full`, `invalid-power-state`, `not-supported` if the port takes no input,
    ///   `console-unavailable` if otter cannot connect to it, `too-many-consoles`, `wait-timeout`,
    ///   `shutting-down`, `unauthenticated`
    /// - after it: `input-interrupted`, with the cause in `errors` and the number of bytes in
    ///   `sent`
    pub async fn run(
        &self,
        new: NewSerialInput,
        input: SerialInput,
    ) -> Result<SerialInputDone, Failure> {
        let NewSerialInput { requester, reference, claim, ends, hang_up: _hang_up } = new;
        let machine = Arc::clone(&input.machine);
        let with_machine = |failure: Failure| failure.with_machine(&machine.id, &machine.name);
        self.0.serial.screens.may_drive(&requester, &machine).map_err(with_machine)?;
        let call = SerialInputCall { requester, reference, input };
        let parts = Arc::clone(&self.0);
        let task = async move { parts.perform(&call, &ends, claim.as_ref()).await };
        let ended = self.0.serial.supervisor.spawn_isolated("serial input", task).join().await;
        let result = ended.unwrap_or_else(|_| {
            // The panic hook has logged the message and the place of the panic.
            let detail = "otter failed while it sent the input, so the machine may have got a part \
                          of it. Look at the output of the port, then decide what to send.";
            Err(Failure::new(FailureKind::InputInterrupted, detail))
        });
        result.map_err(with_machine)
    }
}

impl SerialInputsParts {
    async fn perform(
        &self,
        call: &SerialInputCall,
        ends: &CallEnds,
        claim: Option<&KeyClaim>,
    ) -> Result<SerialInputDone, Failure> {
        let Serial { screens, clock, .. } = &*self.serial;
        let SerialInput { machine, port, .. } = &call.input;
        self.serial.check_can_come(machine, port.key, false)?;
        let usage = self.serial.join(machine, port.key)?;
        let place = Arc::clone(&usage.port().places).try_acquire_owned();
        let _place = place.map_err(|_| queue_full(machine, port))?;
        self.check_writer(machine, port)?;
        let turn = Arc::clone(&usage.port().turn).acquire_owned();
        let _turn = ends.or(turn).await?;
        let machine = self.serial.known(&machine.identity())?;
        let right = screens.may_drive(&call.requester, &machine)?;
        self.serial.check_can_come(&machine, port.key, false)?;
        ends.or(usage.loaded()).await??;
        let epoch = ends.or(self.opened(&usage)).await??;
        let info = WriterInfo {
            driver: DriverInfo {
                caller: call.requester.caller.name.to_string(),
                lease: right.lease(),
                since: clock.now(),
            },
            is_call: true,
        };
        let holder = ViewerId::new(clock.uuid());
        let seat = self.serial.writers.take(&machine, port, holder, info, false)?;
        let run = InputRun::new(self, call, machine, right, usage, epoch, seat, ends, claim);
        run.run().await
    }

    /// Refuses a call at once if a stream writes: it may do so for hours.
    fn check_writer(&self, machine: &Machine, port: &SerialPort) -> Result<(), Failure> {
        match self.serial.writers.of(&machine.id, port.key) {
            Some(writer) if !writer.is_call => Err(busy(machine, port, &writer)),
            _ => Ok(()),
        }
    }

    /// Waits until otter is connected to a port that takes input.
    ///
    /// # Returns
    /// The epoch of the connection.
    async fn opened(&self, usage: &PortUse) -> Result<u64, Failure> {
        let mut changes = usage.port().status.subscribe();
        let is_over =
            |status: &PortStatus| status.access == PortAccess::Open || status.end.is_some();
        tokio::select! {
            biased;
            _ = changes.wait_for(is_over) => {}
            () = self.serial.clock.sleep(OPEN_LIMIT) => {}
        }
        let PortStatus { access, reason, takes_input, epoch, end, .. } = usage.status();
        if let Some(end) = end {
            return Err(end);
        }
        if access != PortAccess::Open {
            let reason = reason.unwrap_or_else(|| "otter is not connected to the port.".to_owned());
            return Err(Failure::new(FailureKind::ConsoleUnavailable, reason));
        }
        if !takes_input {
            let detail = "The port writes to a file, so it takes no input.";
            return Err(Failure::new(FailureKind::NotSupported, detail));
        }
        Ok(epoch)
    }
}

fn queue_full(machine: &Machine, port: &SerialPort) -> Failure {
    let detail = format!(
        "{MAX_WAITING_CALLS} calls wait already to send input to {} of {}; try again in a moment.",
        label(port),
        machine.name
    );
    Failure::new(FailureKind::QueueFull, detail).with_machine(&machine.id, &machine.name)
}

/// The result of the first call, for a repeat.
fn result_of(answer: InputAnswer) -> Result<SerialInputDone, Failure> {
    let InputAnswer { sent, finished_at, interruption, result } = answer;
    if let Some(failure) = interruption {
        return Err(Failure { sent: Some(sent), ..*failure });
    }
    let outcome: Option<InputOutcome> =
        result.and_then(|result| serde_json::from_str(&result).ok());
    let Some(outcome) = outcome else {
        let detail =
            "The stored answer of the first call with this Idempotency-Key cannot be read.";
        return Err(Failure::new(FailureKind::Internal, detail));
    };
    Ok(SerialInputDone { sent, finished_at, outcome })
}
