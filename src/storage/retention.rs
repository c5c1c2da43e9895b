//! The retention of stored records (how long they are kept), and the numbers of records that a
//! purge deleted.

use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);

/// How long the storage keeps each kind of record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    pub jobs: RecordRetention,
    pub leases: RecordRetention,
    /// How long an idempotency key is kept, counted from the call that had the key.
    pub keys: Duration,
    pub audit: AuditRetention,
}

/// How much of the audit is kept. Both limits apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRetention {
    /// The maximum age of an audit record.
    pub time: Duration,
    /// The maximum size of all audit records in the database file, in bytes. The size is
    /// approximate.
    pub max_bytes: u64,
}

impl Default for AuditRetention {
    fn default() -> Self {
        Self { time: DAY * 365, max_bytes: 256 * 1024 * 1024 }
    }
}

/// How many audit records a purge deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgedAudit {
    /// How many records were deleted because they were too old.
    pub by_age: u64,
    /// How many records were deleted because the audit was too large.
    pub by_bytes: u64,
}

/// How long ended jobs or ended leases are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRetention {
    /// How long a job or lease is kept, counted from its end.
    pub time: Duration,
    /// How many jobs or leases are kept whatever their age is. They are those that ended last.
    pub at_least: u32,
    /// The maximum number of jobs or leases that are kept. They are those that ended last.
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

/// How many records of each kind a purge deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub jobs: u64,
    pub leases: u64,
    /// Idempotency keys of jobs, of leases and of input.
    pub keys: u64,
}
