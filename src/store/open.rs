//! Opens the database of a state directory. This includes the lock, a check of the database file,
//! and the migrations.
//!
//! ```text
//! daemon:  lock ─► otter.db exists ─► check the file ─► migrate ─► writer, readers
//!                    └─ is missing: create otter.db.new, then rename it to otter.db
//! no lock: otter.db exists ─► check the file ─► check the schema ─► writer, readers
//! ```
//! otter.db is never incomplete when otter creates it, so an empty or truncated file was damaged
//! later. otter does not change a file that it refuses.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection, SqlitePool};

use super::files::{self, DATABASE, LOCK, UNFINISHED_RESTORE};
use super::sqlite_errors::refusal;
use super::{StoreError, migrate, state_directory};

/// How long a statement waits while another process, for example `otter token`, writes to the
/// database.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of connections for reads.
const READERS: u32 = 4;

/// How long a read waits for one of the connections.
const READER_TIMEOUT: Duration = Duration::from_secs(30);

/// The time from which on sqlx logs a statement as slow.
const SLOW_STATEMENT: Duration = Duration::from_secs(1);

pub struct OpenedDatabase {
    pub writer: SqliteConnection,
    pub readers: SqlitePool,
    pub lock: File,
}

/// Opens the database for the daemon. Locks the directory, creates the directory and the database
/// if they are missing, and migrates the database.
pub async fn open(directory: &Path) -> Result<OpenedDatabase, StoreError> {
    state_directory::create_directory(directory)?;
    let lock = lock(directory)?;
    state_directory::restrict_permissions(directory)?;
    let file = directory.join(DATABASE);
    if !file.exists() {
        create(directory, &file).await?;
    }
    let mut writer = open_checked(directory, &file).await?;
    migrate::migrate_with_copy(&mut writer, directory, &file).await?;
    let readers = readers(directory, &file).await?;
    Ok(OpenedDatabase { writer, readers, lock })
}

/// Opens the database without taking the lock, which a daemon may hold. Creates and migrates
/// nothing.
pub async fn open_shared(directory: &Path) -> Result<(SqliteConnection, SqlitePool), StoreError> {
    let file = require_database(directory)?;
    let mut writer = open_checked(directory, &file).await?;
    migrate::require_current(&mut writer, directory, &file).await?;
    let readers = readers(directory, &file).await?;
    Ok((writer, readers))
}

/// Creates the database in a directory that exists and has no database. Holds the lock while it
/// does so, so that no daemon starts in this directory.
pub async fn create_if_missing(directory: &Path) -> Result<(), StoreError> {
    let file = directory.join(DATABASE);
    if !directory.exists() {
        return Err(StoreError::NoStateDirectory { path: directory.to_owned() });
    }
    if file.exists() || !directory.is_dir() {
        return require_database(directory).map(drop);
    }
    let _lock = lock(directory)?;
    state_directory::restrict_permissions(directory)?;
    // A daemon may have created the database before this process got the lock.
    if file.exists() { Ok(()) } else { create(directory, &file).await }
}

/// The path of the database in a directory.
///
/// # Errors
/// `NoDatabase` if the directory has no database.
pub fn require_database(directory: &Path) -> Result<PathBuf, StoreError> {
    let file = directory.join(DATABASE);
    if file.exists() {
        Ok(file)
    } else {
        Err(StoreError::NoDatabase { directory: directory.to_owned() })
    }
}

/// Opens a database for writing, after a check of the whole database file.
pub async fn open_checked(directory: &Path, file: &Path) -> Result<SqliteConnection, StoreError> {
    check_file(directory, file).await?;
    connect(directory, file, &options(file)).await
}

/// Opens a database for reading only.
pub async fn open_read_only(directory: &Path, file: &Path) -> Result<SqliteConnection, StoreError> {
    let options =
        SqliteConnectOptions::new().filename(file).read_only(true).busy_timeout(BUSY_TIMEOUT);
    connect(directory, file, &options).await
}

/// Opens a database that no other process uses, in a mode without a write-ahead log.
pub async fn open_exclusive(directory: &Path, file: &Path) -> Result<SqliteConnection, StoreError> {
    connect(directory, file, &options(file).journal_mode(SqliteJournalMode::Delete)).await
}

async fn readers(directory: &Path, file: &Path) -> Result<SqlitePool, StoreError> {
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(READER_TIMEOUT)
        .connect_with(without_statement_logs(
            SqliteConnectOptions::new()
                .filename(file)
                .busy_timeout(BUSY_TIMEOUT)
                .pragma("query_only", "on"),
        ))
        .await
        .map_err(|source| refusal(directory, file, source))
}

/// Makes sqlx log the text of statements only at the level `trace`.
fn without_statement_logs(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options
        .log_statements(LevelFilter::Trace)
        .log_slow_statements(LevelFilter::Trace, SLOW_STATEMENT)
}

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
}

async fn connect(
    directory: &Path,
    file: &Path,
    options: &SqliteConnectOptions,
) -> Result<SqliteConnection, StoreError> {
    SqliteConnection::connect_with(&without_statement_logs(options.clone()))
        .await
        .map_err(|source| refusal(directory, file, source))
}

/// Reads the whole database, so that otter detects damage now and not later by a wrong result. The
/// connection is read-only, because closing a writing connection would move the write-ahead log
/// into the file.
async fn check_file(directory: &Path, file: &Path) -> Result<(), StoreError> {
    require_content(file)?;
    let mut connection = open_read_only(directory, file).await?;
    let checked = quick_check(&mut connection, directory, file).await;
    // An error of the close is ignored, because nothing was written.
    drop(connection.close().await);
    checked
}

/// Reads a whole database to detect damage.
///
/// # Errors
/// `Damaged` or `NotADatabase` if the database is damaged.
pub async fn quick_check(
    connection: &mut SqliteConnection,
    directory: &Path,
    file: &Path,
) -> Result<(), StoreError> {
    let found: Result<String, sqlx::Error> =
        sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(connection).await;
    match found {
        Ok(found) if found == "ok" => Ok(()),
        Ok(found) => Err(damaged(file, found.trim())),
        Err(source) => Err(refusal(directory, file, source)),
    }
}

/// Refuses an empty database file, because SQLite would treat it as a new database.
pub fn require_content(file: &Path) -> Result<(), StoreError> {
    let is_empty = file.metadata().is_ok_and(|found| found.is_file() && found.len() == 0);
    if is_empty { Err(damaged(file, "it is empty")) } else { Ok(()) }
}

fn damaged(file: &Path, what: &str) -> StoreError {
    StoreError::Damaged { path: file.to_owned(), what: what.to_owned() }
}

/// Refuses to create a database if the directory contains files that belong to an earlier database.
pub fn require_no_leftovers(directory: &Path) -> Result<(), StoreError> {
    let log = directory.join("otter.db-wal");
    if log.exists() {
        return Err(StoreError::LogAlone { path: log });
    }
    if directory.join(UNFINISHED_RESTORE).exists() {
        return Err(StoreError::UnfinishedRestore { path: directory.to_owned() });
    }
    Ok(())
}

async fn create(directory: &Path, file: &Path) -> Result<(), StoreError> {
    require_no_leftovers(directory)?;
    let sibling = |name: &str| -> PathBuf { directory.join(name) };
    let not_writable = |source| StoreError::not_writable(directory, source);
    // A start that was interrupted may have left these files.
    for left in ["otter.db.new", "otter.db.new-wal", "otter.db.new-shm"] {
        files::remove(&sibling(left)).map_err(not_writable)?;
    }
    let new = sibling("otter.db.new");
    // This file gets private permissions, and SQLite creates its other files with the same
    // permissions.
    files::create(&new).map_err(not_writable)?;
    let mut connection = connect(directory, file, &options(&new)).await?;
    migrate::migrate(&mut connection, directory, file).await?;
    connection.close().await.map_err(|source| refusal(directory, file, source))?;
    std::fs::rename(&new, file)
        .and_then(|()| files::sync_directory(directory))
        .map_err(not_writable)
}

pub async fn in_memory() -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new().in_memory(true).foreign_keys(true);
    let mut connection = SqliteConnection::connect_with(&without_statement_logs(options)).await?;
    let memory = Path::new(":memory:");
    migrate::migrate(&mut connection, memory, memory).await?;
    Ok(connection)
}

/// Locks a state directory for this process. The operating system releases the lock when the
/// process ends. The lock file contains the process id, so that another process can name it in an
/// error message.
///
/// # Errors
/// `Locked` if another process holds the lock.
pub fn lock(directory: &Path) -> Result<File, StoreError> {
    let not_writable = |source| StoreError::not_writable(directory, source);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(LOCK))
        .map_err(not_writable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let pid =
                file.read_to_string(&mut holder).ok().and_then(|_| holder.trim().parse().ok());
            return Err(StoreError::Locked { path: directory.to_owned(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(not_writable(source)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(not_writable)?;
    Ok(file)
}
