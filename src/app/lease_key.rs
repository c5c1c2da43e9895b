//! The key from which the secrets of leases are derived. otter keeps it in the state directory.
//! Without a state directory, otter makes a key for one run.

use std::path::Path;

use secrecy::SecretBox;

use crate::clock::Clock;
use crate::service::leases::secret::LeaseSecrets;
use crate::store::key::{self, Key, KeyError};

/// Why the key cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum LeaseKeyError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the operating system provides no random bits")]
    Random(#[source] getrandom::Error),
}

/// Opens the secrets of leases with the key in this state directory. Without a directory, the key
/// exists only in this process.
///
/// # Parameters
/// - `has_leases`: whether the state directory has leases. If it has none and the key is missing, a
///   new key is made.
///
/// # Errors
/// Fails if the file cannot be read or created, if it is damaged, or if it is missing although
/// there are leases.
pub fn open(
    state_dir: Option<&Path>,
    has_leases: bool,
    clock: &Clock,
) -> Result<LeaseSecrets, LeaseKeyError> {
    let key = match state_dir {
        Some(directory) => match key::require(directory, has_leases)? {
            Some(key) => key,
            None => create(directory, clock)?,
        },
        None => random(clock)?,
    };
    Ok(LeaseSecrets::new(key))
}

/// Makes the key for a state directory that has no key.
///
/// # Errors
/// `Exists` if there is a key. `File` if the file cannot be created.
pub fn create(state_dir: &Path, clock: &Clock) -> Result<Key, LeaseKeyError> {
    let key = random(clock)?;
    key::create(state_dir, &key)?;
    Ok(key)
}

fn random(clock: &Clock) -> Result<Key, LeaseKeyError> {
    Ok(SecretBox::new(Box::new(clock.random().map_err(LeaseKeyError::Random)?)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::LeaseId;
    use crate::store::SECRET_KEY;

    #[test]
    fn a_key_belongs_to_one_state_directory() {
        let (state, clock) = (tempfile::tempdir().unwrap(), Clock::system());
        let lease = LeaseId::new(Uuid::from_u128(1));
        let secret = open(Some(state.path()), false, &clock).unwrap().secret_of(lease);
        assert_eq!(open(Some(state.path()), false, &clock).unwrap().secret_of(lease), secret);
        assert!(!open(None, false, &clock).unwrap().is_secret_of(lease, &secret));
        let mode = std::fs::metadata(state.path().join(SECRET_KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(state.path().join(SECRET_KEY), "short").unwrap();
        assert!(matches!(
            open(Some(state.path()), false, &clock),
            Err(LeaseKeyError::Key(KeyError::Damaged { .. }))
        ));
    }

    #[test]
    fn a_missing_key_is_not_replaced_while_there_are_leases() {
        let (state, clock) = (tempfile::tempdir().unwrap(), Clock::system());
        let refused = open(Some(state.path()), true, &clock);
        assert!(matches!(refused, Err(LeaseKeyError::Key(KeyError::Missing { .. }))));
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
        let made = LeaseSecrets::new(create(state.path(), &clock).unwrap());
        assert!(matches!(
            create(state.path(), &clock),
            Err(LeaseKeyError::Key(KeyError::Exists { .. }))
        ));
        let lease = LeaseId::new(Uuid::from_u128(1));
        let opened = open(Some(state.path()), true, &clock).unwrap();
        assert_eq!(opened.secret_of(lease), made.secret_of(lease));
    }
}
