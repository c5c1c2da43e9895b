//! The secret of a lease: made from its id by a key that never leaves the state directory, so that it need not be kept
//! and can be given again to whoever repeats the call that asked for it.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;

use crate::clock::Clock;
use crate::domain::lease::LeaseId;

/// The file in the state directory.
const FILE: &str = "secret.key";

/// Makes and checks secrets.
pub struct Secrets(SecretBox<[u8; 32]>);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the file {FILE} of the state directory cannot be read or made")]
    File(#[source] std::io::Error),
    #[error(
        "the file {FILE} of the state directory does not hold a key of 32 bytes: put back a copy, or move it away; the secrets of leases that are open are then void"
    )]
    Damaged,
    #[error("the system gives no random bits")]
    Random(#[source] getrandom::Error),
}

impl Secrets {
    /// The key of this state directory, made where there is none; without a directory one that is gone with the process.
    ///
    /// # Errors
    /// A file that cannot be read or made, or that is damaged.
    pub fn open(state_dir: Option<&Path>, clock: &Clock) -> Result<Self, SecretError> {
        let fresh = clock.random().map_err(SecretError::Random)?;
        let key = match state_dir {
            Some(directory) => kept(&directory.join(FILE), fresh)?,
            None => fresh,
        };
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
        mac.update(lease.0.as_bytes());
        Some(mac)
    }
}

fn kept(file: &Path, fresh: [u8; 32]) -> Result<[u8; 32], SecretError> {
    let mut made = std::fs::OpenOptions::new();
    match made.write(true).create_new(true).mode(0o600).open(file) {
        Ok(mut made) => {
            made.write_all(&fresh).and_then(|()| made.sync_all()).map_err(SecretError::File)?;
            Ok(fresh)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let mut bytes = Vec::new();
            let file = std::fs::File::open(file).map_err(SecretError::File)?;
            file.take(33).read_to_end(&mut bytes).map_err(SecretError::File)?;
            bytes.try_into().map_err(|_| SecretError::Damaged)
        }
        Err(error) => Err(SecretError::File(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_secret_is_of_one_lease_and_of_one_state_directory() {
        let (state, clock) = (tempfile::tempdir().unwrap(), Clock::system());
        let [one, other] = [1, 2].map(|number| LeaseId(Uuid::from_u128(number)));
        let secrets = Secrets::open(Some(state.path()), &clock).unwrap();
        let secret = secrets.of(one);
        assert_eq!(secret.len(), 64);
        assert!(secrets.is_of(one, &secret) && !secrets.is_of(other, &secret));
        let again = Secrets::open(Some(state.path()), &clock).unwrap();
        assert_eq!(again.of(one), secret);
        assert!(!Secrets::open(None, &clock).unwrap().is_of(one, &secret));
        for wrong in ["", "00", "zz", &secret[1..], &format!("{secret}00")] {
            assert!(!secrets.is_of(one, wrong), "{wrong}");
        }
        let mode = std::fs::metadata(state.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(state.path().join(FILE), "short").unwrap();
        assert!(matches!(Secrets::open(Some(state.path()), &clock), Err(SecretError::Damaged)));
    }
}
