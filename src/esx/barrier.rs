//! Who waits for the observer to have been told everything. One round trip serves all who asked
//! before it began; those who come later ride on the next.

use tokio::sync::oneshot;

use crate::hypervisor::{HostError, HostErrorKind};

/// One caller of `Hypervisor::barrier`.
pub type Waiter = oneshot::Sender<Result<(), HostError>>;

/// The callers, by whether their round trip has begun.
#[derive(Debug, Default)]
pub struct Barriers {
    queued: Vec<Waiter>,
    riding: Vec<Waiter>,
}

impl Barriers {
    /// Somebody asks.
    pub fn queue(&mut self, waiter: Waiter) {
        self.queued.retain(|waiter| !waiter.is_closed());
        self.queued.push(waiter);
    }

    /// A round trip begins: true where anybody wants it.
    pub fn board(&mut self) -> bool {
        self.riding.append(&mut self.queued);
        !self.riding.is_empty()
    }

    /// The round trip ended, and everything that it brought was told.
    pub fn arrive(&mut self) {
        for waiter in self.riding.drain(..) {
            // One that hung up needs no answer.
            let _ = waiter.send(Ok(()));
        }
    }

    /// The session is lost.
    pub fn fail(&mut self, reason: &str) {
        for waiter in self.riding.drain(..).chain(self.queued.drain(..)) {
            let _ = waiter.send(Err(HostError::new(HostErrorKind::Unreachable, reason)));
        }
    }
}
