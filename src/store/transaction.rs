//! The current transaction of the writer, and the trait for the writes that it commits.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use sqlx::SqliteConnection;

/// A change of the database: several statements that are committed together or not at all.
#[async_trait]
pub trait Write: Send + Sync + 'static {
    type Output: Send + 'static;

    /// Runs the statements of the write. The writer calls this method again after a rollback.
    ///
    /// # Errors
    /// An error rolls the whole transaction back, with all its writes. A write that is refused and
    /// changes nothing should therefore say so in its output.
    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Self::Output, sqlx::Error>;

    /// Whether the write is one statement, which then needs no `BEGIN` and `COMMIT` if it is
    /// committed alone.
    fn is_one_statement(&self) -> bool {
        false
    }
}

/// The current transaction of the writer. It counts the statements that run in it.
pub struct Transaction<'a> {
    connection: &'a mut SqliteConnection,
    statements: &'a AtomicU64,
}

impl<'a> Transaction<'a> {
    /// Wraps a transaction that has begun on this connection.
    pub const fn new(connection: &'a mut SqliteConnection, statements: &'a AtomicU64) -> Self {
        Self { connection, statements }
    }

    /// The connection on which one statement of the transaction runs. The statement is counted.
    pub fn statement(&mut self) -> &mut SqliteConnection {
        self.statements.fetch_add(1, Ordering::Relaxed);
        self.connection
    }
}
