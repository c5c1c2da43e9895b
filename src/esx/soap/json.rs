//! Converts any vim25 value to JSON.
//!
//! A value becomes a number or a boolean only if it has an `xsi:type`. Other simple values become
//! strings, because only the WSDL knows their types. A reference becomes `{"type", "value"}`, and a
//! value of a type `ArrayOf…` becomes an array. The JSON of an object has the object's type in
//! `_type`.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::xml::Element;

/// The maximum depth of the JSON. A value that is nested more deeply is replaced by a note, because
/// JSON is written and dropped recursively.
const MAX_DEPTH: usize = 200;

/// Converts the value in an XML element to JSON.
#[must_use]
pub fn to_json(element: Element<'_>) -> Value {
    at_depth(element, 0)
}

fn at_depth(element: Element<'_>, depth: usize) -> Value {
    if depth >= MAX_DEPTH {
        return Value::String(format!(
            "(cut: nested deeper than {MAX_DEPTH} levels; read a path below it)"
        ));
    }
    let type_name = element.type_name();
    if type_name.is_some_and(|name| name.starts_with("ArrayOf")) {
        return element.children().map(|child| at_depth(child, depth + 1)).collect();
    }
    if element.children().next().is_none() {
        return leaf(element);
    }
    let mut object = Map::new();
    if let Some(name) = type_name {
        object.insert("_type".to_owned(), name.into());
    }
    let mut times: HashMap<&str, usize> = HashMap::new();
    for child in element.children() {
        *times.entry(child.name()).or_default() += 1;
    }
    for child in element.children() {
        let value = at_depth(child, depth + 1);
        // A child element that occurs several times is a list. A list with a single element cannot
        // be told from a single value, so it becomes a single value.
        if times.get(child.name()).is_some_and(|times| *times > 1) {
            let list = object.entry(child.name()).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                list.push(value);
            }
        } else {
            object.insert(child.name().to_owned(), value);
        }
    }
    Value::Object(object)
}

fn leaf(element: Element<'_>) -> Value {
    let text = element.text();
    if let Some(kind) = element.attribute("type") {
        return serde_json::json!({ "type": kind, "value": text });
    }
    let plain = || Value::String(text.to_owned());
    match element.type_name() {
        Some("boolean") => text.trim().parse::<bool>().map_or_else(|_| plain(), Value::Bool),
        Some("byte" | "short" | "int" | "long") => {
            text.trim().parse::<i64>().map_or_else(|_| plain(), Into::into)
        }
        Some("float" | "double") => text
            .trim()
            .parse::<f64>()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map_or_else(plain, Value::Number),
        _ => plain(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esx::soap::xml::Document;

    #[test]
    fn typed_values_references_lists_and_objects() {
        let text = r#"<val xsi:type="RuntimeInfo"
            xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
            <host type="HostSystem">ha-host</host><powerState>poweredOn</powerState>
            <big xsi:type="xsd:long">9223372036854775807</big><yes xsi:type="xsd:boolean">true</yes>
            <many>a</many><many>b</many>
            <list xsi:type="ArrayOfInt"><int xsi:type="xsd:int">1</int></list></val>"#;
        let document = Document::parse(text.as_bytes()).unwrap();
        let expected = serde_json::json!({
            "_type": "RuntimeInfo", "host": {"type": "HostSystem", "value": "ha-host"},
            "powerState": "poweredOn",
            "big": i64::MAX, "yes": true, "many": ["a", "b"], "list": [1],
        });
        assert_eq!(to_json(document.root()), expected);
    }

    #[test]
    fn deep_values_are_cut() {
        let text = format!("{}{}", "<a>".repeat(10_000), "</a>".repeat(10_000));
        let document = Document::parse(text.as_bytes()).unwrap();
        assert!(to_json(document.root()).to_string().contains("(cut: "));
    }
}
