//! The key file of the state directory. The secrets of leases are derived from the key. Therefore
//! otter never replaces the key by itself while there are leases.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretBox};

use super::files::{self, SECRET_KEY};

/// The key from which the secrets of leases are derived.
pub type Key = SecretBox<[u8; 32]>;

/// Why the key cannot be read or created.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the key file {} cannot be read or created", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "{} does not contain a key of 32 bytes: restore the secret.key of a backup, or remove the \
         file and create a new key with otter store new-key",
        path.display()
    )]
    Damaged { path: PathBuf },
    #[error(
        "there are leases in the database, but {} is missing, and their secrets are derived from \
         it: restore the secret.key of a backup, or create a new key with otter store new-key",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error("{} already contains a key; it stays unchanged", path.display())]
    Exists { path: PathBuf },
}

/// Reads the key of a state directory. `None` if there is neither a key nor a lease.
///
/// # Parameters
/// - `has_leases`: whether the state directory has leases, whose secrets need the key.
///
/// # Errors
/// `File` if the file cannot be read. `Damaged` if the file does not contain a key. `Missing` if
/// the file does not exist although there are leases.
pub fn require(state_dir: &Path, has_leases: bool) -> Result<Option<Key>, KeyError> {
    let path = state_dir.join(SECRET_KEY);
    let mut bytes = Vec::new();
    let read = std::fs::File::open(&path).and_then(|file| file.take(33).read_to_end(&mut bytes));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return if has_leases { Err(KeyError::Missing { path }) } else { Ok(None) };
        }
        Err(source) => return Err(KeyError::File { path, source }),
    }
    let key: [u8; 32] = bytes.try_into().map_err(|_| KeyError::Damaged { path })?;
    Ok(Some(SecretBox::new(Box::new(key))))
}

/// Writes the key into a state directory that has no key.
///
/// # Errors
/// `Exists` if the directory already has a key. `File` if the file cannot be created.
pub fn create(state_dir: &Path, key: &Key) -> Result<(), KeyError> {
    let path = state_dir.join(SECRET_KEY);
    let written = files::create(&path).and_then(|mut file| {
        file.write_all(key.expose_secret())?;
        file.sync_all()
    });
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyError::Exists { path },
        _ => KeyError::File { path, source },
    })
}
