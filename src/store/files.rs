//! The files of the state directory. Only their owner may read them, with every umask, and even if
//! another process made them.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::{StoreError, examine};

/// The database.
pub const DATABASE: &str = "otter.db";
/// The key that the secrets of leases are made from.
pub const SECRET_KEY: &str = "secret.key";
/// The database of a restore until it is whole. If it stays, the restore was cut short.
pub const UNFINISHED_RESTORE: &str = "otter.db.restoring";
/// What the daemon holds a lock on.
pub const LOCK: &str = "lock";

const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_DIRECTORY: u32 = 0o700;
const STICKY: u32 = 0o1000;

/// Makes a file that must not exist yet, for its owner alone.
pub fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(PRIVATE_FILE).open(path)?;
    // An odd umask takes the owner's own permissions away.
    file.set_permissions(Permissions::from_mode(PRIVATE_FILE))?;
    Ok(file)
}

/// Makes the state directory if it is missing, for its owner alone. Its parent must exist: a parent that is missing is
/// more likely a typing error, or a disk that is not mounted.
pub fn make_directory(directory: &Path) -> Result<(), StoreError> {
    if examine::directory(directory)? {
        return Ok(());
    }
    let failed = |source| StoreError::CreateDirectory { path: directory.to_owned(), source };
    match DirBuilder::new().mode(PRIVATE_DIRECTORY).create(directory) {
        Ok(()) => {
            std::fs::set_permissions(directory, Permissions::from_mode(PRIVATE_DIRECTORY)).map_err(failed)
        }
        // Another command made it at this moment.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Removes the permissions of all users except the owner from the directory and otter's files in
/// it. Warns of each file that had any.
///
/// # Errors
/// `SharedDirectory` if the directory is one that all users share, such as `/tmp`.
pub fn tighten(directory: &Path) -> Result<(), StoreError> {
    let not_writable = |source| StoreError::not_writable(directory, source);
    if is_shared(&directory.metadata().map_err(not_writable)?) {
        return Err(StoreError::SharedDirectory { path: directory.to_owned() });
    }
    tighten_one(directory, PRIVATE_DIRECTORY);
    for entry in std::fs::read_dir(directory).map_err(not_writable)?.flatten() {
        let name = entry.file_name();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && name.to_str().is_some_and(is_ours) {
            tighten_one(&entry.path(), PRIVATE_FILE);
        }
    }
    Ok(())
}

/// Whether all users share a directory, as they do `/tmp`.
pub fn is_shared(directory: &Metadata) -> bool {
    let mode = directory.permissions().mode();
    mode & STICKY != 0 && mode & 0o022 != 0
}

/// Whether otter makes files of this name in its state directory.
fn is_ours(name: &str) -> bool {
    name.starts_with(DATABASE) || name == SECRET_KEY || name == LOCK
}

fn tighten_one(path: &Path, private: u32) {
    let Ok(found) = path.metadata() else { return };
    let mode = found.permissions().mode() & 0o7777;
    let of_others = mode & 0o077;
    if of_others == 0 {
        return;
    }
    let (was, now) = (format!("{mode:04o}"), format!("{private:04o}"));
    match std::fs::set_permissions(path, Permissions::from_mode(private)) {
        Ok(()) => tracing::warn!(
            path = %path.display(), was, now,
            "other users could reach what otter keeps; its permissions are tightened"
        ),
        Err(error) => tracing::warn!(
            path = %path.display(), was, %error,
            "other users can reach what otter keeps, and its permissions cannot be changed: make otter's user its owner"
        ),
    }
}

/// Removes a file if it exists.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Has the names in a directory written to the disk.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Whether both files exist and hold the same bytes.
pub fn are_equal(one: &Path, other: &Path) -> io::Result<bool> {
    let (Some(one), Some(other)) = (open_if_there(one)?, open_if_there(other)?) else { return Ok(false) };
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if left[..length] != right[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(left.len() == right.len());
        }
        one.consume(length);
        other.consume(length);
    }
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
