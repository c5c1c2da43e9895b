//! A caller's references to one datastore: an id, or a name or URL with a prefix.

use std::fmt;
use std::str::FromStr;

use super::datastore::Datastore;
use super::ids::{DatastoreId, EmptyId};
use super::names::{is_name, unescape_vim};

/// The beginnings of the URLs of datastores on ESX. The directory of the datastore follows.
const URL_BEGINNINGS: [&str; 2] = ["ds:///vmfs/volumes/", "/vmfs/volumes/"];

/// A caller's reference to a datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatastoreReference {
    Id(DatastoreId),
    /// `name:…`: the complete name of the datastore, as the host sends it or unescaped (see
    /// [`is_name`]). Upper and lower case differ.
    Name(String),
    /// `url:…`: the URL of the datastore, or only its directory below `ds:///vmfs/volumes/`, which
    /// contains no slash.
    Url(String),
}

impl DatastoreReference {
    /// The datastores of `datastores` that match the reference, in the same order. If several
    /// match, the reference is ambiguous.
    pub fn matching<'d, D: AsRef<Datastore>>(
        &self,
        datastores: impl Iterator<Item = &'d D>,
    ) -> Vec<&'d D> {
        // An id may be escaped as names are, because some proxies refuse `%2F` in a URL and clients
        // write `%252F` instead.
        let unescaped = match self {
            Self::Id(id) => unescape_vim(&id.to_string()),
            Self::Name(text) | Self::Url(text) => unescape_vim(text),
        };
        let fits = |datastore: &Datastore| match self {
            Self::Id(id) => datastore.id == *id || datastore.id == *unescaped,
            Self::Name(name) => is_name(name, &datastore.name),
            Self::Url(url) => {
                let own = datastore.url.as_deref().map(directory);
                own.is_some_and(|own| own == directory(url) || own == directory(&unescaped))
            }
        };
        datastores.filter(|datastore| fits((*datastore).as_ref())).collect()
    }
}

/// The directory in the URL of a datastore, which distinguishes the datastores of a host.
fn directory(url: &str) -> &str {
    let rest = URL_BEGINNINGS.iter().find_map(|beginning| url.strip_prefix(beginning));
    rest.unwrap_or(url).trim_end_matches('/')
}

impl FromStr for DatastoreReference {
    type Err = EmptyId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("name" | "url", "")) => Err(EmptyId),
            Some(("name", name)) => Ok(Self::Name(name.to_owned())),
            Some(("url", url)) => Ok(Self::Url(url.to_owned())),
            _ => text.parse().map(Self::Id),
        }
    }
}

impl fmt::Display for DatastoreReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(formatter, "{id}"),
            Self::Name(name) => write!(formatter, "name:{name}"),
            Self::Url(url) => write!(formatter, "url:{url}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn datastore(id: &str, name: &str, url: Option<&str>) -> Arc<Datastore> {
        Arc::new(Datastore {
            id: DatastoreId::from_backend(id),
            name: name.to_owned(),
            kind: "VMFS".to_owned(),
            capacity_bytes: None,
            free_bytes: None,
            free_bytes_at: None,
            uncommitted_bytes: None,
            accessible: true,
            url: url.map(str::to_owned),
            machine_count: 0,
        })
    }

    #[test]
    fn a_reference_selects_by_id_name_and_url() {
        let datastores = [
            datastore("5f2c", "datastore1", Some("ds:///vmfs/volumes/5f2c-1/")),
            datastore("10.0.0.5:/export/isos", "isos/10.0.0.5", Some("ds:///vmfs/volumes/aa-2/")),
            datastore("3", "datastore1", Some("netfs://10.0.0.5//export/x/")),
            datastore("4", "none", None),
        ];
        for (text, ids) in [
            ("5f2c", vec!["5f2c"]),
            ("10.0.0.5:/export/isos", vec!["10.0.0.5:/export/isos"]),
            ("10.0.0.5:%2fexport%2Fisos", vec!["10.0.0.5:/export/isos"]),
            ("datastore1", vec![]),
            ("name:datastore1", vec!["5f2c", "3"]),
            ("name:Datastore1", vec![]),
            ("name:isos/10.0.0.5", vec!["10.0.0.5:/export/isos"]),
            ("name:isos%2f10.0.0.5", vec!["10.0.0.5:/export/isos"]),
            ("url:ds:///vmfs/volumes/5f2c-1/", vec!["5f2c"]),
            ("url:ds:///vmfs/volumes/5f2c-1", vec!["5f2c"]),
            ("url:/vmfs/volumes/5f2c-1", vec!["5f2c"]),
            ("url:5f2c-1", vec!["5f2c"]),
            ("url:ds:%2f%2f%2fvmfs%2fvolumes%2f5f2c-1", vec!["5f2c"]),
            ("url:5f2c", vec![]),
            ("url:netfs://10.0.0.5//export/x", vec!["3"]),
            ("url:netfs:%2F%2F10.0.0.5%2F%2Fexport%2Fx", vec!["3"]),
        ] {
            let reference: DatastoreReference = text.parse().unwrap();
            let found: Vec<&str> = reference
                .matching(datastores.iter())
                .iter()
                .map(|datastore| datastore.id.backend_text())
                .collect();
            assert_eq!(found, ids, "{text}");
            assert_eq!(reference.to_string(), text);
        }
    }

    #[test]
    fn an_empty_reference_is_refused() {
        for text in ["", "name:", "url:"] {
            assert_eq!(text.parse::<DatastoreReference>(), Err(EmptyId), "{text}");
        }
    }
}
