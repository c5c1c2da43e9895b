//! Decodes the networks to which a card refers only by a key: the port groups of distributed
//! switches, and opaque networks. Nothing in this file fails: a network without a usable name gets
//! no name.

use std::collections::BTreeMap;

use super::soap::property::text;
use super::soap::xml::Element;
use crate::domain::names::unescape_vim;

/// The types of networks to which cards refer by a key, each with those of its properties that
/// otter follows.
pub const NETWORK_PATHS: [(&str, &[&str]); 2] =
    [("DistributedVirtualPortgroup", &["key", "name"]), ("OpaqueNetwork", &["summary", "name"])];

/// The names of networks by the keys with which cards refer to them.
pub type NetworkNames = BTreeMap<String, String>;

/// A network, decoded from the properties that the host has sent so far.
#[derive(Clone, Debug, Default)]
pub struct NetworkProperties {
    key: Option<String>,
    name: Option<String>,
}

impl NetworkProperties {
    /// Sets the property at `path`, or unsets it if `value` is `None`. Returns whether the path is
    /// one of [`NETWORK_PATHS`].
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

    /// The key and the name of the network. `None` if one of the two is not known.
    #[must_use]
    pub fn key_and_name(&self) -> Option<(String, String)> {
        self.key.clone().zip(self.name.clone())
    }
}
