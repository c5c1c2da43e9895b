//! Migrates a database to the current schema, and refuses databases whose schema otter does not
//! know.
//!
//! ```text
//! copy otter.db to otter.db.before-<schema> ─► foreign keys off ─► begin ─► migrations
//!   ─► foreign_key_check ─► commit
//! ```
//! Foreign keys are off during the migrations, because some migrations rebuild a table. Otherwise
//! dropping the old table would delete the rows that refer to it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sqlx::migrate::MigrateError;
use sqlx::{Connection, SqliteConnection};

use super::schema::{MIGRATIONS, current};
use super::sqlite_errors::refusal;
use super::{StoreError, files};

/// Refuses a database whose schema is not the current one.
///
/// # Errors
/// `OlderDatabase` or `NewerDatabase`.
pub async fn require_current(
    connection: &mut SqliteConnection,
    directory: &Path,
    file: &Path,
) -> Result<(), StoreError> {
    let applied = applied(connection, directory, file).await?;
    refuse_newer(&applied, file)?;
    if is_pending(&applied) {
        return Err(StoreError::OlderDatabase { path: file.to_owned(), found: version(&applied) });
    }
    Ok(())
}

/// Refuses a database that a newer otter wrote.
///
/// # Errors
/// `NewerDatabase`.
pub async fn require_known(
    connection: &mut SqliteConnection,
    directory: &Path,
    file: &Path,
) -> Result<(), StoreError> {
    refuse_newer(&applied(connection, directory, file).await?, file)
}

/// Migrates the database in `file`, with all migrations in one transaction. If a migration is
/// pending, the database is first copied to `otter.db.before-<schema>` in `directory`.
pub async fn migrate_with_copy(
    connection: &mut SqliteConnection,
    directory: &Path,
    file: &Path,
) -> Result<(), StoreError> {
    let applied = applied(connection, directory, file).await?;
    refuse_newer(&applied, file)?;
    if is_pending(&applied) {
        let copy = save_copy(connection, directory, file, version(&applied)).await?;
        tracing::info!(
            from = version(&applied),
            to = current(),
            copy = %copy.display(),
            "migrating the database; the copy has the old schema"
        );
    }
    migrate(connection, directory, file).await
}

/// Migrates a database like [`migrate_with_copy`], but without the copy. It is for a database that
/// is new or that is itself a copy.
pub async fn migrate(
    connection: &mut SqliteConnection,
    directory: &Path,
    file: &Path,
) -> Result<(), StoreError> {
    let refused = |source| refusal(directory, file, source);
    // The pragma comes before the transaction, because it has no effect within one.
    sqlx::query("PRAGMA foreign_keys = OFF").execute(&mut *connection).await.map_err(refused)?;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(refused)?;
    MIGRATIONS.run(&mut *transaction).await.map_err(|error| match error {
        MigrateError::VersionMissing(migration) => {
            StoreError::NewerDatabase { path: file.to_owned(), migration }
        }
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => {
            refused(source)
        }
        source => StoreError::Migrate { path: file.to_owned(), source },
    })?;
    if let Some(what) = find_dangling_reference(&mut transaction).await.map_err(refused)? {
        return Err(StoreError::Damaged { path: file.to_owned(), what });
    }
    transaction.commit().await.map_err(refused)?;
    sqlx::query("PRAGMA foreign_keys = ON").execute(connection).await.map(drop).map_err(refused)
}

/// Describes a row that refers to a row which does not exist. `None` if there is no such row.
pub async fn find_dangling_reference(
    connection: &mut SqliteConnection,
) -> Result<Option<String>, sqlx::Error> {
    let found: Option<(String, Option<i64>, String, i64)> =
        sqlx::query_as("PRAGMA foreign_key_check").fetch_optional(connection).await?;
    Ok(found.map(|(table, _, parent, _)| {
        format!("a row of {table} refers to a row of {parent} that does not exist")
    }))
}

/// The numbers of the migrations that were applied to a database. Empty if the database is empty or
/// does not belong to otter.
async fn applied(
    connection: &mut SqliteConnection,
    directory: &Path,
    file: &Path,
) -> Result<BTreeSet<i64>, StoreError> {
    let refused = |source| refusal(directory, file, source);
    let table: Option<i64> = sqlx::query_scalar(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations'",
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(refused)?;
    if table.is_none() {
        return Ok(BTreeSet::new());
    }
    let versions: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations")
        .fetch_all(connection)
        .await
        .map_err(refused)?;
    Ok(versions.into_iter().collect())
}

fn version(applied: &BTreeSet<i64>) -> i64 {
    applied.last().copied().unwrap_or_default()
}

fn is_pending(applied: &BTreeSet<i64>) -> bool {
    MIGRATIONS.iter().any(|migration| !applied.contains(&migration.version))
}

fn refuse_newer(applied: &BTreeSet<i64>, file: &Path) -> Result<(), StoreError> {
    match applied.iter().rev().find(|version| !MIGRATIONS.version_exists(**version)) {
        Some(migration) => {
            Err(StoreError::NewerDatabase { path: file.to_owned(), migration: *migration })
        }
        None => Ok(()),
    }
}

/// Copies the database to `otter.db.before-<schema>` and returns the path of the copy. If an
/// earlier migration left a different file with this name, that file is renamed to
/// `otter.db.before-<schema>.old`.
async fn save_copy(
    connection: &mut SqliteConnection,
    directory: &Path,
    file: &Path,
    schema: i64,
) -> Result<PathBuf, StoreError> {
    let sibling = |suffix: &str| directory.join(format!("otter.db.before-{schema}{suffix}"));
    let (copy, old, new) = (sibling(""), sibling(".old"), sibling(".new"));
    let not_writable = |source| StoreError::not_writable(directory, source);
    files::remove(&new).map_err(not_writable)?;
    copy_into(connection, &new).await.map_err(|error| match error {
        CopyError::File(source) => not_writable(source),
        CopyError::Database(source) => refusal(directory, file, source),
    })?;
    if files::are_equal(&new, &copy).map_err(not_writable)? {
        files::remove(&new).map_err(not_writable)?;
        return Ok(copy);
    }
    if copy.exists() {
        std::fs::rename(&copy, &old).map_err(not_writable)?;
    }
    std::fs::rename(&new, &copy)
        .and_then(|()| files::sync_directory(directory))
        .map_err(not_writable)?;
    Ok(copy)
}

/// Why a database could not be copied.
pub enum CopyError {
    File(std::io::Error),
    Database(sqlx::Error),
}

/// Copies the whole database at one moment into a new file that only its owner can read.
pub async fn copy_into(connection: &mut SqliteConnection, copy: &Path) -> Result<(), CopyError> {
    // The file is created first, with private permissions. SQLite accepts an empty file as the
    // target.
    let file = files::create(copy).map_err(CopyError::File)?;
    let text = copy.to_str().ok_or_else(|| {
        CopyError::File(std::io::Error::new(
            std::io::ErrorKind::InvalidFilename,
            "the path of the copy is not UTF-8",
        ))
    })?;
    sqlx::query("VACUUM INTO $1")
        .bind(text)
        .execute(connection)
        .await
        .map_err(CopyError::Database)?;
    file.sync_all().map_err(CopyError::File)
}
