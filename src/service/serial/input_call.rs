//! The calls that send input to serial ports, from the claim of their key to their answer.
//!
//! ```text
//! claim the key ─► take a place ─► its turn ─► port open ─► bytes ─► wait for output ─► answer
//!       │                │             │           │           │
//!       └────────────────┴─────────────┴───────────┘           │ first byte: the key is
//!              nothing was sent: the failure itself            ▼ committed before it
//!                                              every failure is `input-interrupted`
//! ```
//! Each call runs in a task of its own, so that it stores its answer also if its client hangs up.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretSlice;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::Serial;
use super::conditions::{SerialConditions, SerialMatch};
use super::input_run::InputRun;
use super::shared_port::{MAX_WAITING_CALLS, PortStatus, PortUse};
use super::writer::{WriterInfo, busy, label};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::ViewerId;
use crate::domain::input::SentInput;
use crate::domain::machine::{Machine, SerialPort};
use crate::domain::serial::PortAccess;
use crate::service::call_ends::CallEnds;
use crate::service::jobs::authorization::Requester;
use crate::service::leases::Leases;
use crate::service::screens::DriverInfo;
use crate::service::screens::input_record::{ClaimedInput, InputRecords};
use crate::storage::{IdempotencyKey, InputAnswer};

/// How long a call waits until otter is connected to the port.
const OPEN_LIMIT: Duration = Duration::from_secs(5);

/// What calls of input need.
pub struct SerialInputsParts {
    pub serial: Arc<Serial>,
    pub leases: Leases,
    pub records: Arc<InputRecords>,
}

/// Sends input to serial ports.
pub struct SerialInputs(Arc<SerialInputsParts>);

/// One call.
pub struct SerialInputCall {
    pub machine: Arc<Machine>,
    pub port: SerialPort,
    pub requester: Requester,
    /// The value of `Otter-Reference`.
    pub reference: Option<String>,
    /// Not empty.
    pub bytes: SecretSlice<u8>,
    /// The time between two bytes.
    pub pace: Option<Duration>,
    pub wait_for: Option<WaitFor>,
    pub key: Option<IdempotencyKey>,
    /// The longest time of the whole call.
    pub limit: Duration,
}

/// What a call waits for after its last byte.
#[derive(Debug)]
pub struct WaitFor {
    pub conditions: SerialConditions,
    /// The longest wait.
    pub wait: Duration,
}

/// The end of a call that sent all its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialInputDone {
    pub sent: SentInput,
    pub finished_at: Timestamp,
    pub outcome: InputOutcome,
    /// Whether an earlier call with the same key sent it.
    pub replayed: bool,
}

/// What a call found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputOutcome {
    /// The offset of the next byte of the output when the first byte of the input was sent.
    pub since: u64,
    /// `None` if the call did not wait for output.
    pub matched: Option<SerialMatch>,
}

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

    /// Sends the input of a call, after the calls for the same port that came before it. If the
    /// future is dropped, the call ends after its current piece.
    ///
    /// # Errors
    /// - before the first byte: the failures of the right to drive, `serial-busy` if a stream
    ///   writes, `queue-full`, `idempotency-mismatch`, `invalid-power-state`, `not-supported` if
    ///   the port takes no input, `console-unavailable` if otter cannot connect to it,
    ///   `too-many-consoles`, `wait-timeout`, `shutting-down`
    /// - after it: `input-interrupted`, with the cause in `errors` and the number of bytes in
    ///   `sent`
    pub async fn run(&self, call: SerialInputCall) -> Result<SerialInputDone, Failure> {
        let parts = Arc::clone(&self.0);
        let hung_up = CancellationToken::new();
        let _hang_up = hung_up.clone().drop_guard();
        let machine = Arc::clone(&call.machine);
        let task = async move { parts.perform(&call, hung_up).await };
        let ended = self.0.serial.supervisor.spawn_isolated("serial input", task).join().await;
        ended.unwrap_or_else(|_| {
            // The panic hook has logged the message and the place of the panic.
            let detail = "otter failed while it sent the input, so the machine may have got a part \
                          of it. Look at the output of the port, then decide what to send.";
            Err(Failure::new(FailureKind::InputInterrupted, detail)
                .with_machine(&machine.id, &machine.name))
        })
    }
}

impl SerialInputsParts {
    async fn perform(
        &self,
        call: &SerialInputCall,
        hung_up: CancellationToken,
    ) -> Result<SerialInputDone, Failure> {
        let Serial { supervisor, screens, clock, .. } = &*self.serial;
        let ends = CallEnds::new(hung_up, supervisor.shutdown_token(), call.limit, clock);
        let (machine, key) = (&call.machine, call.port.key);
        let mut claim = None;
        if let Some(key) = call.key.clone() {
            let claimed = ends.or(machine, self.records.claim(key)).await?;
            match claimed.map_err(|failure| failure.with_machine(&machine.id, &machine.name))? {
                ClaimedInput::New(new) => claim = Some(new),
                ClaimedInput::Answered(answer) => return replayed(answer, machine),
            }
        }
        screens.may_drive(&call.requester, machine)?;
        self.serial.check_can_come(machine, key, false)?;
        let usage = self.serial.join(machine, key)?;
        let place = Arc::clone(&usage.port().places).try_acquire_owned();
        let _place = place.map_err(|_| queue_full(machine, &call.port))?;
        self.check_writer(call)?;
        let turn = Arc::clone(&usage.port().turn).acquire_owned();
        let _turn = ends.or(machine, turn).await?;
        let known = self.serial.known(&machine.identity());
        let machine = known.map_err(|failure| failure.with_machine(&machine.id, &machine.name))?;
        let right = screens.may_drive(&call.requester, &machine)?;
        self.serial.check_can_come(&machine, key, false)?;
        ends.or(&machine, usage.loaded()).await??;
        let epoch = ends.or(&machine, self.opened(&usage, &machine)).await??;
        let info = WriterInfo {
            driver: DriverInfo {
                caller: call.requester.caller.name.to_string(),
                lease: right.lease(),
                since: clock.now(),
            },
            is_call: true,
        };
        let holder = ViewerId::new(clock.uuid());
        let seat = self.serial.writers.take(&machine, &call.port, holder, info, false)?;
        let claim = claim.as_ref();
        let run = InputRun::new(self, call, machine, right, usage, epoch, seat, &ends, claim);
        run.run().await
    }

    /// Refuses a call at once if a stream writes: it may do so for hours.
    fn check_writer(&self, call: &SerialInputCall) -> Result<(), Failure> {
        match self.serial.writers.of(&call.machine.id, call.port.key) {
            Some(writer) if !writer.is_call => Err(busy(&call.machine, &call.port, &writer)),
            _ => Ok(()),
        }
    }

    /// Waits until otter is connected to a port that takes input.
    ///
    /// # Returns
    /// The epoch of the connection.
    async fn opened(&self, usage: &PortUse, machine: &Machine) -> Result<u64, Failure> {
        let with_machine = |failure: Failure| failure.with_machine(&machine.id, &machine.name);
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
            return Err(with_machine(end));
        }
        if access != PortAccess::Open {
            let reason = reason.unwrap_or_else(|| "otter is not connected to the port.".to_owned());
            return Err(with_machine(Failure::new(FailureKind::ConsoleUnavailable, reason)));
        }
        if !takes_input {
            let detail = "The port writes to a file, so it takes no input.";
            return Err(with_machine(Failure::new(FailureKind::NotSupported, detail)));
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

/// The answer of a repeat.
fn replayed(answer: InputAnswer, machine: &Machine) -> Result<SerialInputDone, Failure> {
    let InputAnswer { sent, finished_at, interruption, result } = answer;
    if let Some(detail) = interruption {
        return Err(Failure {
            sent: Some(sent),
            ..Failure::new(FailureKind::InputInterrupted, detail)
                .with_machine(&machine.id, &machine.name)
        });
    }
    let outcome = result.and_then(|result| serde_json::from_str(&result).ok()).unwrap_or_default();
    Ok(SerialInputDone { sent, finished_at, outcome, replayed: true })
}
