//! Whether the storage accepts writes. While it refuses them, callers get a failure, and otter
//! tries to write until the storage accepts a write again.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::storage::{Storage, StorageError};

/// The time between two attempts to write to a storage that refuses writes.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Watches whether the storage refuses writes. Clones share the storage.
#[derive(Clone)]
pub struct StorageWatch {
    store: Arc<dyn Storage>,
    clock: Clock,
}

impl StorageWatch {
    /// Watches this storage.
    #[must_use]
    pub fn new(store: Arc<dyn Storage>, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// Why the storage refuses writes; `None` while it accepts them.
    #[must_use]
    pub fn refusal(&self) -> Option<Failure> {
        self.store.refusal().map(|cause| unavailable(&cause))
    }

    /// Repeats a write while the storage refuses writes, until `stop`. Without it, otter would
    /// notice only at the next write of a caller that the storage works again.
    pub async fn watch(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.clock.sleep(RETRY_INTERVAL) => {}
            }
            if self.store.refusal().is_some() {
                // The storage records whether it refused this write.
                let _ = self.store.record_last_seen(self.clock.now()).await;
            }
        }
    }
}

/// The failure of a call if the storage fails. Logs the error.
pub fn store_failure(error: &StorageError) -> Failure {
    tracing::error!(error = error as &dyn std::error::Error, "the store failed");
    Failure::new(FailureKind::Internal, "the store failed")
}

/// The failure of a call whose write failed or was refused. Logs the error.
pub fn write_failure(error: &StorageError) -> Failure {
    match error.refusal() {
        Some(cause) => {
            tracing::error!(cause, "the store refused a write");
            unavailable(cause)
        }
        None => store_failure(error),
    }
}

/// The failure of calls while the storage refuses writes.
///
/// # Parameters
/// - `cause`: the message of the database
#[must_use]
pub fn unavailable(cause: &str) -> Failure {
    let detail = format!(
        "The store in the state directory refuses writes ({cause}): no job or lease is accepted, \
         and none ends, until it takes them again. Make room on its disk, or make it writable; \
         otter goes on by itself."
    );
    Failure::new(FailureKind::StorageUnavailable, detail)
}
