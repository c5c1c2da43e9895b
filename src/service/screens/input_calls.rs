//! The calls that send input to machines, from the claim of their key to their answer.
//!
//! ```text
//! claim the key ─► check ─► take a place in the lane ─► open the screen ─► events ─► answer
//!       │            │             │                          │              │
//!       └────────────┴─────────────┴── nothing was sent: ─────┘              │ first message:
//!                                      the failure itself                    ▼ key is committed
//!                                                    every failure is `input-interrupted`
//! ```
//! Each call runs in a task of its own, so that it releases its keys and stores its answer also if
//! its client hangs up.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::input_call::{
    BegunInput, InputCall, InputCallsParts, InputDone, InputTerms, NewInput, Until,
};
use super::input_lane::LanePlace;
use super::input_record::ClaimedInput;
use super::input_run::InputRun;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::input::InputList;
use crate::domain::machine::Machine;
use crate::service::call_ends::CallEnds;
use crate::service::idempotency::KeyClaim;
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

    /// Begins a call: waits until no other call with its key runs, and finds the answer of the
    /// first one.
    ///
    /// # Errors
    /// `idempotency-mismatch`, `wait-timeout`, `shutting-down`, `unauthenticated`,
    /// `input-interrupted` if the first call with the key has no answer; if the storage cannot be
    /// read.
    pub async fn begin(&self, terms: InputTerms) -> Result<BegunInput, Failure> {
        let ended = CancellationToken::new();
        let hang_up = ended.clone().drop_guard();
        let InputTerms { requester, credential, reference, key, limit } = terms;
        let InputCallsParts { callers, supervisor, clock, .. } = &*self.0;
        let (shutdown, callers) = (supervisor.shutdown_token(), Arc::clone(callers));
        let ends = CallEnds::new(ended, shutdown, callers, credential, limit, clock.clone());
        let mut claim = None;
        if let Some(key) = key {
            match ends.or(self.0.records.claim(key)).await?? {
                ClaimedInput::New(new) => claim = Some(new),
                ClaimedInput::Answered(answer) => return Ok(BegunInput::Repeat(result_of(answer))),
            }
        }
        Ok(BegunInput::New(NewInput { requester, reference, claim, ends, hang_up }))
    }

    /// Sends the input of a call, after the calls for the same machine that came before it. If the
    /// future is dropped, the call ends after its current stroke and releases its keys.
    ///
    /// # Errors
    /// - before the first message: the failures of the right to drive and of the screen,
    ///   `queue-full`, `invalid-request` for a point outside the screen, `wait-timeout`,
    ///   `shutting-down`, `unauthenticated`
    /// - after it: `input-interrupted`, with the cause in `errors` and the number of events in
    ///   `sent`
    pub async fn run(
        &self,
        new: NewInput,
        machine: Arc<Machine>,
        list: InputList<Until>,
    ) -> Result<InputDone, Failure> {
        let NewInput { requester, reference, claim, ends, hang_up: _hang_up } = new;
        let with_machine = |failure: Failure| failure.with_machine(&machine.id, &machine.name);
        self.0.screens.may_drive(&requester, &machine).map_err(with_machine)?;
        let place = self.0.lanes.enter(&machine, self.0.clock.elapsed())?;
        let call = InputCall { requester, reference, machine: Arc::clone(&machine), list };
        let parts = Arc::clone(&self.0);
        let task = async move { parts.perform(&call, place, &ends, claim.as_ref()).await };
        let ended = self.0.supervisor.spawn_isolated("input", task).join().await;
        let result = ended.unwrap_or_else(|_| {
            // The panic hook has logged the message and the place of the panic.
            let detail = "otter failed while it typed, so the machine may have got a part of the \
                          input. Look at the screen, then decide what to type.";
            Err(Failure::new(FailureKind::InputInterrupted, detail))
        });
        result.map_err(with_machine)
    }
}

impl InputCallsParts {
    async fn perform(
        &self,
        call: &InputCall,
        place: LanePlace,
        ends: &CallEnds,
        claim: Option<&KeyClaim>,
    ) -> Result<InputDone, Failure> {
        let InputCall { requester, machine, .. } = call;
        let turn = ends.or(place.turn()).await?;
        let machine = self.current(machine)?;
        let right = self.screens.may_drive(requester, &machine)?;
        let user = self.screens.use_screen(&machine)?;
        let limit = OPEN_LIMIT.min(ends.left());
        ends.or(user.opened(limit)).await??;
        // Recordings of the machine leave a secret out, from before its first key on.
        let _secret = call.list.secret.then(|| self.pauses.begin(&machine.id));
        let mut run = InputRun::new(self, call, machine, right, user, &turn, ends, claim);
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
            Failure::new(FailureKind::MachineGone, detail)
        })
    }
}

/// The result of the first call, for a repeat.
fn result_of(answer: InputAnswer) -> Result<InputDone, Failure> {
    let InputAnswer { sent, finished_at, interruption, result: _ } = answer;
    match interruption {
        None => Ok(InputDone { sent, finished_at }),
        Some(failure) => Err(Failure { sent: Some(sent), ..*failure }),
    }
}
