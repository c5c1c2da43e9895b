//! The table of tokens. The daemon reads it, and other processes create, rotate and revoke tokens
//! while the daemon runs.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::audit;
use super::transaction::{Transaction, Write};
use super::{Reader, microseconds};
use crate::domain::access::{Role, TokenDigest, TokenLimits};
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::origin::Actor;
use crate::domain::scope::Scope;
use crate::storage::{StorageError, StoredToken, TokenUse};

pub struct InsertToken(pub StoredToken);

#[async_trait]
impl Write for InsertToken {
    /// Whether the token was added. False if another token with this name is not revoked.
    type Output = bool;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<bool, sqlx::Error> {
        let StoredToken {
            id,
            name,
            role,
            digest,
            scope,
            limits,
            created_at,
            expires_at,
            rotated_at,
            last_used_at,
            revoked_at,
        } = &self.0;
        let TokenLimits { leases, queued_leases, queued_jobs, streams, requests_per_second } =
            limits;
        let (machines, pools) = match scope {
            Scope::All => (None, None),
            Scope::Selected { machines, pools } => (Some(to_json(machines)), Some(to_json(pools))),
        };
        let inserted = sqlx::query(
            "INSERT INTO tokens (id, name, role, digest, created_at, revoked_at, machines, pools, \
             expires_at, rotated_at, last_used_at, max_leases, max_queued_leases, max_queued_jobs, \
             max_streams, max_requests_per_second) \
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16 \
             WHERE NOT EXISTS (SELECT 1 FROM tokens WHERE name = $2 AND revoked_at IS NULL)",
        )
        .bind(id.to_string())
        .bind(name)
        .bind(role.as_str())
        .bind(hex::encode(digest.0))
        .bind(microseconds(*created_at))
        .bind(revoked_at.map(microseconds))
        .bind(machines)
        .bind(pools)
        .bind(expires_at.map(microseconds))
        .bind(rotated_at.map(microseconds))
        .bind(last_used_at.map(microseconds))
        .bind(leases.map(i64::from))
        .bind(queued_leases.map(i64::from))
        .bind(queued_jobs.map(i64::from))
        .bind(streams.map(i64::from))
        .bind(requests_per_second.map(i64::from))
        .execute(transaction.statement())
        .await?;
        let inserted = inserted.rows_affected() > 0;
        if inserted {
            let record = self.0.audit_record(*created_at, AuditAction::TokenCreated);
            audit::append(transaction, &[record]).await?;
        }
        Ok(inserted)
    }
}

/// A write that replaces the secret of a token. The old secret is no longer valid.
pub struct RotateToken {
    pub name: String,
    pub digest: TokenDigest,
    pub now: Timestamp,
    /// The new time of expiry. `None` leaves the time unchanged.
    pub expires_at: Option<Timestamp>,
}

#[async_trait]
impl Write for RotateToken {
    /// Whether the token was changed. False if there is no token with this name that is not
    /// revoked.
    type Output = bool;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<bool, sqlx::Error> {
        let rotated = sqlx::query(
            "UPDATE tokens SET digest = $2, rotated_at = $3, expires_at = COALESCE($4, \
             expires_at), last_used_at = NULL WHERE name = $1 AND revoked_at IS NULL",
        )
        .bind(&self.name)
        .bind(hex::encode(self.digest.0))
        .bind(microseconds(self.now))
        .bind(self.expires_at.map(microseconds))
        .execute(transaction.statement())
        .await?;
        let rotated = rotated.rows_affected() > 0;
        if rotated {
            let record =
                token_audit_record(transaction, &self.name, self.now, AuditAction::TokenRotated)
                    .await?;
            audit::append(transaction, &[record]).await?;
        }
        Ok(rotated)
    }
}

pub struct RevokeToken {
    pub name: String,
    pub now: Timestamp,
}

#[async_trait]
impl Write for RevokeToken {
    /// Whether the token was changed. False if there is no token with this name that is not
    /// revoked.
    type Output = bool;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<bool, sqlx::Error> {
        let record =
            token_audit_record(transaction, &self.name, self.now, AuditAction::TokenRevoked)
                .await?;
        let revoked =
            sqlx::query("UPDATE tokens SET revoked_at = $2 WHERE name = $1 AND revoked_at IS NULL")
                .bind(&self.name)
                .bind(microseconds(self.now))
                .execute(transaction.statement())
                .await?;
        let revoked = revoked.rows_affected() > 0;
        if revoked {
            audit::append(transaction, &[record]).await?;
        }
        Ok(revoked)
    }
}

pub struct MarkTokensUsed(pub Vec<TokenUse>);

#[async_trait]
impl Write for MarkTokensUsed {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        for TokenUse { id, digest, at } in &self.0 {
            // The condition on the digest ignores a use of the secret that the token had before a
            // rotation.
            sqlx::query("UPDATE tokens SET last_used_at = $3 WHERE id = $1 AND digest = $2")
                .bind(id.to_string())
                .bind(hex::encode(digest.0))
                .bind(microseconds(*at))
                .execute(transaction.statement())
                .await?;
        }
        Ok(())
    }
}

/// The audit record for a change of the token that has this name and is not revoked. If the row of
/// the token cannot be decoded, the record contains only the name.
async fn token_audit_record(
    transaction: &mut Transaction<'_>,
    name: &str,
    at: Timestamp,
    action: AuditAction,
) -> Result<AuditRecord, sqlx::Error> {
    let row = sqlx::query("SELECT * FROM tokens WHERE name = $1 AND revoked_at IS NULL")
        .bind(name)
        .fetch_optional(transaction.statement())
        .await?;
    let token = row.as_ref().and_then(|row| read(row).ok());
    Ok(token.map_or_else(
        || {
            let record = AuditRecord::new(at, action, AuditOutcome::Done);
            record.with_actor(&Actor::token_command()).with_detail(name)
        },
        |token| token.audit_record(at, action),
    ))
}

/// Reads every token, oldest first. Revoked tokens are included.
pub async fn all(reader: &mut Reader<'_>) -> Result<Vec<StoredToken>, StorageError> {
    let rows = sqlx::query(
        "SELECT id, name, role, digest, created_at, revoked_at, machines, pools, expires_at, \
         rotated_at, last_used_at, max_leases, max_queued_leases, max_queued_jobs, max_streams, \
         max_requests_per_second FROM tokens ORDER BY created_at, id",
    )
    .fetch_all(reader.statement())
    .await?;
    rows.iter().map(read).collect()
}

fn read(row: &SqliteRow) -> Result<StoredToken, StorageError> {
    let name: String = row.try_get("name")?;
    let unreadable = |column| {
        StorageError::unreadable(format!("token {name}"), format!("its {column} is damaged"))
    };
    let time = |column| -> Result<Option<Timestamp>, StorageError> {
        let microseconds: Option<i64> = row.try_get(column)?;
        microseconds.map(Timestamp::from_microsecond).transpose().map_err(|_| unreadable(column))
    };
    let limit = |column| -> Result<Option<u32>, StorageError> {
        let limit: Option<i64> = row.try_get(column)?;
        limit.map(u32::try_from).transpose().map_err(|_| unreadable(column))
    };
    let texts = |column| -> Result<Vec<String>, StorageError> {
        let texts: Option<&str> = row.try_get(column)?;
        // If a restriction cannot be decoded, reading the token fails, because the token must not
        // lose its restriction.
        texts.map_or(Ok(Vec::new()), |texts| {
            serde_json::from_str(texts).map_err(|_| unreadable(column))
        })
    };
    let digest: &str = row.try_get("digest")?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(digest, &mut bytes).map_err(|_| unreadable("digest"))?;
    Ok(StoredToken {
        id: row.try_get::<&str, _>("id")?.parse().map_err(|_| unreadable("id"))?,
        role: Role::parse(row.try_get("role")?).ok_or_else(|| unreadable("role"))?,
        digest: TokenDigest(bytes),
        scope: Scope::new(texts("machines")?, texts("pools")?),
        limits: TokenLimits {
            leases: limit("max_leases")?,
            queued_leases: limit("max_queued_leases")?,
            queued_jobs: limit("max_queued_jobs")?,
            streams: limit("max_streams")?,
            requests_per_second: limit("max_requests_per_second")?,
        },
        created_at: time("created_at")?.ok_or_else(|| unreadable("created_at"))?,
        expires_at: time("expires_at")?,
        rotated_at: time("rotated_at")?,
        last_used_at: time("last_used_at")?,
        revoked_at: time("revoked_at")?,
        name,
    })
}

/// Encodes a list of texts as a JSON array.
fn to_json(texts: &[String]) -> String {
    serde_json::json!(texts).to_string()
}
