//! Idempotency keys: which call started which job or lease, so that the same call made again starts no second one.

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

/// What came of inserting a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    New,
    /// The key is known: nothing was written.
    Existing {
        job: JobId,
        fingerprint_matches: bool,
    },
}

/// A known key of a call that started a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptKey {
    pub job: JobId,
    pub fingerprint_matches: bool,
}

/// A known key of a call that asked for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptLeaseKey {
    pub lease: LeaseId,
    pub fingerprint_matches: bool,
}
