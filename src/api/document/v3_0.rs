//! Converts the OpenAPI 3.1 document to 3.0.3, for generators that do not support 3.1.
//!
//! Schemas of 3.1 are JSON Schema 2020-12. Schemas of 3.0 are a dialect without `null`, lists of
//! types, `const` and more. The conversion replaces a keyword by its counterpart, or removes it if
//! there is none; a removal only makes a schema accept more. Old generators recognise only
//! `application/json` as JSON, so responses with another JSON type get this type too.

use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// The keywords that a Schema Object of OpenAPI 3.0.3 may have. Extensions (`x-…`) are allowed too.
const SCHEMA_KEYWORDS: &[&str] = &[
    "additionalProperties",
    "allOf",
    "anyOf",
    "default",
    "deprecated",
    "description",
    "discriminator",
    "enum",
    "example",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "externalDocs",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "not",
    "nullable",
    "oneOf",
    "pattern",
    "properties",
    "readOnly",
    "required",
    "title",
    "type",
    "uniqueItems",
    "writeOnly",
    "xml",
];

/// The keys of a path item whose values are operations.
const METHODS: &[&str] = &["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// Converts a 3.1 document to a 3.0.3 document that accepts at least the same requests and
/// responses.
#[must_use]
pub fn convert(document: &Value) -> Value {
    let mut document = document.clone();
    let Value::Object(root) = &mut document else { return document };
    root.insert("openapi".to_owned(), json!("3.0.3"));
    root.remove("webhooks");
    root.remove("jsonSchemaDialect");
    root.entry("paths").or_insert_with(|| json!({}));
    with_object(root, "info", info);
    for_each(root, "paths", path_item);
    with_object(root, "components", components);
    document
}

fn info(info: &mut Object) {
    info.remove("summary");
    with_object(info, "license", |license| {
        let Some(Value::String(identifier)) = license.remove("identifier") else { return };
        // OpenAPI 3.0 names a licence by a URL. SPDX has a page for each licence, but not for an
        // expression such as `MIT OR Apache-2.0`, so an expression gets no URL.
        if !identifier.contains(' ') {
            license
                .entry("url")
                .or_insert_with(|| json!(format!("https://spdx.org/licenses/{identifier}.html")));
        }
    });
}

fn components(components: &mut Object) {
    components.remove("pathItems");
    if let Some(Value::Object(schemas)) = components.get_mut("schemas") {
        schemas.values_mut().for_each(schema);
    }
    for_each(components, "parameters", parameter);
    for_each(components, "headers", parameter);
    for_each(components, "requestBodies", body);
    for_each(components, "responses", response);
    for_each(components, "callbacks", callback);
}

fn path_item(item: &mut Object) {
    for_each(item, "parameters", parameter);
    for (key, value) in item.iter_mut() {
        if let Value::Object(operation) = value
            && METHODS.contains(&key.as_str())
        {
            for_each(operation, "parameters", parameter);
            with_object(operation, "requestBody", body);
            operation.entry("responses").or_insert_with(|| json!({}));
            for_each(operation, "responses", response);
            for_each(operation, "callbacks", callback);
        }
    }
}

fn callback(callback: &mut Object) {
    callback.values_mut().filter_map(Value::as_object_mut).for_each(path_item);
}

fn response(response: &mut Object) {
    for_each(response, "headers", parameter);
    body(response);
    with_object(response, "content", plain_json);
}

/// Adds `application/json` to content with another JSON type (`application/problem+json`), which
/// old generators treat as bytes.
fn plain_json(content: &mut Object) {
    let named =
        content.iter().find(|(name, _)| name.ends_with("+json")).map(|(_, value)| value.clone());
    if let Some(value) = named {
        content.entry("application/json").or_insert(value);
    }
}

/// Converts a parameter object or a header object.
fn parameter(parameter: &mut Object) {
    plain_reference(parameter);
    if let Some(value) = parameter.get_mut("schema") {
        schema(value);
    }
    for_each(parameter, "content", media_type);
}

fn body(body: &mut Object) {
    plain_reference(body);
    for_each(body, "content", media_type);
}

fn media_type(media_type: &mut Object) {
    if let Some(value) = media_type.get_mut("schema") {
        schema(value);
    }
}

/// Removes the siblings of `$ref`, such as a description, which 3.0 does not allow.
fn plain_reference(object: &mut Object) {
    if object.contains_key("$ref") {
        object.retain(|key, _| key == "$ref");
    }
}

fn schema(value: &mut Value) {
    match value {
        Value::Bool(true) => *value = json!({}),
        Value::Bool(false) => *value = json!({ "not": {} }),
        Value::Object(object) => {
            subschemas(object);
            reference(object);
            constant(object);
            alternatives(object, "oneOf");
            alternatives(object, "anyOf");
            types(object);
            exclusive_bound(object, "exclusiveMinimum", "minimum", |exclusive, bound| {
                exclusive >= bound
            });
            exclusive_bound(object, "exclusiveMaximum", "maximum", |exclusive, bound| {
                exclusive <= bound
            });
            examples(object);
            content(object);
            pattern_properties(object);
            tuple(object);
            object.retain(|key, _| {
                key == "$ref" || key.starts_with("x-") || SCHEMA_KEYWORDS.contains(&key.as_str())
            });
        }
        _ => {}
    }
}

fn subschemas(object: &mut Object) {
    for key in ["properties", "patternProperties"] {
        if let Some(Value::Object(properties)) = object.get_mut(key) {
            properties.values_mut().for_each(schema);
        }
    }
    for key in ["items", "not"] {
        if let Some(value) = object.get_mut(key) {
            schema(value);
        }
    }
    if let Some(value @ Value::Object(_)) = object.get_mut("additionalProperties") {
        schema(value);
        // Write an empty schema as `true`, which means the same and which old generators support.
        if *value == json!({}) {
            *value = json!(true);
        }
    }
    for key in ["allOf", "prefixItems"] {
        if let Some(Value::Array(values)) = object.get_mut(key) {
            values.iter_mut().for_each(schema);
        }
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(Value::Array(values)) = object.get_mut(key) {
            values.iter_mut().filter(|value| !is_null_type(value)).for_each(schema);
        }
    }
}

/// Moves the `$ref` of a schema into `allOf` if the schema has other keywords, because 3.0 would
/// ignore keywords next to a `$ref`.
fn reference(object: &mut Object) {
    if object.len() > 1
        && let Some(target) = object.remove("$ref")
    {
        push(object, "allOf", json!({ "$ref": target }));
    }
}

fn constant(object: &mut Object) {
    if let Some(value) = object.remove("const") {
        if value.is_null() {
            object.entry("type").or_insert_with(|| json!("null"));
        }
        object.insert("enum".to_owned(), json!([value]));
    }
}

/// Removes the alternative `null` from the union under `key` (`anyOf` or `oneOf`), and makes the
/// schema `nullable`. If only one alternative remains, a reference goes into `allOf`, and an inline
/// schema is merged into its parent, whose keywords win.
fn alternatives(object: &mut Object, key: &str) {
    let Some(Value::Array(values)) = object.get(key) else { return };
    let mut others: Vec<Value> =
        values.iter().filter(|value| !is_null_type(value)).cloned().collect();
    if others.len() == values.len() {
        return;
    }
    object.insert("nullable".to_owned(), json!(true));
    object.remove(key);
    match others.as_mut_slice() {
        [] => {
            object.insert("type".to_owned(), json!("null"));
        }
        [only] => match only.take() {
            Value::Object(inline) if !inline.contains_key("$ref") => {
                for (key, value) in inline {
                    object.entry(key).or_insert(value);
                }
            }
            only => push(object, "allOf", only),
        },
        _ => {
            object.insert(key.to_owned(), json!(others));
        }
    }
}

/// Converts the keyword `type` if it is a list of types. In 3.0, `type` is one name, and `null` is
/// not a type.
fn types(object: &mut Object) {
    let names: Vec<Value> = match object.get("type") {
        Some(Value::Array(names)) => names.clone(),
        Some(name) => vec![name.clone()],
        None => return,
    };
    let (nulls, others): (Vec<Value>, Vec<Value>) =
        names.into_iter().partition(|name| name == "null");
    if !nulls.is_empty() {
        object.insert("nullable".to_owned(), json!(true));
    }
    match others.as_slice() {
        [] => {
            // The list has only the type `null`. The schema gets some other type, because
            // `nullable` needs a `type` in the same schema.
            object.insert("type".to_owned(), json!("object"));
            object.insert("enum".to_owned(), json!([null]));
        }
        [one] => {
            object.insert("type".to_owned(), one.clone());
        }
        several => {
            let several: Vec<Value> =
                several.iter().map(|name| typed(name, !nulls.is_empty())).collect();
            object.remove("type");
            if object.contains_key("anyOf") {
                push(object, "allOf", json!({ "anyOf": several }));
            } else {
                object.insert("anyOf".to_owned(), json!(several));
            }
        }
    }
    if object.get("type") == Some(&json!("array")) && !object.contains_key("prefixItems") {
        object.entry("items").or_insert_with(|| json!({}));
    }
}

fn typed(name: &Value, nullable: bool) -> Value {
    let mut schema = json!({ "type": name });
    if nullable {
        schema["nullable"] = json!(true);
    }
    if name == "array" {
        schema["items"] = json!({});
    }
    schema
}

/// Converts an exclusive bound, which is a number of its own in 3.1, and in 3.0 a flag of the
/// normal bound. If a schema has both bounds, the stricter one is kept.
fn exclusive_bound(
    object: &mut Object,
    exclusive: &str,
    bound: &str,
    stricter: fn(f64, f64) -> bool,
) {
    let Some(value) = object.get(exclusive).and_then(Value::as_f64) else { return };
    let number = object.remove(exclusive);
    if object.get(bound).and_then(Value::as_f64).is_none_or(|bound| stricter(value, bound)) {
        object.extend(number.map(|number| (bound.to_owned(), number)));
        object.insert(exclusive.to_owned(), json!(true));
    }
}

fn examples(object: &mut Object) {
    if let Some(Value::Array(examples)) = object.remove("examples")
        && let Some(first) = examples.into_iter().next()
    {
        object.entry("example").or_insert(first);
    }
}

fn content(object: &mut Object) {
    let format = match (object.remove("contentEncoding"), object.remove("contentMediaType")) {
        (Some(Value::String(encoding)), _) if encoding.starts_with("base64") => "byte",
        (None, Some(Value::String(media_type))) if media_type == "application/octet-stream" => {
            object.entry("type").or_insert_with(|| json!("string"));
            "binary"
        }
        _ => return,
    };
    object.entry("format").or_insert_with(|| json!(format));
}

fn pattern_properties(object: &mut Object) {
    let Some(Value::Object(patterns)) = object.remove("patternProperties") else { return };
    let others = object.get("additionalProperties");
    let closed = others.is_none() || others == Some(&json!(false));
    let mut values = patterns.into_iter().map(|(_, value)| value);
    let value = match (values.next(), values.next()) {
        (Some(only), None) if closed => only,
        _ => json!(true),
    };
    object.insert("additionalProperties".to_owned(), value);
}

/// Converts the schema of a tuple to the schema of a list. Each item of the list must match the
/// schema of some part of the tuple.
fn tuple(object: &mut Object) {
    let Some(Value::Array(parts)) = object.remove("prefixItems") else { return };
    let mut parts = parts;
    match object.remove("items") {
        // A tuple schema without `items` allows any items after its parts.
        None => parts.push(json!({})),
        // This is the converted schema `false`: the tuple allows no items after its parts.
        Some(rest) if rest == json!({ "not": {} }) => {}
        Some(rest) => parts.push(rest),
    }
    object.insert("items".to_owned(), json!({ "anyOf": parts }));
}

fn is_null_type(schema: &Value) -> bool {
    schema.get("type").is_some_and(|name| name == "null" || *name == json!(["null"]))
}

fn push(object: &mut Object, key: &str, value: Value) {
    if let Value::Array(values) = object.entry(key).or_insert_with(|| json!([])) {
        values.push(value);
    }
}

fn with_object(parent: &mut Object, key: &str, change: impl FnOnce(&mut Object)) {
    if let Some(Value::Object(object)) = parent.get_mut(key) {
        change(object);
    }
}

/// Applies a change to each object of a map or a list.
fn for_each(parent: &mut Object, key: &str, change: fn(&mut Object)) {
    match parent.get_mut(key) {
        Some(Value::Object(map)) => {
            map.values_mut().filter_map(Value::as_object_mut).for_each(change);
        }
        Some(Value::Array(list)) => {
            list.iter_mut().filter_map(Value::as_object_mut).for_each(change);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns one schema of 3.1 in the form of 3.0.
    fn converted(schema: &Value) -> Value {
        let document = json!({ "openapi": "3.1.0", "components": { "schemas": { "S": schema } } });
        convert(&document)["components"]["schemas"]["S"].clone()
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table: a construct, and its conversion")]
    fn schemas_are_converted() {
        let reference = json!({ "$ref": "#/components/schemas/Job" });
        for (construct, new, old) in [
            ("one type stays", json!({ "type": "string" }), json!({ "type": "string" })),
            (
                "a type or null",
                json!({ "type": ["string", "null"], "format": "date-time" }),
                json!({ "type": "string", "format": "date-time", "nullable": true }),
            ),
            ("a list of one", json!({ "type": ["integer"] }), json!({ "type": "integer" })),
            (
                "several types",
                json!({ "type": ["string", "array", "null"], "maxLength": 3 }),
                json!({ "maxLength": 3, "nullable": true, "anyOf": [
                    { "type": "string", "nullable": true },
                    { "type": "array", "nullable": true, "items": {} },
                ] }),
            ),
            (
                "several types and anyOf",
                json!({ "type": ["string", "integer"], "anyOf": [{ "minLength": 1 }] }),
                json!({ "anyOf": [{ "minLength": 1 }],
                    "allOf": [{ "anyOf": [{ "type": "string" }, { "type": "integer" }] }] }),
            ),
            (
                "only null",
                json!({ "type": "null" }),
                json!({ "type": "object", "nullable": true, "enum": [null] }),
            ),
            (
                "a reference or null",
                json!({ "oneOf": [{ "type": "null" }, reference], "description": "the job" }),
                json!({ "allOf": [reference], "nullable": true, "description": "the job" }),
            ),
            (
                "an inline schema or null",
                json!({ "anyOf": [{ "type": "integer", "description": "inner" }, {
                    "type": "null" }],
                    "description": "outer" }),
                json!({ "type": "integer", "nullable": true, "description": "outer" }),
            ),
            (
                "several or null",
                json!({ "oneOf": [{ "type": "null" }, reference, { "type": "string" }] }),
                json!({ "oneOf": [reference, { "type": "string" }], "nullable": true }),
            ),
            (
                "a union of null alone",
                json!({ "oneOf": [{ "type": "null" }] }),
                json!({ "type": "object", "nullable": true, "enum": [null] }),
            ),
            ("a reference alone", reference.clone(), reference.clone()),
            (
                "a reference with a description",
                json!({ "$ref": "#/components/schemas/Job", "description": "the last one" }),
                json!({ "allOf": [reference], "description": "the last one" }),
            ),
            ("const", json!({ "const": "on" }), json!({ "enum": ["on"] })),
            (
                "const null",
                json!({ "const": null }),
                json!({ "type": "object", "nullable": true, "enum": [null] }),
            ),
            (
                "exclusive bounds",
                json!({ "type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1.5 }),
                json!({ "type": "number", "minimum": 0, "exclusiveMinimum": true,
                    "maximum": 1.5, "exclusiveMaximum": true }),
            ),
            (
                "of two bounds the stricter",
                json!({ "minimum": 5, "exclusiveMinimum": 2, "maximum": 9, "exclusiveMaximum": 9 }),
                json!({ "minimum": 5, "maximum": 9, "exclusiveMaximum": true }),
            ),
            ("examples", json!({ "examples": ["a", "b"] }), json!({ "example": "a" })),
            (
                "an example wins",
                json!({ "examples": ["a"], "example": "b" }),
                json!({ "example": "b" }),
            ),
            ("no examples", json!({ "examples": [] }), json!({})),
            (
                "text in base64",
                json!({ "type": "string", "contentEncoding": "base64",
                    "contentMediaType": "image/png" }),
                json!({ "type": "string", "format": "byte" }),
            ),
            (
                "bytes",
                json!({ "contentMediaType": "application/octet-stream" }),
                json!({ "type": "string", "format": "binary" }),
            ),
            (
                "names of properties",
                json!({ "type": "object", "propertyNames": { "pattern": "^a" },
                    "additionalProperties": reference }),
                json!({ "type": "object", "additionalProperties": reference }),
            ),
            (
                "properties of any kind",
                json!({ "type": "object", "additionalProperties": {} }),
                json!({ "type": "object", "additionalProperties": true }),
            ),
            (
                "one pattern of properties",
                json!({ "type": "object", "patternProperties": { "^a": { "type": ["string",
                    "null"] } },
                    "additionalProperties": false }),
                json!({ "type": "object", "additionalProperties": { "type": "string",
                    "nullable": true } }),
            ),
            (
                "several patterns of properties",
                json!({ "patternProperties": { "^a": true, "^b": { "type": "string" } } }),
                json!({ "additionalProperties": true }),
            ),
            (
                "a closed tuple",
                json!({ "type": "array", "prefixItems": [{ "type": "string" }, { "const": 1 }],
                    "items": false }),
                json!({ "type": "array", "items": { "anyOf": [{ "type": "string" }, {
                    "enum": [1] }] } }),
            ),
            (
                "an open tuple",
                json!({ "type": "array", "prefixItems": [{ "type": "string" }] }),
                json!({ "type": "array", "items": { "anyOf": [{ "type": "string" }, {}] } }),
            ),
            (
                "a list of anything",
                json!({ "type": "array" }),
                json!({ "type": "array", "items": {} }),
            ),
            ("anything", json!(true), json!({})),
            ("nothing", json!(false), json!({ "not": {} })),
            (
                "keywords without a counterpart",
                json!({ "$comment": "c", "$defs": {}, "if": {}, "then": {},
                    "unevaluatedProperties": false,
                    "dependentRequired": {}, "x-extensible-enum": ["a"], "title": "T" }),
                json!({ "x-extensible-enum": ["a"], "title": "T" }),
            ),
            (
                "a property that is named like a keyword",
                json!({ "properties": { "const": { "const": 1 }, "examples": { "type": ["null",
                    "string"] } } }),
                json!({ "properties": { "const": { "enum": [1] },
                    "examples": { "type": "string", "nullable": true } } }),
            ),
            (
                "nested schemas",
                json!({ "items": { "not": { "const": 1 } }, "allOf": [{ "const": 2 }],
                    "oneOf": [{ "additionalProperties": { "const": 3 } }, { "const": 4 }] }),
                json!({ "items": { "not": { "enum": [1] } }, "allOf": [{ "enum": [2] }],
                    "oneOf": [{ "additionalProperties": { "enum": [3] } }, { "enum": [4] }] }),
            ),
        ] {
            assert_eq!(converted(&new), old, "{construct}");
        }
    }

    #[test]
    fn the_document_around_the_schemas_is_converted() {
        let nullable = json!({ "type": ["string", "null"] });
        let document = json!({
            "openapi": "3.1.0", "jsonSchemaDialect": "d", "webhooks": {},
            "info": { "title": "otter", "version": "1", "summary": "s",
                "license": { "name": "MIT", "identifier": "MIT" } },
            "paths": { "/x": {
                "parameters": [{ "name": "a", "in": "query", "schema": nullable }],
                "post": {
                    "parameters": [{ "$ref": "#/components/parameters/P", "description": "d" }],
                    "requestBody": { "content": { "application/json": { "schema": nullable } } },
                    "responses": { "200": { "description": "d",
                        "headers": { "H": { "schema": nullable } },
                        "content": { "application/json": { "schema": nullable, "examples": {
                            "e": { "value": 1 } } } } } },
                    "callbacks": { "c": { "u": { "put": { "requestBody": {
                        "content": { "application/json": { "schema": nullable } } } } } } },
                },
            } },
            "components": {
                "pathItems": {},
                "parameters": { "P": { "name": "p", "in": "query",
                    "content": { "application/json": { "schema": nullable } } } },
                "requestBodies": { "B": { "content": { "application/json": {
                    "schema": nullable } } } },
                "responses": { "R": { "description": "d", "headers": { "H": {
                    "schema": nullable } } } },
                "headers": { "H": { "schema": nullable } },
            },
        });
        let nullable = json!({ "type": "string", "nullable": true });
        assert_eq!(
            convert(&document),
            json!({
                "openapi": "3.0.3",
                "info": { "title": "otter", "version": "1",
                    "license": { "name": "MIT", "url": "https://spdx.org/licenses/MIT.html" } },
                "paths": { "/x": {
                    "parameters": [{ "name": "a", "in": "query", "schema": nullable }],
                    "post": {
                        "parameters": [{ "$ref": "#/components/parameters/P" }],
                        "requestBody": { "content": { "application/json": {
                            "schema": nullable } } },
                        "responses": { "200": { "description": "d",
                            "headers": { "H": { "schema": nullable } },
                            "content": { "application/json": { "schema": nullable,
                                "examples": { "e": { "value": 1 } } } } } },
                        "callbacks": { "c": { "u": { "put": {
                            "requestBody": { "content": { "application/json": {
                                "schema": nullable } } },
                            "responses": {} } } } },
                    },
                } },
                "components": {
                    "parameters": { "P": { "name": "p", "in": "query",
                        "content": { "application/json": { "schema": nullable } } } },
                    "requestBodies": { "B": { "content": { "application/json": {
                        "schema": nullable } } } },
                    "responses": { "R": { "description": "d", "headers": { "H": {
                        "schema": nullable } } } },
                    "headers": { "H": { "schema": nullable } },
                },
            })
        );
    }

    #[test]
    fn a_json_response_gets_the_type_application_json_too() {
        let content = |content: Value| {
            json!({ "paths": { "/x": { "get": { "responses": { "4XX": {
            "content": content } } } } } })
        };
        let (problem, other) =
            (json!({ "schema": { "type": "object" } }), json!({ "schema": { "type": "string" } }));
        for (new, old) in [
            (
                json!({ "application/problem+json": problem }),
                json!({ "application/problem+json": problem, "application/json": problem }),
            ),
            (
                json!({ "application/problem+json": problem, "application/json": other }),
                json!({ "application/problem+json": problem, "application/json": other }),
            ),
            (json!({ "text/event-stream": other }), json!({ "text/event-stream": other })),
        ] {
            assert_eq!(convert(&content(new))["paths"], content(old)["paths"]);
        }
    }

    #[test]
    fn a_licence_expression_gets_no_url() {
        let document =
            json!({ "info": { "license": { "name": "n", "identifier": "MIT OR Apache-2.0" } } });
        assert_eq!(convert(&document)["info"]["license"], json!({ "name": "n" }));
    }
}
