//! Deletes ended jobs and leases, idempotency keys and audit records whose retention is over.
//!
//! A job or lease is kept while its key is kept, and a key is kept while its job or lease has not
//! ended, so that a repeated call finds both. The key of a call that sent input has no such record:
//! its age alone counts. The stored state of machines (fences, quarantines) is
//! not deleted here: the lease service holds it in memory and deletes it.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::Row as _;

use super::created_snapshots::DeleteRowsOfPurgedLeases;
use super::transaction::{Transaction, Write};
use super::{Store, microseconds};
use crate::storage::{
    AuditRetention, Purged, PurgedAudit, RecordRetention, Retention, StorageError,
};

/// The maximum number of rows that one commit deletes. Other writes are committed between two such
/// commits.
const BATCH_ROWS: i64 = 500;

pub async fn purge(
    store: &Store,
    now: Timestamp,
    retention: &Retention,
) -> Result<Purged, StorageError> {
    let Retention { jobs, leases, keys, audit: _ } = retention;
    let (jobs, keys_of_jobs) = purge_records(store, &JOBS, now, jobs, *keys).await?;
    let (leases, keys_of_leases) = purge_records(store, &LEASES, now, leases, *keys).await?;
    while store.write(DeleteRowsOfPurgedLeases).await? >= DeleteRowsOfPurgedLeases::BATCH_ROWS {}
    let keys_of_input = in_batches(store, || DeleteInputKeys(ago(now, *keys))).await?;
    Ok(Purged { jobs, leases, keys: keys_of_jobs + keys_of_leases + keys_of_input })
}

/// Deletes audit records that are too old, and then the oldest records until the rest is not too
/// large. The newest record always stays, because the id of the next record follows from it.
pub async fn purge_audit(
    store: &Store,
    now: Timestamp,
    retention: &AuditRetention,
) -> Result<PurgedAudit, StorageError> {
    let AuditRetention { time, max_bytes } = retention;
    let by_age = in_batches(store, || DeleteAudit::Before(ago(now, *time))).await?;
    let max_bytes = i64::try_from(*max_bytes).unwrap_or(i64::MAX);
    let by_bytes = in_batches(store, || DeleteAudit::Over(max_bytes)).await?;
    Ok(PurgedAudit { by_age, by_bytes })
}

/// Deletes ended jobs or ended leases, and their idempotency keys. Returns the number of deleted
/// jobs or leases, and the number of deleted keys.
async fn purge_records(
    store: &Store,
    records: &'static RecordStatements,
    now: Timestamp,
    retention: &RecordRetention,
    keys: Duration,
) -> Result<(u64, u64), StorageError> {
    let RecordRetention { time, at_least, at_most } = retention;
    // Keys are deleted first, because a job or lease that still has a key is not deleted.
    let keys = in_batches(store, || DeleteKeys { records, before: ago(now, keys) }).await?;
    let mut deleted = 0;
    if let Some(last) = newest_beyond(store, records, *at_least).await? {
        let old = || DeleteEnded { records, before: ago(now, *time), last: last.clone() };
        deleted += in_batches(store, old).await?;
    }
    if let Some(last) = newest_beyond(store, records, (*at_most).max(*at_least)).await? {
        let any = || DeleteEnded { records, before: i64::MAX, last: last.clone() };
        deleted += in_batches(store, any).await?;
    }
    Ok((deleted, keys))
}

/// The SQL statements for the table of jobs or of leases, and for the table of their keys.
struct RecordStatements {
    /// Selects the job or lease at an offset. They are in the order of their ends, newest first.
    newest_beyond: &'static str,
    delete: &'static str,
    delete_keys: &'static str,
}

macro_rules! records {
    ($table:literal, $keys:literal, $column:literal) => {
        RecordStatements {
            newest_beyond: concat!(
                "SELECT ended_at, id FROM ",
                $table,
                " WHERE ended_at IS NOT NULL ORDER BY ended_at DESC, id DESC LIMIT 1 OFFSET $1"
            ),
            delete: concat!(
                "DELETE FROM ",
                $table,
                " WHERE id IN (SELECT r.id FROM ",
                $table,
                " AS r WHERE r.ended_at < $1 AND (r.ended_at, r.id) <= ($2, $3) AND NOT EXISTS \
                 (SELECT 1 FROM ",
                $keys,
                " AS k WHERE k.",
                $column,
                " = r.id) ORDER BY r.ended_at, r.id LIMIT $4)"
            ),
            delete_keys: concat!(
                "DELETE FROM ",
                $keys,
                " WHERE (caller, method, path, key) IN (SELECT k.caller, k.method, k.path, k.key \
                 FROM ",
                $keys,
                " AS k JOIN ",
                $table,
                " AS r ON r.id = k.",
                $column,
                " WHERE k.created_at < $1 AND r.ended_at IS NOT NULL LIMIT $2)"
            ),
        }
    };
}

static JOBS: RecordStatements = records!("jobs", "idempotency_keys", "job");
static LEASES: RecordStatements = records!("leases", "lease_keys", "lease");

/// The time `duration` before `now`, in microseconds since 1970. The earliest time if the result is
/// out of range.
fn ago(now: Timestamp, duration: Duration) -> i64 {
    let duration = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    microseconds(now).saturating_sub(duration)
}

async fn in_batches<W: Write<Output = u64>>(
    store: &Store,
    batch: impl Fn() -> W,
) -> Result<u64, StorageError> {
    let mut total = 0;
    loop {
        let deleted = store.write(batch()).await?;
        total += deleted;
        if deleted < BATCH_ROWS.unsigned_abs() {
            return Ok(total);
        }
    }
}

/// A position in the ended jobs or leases, which are ordered by `ended_at` and then by id.
#[derive(Clone)]
struct EndPosition {
    at: i64,
    id: String,
}

/// The position of the newest job or lease that is not among the `count` ones that ended last.
/// `None` if there are not more than `count`.
async fn newest_beyond(
    store: &Store,
    records: &RecordStatements,
    count: u32,
) -> Result<Option<EndPosition>, StorageError> {
    let row = sqlx::query(records.newest_beyond)
        .bind(i64::from(count))
        .fetch_optional(store.read().await?.statement())
        .await?;
    row.map(|row| Ok(EndPosition { at: row.try_get("ended_at")?, id: row.try_get("id")? }))
        .transpose()
}

/// A write that deletes jobs or leases that ended before a time, and that do not come after the
/// position `last`.
struct DeleteEnded {
    records: &'static RecordStatements,
    before: i64,
    last: EndPosition,
}

#[async_trait]
impl Write for DeleteEnded {
    type Output = u64;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<u64, sqlx::Error> {
        let done = sqlx::query(self.records.delete)
            .bind(self.before)
            .bind(self.last.at)
            .bind(&self.last.id)
            .bind(BATCH_ROWS)
            .execute(transaction.statement())
            .await?;
        Ok(done.rows_affected())
    }
}

/// A write that deletes idempotency keys that were stored before a time and whose job or lease has
/// ended.
struct DeleteKeys {
    records: &'static RecordStatements,
    before: i64,
}

#[async_trait]
impl Write for DeleteKeys {
    type Output = u64;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<u64, sqlx::Error> {
        let done = sqlx::query(self.records.delete_keys)
            .bind(self.before)
            .bind(BATCH_ROWS)
            .execute(transaction.statement())
            .await?;
        Ok(done.rows_affected())
    }
}

/// Deletes the keys of calls that sent input, if they were stored before this time, in
/// microseconds.
struct DeleteInputKeys(i64);

#[async_trait]
impl Write for DeleteInputKeys {
    type Output = u64;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<u64, sqlx::Error> {
        let done = sqlx::query(
            "DELETE FROM input_keys WHERE (caller, method, path, key) IN \
             (SELECT k.caller, k.method, k.path, k.key FROM input_keys AS k \
             WHERE k.created_at < $1 LIMIT $2)",
        )
        .bind(self.0)
        .bind(BATCH_ROWS)
        .execute(transaction.statement())
        .await?;
        Ok(done.rows_affected())
    }
}

/// A write that deletes the oldest audit records.
enum DeleteAudit {
    /// Deletes the records that are older than this time, in microseconds since 1970.
    Before(i64),
    /// Deletes the oldest records, so that the rest takes no more than this number of bytes.
    Over(i64),
}

#[async_trait]
impl Write for DeleteAudit {
    type Output = u64;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<u64, sqlx::Error> {
        // The statements read only the oldest rows, so each batch takes the same time however long
        // the table is.
        let (statement, bound) = match self {
            Self::Before(time) => (
                "DELETE FROM audit WHERE id IN (SELECT o.id FROM \
                 (SELECT id, happened_at FROM audit ORDER BY id LIMIT $2) AS o \
                 WHERE o.happened_at < $1 AND o.id < (SELECT MAX(id) FROM audit))",
                time,
            ),
            Self::Over(bytes) => (
                "DELETE FROM audit WHERE id IN (SELECT o.id FROM \
                 (SELECT id, total_bytes FROM audit ORDER BY id LIMIT $2) AS o \
                 WHERE o.total_bytes <= \
                 (SELECT total_bytes FROM audit ORDER BY id DESC LIMIT 1) - $1 \
                 AND o.id < (SELECT MAX(id) FROM audit))",
                bytes,
            ),
        };
        let done = sqlx::query(statement)
            .bind(bound)
            .bind(BATCH_ROWS)
            .execute(transaction.statement())
            .await?;
        Ok(done.rows_affected())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::SignedDuration;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::domain::lease::{Lease, LeaseState, Quarantine};
    use crate::storage::{
        ChangedLease, IdempotencyKey, KeyOwner, LeaseFilter, LeaseTransaction, Storage,
        StoredMachine,
    };
    use crate::store::samples::{lease, start};

    async fn started() -> Store {
        let store = Store::in_memory().await.unwrap();
        let writer = store.clone();
        tokio::spawn(async move { writer.run(CancellationToken::new()).await });
        store
    }

    fn after(seconds: u32) -> Timestamp {
        start() + SignedDuration::from_secs(seconds.into())
    }

    fn key(name: &str) -> IdempotencyKey {
        IdempotencyKey {
            caller: "ci".to_owned(),
            method: "POST".to_owned(),
            path: "/v1/leases".to_owned(),
            key: name.to_owned(),
            fingerprint: [7; 32],
            created_at: start(),
        }
    }

    async fn save(store: &Store, lease: &Lease, key: Option<&str>) {
        let machine = format!("uuid:{}", lease.id);
        let stored =
            StoredMachine { fence: 7, last_lease_end: lease.ended_at, ..StoredMachine::default() };
        let row = ChangedLease::new(lease.clone(), Some(machine.clone()));
        let key = key.map(|name| (self::key(name), lease.id));
        let machines = BTreeMap::from([(machine, stored)]);
        let step =
            LeaseTransaction { leases: vec![row], machines, key, ..LeaseTransaction::default() };
        store.save_leases(step).await.unwrap();
    }

    async fn left(store: &Store) -> Vec<Lease> {
        store.leases(&LeaseFilter::default(), None, 1_000).await.unwrap()
    }

    #[tokio::test]
    async fn old_leases_are_deleted_except_the_newest_and_the_open_ones() {
        let store = started().await;
        let mut number = 0;
        for state in LeaseState::ALL.iter().filter(|state| !state.is_end()) {
            save(&store, &lease(number, *state, None), None).await;
            number += 1;
        }
        let open = number;
        for (index, state) in
            LeaseState::ALL.iter().filter(|state| state.is_end()).cycle().take(10).enumerate()
        {
            let ended_at = after(u32::try_from(index).unwrap());
            save(&store, &lease(number, *state, Some(ended_at)), None).await;
            number += 1;
        }
        let quarantined = Quarantine {
            reason: "its disk".to_owned(),
            by: "ci".to_owned(),
            since: start(),
            automatic: false,
            job: None,
        };
        let quarantined =
            StoredMachine { fence: 9, quarantine: Some(quarantined), ..StoredMachine::default() };
        let machines = BTreeMap::from([("id:9".to_owned(), quarantined)]);
        store
            .save_leases(LeaseTransaction { machines, ..LeaseTransaction::default() })
            .await
            .unwrap();
        let machines = store.stored_machines().await.unwrap();
        let month = Retention {
            leases: RecordRetention { at_least: 3, ..RecordRetention::default() },
            ..Retention::default()
        };
        let purged = |leases| Purged { leases, ..Purged::default() };
        let now = after(5) + month.leases.time;
        assert_eq!(store.purge(now, &month).await.unwrap(), purged(5));
        let years = now + Duration::from_hours(24 * 3_650);
        assert_eq!(store.purge(years, &month).await.unwrap(), purged(2));
        let few = Retention {
            leases: RecordRetention { at_least: 1, at_most: 2, ..RecordRetention::default() },
            ..month
        };
        assert_eq!(
            store.purge(start(), &few).await.unwrap(),
            purged(1),
            "no more leases than allowed are kept"
        );
        let left = left(&store).await;
        assert_eq!(left.len(), usize::try_from(open + 2).unwrap());
        assert_eq!(left.iter().filter(|lease| lease.state.is_end()).count(), 2);
        assert_eq!(
            store.stored_machines().await.unwrap(),
            machines,
            "a purge changes no stored state of a machine"
        );
    }

    #[tokio::test]
    async fn a_key_of_a_lease_is_kept_for_a_day_and_while_the_lease_is_open() {
        let store = started().await;
        save(&store, &lease(1, LeaseState::Active, None), Some("open")).await;
        let done = lease(2, LeaseState::Released, Some(after(2)));
        save(&store, &done, Some("done")).await;
        let at_once =
            RecordRetention { time: Duration::ZERO, at_least: 0, ..RecordRetention::default() };
        let retention = Retention { leases: at_once, ..Retention::default() };
        let early = start() + Duration::from_hours(23);
        assert_eq!(
            store.purge(early, &retention).await.unwrap(),
            Purged::default(),
            "the lease stays because of its key"
        );
        assert_eq!(
            store.find_key(&key("done")).await.unwrap().map(|stored| stored.owner),
            Some(KeyOwner::Lease(done.id))
        );
        let late = start() + Duration::from_hours(25);
        let purged = Purged { leases: 1, keys: 1, jobs: 0 };
        assert_eq!(store.purge(late, &retention).await.unwrap(), purged);
        assert!(store.find_key(&key("open")).await.unwrap().is_some());
        assert!(store.find_key(&key("done")).await.unwrap().is_none());
    }
}
