//! What ends a call of input to a machine before it sent everything: its client hung up, its token
//! is not valid any more, its time is up, or otter stops.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::callers::{Callers, Credential};
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind, InputError};

/// What ends a call before its last event.
pub struct CallEnds {
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
    /// - `shutdown`: cancelled when otter stops.
    /// - `callers`, `credential`: what identified the caller. The call ends with it.
    /// - `limit`: the longest time of the call, from now on.
    #[must_use]
    pub fn new(
        hung_up: CancellationToken,
        shutdown: CancellationToken,
        callers: Arc<Callers>,
        credential: Credential,
        limit: Duration,
        clock: Clock,
    ) -> Self {
        let deadline = clock.elapsed() + limit;
        Self { hung_up, shutdown, callers, credential, deadline, clock }
    }

    /// Waits for `work`, unless the call must end before.
    ///
    /// # Errors
    /// As [`CallEnds::ended`].
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
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
    pub async fn ended(&self) -> Failure {
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
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
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
    #[must_use]
    pub fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.clock.elapsed())
    }

    fn time_up() -> Failure {
        let detail = "The time of the call was up before all its input was sent.";
        Failure::new(FailureKind::WaitTimeout, detail)
    }
}

/// The detail of a failure that ended a call after its first message, without what holds only for a
/// call that is refused.
#[must_use]
pub fn reason_after_input(detail: &str) -> String {
    let of_refusals = ["; nothing was done", " Nothing was sent.", "; try again when it is back"];
    of_refusals.iter().fold(detail.to_owned(), |detail, words| detail.replace(words, ""))
}
