//! The name of a file on a datastore, as the command line has it: `DATASTORE:PATH`, or
//! `[DATASTORE] PATH`, as ESX writes it.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// A file or a folder on a datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotePath {
    /// The name of the datastore.
    datastore: String,
    /// The path on the datastore. Empty for the top folder.
    path: String,
}

impl RemotePath {
    /// The path of a request below `/v1`, with the query `path`.
    ///
    /// # Parameters
    /// - `endpoint`: what stands below the datastore, such as `file`.
    pub fn query(&self, endpoint: &str) -> String {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let datastore = encoded(&format!("name:{}", self.datastore));
        let path = encoded(self.path.trim_end_matches('/'));
        format!("/datastores/{datastore}/{endpoint}?path={path}")
    }

    /// The last part of the path. Empty for the top folder, or if the path ends with a slash.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The file with this name in this folder.
    pub fn join(&self, name: &str) -> Self {
        Self { datastore: self.datastore.clone(), path: format!("{}{name}", self.path) }
    }
}

impl FromStr for RemotePath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let in_brackets = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (datastore, path) = match in_brackets {
            Some((datastore, path)) => (datastore, path.trim_start_matches(' ')),
            None => text.split_once(':').ok_or("write DATASTORE:PATH, such as isos:qubes.iso")?,
        };
        if datastore.is_empty() {
            return Err("the name of the datastore is missing before the colon");
        }
        let path = path.trim_start_matches('/');
        Ok(Self { datastore: datastore.to_owned(), path: path.to_owned() })
    }
}

impl fmt::Display for RemotePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[{}] {}", self.datastore, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> RemotePath {
        text.parse().unwrap()
    }

    #[test]
    fn both_notations_name_the_same_file() {
        for text in ["isos:iso/a b.iso", "isos:/iso/a b.iso", "[isos] iso/a b.iso"] {
            assert_eq!(read(text).to_string(), "[isos] iso/a b.iso");
            assert_eq!(read(text).name(), "a b.iso");
        }
        assert_eq!(read("[a:b] c:d").to_string(), "[a:b] c:d");
        assert_eq!(read("a:b:c").to_string(), "[a] b:c");
        for wrong in ["isos", "", ":a", "[] a", "[isos", "iso/a.iso"] {
            assert!(wrong.parse::<RemotePath>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_request_has_each_character_as_it_is() {
        let query = |text: &str| read(text).query("file");
        assert_eq!(query("isos:"), "/datastores/name%3Aisos/file?path=");
        assert_eq!(query("isos:iso/"), "/datastores/name%3Aisos/file?path=iso");
        assert_eq!(query("a/b:%2e&?"), "/datastores/name%3Aa%2Fb/file?path=%252e%26%3F");
    }

    #[test]
    fn a_file_keeps_its_name_in_a_folder() {
        assert_eq!(read("isos:").join("a").to_string(), "[isos] a");
        assert_eq!(read("isos:iso/").join("a").to_string(), "[isos] iso/a");
        assert_eq!(read("isos:iso/").name(), "");
    }
}
