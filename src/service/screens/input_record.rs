//! The records of calls that send input: a call with an `Idempotency-Key` types at most once, also
//! if otter dies while it types.
//!
//! ```text
//! claimed ─► (nothing is stored: a repeat starts again)
//!    │ begin: before the first message to the machine
//!    ▼
//! begun ─────► answered        a repeat gets the answer
//!    │ otter dies
//!    ▼
//! begun, without an answer     a repeat fails with `input-interrupted`
//! ```

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;

use crate::domain::audit::AuditRecord;
use crate::domain::failure::{Failure, FailureKind};
use crate::service::idempotency::{IdempotencyKeys, KeyClaim, mismatch};
use crate::service::storage_watch::{store_failure, write_failure};
use crate::storage::{IdempotencyKey, InputAnswer, Storage, StorageError};

/// The keys and answers of calls that send input.
pub struct InputRecords {
    store: Arc<dyn Storage>,
    keys: IdempotencyKeys,
    fingerprints: SecretBox<[u8; 32]>,
}

/// The result of a claim.
#[derive(Debug)]
pub enum ClaimedInput {
    /// The key is new: the call sends its input.
    New(KeyClaim),
    /// The answer of the first call with this key.
    Answered(InputAnswer),
}

impl InputRecords {
    /// # Parameters
    /// - `fingerprints`: the key of the HMAC of requests. A request can hold a password, which a
    ///   plain hash in the store would let a reader guess.
    #[must_use]
    pub fn new(store: Arc<dyn Storage>, fingerprints: SecretBox<[u8; 32]>) -> Self {
        let keys = IdempotencyKeys::new(Arc::clone(&store));
        Self { store, keys, fingerprints }
    }

    /// The fingerprint of a request: the HMAC-SHA256 of its body.
    #[must_use]
    pub fn fingerprint(&self, body: &[u8]) -> [u8; 32] {
        // HMAC accepts a key of any length, so the fingerprint is never the default.
        let mac = Hmac::<Sha256>::new_from_slice(self.fingerprints.expose_secret());
        let mac = mac.map(|mac| mac.chain_update(body).finalize().into_bytes().into());
        mac.unwrap_or_default()
    }

    /// Waits until no other call with this key runs, claims the key, and finds its answer.
    ///
    /// # Errors
    /// - `idempotency-mismatch` if the key was used for another request
    /// - `input-interrupted` if the first call typed and has no answer, because otter died
    /// - if the storage cannot be read
    pub async fn claim(&self, key: IdempotencyKey) -> Result<ClaimedInput, Failure> {
        let claim = self.keys.reserve(key).await;
        let key = claim.key();
        let stored = self.store.find_input(key).await.map_err(|error| store_failure(&error))?;
        let Some(stored) = stored else { return Ok(ClaimedInput::New(claim)) };
        if !stored.fingerprint_matches {
            return Err(mismatch(&key.key));
        }
        stored.answer.map(ClaimedInput::Answered).ok_or_else(died)
    }

    /// Commits the key of a call before its first message to the machine.
    ///
    /// # Errors
    /// If the storage refuses the write. The key may be stored then, so a repeat of the call may
    /// fail with `input-interrupted` although it typed nothing.
    pub async fn begin(&self, claim: &KeyClaim) -> Result<(), Failure> {
        let begun = self.store.insert_input(claim.key()).await;
        begun.map_err(|error| write_failure(&error))
    }

    /// Commits the audit record of a call, and its answer if it has a key. If the storage refuses
    /// the write, the audit record is only logged, and a repeat fails with `input-interrupted`.
    pub async fn finish(&self, claim: Option<&KeyClaim>, answer: InputAnswer, record: AuditRecord) {
        let answer = claim.map(|claim| (claim.key().clone(), answer));
        if let Err(error) = self.store.save_input_answer(answer, vec![record.clone()]).await {
            if !matches!(error, StorageError::Closed) {
                tracing::error!(%error, "the answer of a call of input was not stored");
            }
            crate::telemetry::audit::log(&record);
        }
    }
}

/// The failure of a repeat whose first call has no answer.
fn died() -> Failure {
    let detail = "otter died while the first call with this Idempotency-Key sent its input, or \
                  could not store its answer, so the machine may have got a part of it. Look at \
                  the machine, then decide what to send.";
    Failure::new(FailureKind::InputInterrupted, detail)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::domain::audit::{AuditAction, AuditOutcome};
    use crate::domain::input::SentInput;
    use crate::store::Store;

    async fn records() -> InputRecords {
        let store = Store::in_memory().await.unwrap();
        let writer = store.clone();
        tokio::spawn(async move { writer.run(CancellationToken::new()).await });
        InputRecords::new(Arc::new(store), SecretBox::new(Box::new([7; 32])))
    }

    fn key(records: &InputRecords, body: &str) -> IdempotencyKey {
        IdempotencyKey {
            caller: "ci".to_owned(),
            method: "POST".to_owned(),
            path: "/v1/machines/16/screen/input".to_owned(),
            key: "one".to_owned(),
            fingerprint: records.fingerprint(body.as_bytes()),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn answer() -> InputAnswer {
        InputAnswer {
            sent: SentInput { events: 1, characters: 5 },
            finished_at: Timestamp::UNIX_EPOCH,
            interruption: None,
            result: None,
        }
    }

    fn record() -> AuditRecord {
        AuditRecord::new(Timestamp::UNIX_EPOCH, AuditAction::ScreenInput, AuditOutcome::Done)
    }

    async fn claim(records: &InputRecords, body: &str) -> Result<ClaimedInput, FailureKind> {
        records.claim(key(records, body)).await.map_err(|failure| failure.kind)
    }

    #[tokio::test]
    async fn a_repeat_gets_the_answer_of_the_first_call() {
        let records = records().await;
        let Ok(ClaimedInput::New(first)) = claim(&records, "{}").await else { panic!("not new") };
        records.begin(&first).await.unwrap();
        records.finish(Some(&first), answer(), record()).await;
        drop(first);
        let repeated = claim(&records, "{}").await;
        assert!(matches!(repeated, Ok(ClaimedInput::Answered(found)) if found == answer()));
        let other = claim(&records, "{ }").await;
        assert_eq!(other.err(), Some(FailureKind::IdempotencyMismatch));
    }

    #[tokio::test]
    async fn a_call_that_sent_nothing_may_be_repeated() {
        let records = records().await;
        for _ in 0..2 {
            assert!(matches!(claim(&records, "{}").await, Ok(ClaimedInput::New(_))));
        }
    }

    #[tokio::test]
    async fn a_repeat_after_a_crash_is_refused() {
        let records = records().await;
        let Ok(ClaimedInput::New(first)) = claim(&records, "{}").await else { panic!("not new") };
        records.begin(&first).await.unwrap();
        // The claim of a process ends with it.
        drop(first);
        let repeated = claim(&records, "{}").await;
        assert_eq!(repeated.err(), Some(FailureKind::InputInterrupted));
    }

    #[tokio::test]
    async fn a_repeat_waits_for_the_first_call() {
        let records = Arc::new(records().await);
        let Ok(ClaimedInput::New(first)) = claim(&records, "{}").await else { panic!("not new") };
        records.begin(&first).await.unwrap();
        let waiting = Arc::clone(&records);
        let repeat = tokio::spawn(async move { claim(&waiting, "{}").await });
        tokio::task::yield_now().await;
        assert!(!repeat.is_finished());
        records.finish(Some(&first), answer(), record()).await;
        drop(first);
        let repeated = repeat.await.unwrap();
        assert!(matches!(repeated, Ok(ClaimedInput::Answered(found)) if found == answer()));
    }

    #[tokio::test]
    async fn the_fingerprint_needs_the_key() {
        let records = records().await;
        let other =
            InputRecords::new(Arc::clone(&records.store), SecretBox::new(Box::new([8; 32])));
        assert_eq!(records.fingerprint(b"hunter2"), records.fingerprint(b"hunter2"));
        assert_ne!(records.fingerprint(b"hunter2"), records.fingerprint(b"hunter3"));
        assert_ne!(records.fingerprint(b"hunter2"), other.fingerprint(b"hunter2"));
    }
}
