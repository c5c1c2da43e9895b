//! Opening the state directory: the lock, the file, the migrations, and a plain refusal for whatever is wrong.
//!
//! ```text
//! lock ─► otter.db is there ─► read it through ─► migrate ─► writer, readers
//!           └─ is not: make otter.db.new whole, then rename: an empty or half-made otter.db was cut short later
//! ```
//! A file that is refused is left as it was.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection, SqlitePool};

use super::StoreError;

static MIGRATIONS: Migrator = sqlx::migrate!("src/store/migrations");

/// How long a statement waits for another process, such as `otter token`, that writes just now.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads at a time; more wait for a connection this long at most.
const READERS: u32 = 4;
const READER_TIMEOUT: Duration = Duration::from_secs(30);

/// The primary result codes of SQLite that tell what is wrong with a file.
const SQLITE_READONLY: i32 = 8;
const SQLITE_IOERR: i32 = 10;
const SQLITE_CORRUPT: i32 = 11;
const SQLITE_FULL: i32 = 13;
const SQLITE_CANTOPEN: i32 = 14;
const SQLITE_NOTADB: i32 = 26;

pub struct Opened {
    pub writer: SqliteConnection,
    pub readers: SqlitePool,
    pub lock: File,
}

pub async fn open(directory: &Path) -> Result<Opened, StoreError> {
    make_directory(directory)?;
    let lock = lock(directory)?;
    let file = directory.join("otter.db");
    if file.exists() {
        check(directory, &file).await?;
    } else {
        make(directory, &file).await?;
    }
    let mut writer = connect(directory, &file, &options(&file)).await?;
    migrate(&mut writer, directory, &file).await?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(READER_TIMEOUT)
        .connect_with(
            SqliteConnectOptions::new().filename(&file).busy_timeout(BUSY_TIMEOUT).pragma("query_only", "on"),
        )
        .await
        .map_err(|source| refusal(directory, &file, source))?;
    Ok(Opened { writer, readers, lock })
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
    SqliteConnection::connect_with(options).await.map_err(|source| refusal(directory, file, source))
}

/// Reads the whole database, so that damage is told now and not by a wrong answer later. By a connection that cannot
/// write, since even looking would else fold the log into the file.
async fn check(directory: &Path, file: &Path) -> Result<(), StoreError> {
    let damaged = |what: &str| StoreError::Damaged { path: file.to_owned(), what: what.to_owned() };
    if file.metadata().is_ok_and(|found| found.is_file() && found.len() == 0) {
        return Err(damaged("it is empty"));
    }
    let options = SqliteConnectOptions::new().filename(file).read_only(true).busy_timeout(BUSY_TIMEOUT);
    let mut connection = connect(directory, file, &options).await?;
    let found: Result<String, sqlx::Error> =
        sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut connection).await;
    // Nothing of it matters any more.
    drop(connection.close().await);
    match found {
        Ok(found) if found == "ok" => Ok(()),
        Ok(found) => Err(damaged(found.trim())),
        Err(source) => Err(refusal(directory, file, source)),
    }
}

async fn make(directory: &Path, file: &Path) -> Result<(), StoreError> {
    let beside = |name: &str| -> PathBuf { directory.join(name) };
    let log = beside("otter.db-wal");
    if log.exists() {
        return Err(StoreError::LogAlone { path: log });
    }
    let not_writable =
        |source: io::Error| StoreError::NotWritable { path: directory.to_owned(), source: source.into() };
    // What a start that was cut short left.
    for left in ["otter.db.new", "otter.db.new-wal", "otter.db.new-shm"] {
        match std::fs::remove_file(beside(left)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(not_writable(error)),
            _ => {}
        }
    }
    let new = beside("otter.db.new");
    let mut connection = connect(directory, file, &options(&new).create_if_missing(true)).await?;
    migrate(&mut connection, directory, file).await?;
    connection.close().await.map_err(|source| refusal(directory, file, source))?;
    std::fs::rename(&new, file).and_then(|()| File::open(directory)?.sync_all()).map_err(not_writable)
}

pub async fn in_memory() -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new().in_memory(true).foreign_keys(true);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let memory = Path::new(":memory:");
    migrate(&mut connection, memory, memory).await?;
    Ok(connection)
}

/// Only the last part of the path is made: a parent that is missing is more likely a slip of the pen, or a
/// disk that is not mounted.
fn make_directory(directory: &Path) -> Result<(), StoreError> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        made => made.map_err(|source| StoreError::CreateDirectory { path: directory.to_owned(), source }),
    }
}

/// The lock is the operating system's and goes with the process, however that ends. The file holds the
/// process's id, only to say it to whoever finds it locked.
fn lock(directory: &Path) -> Result<File, StoreError> {
    let not_writable =
        |source: io::Error| StoreError::NotWritable { path: directory.to_owned(), source: source.into() };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join("lock"))
        .map_err(not_writable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let pid = file.read_to_string(&mut holder).ok().and_then(|_| holder.trim().parse().ok());
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

async fn migrate(connection: &mut SqliteConnection, directory: &Path, file: &Path) -> Result<(), StoreError> {
    MIGRATIONS.run(connection).await.map_err(|error| match error {
        MigrateError::VersionMissing(migration) => {
            StoreError::NewerDatabase { path: file.to_owned(), migration }
        }
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => {
            refusal(directory, file, source)
        }
        source => StoreError::Migrate { path: file.to_owned(), source },
    })
}

fn refusal(directory: &Path, file: &Path, source: sqlx::Error) -> StoreError {
    // Extended codes carry the primary one in their lowest byte.
    let code = source
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .and_then(|code| code.parse::<i32>().ok())
        .map(|code| code & 0xff);
    match code {
        Some(SQLITE_NOTADB | SQLITE_CORRUPT) => StoreError::NotADatabase { path: file.to_owned(), source },
        Some(SQLITE_READONLY | SQLITE_CANTOPEN | SQLITE_IOERR | SQLITE_FULL) => {
            StoreError::NotWritable { path: directory.to_owned(), source: source.into() }
        }
        _ => StoreError::Open { path: file.to_owned(), source },
    }
}
