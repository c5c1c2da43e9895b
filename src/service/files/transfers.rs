//! How many files are transferred at once: a few run, and some wait for their turn, in the order in
//! which they came.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::failure::{Failure, FailureKind};

/// The number of transfers that run at once. A host serves few connections well.
const RUNNING: usize = 4;

/// The number of transfers that wait.
const WAITING: usize = 16;

/// When a caller whose transfer found no place may try again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The transfers of one host.
#[derive(Clone, Debug)]
pub struct Transfers {
    places: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

/// The place of a transfer that waits for its turn. It is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    place: OwnedSemaphorePermit,
    running: Arc<Semaphore>,
}

/// The right to transfer, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _place: OwnedSemaphorePermit,
    /// `None` if the semaphore was closed, which never happens.
    _running: Option<OwnedSemaphorePermit>,
}

impl Default for Transfers {
    fn default() -> Self {
        let semaphore = |count| Arc::new(Semaphore::new(count));
        Self { places: semaphore(RUNNING + WAITING), running: semaphore(RUNNING) }
    }
}

impl Transfers {
    /// Takes a place, without a wait.
    ///
    /// # Errors
    /// `queue-full`
    pub fn enter(&self) -> Result<Place, Failure> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let detail = format!(
                "{RUNNING} transfers of files run and {WAITING} wait, which is as many as otter \
                 allows. Nothing was transferred."
            );
            let failure = Failure::new(FailureKind::QueueFull, detail);
            return Err(Failure { retry_after: Some(RETRY_AFTER), ..failure });
        };
        Ok(Place { place, running: Arc::clone(&self.running) })
    }
}

impl Place {
    /// Waits for the turn of this transfer.
    pub async fn turn(self) -> Turn {
        let Self { place, running } = self;
        Turn { _place: place, _running: running.acquire_owned().await.ok() }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn four_run_and_sixteen_wait() {
        let transfers = Transfers::default();
        let mut turns = Vec::new();
        for _ in 0..RUNNING {
            turns.push(transfers.enter().unwrap().turn().now_or_never().unwrap());
        }
        let mut waiting: Vec<_> =
            (0..WAITING).map(|_| Box::pin(transfers.enter().unwrap().turn())).collect();
        assert!(waiting.iter_mut().all(|turn| turn.now_or_never().is_none()));
        let refused = transfers.enter().unwrap_err();
        assert_eq!(
            (refused.kind, refused.retry_after),
            (FailureKind::QueueFull, Some(RETRY_AFTER))
        );
        drop(turns.pop());
        assert!(waiting.remove(0).now_or_never().is_some(), "the first one has its turn");
        assert!(transfers.enter().is_ok());
    }
}
