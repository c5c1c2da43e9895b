//! What can go wrong between otter and its state directory, worded for the operator who has to mend
//! it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::ArchiveError;
use super::key::KeyError;
use super::schema::current;
use crate::storage::StorageError;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the state directory {} does not exist and cannot be made: check its spelling, create its parent, or name \
         another directory with --state-dir, OTTER_STATE_DIR or state.dir",
        path.display()
    )]
    CreateDirectory { path: PathBuf, source: io::Error },
    #[error(
        "the state directory {} is a file: name a directory with --state-dir, OTTER_STATE_DIR or state.dir",
        path.display()
    )]
    NotADirectory { path: PathBuf },
    #[error(
        "the state directory {} cannot be written to: otter's user needs to own it, on a file system \
         that is neither read-only nor full",
        path.display()
    )]
    NotWritable { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(
        "{} is a directory that all users share: name one of otter's own, such as {}",
        path.display(), path.join("otter").display()
    )]
    SharedDirectory { path: PathBuf },
    #[error(
        "the state directory {} does not exist: check its name, or make it with install -d -m 700 {}, \
         owned by the account that otter runs as",
        path.display(), path.display()
    )]
    NoStateDirectory { path: PathBuf },
    #[error(
        "there is no otter database in {}: name the state directory of the daemon by --state-dir, \
         OTTER_STATE_DIR or state.dir",
        directory.display()
    )]
    NoDatabase { directory: PathBuf },
    #[error(
        "the state directory {} is in use by another otter{}: stop that one, or name another directory",
        path.display(),
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error(
        "the database {} was made by a newer otter (it has migration {migration}): run that version, or \
         restore a copy from before the upgrade",
        path.display()
    )]
    NewerDatabase { path: PathBuf, migration: i64 },
    #[error(
        "the database {} has schema {found}, and this otter works with schema {}: use the otter that made it, or \
         start this one's daemon once, which brings the database up to date",
        path.display(),
        current()
    )]
    OlderDatabase { path: PathBuf, found: i64 },
    #[error(
        "the file {} is not an otter database, or is damaged: restore a copy, or move it and its -wal away to \
         start anew, without the jobs in it",
        path.display()
    )]
    NotADatabase { path: PathBuf, source: sqlx::Error },
    #[error(
        "the database {} is damaged ({what}): restore a copy, or move it and its -wal away to start anew, without \
         the jobs in it",
        path.display()
    )]
    Damaged { path: PathBuf, what: String },
    #[error(
        "the state directory {} is a symbolic link to {}, which does not exist: make that directory, mount its disk, \
         or name another one with --state-dir, OTTER_STATE_DIR or state.dir",
        path.display(), target.display()
    )]
    DanglingLink { path: PathBuf, target: PathBuf },
    #[error("{} is not a file, and otter keeps one of this name: move it away", path.display())]
    NotAFile { path: PathBuf },
    #[error("{} exists already: name a file that does not", path.display())]
    FileExists { path: PathBuf },
    #[error("{} cannot be written or read: otter's user needs to own it", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "the archive {} cannot be written: its directory must be one that you may write to, with room for the \
         database twice",
        path.display()
    )]
    ArchiveNotWritten { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(
        "{} is not empty: name a directory that is, or that does not exist yet; nothing there was changed",
        path.display()
    )]
    NotEmpty { path: PathBuf },
    #[error("a restore into {} was cut short: remove what is in it, and restore again", path.display())]
    UnfinishedRestore { path: PathBuf },
    #[error("the archive {} cannot be restored", path.display())]
    Archive { path: PathBuf, source: ArchiveError },
    #[error(
        "the archive {} has schema {schema}, and this otter works with schema {}: restore it with the otter that made \
         it, or a newer one",
        path.display(),
        current()
    )]
    NewerArchive { path: PathBuf, schema: i64 },
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Somebody moved the one and forgot the other, which holds the last commits.
    #[error(
        "there is a {} without its database: put the database back beside it, or move it away too to start anew",
        path.display()
    )]
    LogAlone { path: PathBuf },
    #[error("the database {} cannot be opened", path.display())]
    Open { path: PathBuf, source: sqlx::Error },
    #[error("the database {} cannot be brought up to date", path.display())]
    Migrate { path: PathBuf, source: sqlx::migrate::MigrateError },
    /// A statement failed, or what is stored cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the store's writer runs already, or has run")]
    WriterTaken,
}

impl StoreError {
    /// A file of this state directory could not be made, changed or read.
    pub(super) fn not_writable(directory: &Path, source: io::Error) -> Self {
        Self::NotWritable { path: directory.to_owned(), source: source.into() }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(source: sqlx::Error) -> Self {
        Self::Storage(source.into())
    }
}

impl From<sqlx::Error> for StorageError {
    fn from(source: sqlx::Error) -> Self {
        statement_error(Arc::new(source))
    }
}

/// The error of a statement that failed. Writes that were committed together share the cause.
pub fn statement_error(cause: Arc<sqlx::Error>) -> StorageError {
    if is_conflict(&cause) {
        StorageError::Conflict(cause)
    } else {
        StorageError::Refused { message: super::database_message(&cause), source: cause }
    }
}

/// Whether a write was refused because of its content, not because of the disk.
pub fn is_conflict(cause: &sqlx::Error) -> bool {
    use sqlx::error::ErrorKind;
    let kind = cause.as_database_error().map(sqlx::error::DatabaseError::kind);
    kind.is_some_and(|kind| !matches!(kind, ErrorKind::Other))
}
