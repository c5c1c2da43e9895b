//! Whether the store takes writes: the problem that callers get while it does not or if it fails,
//! and the attempts to write that find out when it does again.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::storage::{Storage, StorageError};

/// How often otter tries a store that refuses writes.
const TRY_EVERY: Duration = Duration::from_secs(2);

/// Watches whether the storage refuses writes. Clones share it.
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

    /// Why the store refuses writes; `None` while it takes them.
    #[must_use]
    pub fn refusal(&self) -> Option<Failure> {
        self.store.refusal().map(|cause| unavailable(&cause))
    }

    /// Tries a store that refuses writes, until it is stopped. Without this, otter would not notice
    /// that the store works again until a caller writes.
    pub async fn watch(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.clock.sleep(TRY_EVERY) => {}
            }
            if self.store.refusal().is_some() {
                // The store itself records whether it refused the write again.
                let _ = self.store.record_last_seen(self.clock.now()).await;
            }
        }
    }
}

/// The failure of a call whose data cannot be read.
pub fn store_failure(error: &StorageError) -> Failure {
    tracing::error!(error = error as &dyn std::error::Error, "the store failed");
    Failure::new(FailureKind::Internal, "the store failed")
}

/// The failure of a call that did not happen because the store refused it.
pub fn write_failure(error: &StorageError) -> Failure {
    match error.refusal() {
        Some(cause) => {
            tracing::error!(cause, "the store refused a write");
            unavailable(cause)
        }
        None => store_failure(error),
    }
}

/// The problem that callers get while the store refuses writes.
///
/// # Parameters
/// - `cause`: SQLite's own words.
#[must_use]
pub fn unavailable(cause: &str) -> Failure {
    let detail = format!(
        "The store in the state directory refuses writes ({cause}): no job or lease is accepted, and none ends, until it \
         takes them again. Make room on its disk, or make it writable; otter goes on by itself."
    );
    Failure::new(FailureKind::StorageUnavailable, detail)
}
