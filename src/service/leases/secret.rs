//! The secret of a lease: made from its id by a key that never leaves the state directory, so that it need not be kept
//! and can be given again to whoever repeats the call that asked for it.

use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;

use crate::clock::Clock;
use crate::domain::lease::LeaseId;
use crate::store::SECRET_KEY;

/// The file in the state directory.
const FILE: &str = SECRET_KEY;

/// Makes and checks secrets.
pub struct Secrets(SecretBox<[u8; 32]>);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the file {FILE} of the state directory cannot be read or made")]
    File(#[source] std::io::Error),
    #[error(
        "the file {FILE} of the state directory does not hold a key of 32 bytes: put back the one of a backup, or \
         remove it and make a new one with otter store new-key"
    )]
    Damaged,
    #[error(
        "there are leases in the state directory, but its {FILE} is missing, which their secrets are made from: put \
         back the {FILE} of a backup, or make a new one with otter store new-key"
    )]
    Missing,
    #[error("there is a {FILE} in the state directory already; it is kept")]
    Exists,
    #[error("the system gives no random bits")]
    Random(#[source] getrandom::Error),
}

impl Secrets {
    /// The key of this state directory. Without a directory, a key that ends with the process.
    ///
    /// # Parameters
    /// - `has_leases`: whether the state directory has leases. If it has none, a missing key is made.
    ///
    /// # Errors
    /// A file that cannot be read or made, that is damaged, or that is missing although there are leases.
    pub fn open(state_dir: Option<&Path>, has_leases: bool, clock: &Clock) -> Result<Self, SecretError> {
        let Some(directory) = state_dir else {
            return Ok(Self(SecretBox::new(Box::new(clock.random().map_err(SecretError::Random)?))));
        };
        match Self::kept(directory)? {
            Some(secrets) => Ok(secrets),
            None if has_leases => Err(SecretError::Missing),
            None => Self::make(directory, clock),
        }
    }

    /// Makes the key of a state directory that has none.
    ///
    /// # Errors
    /// `Exists` if there is one; a file that cannot be made.
    pub fn make(state_dir: &Path, clock: &Clock) -> Result<Self, SecretError> {
        let key = clock.random().map_err(SecretError::Random)?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(state_dir.join(FILE))
            .map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => SecretError::Exists,
                _ => SecretError::File(error),
            })?;
        // An odd umask takes the owner's own permissions away.
        file.set_permissions(Permissions::from_mode(0o600))
            .and_then(|()| file.write_all(&key))
            .and_then(|()| file.sync_all())
            .map_err(SecretError::File)?;
        Ok(Self(SecretBox::new(Box::new(key))))
    }

    fn kept(state_dir: &Path) -> Result<Option<Self>, SecretError> {
        let file = match std::fs::File::open(state_dir.join(FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(SecretError::File(error)),
        };
        let mut bytes = Vec::new();
        file.take(33).read_to_end(&mut bytes).map_err(SecretError::File)?;
        let key: [u8; 32] = bytes.try_into().map_err(|_| SecretError::Damaged)?;
        Ok(Some(Self(SecretBox::new(Box::new(key)))))
    }

    /// The secret of a lease, in hexadecimal.
    #[must_use]
    pub fn of(&self, lease: LeaseId) -> String {
        self.mac(lease).map(|mac| hex::encode(mac.finalize().into_bytes())).unwrap_or_default()
    }

    /// Whether this is the secret of a lease. Takes as long for a wrong one as for the right one.
    #[must_use]
    pub fn is_of(&self, lease: LeaseId, secret: &str) -> bool {
        let Ok(given) = hex::decode(secret) else { return false };
        self.mac(lease).is_some_and(|mac| mac.verify_slice(&given).is_ok())
    }

    fn mac(&self, lease: LeaseId) -> Option<Hmac<Sha256>> {
        // A key of any length makes one.
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret()).ok()?;
        mac.update(b"otter lease ");
        mac.update(lease.0.as_bytes());
        Some(mac)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_secret_is_of_one_lease_and_of_one_state_directory() {
        let (state, clock) = (tempfile::tempdir().unwrap(), Clock::system());
        let [one, other] = [1, 2].map(|number| LeaseId(Uuid::from_u128(number)));
        let secrets = Secrets::open(Some(state.path()), false, &clock).unwrap();
        let secret = secrets.of(one);
        assert_eq!(secret.len(), 64);
        assert!(secrets.is_of(one, &secret) && !secrets.is_of(other, &secret));
        let again = Secrets::open(Some(state.path()), false, &clock).unwrap();
        assert_eq!(again.of(one), secret);
        assert!(!Secrets::open(None, false, &clock).unwrap().is_of(one, &secret));
        for wrong in ["", "00", "zz", &secret[1..], &format!("{secret}00")] {
            assert!(!secrets.is_of(one, wrong), "{wrong}");
        }
        let mode = std::fs::metadata(state.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(state.path().join(FILE), "short").unwrap();
        assert!(matches!(Secrets::open(Some(state.path()), false, &clock), Err(SecretError::Damaged)));
    }

    #[test]
    fn a_key_that_is_missing_beside_leases_is_not_replaced_in_silence() {
        let (state, clock) = (tempfile::tempdir().unwrap(), Clock::system());
        let refused = Secrets::open(Some(state.path()), true, &clock);
        assert!(matches!(refused, Err(SecretError::Missing)));
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
        let made = Secrets::make(state.path(), &clock).unwrap();
        assert!(matches!(Secrets::make(state.path(), &clock), Err(SecretError::Exists)));
        let lease = LeaseId(Uuid::from_u128(1));
        let opened = Secrets::open(Some(state.path()), true, &clock).unwrap();
        assert_eq!(opened.of(lease), made.of(lease));
    }
}
