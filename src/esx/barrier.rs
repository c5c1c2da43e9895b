//! The callers of `Hypervisor::barrier`. One round trip serves all callers that joined before it
//! began. Callers that arrive during a round wait for the next one.

use tokio::sync::oneshot;

use crate::hypervisor::{HostError, HostErrorKind};

/// Notifies one caller of `Hypervisor::barrier`.
pub type Waiter = oneshot::Sender<Result<(), HostError>>;

/// The callers, split by whether their round trip has begun.
#[derive(Debug, Default)]
pub struct Barriers {
    waiting: Vec<Waiter>,
    in_round: Vec<Waiter>,
}

impl Barriers {
    /// Adds a caller to the next round.
    pub fn join(&mut self, waiter: Waiter) {
        self.waiting.retain(|waiter| !waiter.is_closed());
        self.waiting.push(waiter);
    }

    /// Begins a round with all waiting callers. Returns whether a round has any.
    pub fn begin_round(&mut self) -> bool {
        self.in_round.append(&mut self.waiting);
        !self.in_round.is_empty()
    }

    /// Ends the round, after the observer has received everything that the round trip returned.
    pub fn complete_round(&mut self) {
        for waiter in self.in_round.drain(..) {
            // It fails if the caller no longer waits.
            let _ = waiter.send(Ok(()));
        }
    }

    /// Fails all callers as `Unreachable`, because there is no session.
    pub fn fail_all(&mut self, reason: &str) {
        for waiter in self.in_round.drain(..).chain(self.waiting.drain(..)) {
            let _ = waiter.send(Err(HostError::new(HostErrorKind::Unreachable, reason)));
        }
    }
}
