//! What ends a call of input to a machine before it sent everything: its client hung up, its time
//! is up, or otter stops.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::machine::Machine;

/// What ends a call before its last event.
pub struct CallEnds {
    hung_up: CancellationToken,
    shutdown: CancellationToken,
    /// The latest end, by the monotonic clock.
    deadline: Duration,
    clock: Clock,
}

impl CallEnds {
    /// # Parameters
    /// - `hung_up`: cancelled when the client hangs up.
    /// - `shutdown`: cancelled when otter stops.
    /// - `limit`: the longest time of the call, from now on.
    #[must_use]
    pub fn new(
        hung_up: CancellationToken,
        shutdown: CancellationToken,
        limit: Duration,
        clock: &Clock,
    ) -> Self {
        Self { hung_up, shutdown, deadline: clock.elapsed() + limit, clock: clock.clone() }
    }

    /// Waits for `work`, unless the call must end before.
    ///
    /// # Errors
    /// As [`CallEnds::ended`].
    pub async fn or<T>(
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
    pub async fn ended(&self, machine: &Machine) -> Failure {
        tokio::select! {
            biased;
            () = self.hung_up.cancelled() => {}
            () = self.shutdown.cancelled() => {}
            () = self.clock.sleep(self.left()) => {}
        }
        self.failure().unwrap_or_else(Self::time_up).with_machine(&machine.id, &machine.name)
    }

    /// The failure if the call must end now.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
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
