//! Forgetting: ended jobs and old keys are deleted once they were kept as long as was promised.
//!
//! A job whose key is kept is kept too, and so is the key of a job that has no end yet: the call that started
//! it, made again, must find it.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::Row as _;

use super::writer::{Transaction, Write};
use super::{Store, StoreError, microseconds};

/// Rows deleted in one commit; others get in between.
const PORTION: i64 = 500;

/// How long to keep what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Ended jobs, counted from their end,
    pub jobs: Duration,
    /// but this many of the last to end whatever their age,
    pub jobs_at_least: u32,
    /// and never more than this many.
    pub jobs_at_most: u32,
    /// Idempotency keys, counted from the call.
    pub keys: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self { jobs: DAY * 30, jobs_at_least: 10_000, jobs_at_most: 1_000_000, keys: DAY }
    }
}

/// How much was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub jobs: u64,
    pub keys: u64,
}

pub async fn purge(store: &Store, now: Timestamp, retention: &Retention) -> Result<Purged, StoreError> {
    let Retention { jobs, jobs_at_least, jobs_at_most, keys } = retention;
    // Keys first: they hold their jobs.
    let keys = in_portions(store, || DeleteKeys { before: ago(now, *keys) }).await?;
    let mut purged = Purged { jobs: 0, keys };
    if let Some(last) = behind_the_last(store, *jobs_at_least).await? {
        let old = || DeleteJobs { before: ago(now, *jobs), last: last.clone() };
        purged.jobs += in_portions(store, old).await?;
    }
    if let Some(last) = behind_the_last(store, (*jobs_at_most).max(*jobs_at_least)).await? {
        let any = || DeleteJobs { before: i64::MAX, last: last.clone() };
        purged.jobs += in_portions(store, any).await?;
    }
    Ok(purged)
}

/// The point in time this long ago, or the first of all where there is none.
fn ago(now: Timestamp, duration: Duration) -> i64 {
    let duration = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    microseconds(now).saturating_sub(duration)
}

async fn in_portions<W: Write<Output = u64>>(
    store: &Store,
    portion: impl Fn() -> W,
) -> Result<u64, StoreError> {
    let mut total = 0;
    loop {
        let deleted = store.write(portion()).await?;
        total += deleted;
        if deleted < PORTION.unsigned_abs() {
            return Ok(total);
        }
    }
}

/// The place of a job in the order of ends.
#[derive(Clone)]
struct Ended {
    at: i64,
    id: String,
}

/// The newest ended job that is not among the last `count`.
async fn behind_the_last(store: &Store, count: u32) -> Result<Option<Ended>, StoreError> {
    let row = sqlx::query(
        "SELECT ended_at, id FROM jobs WHERE ended_at IS NOT NULL \
         ORDER BY ended_at DESC, id DESC LIMIT 1 OFFSET $1",
    )
    .bind(i64::from(count))
    .fetch_optional(store.read().await?.statement())
    .await?;
    row.map(|row| Ok(Ended { at: row.try_get("ended_at")?, id: row.try_get("id")? })).transpose()
}

/// Deletes jobs that ended before a time and no later than `last`.
struct DeleteJobs {
    before: i64,
    last: Ended,
}

#[async_trait]
impl Write for DeleteJobs {
    type Output = u64;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<u64, sqlx::Error> {
        let done = sqlx::query(
            "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs \
             WHERE ended_at < $1 AND (ended_at, id) <= ($2, $3) \
             AND NOT EXISTS (SELECT 1 FROM idempotency_keys WHERE idempotency_keys.job = jobs.id) \
             ORDER BY ended_at, id LIMIT $4)",
        )
        .bind(self.before)
        .bind(self.last.at)
        .bind(&self.last.id)
        .bind(PORTION)
        .execute(transaction.statement())
        .await?;
        Ok(done.rows_affected())
    }
}

/// Deletes keys that were made before a time and whose job has ended.
struct DeleteKeys {
    before: i64,
}

#[async_trait]
impl Write for DeleteKeys {
    type Output = u64;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<u64, sqlx::Error> {
        let done = sqlx::query(
            "DELETE FROM idempotency_keys WHERE (caller, method, path, key) IN \
             (SELECT k.caller, k.method, k.path, k.key FROM idempotency_keys AS k \
             JOIN jobs ON jobs.id = k.job WHERE k.created_at < $1 AND jobs.ended_at IS NOT NULL LIMIT $2)",
        )
        .bind(self.before)
        .bind(PORTION)
        .execute(transaction.statement())
        .await?;
        Ok(done.rows_affected())
    }
}
