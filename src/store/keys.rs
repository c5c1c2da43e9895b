//! The two tables of idempotency keys: one for calls that start jobs, and one for calls that
//! request leases.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::transaction::Transaction;
use super::{Reader, microseconds};
use crate::domain::ids::LeaseId;
use crate::storage::{IdempotencyKey, KeyOwner, StoredKey};

const FIND: &str = "SELECT job, NULL AS lease, fingerprint FROM idempotency_keys \
     WHERE caller = $1 AND method = $2 AND path = $3 AND key = $4 \
     UNION ALL SELECT NULL, lease, fingerprint FROM lease_keys \
     WHERE caller = $1 AND method = $2 AND path = $3 AND key = $4";

const INSERT_LEASE_KEY: &str = "INSERT INTO lease_keys \
     (caller, method, path, key, fingerprint, lease, created_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7)";

pub async fn find(
    reader: &mut Reader<'_>,
    key: &IdempotencyKey,
) -> Result<Option<StoredKey>, sqlx::Error> {
    let IdempotencyKey { caller, method, path, key: name, fingerprint: _, created_at: _ } = key;
    let select = sqlx::query(FIND).bind(caller).bind(method).bind(path).bind(name);
    let row = select.fetch_optional(reader.statement()).await?;
    row.map(|row| read_key(key, &row)).transpose()
}

/// Adds the idempotency key of a call that requested a lease. (The key of a call that starts a job
/// is written together with the job.)
pub async fn insert_for_lease(
    transaction: &mut Transaction<'_>,
    key: &IdempotencyKey,
    lease: LeaseId,
) -> Result<(), sqlx::Error> {
    let IdempotencyKey { caller, method, path, key, fingerprint, created_at } = key;
    sqlx::query(INSERT_LEASE_KEY)
        .bind(caller)
        .bind(method)
        .bind(path)
        .bind(key)
        .bind(hex::encode(fingerprint))
        .bind(lease.to_string())
        .bind(microseconds(*created_at))
        .execute(transaction.statement())
        .await?;
    Ok(())
}

fn read_key(key: &IdempotencyKey, row: &SqliteRow) -> Result<StoredKey, sqlx::Error> {
    let (job, lease): (Option<&str>, Option<&str>) = (row.try_get("job")?, row.try_get("lease")?);
    let fingerprint: &str = row.try_get("fingerprint")?;
    let job = job.map(|job| job.parse().map(KeyOwner::Job)).transpose();
    let lease = lease.map(|lease| lease.parse().map(KeyOwner::Lease)).transpose();
    let owner = job.and_then(|job| Ok(job.or(lease?))).ok().flatten();
    Ok(StoredKey {
        owner: owner
            .ok_or_else(|| sqlx::Error::Decode("the job or lease of a key is not an id".into()))?,
        fingerprint_matches: fingerprint == hex::encode(key.fingerprint),
    })
}
