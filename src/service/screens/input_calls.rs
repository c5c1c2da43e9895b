//! The calls that send input to machines, from the claim of their key to their answer.
//!
//! ```text
//! claim the key ─► take a place in the lane ─► open the screen ─► events ─► release keys ─► answer
//!       │                  │                        │               │
//!       └──────────────────┴── nothing was sent: ───┘               │ first message: the key is
//!                              the failure itself                   ▼ committed before it
//!                                                    every failure is `input-interrupted`
//! ```
//! Each call runs in a task of its own, so that it releases its keys and stores its answer also if
//! its client hangs up.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Screens;
use super::conditions::ScreenConditions;
use super::input_lane::InputLanes;
use super::input_record::{ClaimedInput, InputRecords};
use super::input_run::InputRun;
use super::wait::ScreenWaits;
use crate::clock::Clock;
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::input::{InputList, SentInput};
use crate::domain::machine::Machine;
use crate::service::audit::Audit;
use crate::service::inventory::Inventory;
use crate::service::jobs::authorization::{Authorization, Requester};
use crate::service::leases::Leases;
use crate::storage::{IdempotencyKey, InputAnswer};
use crate::supervisor::Supervisor;

/// How long a call waits until the screen of its machine is open. Right after a power-on, a host
/// needs several attempts.
const OPEN_LIMIT: Duration = Duration::from_mins(1);

/// Sends input to machines.
pub struct InputCalls(Arc<InputCallsParts>);

/// What [`InputCalls`] is made of.
pub struct InputCallsParts {
    pub screens: Arc<Screens>,
    pub waits: Arc<ScreenWaits>,
    pub inventory: Arc<Inventory>,
    pub leases: Leases,
    pub records: InputRecords,
    pub lanes: InputLanes,
    pub audit: Arc<Audit>,
    pub supervisor: Supervisor,
    pub clock: Clock,
}

/// One call.
pub struct InputCall {
    pub machine: Arc<Machine>,
    pub requester: Requester,
    /// The value of `Otter-Reference`.
    pub reference: Option<String>,
    pub list: InputList<Until>,
    pub key: Option<IdempotencyKey>,
    /// The longest time of the whole call.
    pub limit: Duration,
}

/// The condition of an `until`.
#[derive(Debug)]
pub struct Until {
    pub conditions: Arc<ScreenConditions>,
    /// The longest wait.
    pub wait: Duration,
}

/// The end of a call that sent all its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputDone {
    pub sent: SentInput,
    pub finished_at: Timestamp,
    /// Whether an earlier call with the same key sent it.
    pub replayed: bool,
}

/// What ends a call before its last event.
pub(super) struct CallEnds {
    hung_up: CancellationToken,
    shutdown: CancellationToken,
    /// The latest end, by the monotonic clock.
    deadline: Duration,
    clock: Clock,
}

impl InputCalls {
    #[must_use]
    pub fn new(parts: InputCallsParts) -> Self {
        Self(Arc::new(parts))
    }

    /// The fingerprint of a request, for its [`IdempotencyKey`].
    #[must_use]
    pub fn fingerprint(&self, body: &[u8]) -> [u8; 32] {
        self.0.records.fingerprint(body)
    }

    /// Sends the input of a call, after the calls for the same machine that came before it. If the
    /// future is dropped, the call ends after its current stroke and releases its keys.
    ///
    /// # Errors
    /// - before the first message: the failures of the right to drive and of the screen,
    ///   `queue-full`, `idempotency-mismatch`, `invalid-request` for a point outside the screen,
    ///   `wait-timeout`, `shutting-down`
    /// - after it: `input-interrupted`, with the cause in `errors` and the number of events in
    ///   `sent`
    pub async fn run(&self, call: InputCall) -> Result<InputDone, Failure> {
        let parts = Arc::clone(&self.0);
        let hung_up = CancellationToken::new();
        let _hang_up = hung_up.clone().drop_guard();
        let machine = Arc::clone(&call.machine);
        let task = async move { parts.perform(&call, hung_up).await };
        let ended = self.0.supervisor.spawn_isolated("input", task).join().await;
        ended.unwrap_or_else(|_| {
            // The panic hook has logged the message and the place of the panic.
            let detail = "otter failed while it typed, so the machine may have got a part of the \
                          input. Look at the screen, then decide what to type.";
            Err(Failure::new(FailureKind::InputInterrupted, detail)
                .with_machine(&machine.id, &machine.name))
        })
    }
}

impl InputCallsParts {
    async fn perform(
        &self,
        call: &InputCall,
        hung_up: CancellationToken,
    ) -> Result<InputDone, Failure> {
        let ends = CallEnds {
            hung_up,
            shutdown: self.supervisor.shutdown_token(),
            deadline: self.clock.elapsed() + call.limit,
            clock: self.clock.clone(),
        };
        let machine = &call.machine;
        let mut claim = None;
        if let Some(key) = call.key.clone() {
            let claimed = ends.or(machine, self.records.claim(key)).await?;
            match claimed.map_err(|failure| failure.with_machine(&machine.id, &machine.name))? {
                ClaimedInput::New(new) => claim = Some(new),
                ClaimedInput::Answered(answer) => return replayed(answer, machine),
            }
        }
        self.screens.may_drive(&call.requester, machine)?;
        let place = self.lanes.enter(machine, self.clock.elapsed())?;
        let turn = ends.or(machine, place.turn()).await?;
        let machine = self.current(machine)?;
        let right = self.screens.may_drive(&call.requester, &machine)?;
        let user = self.screens.use_screen(&machine)?;
        let limit = OPEN_LIMIT.min(ends.left());
        ends.or(&machine, user.opened(limit)).await??;
        let mut run = InputRun::new(self, call, machine, right, user, &turn, &ends, claim.as_ref());
        let result = run.send_all().await;
        run.release().await;
        run.finish(result).await
    }

    /// The machine as it is now: its power state can have changed while the call waited.
    fn current(&self, machine: &Machine) -> Result<Arc<Machine>, Failure> {
        let contents = self.inventory.contents();
        let current = contents.machine(&machine.id);
        let same = current.filter(|known| known.identity().agrees_with(&machine.identity()));
        same.cloned().ok_or_else(|| {
            let detail =
                format!("{} was deleted while the input waited for its turn.", machine.name);
            Failure::new(FailureKind::MachineGone, detail).with_machine(&machine.id, &machine.name)
        })
    }

    /// Records that an operator types on a machine that another caller leases.
    pub(super) async fn record_override(
        &self,
        machine: &Machine,
        requester: &Requester,
        authorization: Authorization,
    ) {
        let (Authorization::Override(holder), Some(reason)) =
            (authorization, &requester.override_reason)
        else {
            return;
        };
        let action = AuditAction::MachineOverridden;
        let record = AuditRecord::new(self.clock.now(), action, AuditOutcome::Done)
            .with_actor(&requester.caller.actor())
            .with_detail(format!("{}: {reason}", AuditAction::ScreenInput.as_str()));
        self.audit.record(AuditRecord {
            machine: Some((machine.id.clone(), machine.name.clone())),
            lease: Some(holder),
            ..record
        });
        self.leases.record_override(machine, &requester.caller.name, reason).await;
    }
}

impl CallEnds {
    /// Waits for `work`, unless the call must end before.
    ///
    /// # Errors
    /// As [`CallEnds::ended`].
    pub(super) async fn or<T>(
        &self,
        machine: &Machine,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            failure = self.ended(machine) => Err(failure),
            done = work => Ok(done),
        }
    }

    /// Waits until the call must end.
    ///
    /// # Returns
    /// `shutting-down`, or `wait-timeout` if the time of the call is up. A client that hung up does
    /// not read the failure.
    pub(super) async fn ended(&self, machine: &Machine) -> Failure {
        tokio::select! {
            biased;
            () = self.hung_up.cancelled() => {}
            () = self.shutdown.cancelled() => {}
            () = self.clock.sleep(self.left()) => {}
        }
        self.failure().unwrap_or_else(Self::time_up).with_machine(&machine.id, &machine.name)
    }

    /// The failure if the call must end now.
    pub(super) fn failure(&self) -> Option<Failure> {
        if self.hung_up.is_cancelled() {
            let detail = "The client hung up.";
            return Some(Failure::new(FailureKind::ShuttingDown, detail));
        }
        if self.shutdown.is_cancelled() {
            let detail = "otter is shutting down; try again when it is back.";
            return Some(Failure::new(FailureKind::ShuttingDown, detail));
        }
        self.left().is_zero().then(Self::time_up)
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.clock.elapsed())
    }

    fn time_up() -> Failure {
        let detail = "The time of the call was up before all its input was sent.";
        Failure::new(FailureKind::WaitTimeout, detail)
    }
}

/// The answer of a repeat.
fn replayed(answer: InputAnswer, machine: &Machine) -> Result<InputDone, Failure> {
    let InputAnswer { sent, finished_at, interruption } = answer;
    match interruption {
        None => Ok(InputDone { sent, finished_at, replayed: true }),
        Some(detail) => Err(Failure {
            sent: Some(sent),
            ..Failure::new(FailureKind::InputInterrupted, detail)
                .with_machine(&machine.id, &machine.name)
        }),
    }
}
