//! Examines a state directory without changing it: whether otter could use it, and its contents.

use std::path::Path;

use rustix::fs::Access;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use super::files::{self, DATABASE};
use super::open::{BUSY_TIMEOUT, refusal, require_content};
use super::{StoreError, migrate};

/// What a state directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundState {
    /// False if the directory is made by the first start.
    pub exists: bool,
    /// Whether there is a token that callers can come with.
    pub has_tokens_in_force: bool,
}

/// Checks that a directory can hold the state: it, or its parent if it is missing, must be
/// writable. True if the directory exists.
///
/// # Errors
/// What is in the way, and what to do.
pub fn directory(path: &Path) -> Result<bool, StoreError> {
    let failed = |source: std::io::Error| StoreError::CreateDirectory { path: path.to_owned(), source };
    let writable = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    match std::fs::metadata(path) {
        Ok(found) if !found.is_dir() => Err(StoreError::NotADirectory { path: path.to_owned() }),
        Ok(found) if files::is_shared(&found) => Err(StoreError::SharedDirectory { path: path.to_owned() }),
        Ok(_) => rustix::fs::access(path, writable)
            .map(|()| true)
            .map_err(|error| StoreError::not_writable(path, error.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // The parent of a bare name is the directory that otter was started in.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            rustix::fs::access(parent.unwrap_or(Path::new(".")), writable)
                .map(|()| false)
                .map_err(|error| failed(error.into()))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Looks at a directory and its database.
///
/// # Errors
/// What would keep a start from using it.
pub async fn examine(path: &Path) -> Result<FoundState, StoreError> {
    let exists = directory(path)?;
    let file = path.join(DATABASE);
    if !exists || !file.exists() {
        return Ok(FoundState { exists, has_tokens_in_force: false });
    }
    require_content(&file)?;
    // Without a log the file is the whole database, and reading it must neither make files nor change them.
    let is_whole = std::fs::metadata(path.join("otter.db-wal")).map_or(true, |log| log.len() == 0);
    let options = SqliteConnectOptions::new()
        .filename(&file)
        .read_only(true)
        .immutable(is_whole)
        .busy_timeout(BUSY_TIMEOUT);
    let refused = |source| refusal(path, &file, source);
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(refused)?;
    migrate::require_known(&mut connection, path, &file).await?;
    // The first schema has no tokens.
    let has_tokens: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'tokens')",
    )
    .fetch_one(&mut connection)
    .await
    .map_err(refused)?;
    let has_tokens_in_force = has_tokens
        && sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM tokens WHERE revoked_at IS NULL)")
            .fetch_one(&mut connection)
            .await
            .map_err(refused)?;
    // Nothing was written.
    drop(connection.close().await);
    Ok(FoundState { exists, has_tokens_in_force })
}
