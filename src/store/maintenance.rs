//! `otter store check` and `otter store compact`. The first checks a database. The second gives the
//! space of deleted rows back to the disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::Mutex;

use super::files::DATABASE;
use super::open;
use super::sqlite_errors::refusal;
use super::{
    ReadConnection, Reader, StoreError, jobs, key, leases, migrate, state_directory, tokens,
};
use crate::storage::StorageError;

/// The statements whose rows a check decodes.
const JOBS: &str = "SELECT id, document_version, document FROM jobs";
const LEASES: &str = "SELECT id, document_version, document FROM leases";
const MACHINES: &str =
    "SELECT machine, fence, last_lease_end, quarantine, absent_since, recovery FROM kept_machines";

/// The maximum number of problems that a check reports.
const MAX_PROBLEMS: usize = 50;

/// The result of a check of the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    pub jobs: usize,
    pub leases: usize,
    pub tokens: usize,
    /// What is damaged in the database, with one sentence for each problem.
    pub problems: Vec<String>,
    /// What is wrong with the key file, and what the operator can do. `None` if the key can be
    /// used.
    pub key_problem: Option<String>,
}

/// The size of a database before and after it was compacted, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactReport {
    pub before: u64,
    pub after: u64,
}

/// Reads the whole database and decodes every row, without changing anything. A daemon may be
/// running.
///
/// # Errors
/// The errors of opening a database. If a database can be opened but is damaged, the result says
/// so.
pub async fn check(state_dir: &Path) -> Result<CheckReport, StoreError> {
    let file = open::require_database(state_dir)?;
    let mut connection = open::open_read_only(state_dir, &file).await?;
    migrate::require_current(&mut connection, state_dir, &file).await?;
    let refused = |source| refusal(state_dir, &file, source);
    let mut checked = CheckReport {
        problems: find_damage(&mut connection).await.map_err(refused)?,
        ..CheckReport::default()
    };
    let has_leases = has_leases(&mut connection).await.map_err(refused)?;
    checked.key_problem =
        key::require(state_dir, has_leases).err().map(|error| error_with_cause(&error));
    let problems = &mut checked.problems;
    checked.jobs = read_each(&mut connection, JOBS, jobs::read, problems).await.map_err(refused)?;
    checked.leases =
        read_each(&mut connection, LEASES, leases::read, problems).await.map_err(refused)?;
    read_each(&mut connection, MACHINES, leases::read_machine, problems).await.map_err(refused)?;
    let connection = Arc::new(Mutex::new(connection)).lock_owned().await;
    let statements = AtomicU64::new(0);
    let mut reader =
        Reader { connection: ReadConnection::Shared(connection), statements: &statements };
    match tokens::all(&mut reader).await {
        Ok(tokens) => checked.tokens = tokens.len(),
        Err(error) => problems.push(error_with_cause(&error)),
    }
    Ok(checked)
}

/// Rewrites the database without the space of deleted rows. No daemon may be running.
///
/// # Errors
/// `Locked` while a daemon is running. Also the errors of opening a database.
pub async fn compact(state_dir: &Path) -> Result<CompactReport, StoreError> {
    let file = open::require_database(state_dir)?;
    let _lock = open::lock(state_dir)?;
    state_directory::restrict_permissions(state_dir)?;
    let refused = |source| refusal(state_dir, &file, source);
    let mut connection = open::open_checked(state_dir, &file).await?;
    migrate::require_current(&mut connection, state_dir, &file).await?;
    let before = size(state_dir);
    sqlx::query("VACUUM").execute(&mut connection).await.map_err(refused)?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&mut connection)
        .await
        .map_err(refused)?;
    connection.close().await.map_err(refused)?;
    Ok(CompactReport { before, after: size(state_dir) })
}

/// Finds the damage of a database: at most ten problems of its pages, and broken foreign keys.
pub async fn find_damage(connection: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    let found: Vec<String> =
        sqlx::query_scalar("PRAGMA integrity_check(10)").fetch_all(&mut *connection).await?;
    let mut problems: Vec<String> =
        found.into_iter().filter(|line| line != "ok").map(|line| line.trim().to_owned()).collect();
    problems.extend(migrate::find_dangling_reference(connection).await?);
    Ok(problems)
}

/// Whether the database contains leases. Ended leases count too.
pub async fn has_leases(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM leases)").fetch_one(connection).await
}

/// Decodes every row that a statement returns. Adds a text to `problems` for each row that cannot
/// be decoded. Returns the number of rows.
async fn read_each<T>(
    connection: &mut SqliteConnection,
    statement: &'static str,
    read: fn(&SqliteRow) -> Result<T, StorageError>,
    problems: &mut Vec<String>,
) -> Result<usize, sqlx::Error> {
    let mut rows = sqlx::query(statement).fetch(connection);
    let mut count = 0;
    while let Some(row) = rows.try_next().await? {
        count += 1;
        if let Err(error) = read(&row)
            && problems.len() < MAX_PROBLEMS
        {
            problems.push(error_with_cause(&error));
        }
    }
    Ok(count)
}

/// An error and its cause in one line.
fn error_with_cause(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// The size in bytes of the database together with its write-ahead log.
fn size(state_dir: &Path) -> u64 {
    let bytes = |name: &str| state_dir.join(name).metadata().map_or(0, |found| found.len());
    bytes(DATABASE) + bytes("otter.db-wal")
}
