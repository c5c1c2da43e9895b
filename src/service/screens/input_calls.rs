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

use tokio_util::sync::CancellationToken;

use super::input_call::{InputCall, InputCallsParts, InputDone};
use super::input_record::ClaimedInput;
use super::input_run::InputRun;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::machine::Machine;
use crate::service::call_ends::CallEnds;
use crate::storage::InputAnswer;

/// How long a call waits until the screen of its machine is open. Right after a power-on, a host
/// needs several attempts.
const OPEN_LIMIT: Duration = Duration::from_mins(1);

/// Sends input to machines.
pub struct InputCalls(Arc<InputCallsParts>);

impl InputCalls {
    #[must_use]
    pub fn new(parts: InputCallsParts) -> Self {
        Self(Arc::new(parts))
    }

    /// The fingerprint of a request, for its idempotency key.
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
        let shutdown = self.supervisor.shutdown_token();
        let ends = CallEnds::new(hung_up, shutdown, call.limit, &self.clock);
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
        // Recordings of the machine leave a secret out, from before its first key on.
        let _secret = call.list.secret.then(|| self.pauses.begin(&machine.id));
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
}

/// The answer of a repeat.
fn replayed(answer: InputAnswer, machine: &Machine) -> Result<InputDone, Failure> {
    let InputAnswer { sent, finished_at, interruption, result: _ } = answer;
    match interruption {
        None => Ok(InputDone { sent, finished_at, replayed: true }),
        Some(detail) => Err(Failure {
            sent: Some(sent),
            ..Failure::new(FailureKind::InputInterrupted, detail)
                .with_machine(&machine.id, &machine.name)
        }),
    }
}
