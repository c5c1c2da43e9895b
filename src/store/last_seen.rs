//! The time at which otter last ran. otter writes it while there are jobs, and as a test of a store
//! that refused writes.

use async_trait::async_trait;
use jiff::Timestamp;

use super::writer::{Transaction, Write};
use super::{Reader, microseconds};
use crate::storage::StorageError;

/// Notes that otter runs at this time.
pub struct RecordLastSeen(pub Timestamp);

#[async_trait]
impl Write for RecordLastSeen {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO last_seen (one, at) VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET at = $1")
            .bind(microseconds(self.0))
            .execute(transaction.statement())
            .await
            .map(drop)
    }
}

/// When otter last ran; `None` if that was never noted.
pub async fn last_seen(reader: &mut Reader<'_>) -> Result<Option<Timestamp>, StorageError> {
    let at: Option<i64> =
        sqlx::query_scalar("SELECT at FROM last_seen").fetch_optional(reader.statement()).await?;
    Ok(at.and_then(|at| Timestamp::from_microsecond(at).ok()))
}
