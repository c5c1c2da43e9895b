//! Idempotency keys whose call is being committed: one call of a key at a time, the others wait for it.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::storage::IdempotencyKey;

/// The keys that are claimed now.
#[derive(Debug, Default)]
pub struct Keys {
    claimed: Mutex<HashSet<Scope>>,
    released: Notify,
}

/// A key within its scope: caller, method, path, key.
type Scope = (String, String, String, String);

/// A claimed key; dropping it lets the next caller in.
#[derive(Debug)]
pub struct Claim<'a> {
    keys: &'a Keys,
    scope: Scope,
}

impl Keys {
    /// Claims a key, once nobody else has it.
    pub async fn claim(&self, key: &IdempotencyKey) -> Claim<'_> {
        let IdempotencyKey { caller, method, path, key, fingerprint: _, created_at: _ } = key;
        let scope: Scope = (caller.clone(), method.clone(), path.clone(), key.clone());
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if self.lock().insert(scope.clone()) {
                return Claim { keys: self, scope };
            }
            released.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Scope>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.scope);
        self.keys.released.notify_waiters();
    }
}
