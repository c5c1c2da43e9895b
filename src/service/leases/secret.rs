//! The secret of a lease: an HMAC-SHA256 of the lease's id by a key of the state directory. otter
//! does not store secrets. If a request is repeated, otter computes the same secret again.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;

use crate::domain::ids::LeaseId;

/// Computes and checks the secrets of leases.
pub struct LeaseSecrets(SecretBox<[u8; 32]>);

impl LeaseSecrets {
    /// Uses this key to compute and check the secrets of leases.
    #[must_use]
    pub const fn new(key: SecretBox<[u8; 32]>) -> Self {
        Self(key)
    }

    /// The secret of a lease, in hexadecimal.
    #[must_use]
    pub fn secret_of(&self, lease: LeaseId) -> String {
        self.mac(lease).map(|mac| hex::encode(mac.finalize().into_bytes())).unwrap_or_default()
    }

    /// Whether the text `secret` is the secret of a lease. The comparison takes constant time.
    #[must_use]
    pub fn is_secret_of(&self, lease: LeaseId, secret: &str) -> bool {
        let Ok(given) = hex::decode(secret) else { return false };
        self.mac(lease).is_some_and(|mac| mac.verify_slice(&given).is_ok())
    }

    /// A key for another purpose. It shows nothing of this key, and nothing of the secrets.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> SecretBox<[u8; 32]> {
        // HMAC accepts a key of any length, so the key is never missing.
        let mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret()).map(|mut mac| {
            mac.update(b"otter key ");
            mac.update(purpose.as_bytes());
            mac.finalize().into_bytes().into()
        });
        SecretBox::new(Box::new(mac.unwrap_or_default()))
    }

    fn mac(&self, lease: LeaseId) -> Option<Hmac<Sha256>> {
        // This never gives `None`, because HMAC accepts a key of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret()).ok()?;
        mac.update(b"otter lease ");
        mac.update(lease.uuid().as_bytes());
        Some(mac)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_secret_is_valid_for_one_lease_and_one_key() {
        let [one, other] = [1, 2].map(|number| LeaseId::new(Uuid::from_u128(number)));
        let [secrets, with_another_key] =
            [1, 2].map(|byte| LeaseSecrets::new(SecretBox::new(Box::new([byte; 32]))));
        let secret = secrets.secret_of(one);
        assert_eq!(secret.len(), 64);
        assert!(secrets.is_secret_of(one, &secret) && !secrets.is_secret_of(other, &secret));
        assert!(!with_another_key.is_secret_of(one, &secret));
        let [key, same, other] =
            ["input", "input", "tokens"].map(|purpose| *secrets.derive(purpose).expose_secret());
        assert!(key == same && key != other);
        assert_ne!(*with_another_key.derive("input").expose_secret(), key);
        for wrong in ["", "00", "zz", &secret[1..], &format!("{secret}00")] {
            assert!(!secrets.is_secret_of(one, wrong), "{wrong}");
        }
    }
}
