//! Strict parsing of JSON bodies. Refuses unknown, missing, repeated and null fields at any depth,
//! with a pointer to the field.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_path_to_error::{Path, Segment};
use utoipa::PartialSchema;
use utoipa::openapi::{RefOr, Schema};

use super::strict_value::StrictValue;
use super::{failure_in_body, pointer, suggestion};
use crate::domain::duration;
use crate::domain::failure::Failure;
use crate::service::machines::shorten;

/// The most lists, objects and commas of a body. A small object takes a hundred times the memory of
/// its text.
const MAX_ITEMS: usize = 200_000;

/// Parses the JSON body of a request.
///
/// # Errors
/// `invalid-request` if the body is not UTF-8, not JSON or not an object, if it has too many items,
/// or if a field is unknown, missing, repeated, null or of the wrong type.
pub fn parse_json<T: DeserializeOwned + PartialSchema>(bytes: &[u8]) -> Result<T, Failure> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let detail = format!("The body is not UTF-8 from byte {} on.", error.valid_up_to());
        failure_in_body("", "not-utf-8", detail)
    })?;
    if text.len() > MAX_ITEMS && items(text) > MAX_ITEMS {
        let detail = format!("The body has more than {MAX_ITEMS} entries of lists and objects.");
        return Err(failure_in_body("", "out-of-range", detail));
    }
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| {
        // The problem may show the error of serde_json, because it has the line and the column of
        // the mistake, but no text of the body.
        failure_in_body("", "not-json", format!("The body is not JSON: {error}."))
    })?;
    let Some(object) = value.as_object() else {
        return Err(failure_in_body(
            "",
            "not-an-object",
            "The body must be a JSON object, such as {}.".to_owned(),
        ));
    };
    if let Some(repeated) = repeated_field(text) {
        let name = repeated.rsplit('/').next().unwrap_or_default();
        let detail = format!("The field {} is repeated; send it once.", shorten(name));
        return Err(failure_in_body(&repeated, "repeated", detail));
    }
    let known = known_fields(&T::schema());
    if let Some(unknown) = object.keys().find(|key| !known.contains(key)) {
        let detail =
            format!("The field {} is not known.{}", shorten(unknown), suggestion(unknown, &known));
        return Err(failure_in_body(&pointer(unknown), "unknown-field", detail));
    }
    if let Some(missing) =
        required_fields(&T::schema()).into_iter().find(|field| !object.contains_key(field))
    {
        let detail = format!("The field {missing} is missing.");
        return Err(failure_in_body(&pointer(&missing), "missing", detail));
    }
    // No field of a request is nullable. A null is usually a variable that the client forgot to
    // set.
    if let Some(null) = null_field(&value) {
        let field = null.trim_start_matches('/').replace('/', ".");
        let detail = format!("The field {field} is null; set a value or omit the field.");
        return Err(failure_in_body(&null, "wrong-type", detail));
    }
    serde_path_to_error::deserialize(StrictValue(value)).map_err(|error| {
        let at = pointer_to(error.path());
        let inner = error.inner().to_string();
        if let Some((unknown, known)) = unknown_field(&inner) {
            let unknown_is = format!("The field {} is not known.", shorten(unknown));
            let detail = unknown_is + &suggestion(unknown, &known);
            failure_in_body(&at, "unknown-field", detail)
        } else if let Some(missing) = missing_field(&inner) {
            let detail = format!("{at}: the field {missing} is missing.");
            failure_in_body(&(at + &pointer(missing)), "missing", detail)
        } else {
            let detail = format!("{at}: {}.", in_words_of_json(&inner));
            failure_in_body(&at, "wrong-type", detail)
        }
    })
}

/// Deserialises a duration, which is a string. The error for a number shows the correct form.
///
/// # Errors
/// Fails if the value is not a string.
pub fn duration_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Text;

    impl Visitor<'_> for Text {
        type Value = String;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a duration in quotes, such as \"30m\"")
        }

        fn visit_str<E>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<String, E> {
            let units = duration::format(Duration::from_secs(seconds));
            Err(E::custom(format!(
                "a duration is a text in quotes, not a number: write \"{units}\" or \"{seconds}\" \
                 for {seconds} seconds"
            )))
        }
    }

    deserializer.deserialize_any(Text)
}

/// Deserialises an optional duration. A field that uses this function also needs
/// `#[serde(default)]`.
///
/// # Errors
/// The errors of [`duration_text`].
pub fn some_duration_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    duration_text(deserializer).map(Some)
}

/// Deserialises a list of which at most `MAX` + 1 entries are kept, so that a list that is too long
/// does not take much memory. The check of the request refuses it by its length.
///
/// # Errors
/// Fails if the value is not a list, or an entry is wrong.
pub fn bounded_list<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Entries<T, const MAX: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Entries<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
            let mut kept = Vec::new();
            while kept.len() <= MAX {
                let Some(entry) = entries.next_element()? else { return Ok(kept) };
                kept.push(entry);
            }
            while entries.next_element::<IgnoredAny>()?.is_some() {}
            Ok(kept)
        }
    }

    deserializer.deserialize_seq(Entries::<T, MAX>(PhantomData))
}

/// As [`bounded_list`], for an optional list. A field that uses this function also needs
/// `#[serde(default)]`.
///
/// # Errors
/// The errors of [`bounded_list`].
pub fn some_bounded_list<'de, D, T, const MAX: usize>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    bounded_list::<D, T, MAX>(deserializer).map(Some)
}

/// The number of lists, objects and commas of a JSON text. If it is not JSON, any number.
fn items(text: &str) -> usize {
    let (mut items, mut in_string, mut is_escaped) = (0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' | b',' if !in_string => items += 1,
            _ => {}
        }
    }
    items
}

/// The JSON Pointer of the first null at any depth. `None` if there is no null.
fn null_field(value: &serde_json::Value) -> Option<String> {
    let below = |at: String, value: &serde_json::Value| match value {
        serde_json::Value::Null => Some(at),
        _ => null_field(value).map(|below| at + &below),
    };
    match value {
        serde_json::Value::Object(fields) => {
            fields.iter().find_map(|(field, value)| below(pointer(field), value))
        }
        serde_json::Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(index, item)| below(format!("/{index}"), item))
        }
        _ => None,
    }
}

/// The JSON Pointer of a path.
fn pointer_to(path: &Path) -> String {
    let segment = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => pointer(key),
        Segment::Enum { variant } => pointer(variant),
        Segment::Unknown => String::new(),
    };
    path.iter().map(segment).collect()
}

/// Parses serde's error about an unknown nested field into the unknown name and the known ones.
/// `None` for other errors.
fn unknown_field(error: &str) -> Option<(&str, Vec<String>)> {
    let (unknown, rest) = error.strip_prefix("unknown field `")?.split_once('`')?;
    Some((unknown, rest.split('`').skip(1).step_by(2).map(str::to_owned).collect()))
}

/// Parses serde's error about a missing nested field into its name. `None` for other errors.
fn missing_field(error: &str) -> Option<&str> {
    error.strip_prefix("missing field `")?.strip_suffix('`')
}

/// An error of serde with the words of JSON. serde calls an object a map or the name of a Rust
/// type, and a list a sequence.
fn in_words_of_json(error: &str) -> String {
    let Some((found, expected)) = error.rsplit_once(", expected ") else {
        return error.to_owned();
    };
    let found = match found {
        "invalid type: map" => "invalid type: object",
        "invalid type: sequence" => "invalid type: list",
        found => found,
    };
    let expected = match expected {
        "a sequence" => "a list",
        "a map" => "an object",
        "a boolean" => "true or false",
        "f32" | "f64" => "a number",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number from 0",
        "i16" => "a whole number from -32768 to 32767",
        "i32" | "i64" => "a whole number",
        expected if expected.starts_with("struct ") => "an object",
        expected => expected,
    };
    format!("{found}, expected {expected}")
}

/// The JSON Pointer of the first repeated field at any depth. `None` if no field is repeated.
/// `serde_json` does not report repeated fields: it silently uses the last value.
fn repeated_field(object: &str) -> Option<String> {
    struct Repeated(Option<String>);

    impl<'de> Deserialize<'de> for Repeated {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Names)
        }
    }

    struct Names;

    impl<'de> Visitor<'de> for Names {
        type Value = Repeated;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("any value")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Repeated, A::Error> {
            let (mut seen, mut repeated) = (HashSet::new(), None);
            while let Some((name, Repeated(below))) = fields.next_entry::<String, Repeated>()? {
                let at = pointer(&name);
                let twice = seen.replace(name).map(|_| at.clone());
                repeated = repeated.or(twice).or_else(|| below.map(|below| at + &below));
            }
            Ok(Repeated(repeated))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Repeated, A::Error> {
            let (mut index, mut repeated) = (0_usize, None);
            while let Some(Repeated(below)) = items.next_element::<Repeated>()? {
                repeated = repeated.or(below.map(|below| format!("/{index}{below}")));
                index += 1;
            }
            Ok(Repeated(repeated))
        }

        fn visit_bool<E>(self, _: bool) -> Result<Repeated, E> {
            Ok(Repeated(None))
        }

        fn visit_i64<E>(self, _: i64) -> Result<Repeated, E> {
            Ok(Repeated(None))
        }

        fn visit_u64<E>(self, _: u64) -> Result<Repeated, E> {
            Ok(Repeated(None))
        }

        fn visit_f64<E>(self, _: f64) -> Result<Repeated, E> {
            Ok(Repeated(None))
        }

        fn visit_str<E>(self, _: &str) -> Result<Repeated, E> {
            Ok(Repeated(None))
        }

        fn visit_unit<E>(self) -> Result<Repeated, E> {
            Ok(Repeated(None))
        }
    }

    serde_json::from_str::<Repeated>(object).ok()?.0
}

fn known_fields(schema: &RefOr<Schema>) -> Vec<String> {
    match schema {
        RefOr::T(Schema::Object(object)) => object.properties.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

/// The required fields of a body.
pub fn required_fields(schema: &RefOr<Schema>) -> Vec<String> {
    match schema {
        RefOr::T(Schema::Object(object)) => object.required.clone(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::NoFields;
    use super::*;

    #[test]
    fn a_repeated_field_is_found() {
        assert_eq!(repeated_field(r#"{"a":1,"b":{"a":2,"c":3},"a":4}"#).as_deref(), Some("/a"));
        assert_eq!(repeated_field(r#"{"a":1,"\u0061":2}"#).as_deref(), Some("/a"));
        assert_eq!(
            repeated_field(r#"{"a":1,"b":{"c":true,"a/b":null,"a/b":-3.5}}"#).as_deref(),
            Some("/b/a~1b")
        );
        assert_eq!(repeated_field(r#"{"a":1,"b":[{"a":2}]}"#), None);
        let in_list = repeated_field(r#"{"a":[1,{"b":[0,{"c":1,"c":2}]}]}"#);
        assert_eq!(in_list.as_deref(), Some("/a/1/b/1/c"));
        assert_eq!(repeated_field("{}"), None);
    }

    #[test]
    fn the_items_of_a_text_are_counted_outside_of_its_strings() {
        assert_eq!(items(r#"{"a":1,"b":{"a":2,"c":[3,4]},"d":[]}"#), 8);
        assert_eq!(items(r#"{"a,[{":"\",[{","b":"\\"}"#), 2);
        assert_eq!(items("1"), 0);
    }

    #[test]
    fn a_body_with_too_many_items_is_refused_before_it_is_parsed() {
        let code = |entries: usize| {
            let body = format!(r#"{{"list":[{}]}}"#, vec!["0"; entries].join(","));
            let refused = parse_json::<NoFields>(body.as_bytes()).unwrap_err();
            refused.errors[0].code.to_string()
        };
        assert_eq!(code(MAX_ITEMS), "out-of-range");
        assert_eq!(code(MAX_ITEMS - 2), "unknown-field");
    }

    #[test]
    fn a_long_list_is_not_kept() {
        #[derive(Deserialize)]
        struct Body {
            #[serde(deserialize_with = "bounded_list::<_, _, 2>")]
            list: Vec<u8>,
            #[serde(default, deserialize_with = "some_bounded_list::<_, _, 2>")]
            more: Option<Vec<u8>>,
        }
        let parse =
            |text: &str| serde_json::from_str::<Body>(text).map_err(|error| error.to_string());
        let short = parse(r#"{"list":[1,2]}"#).unwrap();
        assert_eq!((short.list.as_slice(), short.more), (&[1, 2][..], None));
        let long = parse(r#"{"list":[1,2,3,4,"not read"],"more":[5,6,7,8]}"#).unwrap();
        assert_eq!((long.list.as_slice(), long.more), (&[1, 2, 3][..], Some(vec![5, 6, 7])));
        assert!(parse(r#"{"list":{}}"#).err().unwrap().contains("expected a list"));
        assert!(parse(r#"{"list":[1,"a"]}"#).is_err());
    }

    #[test]
    fn a_null_is_found_at_any_depth() {
        let found = |text: &str| null_field(&serde_json::from_str(text).unwrap());
        assert_eq!(found(r#"{"a":1,"b":{"c":null}}"#).as_deref(), Some("/b/c"));
        assert_eq!(found(r#"{"a":[{},{"b":null}]}"#).as_deref(), Some("/a/1/b"));
        assert_eq!(found(r#"{"a":["b",null]}"#).as_deref(), Some("/a/1"));
        assert_eq!(found(r#"{"a":["b"],"c":{}}"#), None);
    }

    #[test]
    fn an_unknown_field_is_found_with_the_known_ones() {
        let found = unknown_field("unknown field `snap`, expected one of `snapshot`, `power`");
        assert_eq!(found, Some(("snap", vec!["snapshot".to_owned(), "power".to_owned()])));
        assert_eq!(unknown_field("unknown field `x`, expected `a` or `b`").unwrap().1, ["a", "b"]);
        assert_eq!(unknown_field("unknown field `x`, there are no fields").unwrap().1, [""; 0]);
        assert_eq!(unknown_field("invalid type: integer `5`, expected a string"), None);
    }

    #[test]
    fn a_missing_field_is_found() {
        assert_eq!(missing_field("missing field `to_x`"), Some("to_x"));
        assert_eq!(missing_field("unknown field `x`, expected `a` or `b`"), None);
    }

    #[test]
    fn errors_have_the_words_of_json() {
        for (error, words) in [
            ("invalid type: map, expected a sequence", "invalid type: object, expected a list"),
            (
                "invalid type: string \"a\", expected struct InputEventRequest",
                "invalid type: string \"a\", expected an object",
            ),
            (
                "invalid type: string \"b, expected u16\", expected a boolean",
                "invalid type: string \"b, expected u16\", expected true or false",
            ),
            (
                "invalid value: integer `70000`, expected u16",
                "invalid value: integer `70000`, expected a whole number from 0 to 65535",
            ),
            ("a duration is a text in quotes", "a duration is a text in quotes"),
        ] {
            assert_eq!(in_words_of_json(error), words);
        }
    }
}
