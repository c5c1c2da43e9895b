//! Examines a state directory without changing anything: what it contains, and whether otter can
//! use it.

use std::path::Path;

use rustix::fs::Access;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use super::files::{DATABASE, LOCK};
use super::open::{self, BUSY_TIMEOUT, require_content};
use super::sqlite_errors::refusal;
use super::state_directory::is_usable_directory;
use super::{StoreError, migrate};

/// What a state directory contains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FoundState {
    pub existing: Existing,
    /// Whether the database contains leases. Ended leases count too.
    pub has_leases: bool,
    /// Whether the database contains a token that is not revoked.
    pub has_tokens_in_force: bool,
}

/// How much of the state exists before the daemon starts: nothing, the directory, or the database
/// too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    #[default]
    Nothing,
    /// The directory exists, but it contains no database.
    Directory,
    Database,
}

/// Examines a state directory and its database.
///
/// # Errors
/// Why a daemon could not use the directory.
pub async fn examine(path: &Path) -> Result<FoundState, StoreError> {
    if !is_usable_directory(path)? {
        return Ok(FoundState::default());
    }
    require_writable(&path.join(LOCK))?;
    let file = path.join(DATABASE);
    if !file.exists() {
        open::require_no_leftovers(path)?;
        return Ok(FoundState { existing: Existing::Directory, ..FoundState::default() });
    }
    require_writable(&file)?;
    require_content(&file)?;
    let mut connection = connect(path, &file).await?;
    let refused = |source| refusal(path, &file, source);
    migrate::require_known(&mut connection, path, &file).await?;
    let mut has_rows =
        async |table, rows| has_rows(&mut connection, table, rows).await.map_err(refused);
    let has_leases = has_rows("leases", "SELECT EXISTS (SELECT 1 FROM leases)").await?;
    let in_force = "SELECT EXISTS (SELECT 1 FROM tokens WHERE revoked_at IS NULL)";
    let has_tokens_in_force = has_rows("tokens", in_force).await?;
    // An error of the close is ignored, because nothing was written.
    drop(connection.close().await);
    Ok(FoundState { existing: Existing::Database, has_leases, has_tokens_in_force })
}

/// Reads the whole database of a directory, to detect damage. Returns the names of the tokens that
/// are not revoked.
///
/// # Errors
/// `Damaged` or `NotADatabase` if the database is damaged.
pub async fn read_through(path: &Path) -> Result<Vec<String>, StoreError> {
    let file = path.join(DATABASE);
    let mut connection = connect(path, &file).await?;
    open::quick_check(&mut connection, path, &file).await?;
    let refused = |source| refusal(path, &file, source);
    let any = "SELECT EXISTS (SELECT 1 FROM tokens WHERE revoked_at IS NULL)";
    let mut names = Vec::new();
    if has_rows(&mut connection, "tokens", any).await.map_err(refused)? {
        let in_force = "SELECT name FROM tokens WHERE revoked_at IS NULL ORDER BY name";
        names = sqlx::query_scalar(in_force).fetch_all(&mut connection).await.map_err(refused)?;
    }
    // An error of the close is ignored, because nothing was written.
    drop(connection.close().await);
    Ok(names)
}

/// Opens a database for reading. It neither changes the database nor creates a file.
async fn connect(directory: &Path, file: &Path) -> Result<SqliteConnection, StoreError> {
    // If there is no write-ahead log, the file is the whole database. In this case the option
    // `immutable` keeps SQLite from creating or changing files.
    let is_whole =
        std::fs::metadata(directory.join("otter.db-wal")).map_or(true, |log| log.len() == 0);
    let options = SqliteConnectOptions::new()
        .filename(file)
        .read_only(true)
        .immutable(is_whole)
        .busy_timeout(BUSY_TIMEOUT);
    SqliteConnection::connect_with(&options)
        .await
        .map_err(|source| refusal(directory, file, source))
}

/// Checks whether the daemon could open a file for writing. A missing file is accepted.
fn require_writable(path: &Path) -> Result<(), StoreError> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(StoreError::NotAFile { path: path.to_owned() }),
        Ok(_) => rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK)
            .map_err(|error| StoreError::File { path: path.to_owned(), source: error.into() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(StoreError::File { path: path.to_owned(), source }),
    }
}

/// Runs a statement that asks whether a table has certain rows. Returns false if the database has
/// an old schema without the table.
async fn has_rows(
    connection: &mut SqliteConnection,
    table: &str,
    rows: &'static str,
) -> Result<bool, sqlx::Error> {
    let exists: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = $1)",
    )
    .bind(table)
    .fetch_one(&mut *connection)
    .await?;
    Ok(exists && sqlx::query_scalar(rows).fetch_one(connection).await?)
}
