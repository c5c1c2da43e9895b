//! Decodes the networks that a card names only by a key: the port groups of distributed switches
//! and opaque networks. Nothing here fails: a network without a usable name gives none.

use std::collections::BTreeMap;

use super::soap::property::text;
use super::soap::xml::Element;
use crate::domain::names::unescape_vim;

/// The types of networks that cards refer to by a key, and their properties whose changes the host
/// reports to otter.
pub const NETWORK_PATHS: [(&str, &[&str]); 2] =
    [("DistributedVirtualPortgroup", &["key", "name"]), ("OpaqueNetwork", &["summary", "name"])];

/// The names of networks by the keys with which cards refer to them.
pub type NetworkNames = BTreeMap<String, String>;

/// A network, decoded from the properties that the host has sent.
#[derive(Clone, Debug, Default)]
pub struct NetworkProperties {
    key: Option<String>,
    name: Option<String>,
}

impl NetworkProperties {
    /// Sets a property, or unsets it with `None`. Returns whether the path is one of
    /// [`NETWORK_PATHS`].
    pub fn assign(&mut self, path: &str, value: Option<Element<'_>>) -> bool {
        match path {
            "key" => self.key = value.and_then(text),
            "summary" => {
                let id = value.and_then(|summary| summary.child("opaqueNetworkId"));
                self.key = id.and_then(text);
            }
            "name" => self.name = value.and_then(text).map(|name| unescape_vim(&name)),
            _ => return false,
        }
        true
    }

    /// The key and the name. `None` if one of them is not known.
    #[must_use]
    pub fn key_and_name(&self) -> Option<(String, String)> {
        self.key.clone().zip(self.name.clone())
    }
}
