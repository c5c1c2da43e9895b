//! Tokens: who may call. Made and revoked by another process, beside the daemon that asks for them.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::writer::{Transaction, Write};
use super::{Reader, StoreError, microseconds};
use crate::domain::access::{Role, TokenDigest};

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredToken {
    pub id: Uuid,
    /// What its callers are called; of the tokens in force each has its own.
    pub name: String,
    pub role: Role,
    pub digest: TokenDigest,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

pub struct InsertToken(pub StoredToken);

#[async_trait]
impl Write for InsertToken {
    /// False where a token of that name is in force.
    type Output = bool;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<bool, sqlx::Error> {
        let StoredToken { id, name, role, digest, created_at, revoked_at } = &self.0;
        let inserted = sqlx::query(
            "INSERT INTO tokens (id, name, role, digest, created_at, revoked_at) \
             SELECT $1, $2, $3, $4, $5, $6 \
             WHERE NOT EXISTS (SELECT 1 FROM tokens WHERE name = $2 AND revoked_at IS NULL)",
        )
        .bind(id.to_string())
        .bind(name)
        .bind(role.as_str())
        .bind(hex::encode(digest.0))
        .bind(microseconds(*created_at))
        .bind(revoked_at.map(microseconds))
        .execute(transaction.statement())
        .await?;
        Ok(inserted.rows_affected() > 0)
    }
}

pub struct RevokeToken {
    pub name: String,
    pub now: Timestamp,
}

#[async_trait]
impl Write for RevokeToken {
    /// False where no token of that name is in force.
    type Output = bool;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<bool, sqlx::Error> {
        let revoked = sqlx::query("UPDATE tokens SET revoked_at = $2 WHERE name = $1 AND revoked_at IS NULL")
            .bind(&self.name)
            .bind(microseconds(self.now))
            .execute(transaction.statement())
            .await?;
        Ok(revoked.rows_affected() > 0)
    }
}

/// Every token, the oldest first.
pub async fn all(reader: &mut Reader<'_>) -> Result<Vec<StoredToken>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, name, role, digest, created_at, revoked_at FROM tokens ORDER BY created_at, id",
    )
    .fetch_all(reader.statement())
    .await?;
    rows.iter().map(read).collect()
}

fn read(row: &SqliteRow) -> Result<StoredToken, StoreError> {
    let name: String = row.try_get("name")?;
    let unreadable = |column| StoreError::UnreadableToken { name: name.clone(), column };
    let time =
        |microseconds, column| Timestamp::from_microsecond(microseconds).map_err(|_| unreadable(column));
    let digest: &str = row.try_get("digest")?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(digest, &mut bytes).map_err(|_| unreadable("digest"))?;
    let revoked_at: Option<i64> = row.try_get("revoked_at")?;
    Ok(StoredToken {
        id: row.try_get::<&str, _>("id")?.parse().map_err(|_| unreadable("id"))?,
        role: Role::parse(row.try_get("role")?).ok_or_else(|| unreadable("role"))?,
        digest: TokenDigest(bytes),
        created_at: time(row.try_get("created_at")?, "created_at")?,
        revoked_at: revoked_at.map(|at| time(at, "revoked_at")).transpose()?,
        name,
    })
}
