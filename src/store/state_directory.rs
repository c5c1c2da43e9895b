//! The state directory: whether otter can use it, how otter creates it, and its permissions. Only
//! otter's user can access its files, whatever the umask is, and even if another process created
//! them.

use std::fs::{DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::StoreError;
use super::files::{DATABASE, LOCK, PRIVATE_FILE, SECRET_KEY};

const PRIVATE_DIRECTORY: u32 = 0o700;
const STICKY: u32 = 0o1000;

/// Checks whether a directory can hold the state. The directory must be writable. If the directory
/// is missing, its parent must be writable. Returns whether the directory exists.
///
/// # Errors
/// Why the directory cannot hold the state.
pub fn is_usable_directory(path: &Path) -> Result<bool, StoreError> {
    let failed =
        |source: std::io::Error| StoreError::CreateDirectory { path: path.to_owned(), source };
    let writable = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    match std::fs::metadata(path) {
        Ok(found) if !found.is_dir() => Err(StoreError::NotADirectory { path: path.to_owned() }),
        Ok(found) if is_open_to_all_users(&found) => {
            Err(StoreError::SharedDirectory { path: path.to_owned() })
        }
        Ok(_) => rustix::fs::access(path, writable)
            .map(|()| true)
            .map_err(|error| StoreError::not_writable(path, error.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if let Ok(target) = std::fs::read_link(path) {
                return Err(StoreError::DanglingLink { path: path.to_owned(), target });
            }
            // If the path is a single name, its parent is the current directory.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            rustix::fs::access(parent.unwrap_or(Path::new(".")), writable)
                .map(|()| false)
                .map_err(|error| failed(error.into()))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Creates the state directory if it is missing, so that only its owner has access. The parent
/// directory must exist, because a missing parent probably means a typing error or a disk that is
/// not mounted.
pub fn create_directory(directory: &Path) -> Result<(), StoreError> {
    if is_usable_directory(directory)? {
        return Ok(());
    }
    let failed = |source| StoreError::CreateDirectory { path: directory.to_owned(), source };
    match DirBuilder::new().mode(PRIVATE_DIRECTORY).create(directory) {
        Ok(()) => std::fs::set_permissions(directory, Permissions::from_mode(PRIVATE_DIRECTORY))
            .map_err(failed),
        // Another process has created the directory in the meantime.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Removes the permissions of other users from the directory and from otter's files in it. Logs a
/// warning for each file from which it removes permissions.
///
/// # Errors
/// `SharedDirectory` if the directory is one that all users share, such as `/tmp`.
pub fn restrict_permissions(directory: &Path) -> Result<(), StoreError> {
    let not_writable = |source| StoreError::not_writable(directory, source);
    if is_open_to_all_users(&directory.metadata().map_err(not_writable)?) {
        return Err(StoreError::SharedDirectory { path: directory.to_owned() });
    }
    for (path, mode) in reachable_by_others(directory).map_err(not_writable)? {
        restrict_file(&path, mode);
    }
    Ok(())
}

/// The paths that other users can access, each with its mode. It looks at the directory and at
/// otter's files in it.
///
/// # Errors
/// Fails if the directory cannot be read.
pub fn reachable_by_others(directory: &Path) -> io::Result<Vec<(PathBuf, u32)>> {
    let files = std::fs::read_dir(directory)?.flatten().filter(|entry| {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        is_file && entry.file_name().to_str().is_some_and(is_otter_file)
    });
    let all = std::iter::once(directory.to_owned()).chain(files.map(|entry| entry.path()));
    let open = all.filter_map(|path| {
        let mode = path.metadata().ok()?.permissions().mode() & 0o7777;
        (mode & 0o077 != 0).then_some((path, mode))
    });
    Ok(open.collect())
}

/// Whether all users can write to a directory, as they can to `/tmp`.
fn is_open_to_all_users(directory: &Metadata) -> bool {
    let mode = directory.permissions().mode();
    mode & STICKY != 0 && mode & 0o022 != 0
}

/// Whether otter creates files with this name in its state directory.
fn is_otter_file(name: &str) -> bool {
    name.starts_with(DATABASE) || name == SECRET_KEY || name == LOCK
}

fn restrict_file(path: &Path, mode: u32) {
    let private = if path.is_dir() { PRIVATE_DIRECTORY } else { PRIVATE_FILE };
    let (was, now) = (format!("{mode:04o}"), format!("{private:04o}"));
    match std::fs::set_permissions(path, Permissions::from_mode(private)) {
        Ok(()) => tracing::warn!(
            path = %path.display(), was, now,
            "other users could access this path; otter removed their permissions"
        ),
        Err(error) => tracing::warn!(
            path = %path.display(), was, %error,
            "other users can access this path, and its permissions cannot be changed: make \
             otter's user its owner"
        ),
    }
}
