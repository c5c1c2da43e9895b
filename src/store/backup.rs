//! `otter store backup`: writes the database and the key into one archive. It works while a daemon
//! is running.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sqlx::Connection;

use super::archive::{self, Manifest};
use super::files::{self, SECRET_KEY};
use super::migrate::{self, CopyError};
use super::open;
use super::restore::RemoveOnDrop;
use super::sqlite_errors::refusal;
use super::{StoreError, key, maintenance, schema, sqlite_errors};

/// Writes an archive of the state into a new file that only its owner can read.
///
/// # Errors
/// `FileExists` if the file exists. `ArchiveNotWritten` if the file cannot be written, for example
/// because the disk is full. `Key` if the key is damaged, or if it is missing although there are
/// leases. Also the errors of opening a database.
pub async fn backup(
    state_dir: &Path,
    archive: &Path,
    now: Timestamp,
) -> Result<Manifest, StoreError> {
    let database = open::require_database(state_dir)?;
    let mut connection = open::open_read_only(state_dir, &database).await?;
    migrate::require_current(&mut connection, state_dir, &database).await?;
    let refused = |source| refusal(state_dir, &database, source);
    let has_leases = maintenance::has_leases(&mut connection).await.map_err(refused)?;
    let key = key::require(state_dir, has_leases)?.map(|_| state_dir.join(SECRET_KEY));
    let not_written = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => StoreError::FileExists { path: archive.to_owned() },
        _ => StoreError::ArchiveNotWritten { path: archive.to_owned(), source: source.into() },
    };
    let file = files::create(archive).map_err(not_written)?;
    let mut cleanup = RemoveOnDrop::new(archive);
    let copy = copy_path(archive);
    let _copy = RemoveOnDrop::new(&copy);
    migrate::copy_into(&mut connection, &copy).await.map_err(|error| match error {
        CopyError::File(source) => not_written(source),
        CopyError::Database(source) if sqlite_errors::is_unwritable(&source) => {
            StoreError::ArchiveNotWritten { path: archive.to_owned(), source: source.into() }
        }
        CopyError::Database(source) => refused(source),
    })?;
    // An error of the close is ignored, because the copy of the database is already complete.
    drop(connection.close().await);
    let manifest = archive::write(&file, &copy, key.as_deref(), schema::current(), now)
        .map_err(not_written)?;
    sync_parent(archive).map_err(not_written)?;
    cleanup.disarm();
    Ok(manifest)
}

/// The path of the copy of the database that exists while the archive is written. It is in the
/// directory of the archive, because the disk of the archive needs room for the database anyway.
fn copy_path(archive: &Path) -> PathBuf {
    let mut name = archive.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    PathBuf::from(name)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
