//! The addresses of files in `/folder` of a host, with each name escaped.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The characters of a name that are escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The path and the query of a file.
///
/// # Parameters
/// - `datastore`: the name of the datastore, as the host writes it.
/// - `path`: the path below the top folder of the datastore.
#[must_use]
pub fn folder_url(datastore: &str, path: &str) -> String {
    let segments = path.split('/').map(|segment| utf8_percent_encode(segment, ESCAPED).to_string());
    let path = segments.collect::<Vec<_>>().join("/");
    let datastore = utf8_percent_encode(datastore, ESCAPED);
    format!("/folder/{path}?dcPath=ha-datacenter&dsName={datastore}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_of_a_name_means_anything_in_the_address() {
        assert_eq!(
            folder_url("my isos", "a b/é?#&.iso"),
            "/folder/a%20b/%C3%A9%3F%23%26.iso?dcPath=ha-datacenter&dsName=my%20isos"
        );
    }
}
