//! The committed state. The rules of each table are in the file with its name. A write that fails
//! changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use otter::domain::audit::AuditRecord;
use otter::domain::ids::{JobId, LeaseId, SnapshotId};
use otter::domain::job::Job;
use otter::domain::lease::Lease;
use otter::storage::{IdempotencyKey, InputAnswer, StorageError, StoredMachine, StoredToken};

use super::{Committed, Watcher};

#[derive(Default)]
pub struct Tables {
    pub jobs: BTreeMap<JobId, Row<Job>>,
    pub keys: BTreeMap<Call, Key<JobId>>,
    pub leases: BTreeMap<LeaseId, Row<Lease>>,
    pub lease_keys: BTreeMap<Call, Key<LeaseId>>,
    /// The lease that holds each machine.
    pub held: BTreeMap<String, LeaseId>,
    /// The keys of calls that sent input.
    pub inputs: BTreeMap<Call, Input>,
    pub machines: BTreeMap<String, StoredMachine>,
    pub fence_floor: u64,
    /// The lease under which each snapshot was created, by the key of the machine and the id of the
    /// snapshot.
    pub created_snapshots: BTreeMap<(String, SnapshotId), LeaseId>,
    pub audit: BTreeMap<i64, AuditRow>,
    pub tokens: Vec<StoredToken>,
    pub last_seen: Option<Timestamp>,
    pub watcher: Option<Watcher>,
}

impl Tables {
    pub fn notify_watcher(&mut self, committed: Committed<'_>) {
        if let Some(watcher) = &mut self.watcher {
            watcher(committed);
        }
    }
}

/// A job or a lease.
pub struct Row<T> {
    /// The position in the order of the first commits.
    pub arrival: u64,
    pub record: T,
}

pub struct AuditRow {
    pub record: AuditRecord,
    /// The bytes of this row and of all rows before it.
    pub total_bytes: u64,
}

/// The caller, method, path and key of a call.
pub type Call = (String, String, String, String);

pub struct Key<I> {
    /// The job or lease that the call started.
    pub owner: I,
    pub fingerprint: [u8; 32],
    /// The creation time, in microseconds since 1970.
    pub created_at: i64,
}

impl<I> Key<I> {
    pub fn new(key: &IdempotencyKey, owner: I) -> Self {
        Self { owner, fingerprint: key.fingerprint, created_at: key.created_at.as_microsecond() }
    }
}

/// The key of a call that sent input, with its answer.
pub struct Input {
    pub fingerprint: [u8; 32],
    /// The creation time, in microseconds since 1970.
    pub created_at: i64,
    pub answer: Option<InputAnswer>,
}

pub fn call(key: &IdempotencyKey) -> Call {
    let IdempotencyKey { caller, method, path, key, fingerprint: _, created_at: _ } = key.clone();
    (caller, method, path, key)
}

/// The arrival of the next row.
pub fn next_arrival<I, T>(rows: &BTreeMap<I, Row<T>>) -> u64 {
    rows.values().map(|row| row.arrival).max().unwrap_or_default() + 1
}

/// Records in the order of their arrival.
pub fn by_arrival<'a, T: 'a>(
    rows: impl Iterator<Item = &'a Row<T>>,
) -> impl Iterator<Item = &'a T> {
    let mut rows: Vec<&Row<T>> = rows.collect();
    rows.sort_by_key(|row| row.arrival);
    rows.into_iter().map(|row| &row.record)
}

pub fn conflict(what: &str) -> StorageError {
    StorageError::Conflict(Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(what)))
}

/// A time with the precision of a column.
pub fn to_the_microsecond(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap()
}

/// The time that was this long ago, in microseconds.
pub fn ago(now: Timestamp, duration: Duration) -> i64 {
    now.as_microsecond().saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
}

/// A number within the range of a column.
pub fn column(number: u64) -> u64 {
    number.min(i64::MAX.unsigned_abs())
}
