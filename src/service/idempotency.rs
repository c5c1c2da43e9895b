//! Idempotency keys. Of all calls with one key, only the first starts a job or a lease. The other
//! calls wait until it is started, and get the job or lease of the first call.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::storage_watch::store_failure;
use crate::domain::failure::{Failure, FailureKind};
use crate::fail_points::fail_point;
use crate::storage::{IdempotencyKey, KeyOwner, Storage};

/// The keys of the calls to one service.
pub struct IdempotencyKeys {
    store: Arc<dyn Storage>,
    claims: Arc<Claims>,
}

/// The result of the claim of an idempotency key.
#[derive(Debug)]
pub enum Claimed<T> {
    /// The key is new: the call starts a job or lease.
    New(KeyClaim),
    /// The job or lease that an earlier call with this key and the same request started.
    Used(T),
}

/// A claimed key. No other call can claim the key until the last clone of this value is dropped. A
/// call keeps its claim until its job or lease is committed together with the key, or is refused.
#[derive(Clone)]
pub struct KeyClaim(Arc<Claim>);

struct Claim {
    key: IdempotencyKey,
    claims: Arc<Claims>,
}

/// The keys that are claimed at present.
#[derive(Default)]
struct Claims {
    claimed: Mutex<HashSet<ScopedKey>>,
    released: Notify,
}

/// A key with its scope: the caller, the method, the path, and the key.
type ScopedKey = (String, String, String, String);

impl IdempotencyKeys {
    /// The keys that the storage has, of which none is claimed.
    #[must_use]
    pub fn new(store: Arc<dyn Storage>) -> Self {
        Self { store, claims: Arc::default() }
    }

    /// Waits until no other call has claimed the key, claims the key, and looks it up in the
    /// storage.
    ///
    /// # Parameters
    /// - `started`: returns the job or lease of the key's first call, if it is of the kind that
    ///   this call starts.
    ///
    /// # Errors
    /// - `idempotency-mismatch` if the key was used for another request
    /// - if the storage cannot be read
    pub async fn claim<T>(
        &self,
        key: IdempotencyKey,
        started: impl FnOnce(KeyOwner) -> Option<T>,
    ) -> Result<Claimed<T>, Failure> {
        let claim = self.reserve(key).await;
        fail_point!("key");
        let key = claim.key();
        let Some(kept) = self.store.find_key(key).await.map_err(|error| store_failure(&error))?
        else {
            return Ok(Claimed::New(claim));
        };
        let first = Some(kept.owner).filter(|_| kept.fingerprint_matches).and_then(started);
        let first = first.ok_or_else(|| mismatch(&key.key))?;
        fail_point!("replay");
        Ok(Claimed::Used(first))
    }

    /// Waits until no other call claims the key, and claims it, without a look into the storage.
    pub async fn reserve(&self, key: IdempotencyKey) -> KeyClaim {
        Claims::claim(&self.claims, key).await
    }
}

impl KeyClaim {
    /// The claimed key.
    #[must_use]
    pub fn key(&self) -> &IdempotencyKey {
        &self.0.key
    }
}

impl fmt::Debug for KeyClaim {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("KeyClaim").field(self.key()).finish()
    }
}

impl Claims {
    async fn claim(claims: &Arc<Self>, key: IdempotencyKey) -> KeyClaim {
        loop {
            let released = claims.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if claims.lock().insert(scoped_key(&key)) {
                return KeyClaim(Arc::new(Claim { key, claims: Arc::clone(claims) }));
            }
            released.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<ScopedKey>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().remove(&scoped_key(&self.key));
        self.claims.released.notify_waiters();
    }
}

fn scoped_key(key: &IdempotencyKey) -> ScopedKey {
    let IdempotencyKey { caller, method, path, key, fingerprint: _, created_at: _ } = key;
    (caller.clone(), method.clone(), path.clone(), key.clone())
}

/// The failure of a key that was used for another request.
#[must_use]
pub fn mismatch(key: &str) -> Failure {
    let detail =
        format!("The Idempotency-Key {key:?} was used before for another request; use a new key.");
    Failure::new(FailureKind::IdempotencyMismatch, detail)
}
