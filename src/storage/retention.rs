//! The retention of stored records, and the number of records that a purge deleted.

use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);

/// The retention of each kind of record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    pub jobs: RecordRetention,
    pub leases: RecordRetention,
    /// The retention of idempotency keys, counted from the call.
    pub keys: Duration,
    pub audit: AuditRetention,
}

/// The retention of the audit. Both limits apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRetention {
    /// The maximum age of a record.
    pub time: Duration,
    /// The maximum size of all records in the database file, in bytes. The size is approximate.
    pub max_bytes: u64,
}

impl Default for AuditRetention {
    fn default() -> Self {
        Self { time: DAY * 365, max_bytes: 256 * 1024 * 1024 }
    }
}

/// The number of audit records that a purge deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgedAudit {
    /// Records that were too old.
    pub by_age: u64,
    /// Records beyond the maximum size.
    pub by_bytes: u64,
}

/// The retention of ended jobs or of ended leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRetention {
    /// How long a record is kept, counted from its end.
    pub time: Duration,
    /// The number of records that are kept regardless of their age: those that ended last.
    pub at_least: u32,
    /// The maximum number of records that are kept: those that ended last.
    pub at_most: u32,
}

impl Default for Retention {
    fn default() -> Self {
        let audit = AuditRetention::default();
        Self {
            jobs: RecordRetention::default(),
            leases: RecordRetention::default(),
            keys: DAY,
            audit,
        }
    }
}

impl Default for RecordRetention {
    fn default() -> Self {
        Self { time: DAY * 30, at_least: 10_000, at_most: 1_000_000 }
    }
}

/// The number of records that a purge deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub jobs: u64,
    pub leases: u64,
    /// Idempotency keys of jobs, of leases and of input.
    pub keys: u64,
}
