//! The SQLite implementation of [`Storage`](crate::storage::Storage), with the crate sqlx. All SQL
//! of otter is in this module.
//!
//! ```text
//! writes ──bounded channel──► writer (one connection, many writes a commit) ──► otter.db
//! reads  ──pool of read-only connections─────────────────────────────────────►    (WAL)
//! ```
//! A write returns once it is committed and on the disk (`synchronous=FULL`). The SQL uses only
//! what PostgreSQL also understands.

mod archive;
mod artifacts;
mod audit;
mod backup;
#[cfg(test)]
mod backup_tests;
mod created_snapshots;
mod datastore_files;
pub mod document;
mod error;
mod examine;
mod fence_floor;
mod files;
mod inputs;
mod job_writes;
mod jobs;
pub mod key;
mod keys;
mod last_seen;
mod leases;
mod maintenance;
mod migrate;
#[cfg(test)]
mod migration_tests;
mod open;
#[cfg(test)]
mod open_tests;
mod purge;
mod restore;
#[cfg(test)]
#[path = "../../tests/storage/samples.rs"]
mod samples;
mod schema;
mod serial_ports;
mod sqlite_errors;
mod state_directory;
mod storage;
#[cfg(test)]
mod tests;
mod tokens;
mod transaction;
mod writer;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;
use sqlx::pool::PoolConnection;
use sqlx::{Sqlite, SqliteConnection, SqlitePool};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};
use tokio_util::sync::CancellationToken;

use crate::storage::StorageError;

pub use archive::{ArchiveError, Manifest};
pub use backup::backup;
pub use document::DocumentError;
pub use error::StoreError;
pub use examine::{Existing, FoundState};
pub use files::SECRET_KEY;
pub use maintenance::{CheckReport, CompactReport, check, compact};
pub use restore::{RestoreReport, restore};
pub use state_directory::reachable_by_others;

/// The database. Clones share the same database. Dropping the last clone releases the lock on the
/// state directory.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    writer: writer::Writer,
    readers: Readers,
    statements: AtomicU64,
    transactions: AtomicU64,
    /// The number of writes whose commit was refused, since the store was opened.
    refused: AtomicU64,
    /// Why the last commit was refused. `None` if the last commit succeeded.
    refusal: std::sync::Mutex<Option<Arc<sqlx::Error>>>,
    /// The lock file, which the daemon has locked so that no other daemon uses the state directory.
    /// `None` if the store was opened without the lock.
    lock: Option<File>,
}

#[cfg(test)]
impl Inner {
    /// The connection of the writer. A test uses it to change data without a write of the store.
    async fn writer_connection(&self) -> OwnedMutexGuard<SqliteConnection> {
        self.writer.connection().lock_owned().await
    }
}

/// The connections on which the store reads.
enum Readers {
    Pool(SqlitePool),
    /// The only connection of an in-memory database, which reads and writes share. It is not in a
    /// pool, because the timeouts of a pool would fire under the stepped clock of tests.
    Writer(Arc<Mutex<SqliteConnection>>),
}

impl Store {
    /// Opens the database `otter.db` of a state directory for the daemon. If the directory or the
    /// database is missing, creates it. Only its owner gets access. Migrates the database to the
    /// current schema. Locks the directory until the store is dropped.
    pub async fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let open::OpenedDatabase { writer, readers, lock } = open::open(state_dir).await?;
        Ok(Self::new(Arc::new(Mutex::new(writer)), Readers::Pool(readers), Some(lock)))
    }

    /// Opens the database without the lock, also while a daemon uses it. A running daemon reads the
    /// changes within a second. This function creates and migrates nothing.
    ///
    /// # Errors
    /// `NoDatabase` if there is no database. `OlderDatabase` or `NewerDatabase` if the schema of
    /// the database is not the current one. Such a database is not migrated, because a daemon may
    /// be using it.
    pub async fn open_shared(state_dir: &Path) -> Result<Self, StoreError> {
        let (writer, readers) = open::open_shared(state_dir).await?;
        Ok(Self::new(Arc::new(Mutex::new(writer)), Readers::Pool(readers), None))
    }

    /// Opens the database like [`Store::open_shared`]. If the directory exists but has no database,
    /// creates the database first.
    pub async fn open_or_create_shared(state_dir: &Path) -> Result<Self, StoreError> {
        open::create_if_missing(state_dir).await?;
        Self::open_shared(state_dir).await
    }

    /// Examines a state directory without changing anything.
    ///
    /// # Errors
    /// Why a daemon could not use the directory.
    pub async fn examine(state_dir: &Path) -> Result<FoundState, StoreError> {
        examine::examine(state_dir).await
    }

    /// Reads the whole database of a state directory without changing anything, as [`Store::open`]
    /// does before it uses a database. Returns the names of the tokens that are not revoked.
    ///
    /// # Errors
    /// `Damaged` or `NotADatabase` if the database is damaged.
    pub async fn read_through(state_dir: &Path) -> Result<Vec<String>, StoreError> {
        examine::read_through(state_dir).await
    }

    /// Makes a database in memory, for `--simulate` and for tests. Its contents are lost when the
    /// store is dropped.
    pub async fn in_memory() -> Result<Self, StoreError> {
        let connection = Arc::new(Mutex::new(open::in_memory().await?));
        Ok(Self::new(Arc::clone(&connection), Readers::Writer(connection), None))
    }

    fn new(connection: Arc<Mutex<SqliteConnection>>, readers: Readers, lock: Option<File>) -> Self {
        Self(Arc::new(Inner {
            writer: writer::Writer::new(connection),
            readers,
            statements: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            refusal: std::sync::Mutex::new(None),
            lock,
        }))
    }

    /// Runs the writer: commits writes until `stop` is cancelled, then commits the writes that
    /// callers handed over before, and returns. While this method does not run, writes wait.
    ///
    /// # Errors
    /// `WriterTaken` if this method was called before.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), StoreError> {
        writer::run(self, stop).await
    }

    /// Whether other processes can change the database. They cannot if the database is in memory.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.0.readers, Readers::Pool(_))
    }

    /// The number of SQL statements that the store has run.
    #[must_use]
    pub fn statements(&self) -> u64 {
        self.0.statements.load(Ordering::Relaxed)
    }

    /// The number of transactions that the store has committed. One transaction can contain several
    /// writes.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.0.transactions.load(Ordering::Relaxed)
    }

    /// The number of writes that the store has refused, because of the disk or because of the
    /// database.
    #[must_use]
    pub fn refused_writes(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Whether the last commit was refused because of the disk.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.0.refusal.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    async fn write<W: transaction::Write>(&self, write: W) -> Result<W::Output, StorageError> {
        let (reply, committed) = oneshot::channel();
        self.0.writer.send(write, reply).await?;
        committed.await.map_err(|_| StorageError::Closed)?
    }

    async fn write_job(&self, write: job_writes::JobWrite) -> job_writes::JobWritten {
        let (reply, committed) = oneshot::channel();
        self.0.writer.send_job(write, reply).await?;
        committed.await.map_err(|_| StorageError::Closed)??
    }

    async fn read(&self) -> Result<Reader<'_>, StorageError> {
        let connection = match &self.0.readers {
            Readers::Pool(pool) => ReadConnection::Pooled(pool.acquire().await?),
            Readers::Writer(connection) => {
                ReadConnection::Shared(Arc::clone(connection).lock_owned().await)
            }
        };
        Ok(Reader { connection, statements: &self.0.statements })
    }
}

/// A connection for reads. It counts the statements that it runs.
struct Reader<'a> {
    connection: ReadConnection,
    statements: &'a AtomicU64,
}

enum ReadConnection {
    Pooled(PoolConnection<Sqlite>),
    Shared(OwnedMutexGuard<SqliteConnection>),
}

impl Reader<'_> {
    /// The connection on which one statement runs. The statement is counted.
    fn statement(&mut self) -> &mut SqliteConnection {
        self.statements.fetch_add(1, Ordering::Relaxed);
        match &mut self.connection {
            ReadConnection::Pooled(connection) => connection,
            ReadConnection::Shared(connection) => connection,
        }
    }
}

/// The message of SQLite in an error, without the result code.
fn database_message(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// The form in which a column stores a time: microseconds since 1970.
fn microseconds(time: Timestamp) -> i64 {
    time.as_microsecond()
}
