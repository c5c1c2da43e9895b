//! How long what is kept, and how much was deleted.

use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);

/// How long to keep what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    pub jobs: RecordRetention,
    pub leases: RecordRetention,
    /// Idempotency keys, counted from the call.
    pub keys: Duration,
    pub audit: AuditRetention,
}

/// How much of the audit to keep. Both limits apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRetention {
    pub time: Duration,
    /// About as many bytes as its rows take in the file.
    pub max_bytes: u64,
}

impl Default for AuditRetention {
    fn default() -> Self {
        Self { time: DAY * 365, max_bytes: 256 * 1024 * 1024 }
    }
}

/// How many rows of the audit were deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgedAudit {
    pub by_age: u64,
    pub by_bytes: u64,
}

/// How long to keep what has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRetention {
    /// Counted from its end,
    pub time: Duration,
    /// but this many of the last to end whatever their age,
    pub at_least: u32,
    /// and never more than this many.
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

/// How much was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub jobs: u64,
    pub leases: u64,
    /// Of both.
    pub keys: u64,
}
