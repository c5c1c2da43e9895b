//! The time at which otter was last running. otter writes this time while there are jobs. It also
//! writes the time to find out whether a store that has refused writes accepts them again.

use async_trait::async_trait;
use jiff::Timestamp;

use super::transaction::{Transaction, Write};
use super::{Reader, microseconds};
use crate::storage::StorageError;

/// A write that records that otter was running at this time.
pub struct RecordLastSeen(pub Timestamp);

#[async_trait]
impl Write for RecordLastSeen {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        let upsert = "INSERT INTO last_seen (one, at) VALUES (1, $1) \
                      ON CONFLICT (one) DO UPDATE SET at = $1";
        sqlx::query(upsert)
            .bind(microseconds(self.0))
            .execute(transaction.statement())
            .await
            .map(drop)
    }

    fn is_one_statement(&self) -> bool {
        true
    }
}

/// Reads the time at which otter was last running. `None` if it was never recorded.
pub async fn last_seen(reader: &mut Reader<'_>) -> Result<Option<Timestamp>, StorageError> {
    let at: Option<i64> =
        sqlx::query_scalar("SELECT at FROM last_seen").fetch_optional(reader.statement()).await?;
    Ok(at.and_then(|at| Timestamp::from_microsecond(at).ok()))
}
