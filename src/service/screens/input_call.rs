//! One call of input: what it sends, what it needs for it, and what ends it before its last event.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Screens;
use super::conditions::ScreenConditions;
use super::input_lane::InputLanes;
use super::input_record::InputRecords;
use super::overrides::Overrides;
use super::wait::ScreenWaits;
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::domain::input::{InputList, SentInput};
use crate::domain::machine::Machine;
use crate::service::callers::{Callers, Credential};
use crate::service::idempotency::KeyClaim;
use crate::service::inventory::Inventory;
use crate::service::jobs::authorization::Requester;
use crate::storage::IdempotencyKey;
use crate::supervisor::Supervisor;

/// What calls of input need.
pub struct InputCallsParts {
    pub screens: Arc<Screens>,
    pub waits: Arc<ScreenWaits>,
    pub inventory: Arc<Inventory>,
    pub callers: Arc<Callers>,
    pub overrides: Arc<Overrides>,
    pub records: InputRecords,
    pub lanes: InputLanes,
    pub supervisor: Supervisor,
    pub clock: Clock,
}

/// Who makes a call, and its key.
pub struct InputTerms {
    pub requester: Requester,
    /// What identified the caller. The call ends with it.
    pub credential: Credential,
    /// The value of `Otter-Reference`.
    pub reference: Option<String>,
    pub key: Option<IdempotencyKey>,
    /// The longest time of the whole call.
    pub limit: Duration,
}

/// A call whose key is claimed.
pub enum BegunInput {
    New(NewInput),
    /// The call repeats an earlier one, whose answer this is.
    Repeat(Result<InputDone, Failure>),
}

/// A call that repeats no earlier one. It ends when it is dropped.
pub struct NewInput {
    pub(super) requester: Requester,
    pub(super) reference: Option<String>,
    pub(super) claim: Option<KeyClaim>,
    pub(super) ends: CallEnds,
    pub(super) hang_up: DropGuard,
}

/// What a call sends, and for whom.
pub(super) struct InputCall {
    pub requester: Requester,
    pub reference: Option<String>,
    pub machine: Arc<Machine>,
    pub list: InputList<Until>,
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
}

/// What ends a call before its last event.
pub(super) struct CallEnds {
    hung_up: CancellationToken,
    shutdown: CancellationToken,
    callers: Arc<Callers>,
    credential: Credential,
    /// The latest end, by the monotonic clock.
    deadline: Duration,
    clock: Clock,
}

impl CallEnds {
    /// # Parameters
    /// - `hung_up`: cancelled when the client hangs up.
    /// - `terms`: the caller, and the longest time of the call, from now on.
    pub(super) fn new(
        parts: &InputCallsParts,
        terms: &InputTerms,
        hung_up: CancellationToken,
    ) -> Self {
        Self {
            hung_up,
            shutdown: parts.supervisor.shutdown_token(),
            callers: Arc::clone(&parts.callers),
            credential: terms.credential,
            deadline: parts.clock.elapsed() + terms.limit,
            clock: parts.clock.clone(),
        }
    }

    /// Waits for `work`, unless the call must end before.
    ///
    /// # Errors
    /// As [`CallEnds::ended`].
    pub(super) async fn or<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            failure = self.ended() => Err(failure),
            done = work => Ok(done),
        }
    }

    /// Waits until the call must end.
    ///
    /// # Returns
    /// `shutting-down`, `unauthenticated` if the token of the caller is not valid any more, or
    /// `wait-timeout` if the time of the call is up. A client that hung up does not read the
    /// failure.
    pub(super) async fn ended(&self) -> Failure {
        tokio::select! {
            biased;
            () = self.hung_up.cancelled() => {}
            () = self.shutdown.cancelled() => {}
            () = self.callers.until_refused(self.credential) => {}
            () = self.clock.sleep(self.left()) => {}
        }
        self.failure().unwrap_or_else(Self::time_up)
    }

    /// The failure if the call must end now.
    pub(super) fn failure(&self) -> Option<Failure> {
        if self.hung_up.is_cancelled() {
            // No kind of failure is for a caller that is not there. The repeat of the call shows
            // the error.
            let detail = "The client hung up.".to_owned();
            let failure = Failure::new(FailureKind::ShuttingDown, detail.clone());
            return Some(failure.with_error(InputError {
                pointer: None,
                parameter: None,
                code: "hung-up".into(),
                detail,
            }));
        }
        if self.shutdown.is_cancelled() {
            let detail = "otter is shutting down; try again when it is back.";
            return Some(Failure::new(FailureKind::ShuttingDown, detail));
        }
        if self.callers.until_refused(self.credential).now_or_never().is_some() {
            let detail = "The token was revoked, rotated or has expired.";
            return Some(Failure::new(FailureKind::Unauthenticated, detail));
        }
        self.left().is_zero().then(Self::time_up)
    }

    /// The time that is left for the call.
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.clock.elapsed())
    }

    fn time_up() -> Failure {
        let detail = "The time of the call was up before all its input was sent.";
        Failure::new(FailureKind::WaitTimeout, detail)
    }
}
