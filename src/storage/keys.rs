//! Idempotency keys: which call started which job or lease, so that the same call made again starts
//! no second one.

use jiff::Timestamp;

use crate::domain::ids::{JobId, LeaseId};

/// The key of one call. Two calls are the same if caller, method, path and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    pub caller: String,
    pub method: String,
    /// As the caller wrote it.
    pub path: String,
    pub key: String,
    /// SHA-256 over body and query; tells another request under the same key.
    pub fingerprint: [u8; 32],
    pub created_at: Timestamp,
}

/// What a call with a key started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOwner {
    Job(JobId),
    Lease(LeaseId),
}

/// A key that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredKey {
    pub owner: KeyOwner,
    pub fingerprint_matches: bool,
}

impl KeyOwner {
    /// The job that the call started, if it started one.
    #[must_use]
    pub const fn job(self) -> Option<JobId> {
        match self {
            Self::Job(id) => Some(id),
            Self::Lease(_) => None,
        }
    }

    /// The lease that the call asked for, if it asked for one.
    #[must_use]
    pub const fn lease(self) -> Option<LeaseId> {
        match self {
            Self::Lease(id) => Some(id),
            Self::Job(_) => None,
        }
    }
}
