//! The secret of a lease: made from its id by a key that never leaves the state directory, so that it need not be kept
//! and can be given again to whoever repeats the call that asked for it.

use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;

use crate::clock::Clock;
use crate::domain::ids::LeaseId;
use crate::store::key::{self, Key, KeyError};

/// Makes and checks secrets.
pub struct Secrets(Key);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error(transparent)]
    Key(#[from] KeyError),
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
        match key::require(directory, has_leases)? {
            Some(key) => Ok(Self(key)),
            None => Self::make(directory, clock),
        }
    }

    /// Makes the key of a state directory that has none.
    ///
    /// # Errors
    /// `Exists` if there is one; a file that cannot be made.
    pub fn make(state_dir: &Path, clock: &Clock) -> Result<Self, SecretError> {
        let key = clock.random().map_err(SecretError::Random)?;
        key::make(state_dir, &key)?;
        Ok(Self(SecretBox::new(Box::new(key))))
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
        mac.update(lease.uuid().as_bytes());
        Some(mac)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use uuid::Uuid;

    use super::*;
    use crate::store::SECRET_KEY;

    #[test]
    fn a_secret_is_of_one_lease_and_of_one_state_directory() {
        let (state, clock) = (tempfile::tempdir().unwrap(), Clock::system());
        let [one, other] = [1, 2].map(|number| LeaseId::new(Uuid::from_u128(number)));
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
        let mode = std::fs::metadata(state.path().join(SECRET_KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(state.path().join(SECRET_KEY), "short").unwrap();
        assert!(matches!(
            Secrets::open(Some(state.path()), false, &clock),
            Err(SecretError::Key(KeyError::Damaged { .. }))
        ));
    }

    #[test]
    fn a_key_that_is_missing_beside_leases_is_not_replaced_in_silence() {
        let (state, clock) = (tempfile::tempdir().unwrap(), Clock::system());
        let refused = Secrets::open(Some(state.path()), true, &clock);
        assert!(matches!(refused, Err(SecretError::Key(KeyError::Missing { .. }))));
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
        let made = Secrets::make(state.path(), &clock).unwrap();
        assert!(matches!(
            Secrets::make(state.path(), &clock),
            Err(SecretError::Key(KeyError::Exists { .. }))
        ));
        let lease = LeaseId::new(Uuid::from_u128(1));
        let opened = Secrets::open(Some(state.path()), true, &clock).unwrap();
        assert_eq!(opened.of(lease), made.of(lease));
    }
}
