//! Property paths of vim25: names joined by dots. A name may be followed by a key in brackets,
//! which selects one item of an array:
//!
//! ```text
//! config.hardware.device[4000].macAddress    config.extraConfig["guestinfo.a"]
//! ```
//! The type of the items decides which key a path needs: items with an integer field `key` take a
//! number. Items whose field `key` is a text or a reference, and items that are references, take a
//! text in quotes. Other items take their index (vSphere Web Services SDK Programming Guide:
//! Indexed Array and Key-Based Array Properties).

use super::schema::{self, Field, Occurs};

/// One segment of a property path: a name, and the key in brackets that may follow the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'p> {
    pub name: &'p str,
    pub key: Option<Key<'p>>,
}

/// The key in brackets that selects one item of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'p> {
    Number(i32),
    /// A key that is a text in quotes.
    Text(&'p str),
}

/// The segments of a path. `None` if the path is malformed, for example if a bracket is not closed.
#[must_use]
pub fn parse(path: &str) -> Option<Vec<Segment<'_>>> {
    let mut segments = Vec::new();
    let mut rest = path;
    loop {
        let end = rest.find(['.', '[', ']', '"']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if name.is_empty() {
            return None;
        }
        let (key, after) = match after.strip_prefix('[') {
            Some(inside) => parse_key(inside).map(|(key, after)| (Some(key), after))?,
            None => (None, after),
        };
        segments.push(Segment { name, key });
        if after.is_empty() {
            return Some(segments);
        }
        rest = after.strip_prefix('.')?;
    }
}

/// Whether a property path exists on a managed type. If a segment has a type that the schema does
/// not declare, every well-formed rest of the path counts as existing.
#[must_use]
pub fn exists(managed_type: &str, path: &str) -> bool {
    let Some(segments) = parse(path) else { return false };
    let mut at = managed_type;
    for Segment { name, key } in segments {
        if schema::fields(at).is_none() {
            return at != managed_type && !schema::is_simple(at);
        }
        let Some(field) = schema::field(at, name).or_else(|| schema::field_of_subtype(at, name))
        else {
            return false;
        };
        if key.is_some_and(|key| !is_key_of(key, field)) {
            return false;
        }
        at = if field.reference { "" } else { field.type_name };
    }
    true
}

/// Reads a key in brackets. `text` begins after the opening bracket. Returns the key, and the rest
/// of the path after the closing bracket.
fn parse_key(text: &str) -> Option<(Key<'_>, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (key, rest) = quoted.split_once("\"]")?;
        return Some((Key::Text(key), rest));
    }
    let (number, rest) = text.split_once(']')?;
    // Rust's `str::parse` accepts a number with a plus sign, but a property path cannot have one.
    let number = Some(number).filter(|number| !number.starts_with('+'))?;
    Some((Key::Number(number.parse().ok()?), rest))
}

/// Whether a path may select an item of `field` by a key of this kind (a number or a text).
fn is_key_of(key: Key<'_>, field: &Field) -> bool {
    if field.occurs != Occurs::Repeated {
        return false;
    }
    let takes_text = if field.reference {
        true
    } else if schema::fields(field.type_name).is_none() && !schema::is_simple(field.type_name) {
        // The schema does not declare the type of the items, so every kind of key is accepted.
        return true;
    } else {
        schema::field(field.type_name, "key")
            .is_some_and(|key| key.reference || key.type_name == "string")
    };
    takes_text == matches!(key, Key::Text(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_into_names_and_keys() {
        let names = |path| {
            let segments = parse(path)?;
            Some(segments.iter().map(|segment| (segment.name, segment.key)).collect::<Vec<_>>())
        };
        assert_eq!(names("name"), Some(vec![("name", None)]));
        assert_eq!(
            names("a.b[4000].c[\"x.y]z\"]"),
            Some(vec![
                ("a", None),
                ("b", Some(Key::Number(4000))),
                ("c", Some(Key::Text("x.y]z")))
            ])
        );
        for path in [
            "", ".", "a.", ".a", "a..b", "a[4000", "a4000]", "a[]", "a[b]", "a[\"b]", "a[1]b",
            "a[+1]", "\"a\"",
        ] {
            assert_eq!(names(path), None, "{path}");
        }
    }

    #[test]
    fn a_path_exists_if_each_name_and_the_kind_of_each_key_is_declared() {
        for path in [
            "name",
            "config.hardware.device",
            "snapshot.rootSnapshotList",
            "snapshot.rootSnapshotList[0].name",
            "config.hardware.device[4000].macAddress",
            "config.extraConfig[\"guestinfo.a\"]",
            "config.extraConfig[\"guestinfo.a\"].value",
            "datastore[\"datastore-1\"]",
            "runtime.question.choice.choiceInfo",
            "recentTask",
            "layout.anything",
        ] {
            assert!(exists("VirtualMachine", path), "{path}");
        }
        for path in [
            "nmae",
            "config.hardware.devices",
            "name.first",
            "runtime.powerState.x",
            "info",
            "config.hardware[4000]",
            "config.hardware.device[4000",
            "config.hardware.device[\"4000\"]",
            "config.hardware.device[vmnic]",
            "config.extraConfig[guestinfo.a]",
            "config.extraConfig[0]",
            "datastore[0]",
            "name[0]",
        ] {
            assert!(!exists("VirtualMachine", path), "{path}");
        }
    }
}
