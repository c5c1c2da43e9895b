//! The current transaction of the writer, and the writes that it commits.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use sqlx::SqliteConnection;

/// One change of the database: statements that are committed together or not at all.
#[async_trait]
pub trait Write: Send + Sync + 'static {
    type Output: Send + 'static;

    /// Runs the statements. It is called again after a rollback.
    ///
    /// # Errors
    /// An error rolls the whole transaction back. A refusal that changes nothing belongs in the
    /// output instead.
    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Self::Output, sqlx::Error>;
}

/// The current transaction. It counts its statements.
pub struct Transaction<'a> {
    connection: &'a mut SqliteConnection,
    statements: &'a AtomicU64,
}

impl<'a> Transaction<'a> {
    /// A transaction that has begun on this connection.
    pub const fn new(connection: &'a mut SqliteConnection, statements: &'a AtomicU64) -> Self {
        Self { connection, statements }
    }

    /// The connection, for one statement.
    pub fn statement(&mut self) -> &mut SqliteConnection {
        self.statements.fetch_add(1, Ordering::Relaxed);
        self.connection
    }
}
