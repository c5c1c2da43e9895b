//! Who waits for the observer to have been told everything. One round trip serves all who asked
//! before it began; those who come later ride on the next.

use tokio::sync::oneshot;

use crate::hypervisor::{HostError, HostErrorKind};

/// One caller of `Hypervisor::barrier`.
pub type Waiter = oneshot::Sender<Result<(), HostError>>;

/// The callers, by whether their round trip has begun.
#[derive(Debug, Default)]
pub struct Barriers {
    waiting: Vec<Waiter>,
    in_round: Vec<Waiter>,
}

impl Barriers {
    /// Somebody asks.
    pub fn join(&mut self, waiter: Waiter) {
        self.waiting.retain(|waiter| !waiter.is_closed());
        self.waiting.push(waiter);
    }

    /// A round trip begins: true where anybody wants it.
    pub fn begin_round(&mut self) -> bool {
        self.in_round.append(&mut self.waiting);
        !self.in_round.is_empty()
    }

    /// The round trip ended, and everything that it brought was told.
    pub fn complete_round(&mut self) {
        for waiter in self.in_round.drain(..) {
            // One that hung up needs no answer.
            let _ = waiter.send(Ok(()));
        }
    }

    /// The session is lost.
    pub fn fail_all(&mut self, reason: &str) {
        for waiter in self.in_round.drain(..).chain(self.waiting.drain(..)) {
            let _ = waiter.send(Err(HostError::new(HostErrorKind::Unreachable, reason)));
        }
    }
}
