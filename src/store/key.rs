//! The key file of the state directory. The secrets of leases are made from its key, so it must not
//! be replaced silently while there are leases.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretBox};

use super::files::{self, SECRET_KEY};

/// A key.
pub type Key = SecretBox<[u8; 32]>;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the key file {} cannot be read or made", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "{} does not hold a key of 32 bytes: put back the secret.key of a backup, or remove the file and make a new \
         key with otter store new-key",
        path.display()
    )]
    Damaged { path: PathBuf },
    #[error(
        "there are leases in the database, but {} is missing, which their secrets are made from: put back the \
         secret.key of a backup, or make a new key with otter store new-key",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error("there is a key in {} already; it is kept", path.display())]
    Exists { path: PathBuf },
}

/// Reads the key of a state directory; `None` if it has none and needs none yet.
///
/// # Parameters
/// - `has_leases`: whether the state directory has leases. Their secrets need the key.
///
/// # Errors
/// A file that cannot be read, that is damaged, or that is missing although there are leases.
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

/// Writes the key of a state directory that has none.
///
/// # Errors
/// `Exists` if there is one; a file that cannot be made.
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
