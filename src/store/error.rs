//! The failures of the state directory and of the database. Each message says what the operator can
//! do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::ArchiveError;
use super::key::KeyError;
use super::schema::current;
use crate::storage::StorageError;

/// A failure of the state directory or of the database in it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the state directory {} does not exist and cannot be created: check its spelling, create \
         its parent, or name another directory with --state-dir, OTTER_STATE_DIR or state.dir",
        path.display()
    )]
    CreateDirectory { path: PathBuf, source: io::Error },
    #[error(
        "the state directory {} is a file: name a directory with --state-dir, OTTER_STATE_DIR or \
         state.dir",
        path.display()
    )]
    NotADirectory { path: PathBuf },
    #[error(
        "the state directory {} cannot be written to: otter's user must own it, on a file system \
         that is neither read-only nor full",
        path.display()
    )]
    NotWritable { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(
        "all users share the directory {}: name a directory that only otter uses, such as {}",
        path.display(), path.join("otter").display()
    )]
    SharedDirectory { path: PathBuf },
    #[error(
        "the state directory {} does not exist: check its name, or create it with \
         install -d -m 700 {}, owned by the account that otter runs as",
        path.display(), path.display()
    )]
    NoStateDirectory { path: PathBuf },
    #[error(
        "there is no otter database in {}: name the state directory of the daemon with \
         --state-dir, OTTER_STATE_DIR or state.dir",
        directory.display()
    )]
    NoDatabase { directory: PathBuf },
    #[error(
        "another otter{} uses the state directory {}: stop that otter, or name another directory",
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        path.display()
    )]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error(
        "a newer otter wrote the database {} (it has migration {migration}): run that version, or \
         restore a copy from before the upgrade",
        path.display()
    )]
    NewerDatabase { path: PathBuf, migration: i64 },
    #[error(
        "the database {} has schema {found}, and this otter uses schema {}: run the otter that \
         wrote it, or start the daemon of this version once, which migrates the database",
        path.display(),
        current()
    )]
    OlderDatabase { path: PathBuf, found: i64 },
    #[error(
        "the file {} is not an otter database, or is damaged: restore a copy, or move it and its \
         -wal away to start with an empty database",
        path.display()
    )]
    NotADatabase { path: PathBuf, source: sqlx::Error },
    #[error(
        "the database {} is damaged ({what}): restore a copy, or move it and its -wal away to \
         start with an empty database",
        path.display()
    )]
    Damaged { path: PathBuf, what: String },
    #[error(
        "the state directory {} is a symbolic link to {}, which does not exist: create that \
         directory, mount its disk, or name another one with --state-dir, OTTER_STATE_DIR or \
         state.dir",
        path.display(), target.display()
    )]
    DanglingLink { path: PathBuf, target: PathBuf },
    #[error(
        "{} is not a file, and otter needs a file with this name: move it away",
        path.display()
    )]
    NotAFile { path: PathBuf },
    #[error("{} exists already: name a file that does not exist", path.display())]
    FileExists { path: PathBuf },
    #[error("{} cannot be written or read: otter's user must own it", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "the archive {} cannot be written: its directory must be writable, with room for two \
         copies of the database",
        path.display()
    )]
    ArchiveNotWritten { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(
        "{} is not empty: name a directory that is empty or does not exist; nothing in it was \
         changed",
        path.display()
    )]
    NotEmpty { path: PathBuf },
    #[error(
        "a restore into {} was interrupted: remove its contents, and restore again",
        path.display()
    )]
    UnfinishedRestore { path: PathBuf },
    #[error("the archive {} cannot be restored", path.display())]
    Archive { path: PathBuf, source: ArchiveError },
    #[error(
        "the archive {} has schema {schema}, and this otter uses schema {}: restore it with the \
         otter that wrote it, or a newer one",
        path.display(),
        current()
    )]
    NewerArchive { path: PathBuf, schema: i64 },
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The write-ahead log, which contains the last commits, exists without the database. So the
    /// database was moved away without its log.
    #[error(
        "{} exists without its database: put the database back into the same directory, or move \
         this file away too, to start with an empty database",
        path.display()
    )]
    LogAlone { path: PathBuf },
    #[error("the database {} cannot be opened", path.display())]
    Open { path: PathBuf, source: sqlx::Error },
    #[error("the database {} cannot be migrated", path.display())]
    Migrate { path: PathBuf, source: sqlx::migrate::MigrateError },
    /// An SQL statement failed, or a stored object cannot be decoded.
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the writer of the store was already started")]
    WriterTaken,
}

impl StoreError {
    /// The error for a file of this state directory that cannot be created, changed or read.
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
        statement_error(Arc::new(source), false)
    }
}

/// The error for a failed SQL statement. Several writes of one transaction can share the cause.
///
/// # Parameters
/// - `may_be_committed`: whether the statement is a `COMMIT` that may have succeeded all the same.
pub fn statement_error(cause: Arc<sqlx::Error>, may_be_committed: bool) -> StorageError {
    if is_conflict(&cause) {
        return StorageError::Conflict(cause);
    }
    let message = super::database_message(&cause);
    StorageError::Refused { message, may_be_committed, source: cause }
}

/// Whether a transaction may be committed although its `COMMIT` failed with this cause. If the
/// cause has no result code of SQLite, nothing is proven, so the answer is yes.
pub fn may_be_committed(cause: &sqlx::Error) -> bool {
    let code = cause.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let code = code.and_then(|code| code.parse().ok());
    !code.is_some_and(proves_no_commit)
}

/// Whether a `COMMIT` that failed with this result code certainly wrote no complete transaction to
/// the log.
///
/// In the WAL mode, the last frame of a transaction commits it. SQLite writes that frame, syncs the
/// log and updates the index of the log, in this order. If writing the frame fails, the frame is
/// absent or its checksum is wrong, so nothing is committed. If one of the later steps fails, a
/// restart may find the frame. See <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>
/// and <https://www.sqlite.org/rescode.html>.
const fn proves_no_commit(code: u32) -> bool {
    const IOERR_WRITE: u32 = 778;
    // The numbers are the primary codes PERM, BUSY, LOCKED, READONLY, FULL and CONSTRAINT.
    code == IOERR_WRITE || matches!(code & 0xff, 3 | 5 | 6 | 8 | 13 | 19)
}

/// Whether an SQL statement failed before it could commit, because it does not fit the schema or
/// because the database is damaged.
pub fn ended_before_commit(cause: &sqlx::Error) -> bool {
    const ERROR: u32 = 1;
    const CORRUPT: u32 = 11;
    const NOT_A_DATABASE: u32 = 26;
    let code = cause.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let code = code.and_then(|code| code.parse::<u32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, ERROR | CORRUPT | NOT_A_DATABASE))
}

/// Whether the database refused a write because the write conflicts with the stored data, and not
/// because of the disk.
pub fn is_conflict(cause: &sqlx::Error) -> bool {
    use sqlx::error::ErrorKind;
    let kind = cause.as_database_error().map(sqlx::error::DatabaseError::kind);
    kind.is_some_and(|kind| !matches!(kind, ErrorKind::Other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_commit_that_could_not_write_is_proven_not_to_have_happened() {
        const BUSY_SNAPSHOT: u32 = 517;
        const IOERR_FSYNC: u32 = 1_034;
        const IOERR_SHMSIZE: u32 = 4_874;
        const NOMEM: u32 = 7;
        const FULL: u32 = 13;
        const IOERR_WRITE: u32 = 778;
        const READONLY_DBMOVED: u32 = 1_032;
        for code in [BUSY_SNAPSHOT, FULL, IOERR_WRITE, READONLY_DBMOVED] {
            assert!(proves_no_commit(code), "{code}");
        }
        for code in [IOERR_FSYNC, IOERR_SHMSIZE, NOMEM] {
            assert!(!proves_no_commit(code), "{code}");
        }
        assert!(may_be_committed(&sqlx::Error::WorkerCrashed));
        let closed = statement_error(Arc::new(sqlx::Error::WorkerCrashed), true);
        assert!(closed.may_be_committed());
        assert!(!StorageError::from(sqlx::Error::WorkerCrashed).may_be_committed());
    }
}
