//! The fence floor. Every grant gets a fence above the floor, even if the store does not know the
//! machine. No fence that otter has given out is higher than the floor, and the floor never falls.

use async_trait::async_trait;

use super::Reader;
use super::transaction::{Transaction, Write};
use crate::storage::StorageError;

/// A write that raises the fence floor to this number, if the floor is lower.
pub struct RaiseFenceFloor(pub u64);

#[async_trait]
impl Write for RaiseFenceFloor {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO fence_floor (one, fence) VALUES (1, $1) \
             ON CONFLICT (one) DO UPDATE SET fence = $1 WHERE fence_floor.fence < $1",
        )
        .bind(i64::try_from(self.0).unwrap_or(i64::MAX))
        .execute(transaction.statement())
        .await
        .map(drop)
    }
}

/// Reads the fence floor. It is 0 if it was never raised.
pub async fn fence_floor(reader: &mut Reader<'_>) -> Result<u64, StorageError> {
    let fence: Option<i64> = sqlx::query_scalar("SELECT fence FROM fence_floor")
        .fetch_optional(reader.statement())
        .await?;
    Ok(fence.and_then(|fence| u64::try_from(fence).ok()).unwrap_or_default())
}
