//! Idempotency keys of calls that started jobs, as rows.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::writer::Transaction;
use super::{Reader, microseconds};
use crate::storage::{IdempotencyKey, KeptKey};

const FIND: &str = "SELECT job, fingerprint FROM idempotency_keys \
     WHERE caller = $1 AND method = $2 AND path = $3 AND key = $4";

pub async fn find(reader: &mut Reader<'_>, key: &IdempotencyKey) -> Result<Option<KeptKey>, sqlx::Error> {
    let row = select(key).fetch_optional(reader.statement()).await?;
    row.map(|row| kept(key, &row)).transpose()
}

pub async fn find_within(
    transaction: &mut Transaction<'_>,
    key: &IdempotencyKey,
) -> Result<Option<KeptKey>, sqlx::Error> {
    let row = select(key).fetch_optional(transaction.statement()).await?;
    row.map(|row| kept(key, &row)).transpose()
}

pub async fn insert(
    transaction: &mut Transaction<'_>,
    key: &IdempotencyKey,
    job: &str,
) -> Result<(), sqlx::Error> {
    let IdempotencyKey { caller, method, path, key, fingerprint, created_at } = key;
    sqlx::query(
        "INSERT INTO idempotency_keys (caller, method, path, key, fingerprint, job, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(caller)
    .bind(method)
    .bind(path)
    .bind(key)
    .bind(hex::encode(fingerprint))
    .bind(job)
    .bind(microseconds(*created_at))
    .execute(transaction.statement())
    .await?;
    Ok(())
}

fn select(key: &IdempotencyKey) -> sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments> {
    sqlx::query(FIND).bind(&key.caller).bind(&key.method).bind(&key.path).bind(&key.key)
}

fn kept(key: &IdempotencyKey, row: &SqliteRow) -> Result<KeptKey, sqlx::Error> {
    let job: &str = row.try_get("job")?;
    let fingerprint: &str = row.try_get("fingerprint")?;
    Ok(KeptKey {
        job: job.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        fingerprint_matches: fingerprint == hex::encode(key.fingerprint),
    })
}
