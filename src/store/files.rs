//! The files of the state directory: their names, and how otter creates them so that only the owner
//! has access.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The name of the database.
pub const DATABASE: &str = "otter.db";
/// The name of the key file. The secrets of leases are derived from the key.
pub const SECRET_KEY: &str = "secret.key";
/// The name that the database has during a restore. If a file with this name remains, a restore was
/// interrupted.
pub const UNFINISHED_RESTORE: &str = "otter.db.restoring";
/// The name of the file that the daemon locks.
pub const LOCK: &str = "lock";

/// The permissions of each file in the state directory.
pub const PRIVATE_FILE: u32 = 0o600;

/// Creates a file that only its owner can access.
///
/// # Errors
/// The kind of the error is `AlreadyExists` if the file exists.
pub fn create(path: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(PRIVATE_FILE).open(path)?;
    // The umask may have removed permissions of the owner, so they are set here.
    file.set_permissions(Permissions::from_mode(PRIVATE_FILE))?;
    Ok(file)
}

/// Removes a file if it exists.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes the list of files in a directory to the disk, so that a new name survives a crash.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Whether both files exist and hold the same bytes.
pub fn are_equal(one: &Path, other: &Path) -> io::Result<bool> {
    let (Some(one), Some(other)) = (open_if_exists(one)?, open_if_exists(other)?) else {
        return Ok(false);
    };
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

fn open_if_exists(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
