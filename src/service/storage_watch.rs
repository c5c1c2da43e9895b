//! Watches whether the storage accepts writes. While the storage refuses writes, callers get a
//! failure, and otter goes on trying to write until the storage accepts a write again.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::storage::{Storage, StorageError};

/// The time between two attempts to write to a storage that refuses writes.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Watches whether the storage refuses writes. Clones watch the same storage.
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

    /// Repeats a small write while the storage refuses writes, until `stop` is cancelled. Without
    /// these writes, otter would notice only at the next write of a caller that the storage works
    /// again.
    pub async fn watch(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.clock.sleep(RETRY_INTERVAL) => {}
            }
            if self.store.refusal().is_some() {
                // The result is ignored, because the storage itself records whether it refused this
                // write.
                let _ = self.store.record_last_seen(self.clock.now()).await;
            }
        }
    }
}

/// The failure of a call that fails because of this error of the storage. Logs the error.
pub fn store_failure(error: &StorageError) -> Failure {
    tracing::error!(error = error as &dyn std::error::Error, "the store failed");
    Failure::new(FailureKind::Internal, "the store failed")
}

/// The failure of a call whose write failed, or was refused by the storage. Logs the error.
pub fn write_failure(error: &StorageError) -> Failure {
    match error {
        StorageError::Refused { message: cause, .. } => {
            tracing::error!(cause, "the store refused a write");
            unavailable(cause)
        }
        StorageError::Closed => {
            tracing::error!("the store takes no more writes");
            let detail = "otter is stopping, and stores nothing more; try again once it is back.";
            Failure::new(FailureKind::ShuttingDown, detail)
        }
        _ => store_failure(error),
    }
}

/// The failure of a call that starts a job or a lease, if its write failed or was refused by the
/// storage. Logs the error. The call gets a special failure if the write may be committed and the
/// call has no idempotency key, because a repeat could then start a second job or lease.
#[must_use]
pub fn start_failure(error: &StorageError, has_key: bool) -> Failure {
    let failure = write_failure(error);
    if has_key || !error.may_be_committed() { failure } else { unconfirmed_start() }
}

/// The failure of a call without an idempotency key whose job or lease may be stored.
#[must_use]
pub fn unconfirmed_start() -> Failure {
    let detail = "otter could not confirm that it stored the request, so the request may or may \
                  not take effect. Look before you repeat it, and send an Idempotency-Key with \
                  requests that you may repeat.";
    Failure::new(FailureKind::OutcomeUnknown, detail)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_start_without_a_key_that_may_be_committed_is_unknown() {
        let refused = |may_be_committed| StorageError::Refused {
            message: "disk I/O error".to_owned(),
            may_be_committed,
            source: Arc::from(Box::<dyn std::error::Error + Send + Sync>::from("disk I/O error")),
        };
        for (error, has_key, kind) in [
            (refused(false), false, FailureKind::StorageUnavailable),
            (refused(false), true, FailureKind::StorageUnavailable),
            (refused(true), false, FailureKind::OutcomeUnknown),
            (refused(true), true, FailureKind::StorageUnavailable),
            (StorageError::Closed, false, FailureKind::OutcomeUnknown),
            (StorageError::Closed, true, FailureKind::ShuttingDown),
            (StorageError::unreadable("job 1", "no JSON"), false, FailureKind::Internal),
        ] {
            assert_eq!(start_failure(&error, has_key).kind, kind, "{error:?}, key: {has_key}");
        }
        assert_eq!(write_failure(&refused(true)).kind, FailureKind::StorageUnavailable);
    }
}
