//! Idempotency keys. The storage remembers with each key which job or lease a call started, so that
//! a repetition of the call does not start a second one.

use jiff::Timestamp;

use crate::domain::ids::{JobId, LeaseId};

/// The idempotency key of one call. Two calls count as the same call if caller, method, path and
/// key are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    pub caller: String,
    pub method: String,
    /// The path of the request, exactly as the caller wrote it.
    pub path: String,
    pub key: String,
    /// The SHA-256 of body and query; an HMAC-SHA256 if the body can hold a secret. It detects a
    /// different request with the same key.
    pub fingerprint: [u8; 32],
    pub created_at: Timestamp,
}

/// The job or the lease that a call with a key started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOwner {
    Job(JobId),
    Lease(LeaseId),
}

/// What the storage knows of an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredKey {
    pub owner: KeyOwner,
    /// Whether the call has the same body and query as the call with which the key was stored.
    pub fingerprint_matches: bool,
}

impl KeyOwner {
    /// The job that the call started. `None` if the call started a lease.
    #[must_use]
    pub const fn job(self) -> Option<JobId> {
        match self {
            Self::Job(id) => Some(id),
            Self::Lease(_) => None,
        }
    }

    /// The lease that the call started. `None` if the call started a job.
    #[must_use]
    pub const fn lease(self) -> Option<LeaseId> {
        match self {
            Self::Lease(id) => Some(id),
            Self::Job(_) => None,
        }
    }
}
