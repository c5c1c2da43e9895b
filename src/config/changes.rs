//! The values of a configuration in a form in which a reload can compare them with those of another
//! configuration.

use std::collections::BTreeMap;
use std::fmt::Debug;

use sha2::{Digest, Sha256};

/// The value of each key, by the full path of the key. Only a digest of each value is kept, because
/// some values are secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigValues(BTreeMap<String, [u8; 32]>);

impl ConfigValues {
    /// Sets the value of a key.
    pub fn set(&mut self, key: String, value: &impl Debug) {
        self.0.insert(key, Sha256::digest(format!("{value:?}")).into());
    }

    /// Removes a key from the comparison, because a variable or a flag overrides its value.
    pub fn ignore(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// The keys whose values differ in the two configurations. A key that only one of them has
    /// counts too.
    #[must_use]
    pub fn changed_keys(&self, other: &Self) -> Vec<String> {
        let mut keys: Vec<&String> = self.0.keys().chain(other.0.keys()).collect();
        keys.sort();
        keys.dedup();
        keys.into_iter().filter(|key| self.0.get(*key) != other.0.get(*key)).cloned().collect()
    }

    /// Replaces the values of these keys by those of the configuration `other`.
    pub fn take_over(&mut self, keys: &[String], other: &Self) {
        for key in keys {
            match other.0.get(key) {
                Some(value) => self.0.insert(key.clone(), *value),
                None => self.0.remove(key),
            };
        }
    }
}
