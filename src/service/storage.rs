//! Whether the store takes writes: what callers are told while it does not, and the attempt to write that finds out
//! when it does again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::store::Store;

/// How often a store that refuses writes is tried.
const TRY_EVERY: Duration = Duration::from_secs(2);

/// Looks after the store. Clones share it.
#[derive(Clone)]
pub struct Storage {
    store: Store,
    clock: Clock,
}

impl Storage {
    /// Looks after this store.
    #[must_use]
    pub const fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// Why the store refuses writes; `None` while it takes them.
    #[must_use]
    pub fn refusal(&self) -> Option<Failure> {
        self.store.refusal().map(|cause| unavailable(&cause))
    }

    /// Tries a store that refuses writes, so that it is known to take them again even if nobody else writes. Runs
    /// until told to stop.
    pub async fn watch(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.clock.sleep(TRY_EVERY) => {}
            }
            if self.store.refusal().is_some() {
                // Whether it was refused again is in the store.
                let _ = self.store.note_seen(self.clock.now()).await;
            }
        }
    }
}

/// What callers are told while the store refuses writes.
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
