//! Decodes the properties of datastores. Nothing in this file fails: if a property has no usable
//! value, only the field of this property stays empty.

use std::sync::Arc;

use super::soap::property::{boolean, number, text, timestamp};
use super::soap::xml::Element;
use crate::domain::datastore::Datastore;
use crate::domain::ids::DatastoreId;
use crate::domain::names::unescape_vim;

/// The properties of a datastore whose changes the host reports to otter.
pub const DATASTORE_PATHS: &[&str] = &["name", "summary", "info.timestamp", "vm"];

/// A datastore, decoded from the properties that the host has sent so far.
#[derive(Clone, Debug)]
pub struct DatastoreProperties {
    datastore: Arc<Datastore>,
    /// The values of `name` and `summary.name`. The first one that has a value is the name.
    names: [Option<String>; 2],
}

impl DatastoreProperties {
    /// Makes a datastore of which no property is known yet.
    #[must_use]
    pub fn new(id: DatastoreId) -> Self {
        let datastore = Datastore {
            name: id.backend_text().to_owned(),
            id,
            kind: unknown(),
            capacity_bytes: None,
            free_bytes: None,
            free_bytes_at: None,
            uncommitted_bytes: None,
            accessible: false,
            url: None,
            machine_count: 0,
        };
        Self { datastore: Arc::new(datastore), names: [None, None] }
    }

    /// Sets the property at `path`, or unsets it if `value` is `None`. Returns whether the path is
    /// one of [`DATASTORE_PATHS`].
    pub fn assign(&mut self, path: &str, value: Option<Element<'_>>) -> bool {
        let datastore = Arc::make_mut(&mut self.datastore);
        match path {
            "name" => self.names[0] = value.and_then(text),
            "summary" => {
                let child = |name| value.and_then(|summary| summary.child(name));
                self.names[1] = child("name").and_then(text);
                datastore.kind = child("type").and_then(text).unwrap_or_else(unknown);
                datastore.capacity_bytes = child("capacity").and_then(number);
                datastore.free_bytes = child("freeSpace").and_then(number);
                datastore.uncommitted_bytes = child("uncommitted").and_then(number);
                datastore.accessible = child("accessible").and_then(boolean) == Some(true);
                datastore.url = child("url").and_then(text);
            }
            "info.timestamp" => datastore.free_bytes_at = value.and_then(timestamp),
            "vm" => {
                let count = value.map_or(0, |machines| machines.children().count());
                datastore.machine_count = u32::try_from(count).unwrap_or(u32::MAX);
            }
            _ => return false,
        }
        let name = self.names.iter().flatten().next().map(|name| unescape_vim(name));
        datastore.name = name.unwrap_or_else(|| datastore.id.backend_text().to_owned());
        true
    }

    /// The datastore as the domain's value, made from the properties that the host has sent so far.
    #[must_use]
    pub fn datastore(&self) -> Arc<Datastore> {
        Arc::clone(&self.datastore)
    }
}

/// The word that otter shows for a type or a state that the host does not report.
fn unknown() -> String {
    "unknown".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esx::soap::xml::Document;

    #[test]
    fn every_followed_path_can_be_set_and_unset() {
        let document = Document::parse(b"<val/>").unwrap();
        for path in DATASTORE_PATHS {
            let mut datastore = DatastoreProperties::new(DatastoreId::from_backend("1"));
            assert!(
                datastore.assign(path, Some(document.root())) && datastore.assign(path, None),
                "{path}"
            );
        }
    }
}
