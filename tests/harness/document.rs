//! Checks every answer against the OpenAPI document: the status and media type are documented, the
//! body fits the schema (required keys, no undocumented key, types, enum values), the operation
//! lists the problem's code, and the answer has the headers that every answer has.

use std::sync::LazyLock;

use serde_json::Value;

use super::Answer;

static DOCUMENT: LazyLock<Value> = LazyLock::new(otter::api::openapi);

/// Panics if an answer does not match the OpenAPI document.
#[track_caller]
pub fn check(method: &str, path: &str, answer: &Answer) {
    let media_type = answer.header("content-type").unwrap_or_default();
    let summary = || format!("{method} {path} answered {}: {}", answer.status, answer.text);
    assert!(answer.header("x-request-id").is_some(), "no X-Request-Id: {}", summary());
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{}", summary());
    if answer.json["secret"].is_string() {
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{}", summary());
    }
    if answer.status == 304 {
        assert!(
            answer.bytes.is_empty() && answer.header("etag").is_some(),
            "no good 304: {}",
            summary()
        );
        return;
    }
    // The body of these answers cannot be checked. All other checks apply.
    let is_picture = media_type == "image/png";
    let is_body_unreadable =
        method == "HEAD" || answer.header("content-encoding").is_some() || is_picture;
    let method = if method == "HEAD" { "GET" } else { method };
    if media_type == "application/problem+json" && !is_body_unreadable {
        let problem = &DOCUMENT["components"]["schemas"]["Problem"];
        fits(&answer.json, problem, "").unwrap_or_else(|wrong| panic!("{wrong} of {}", summary()));
    }
    let Some(operation) = operation(method, path) else { return };
    let status = answer.status.to_string();
    let class = format!("{}XX", &status[..1]);
    let responses = &operation["responses"];
    let response = responses.get(&status).or_else(|| responses.get(&class));
    let Some(response) = response else { panic!("the status is not documented: {}", summary()) };
    let content =
        response["content"].as_object().unwrap_or_else(|| panic!("no content: {}", summary()));
    // Bytes may be JSON, which is not listed, because generated clients would parse them.
    let bytes =
        content.get("application/octet-stream").filter(|_| media_type == "application/json");
    let Some(schema) = content.get(media_type).or(bytes) else {
        panic!("not of its media type: {}", summary())
    };
    if !is_body_unreadable {
        fits(&answer.json, &schema["schema"], "")
            .unwrap_or_else(|wrong| panic!("{wrong} of {}", summary()));
    }
    if answer.status >= 400 {
        if is_body_unreadable {
            return;
        }
        assert_eq!(answer.json["status"], answer.status, "{}", summary());
        let code = answer.json["code"].as_str().unwrap();
        let listed =
            operation["x-otter-problems"].as_array().unwrap().iter().any(|known| known == code);
        assert!(listed, "{code} is not among the operation's problems: {}", summary());
    } else if path.starts_with("/v1/") {
        // A picture shows nothing of the inventory.
        let has_version = answer.header("otter-version").is_some();
        assert!(has_version || is_picture, "no Otter-Version: {}", summary());
        // The output of a serial port grows while it is read.
        let is_output = answer.header("otter-serial-first").is_some();
        // A file of a datastore can change at any time.
        let is_file = method == "GET" && path.ends_with("/file");
        let has_tag = answer.header("etag").is_some();
        assert!(has_tag || is_output || is_file, "no ETag: {}", summary());
    }
    if answer.status == 202 && !path.ends_with("/cancel") {
        for name in ["location", "retry-after"] {
            assert!(answer.header(name).is_some(), "no {name}: {}", summary());
        }
    }
}

/// Panics if an event does not match the OpenAPI document, or if its object does not match the
/// schema of the object that GET returns.
#[track_caller]
pub fn check_event(event: &Value) {
    let holds = |value: &Value, schema: &str| {
        let schema = &DOCUMENT["components"]["schemas"][schema];
        fits(value, schema, "").unwrap_or_else(|wrong| panic!("{wrong} of {event}"));
    };
    let kind = event["type"].as_str().unwrap();
    if kind == "bookmark" {
        assert_eq!(event.as_object().unwrap().len(), 2, "{event}");
        return;
    }
    holds(event, "Event");
    let known =
        &DOCUMENT["components"]["schemas"]["Event"]["properties"]["type"]["x-extensible-enum"];
    assert!(known.as_array().unwrap().iter().any(|known| known == kind), "{event}");
    let schema = match kind {
        "machine.changed" => "Machine",
        "snapshot.changed" => "Snapshot",
        "job.changed" => "Job",
        "lease.changed" => "Lease",
        "datastore.changed" => "Datastore",
        "session.changed" => "AboutSession",
        _ => {
            assert!(event["object"].is_null(), "{event}");
            return;
        }
    };
    holds(&event["object"], schema);
    let id = if kind == "session.changed" { &Value::Null } else { &event["object"]["id"] };
    assert_eq!(&event["id"], id, "{event}");
}

/// The documented operation of a request. A template with a literal segment wins over one with a
/// parameter. `None` if no operation has this path and method.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let given: Vec<&str> = path.split('/').collect();
    let fits = |template: &str| {
        let segments: Vec<&str> = template.split('/').collect();
        segments.len() == given.len()
            && segments
                .iter()
                .zip(&given)
                .all(|(segment, given)| segment.starts_with('{') || segment == given)
    };
    let paths = DOCUMENT["paths"].as_object()?;
    let matching = paths.iter().filter(|(template, _)| fits(template));
    let (_, item) = matching.min_by_key(|(template, _)| template.matches('{').count())?;
    item.get(method.to_lowercase())
}

fn fits(value: &Value, schema: &Value, at: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = DOCUMENT
            .pointer(reference.trim_start_matches('#'))
            .expect("a reference that leads somewhere");
        return fits(value, target, at);
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(alternatives) = schema[key].as_array() {
            let tried: Vec<_> = alternatives.iter().map(|schema| fits(value, schema, at)).collect();
            if tried.iter().all(Result::is_err) {
                return Err(tried
                    .into_iter()
                    .filter_map(Result::err)
                    .collect::<Vec<_>>()
                    .join(", or "));
            }
        }
    }
    if schema["format"] == "binary" {
        // The media type was checked.
        return Ok(());
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is = |name: &&str| match *name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the document has an unknown type {other}"),
    };
    if !types.is_empty() && !types.iter().any(is) {
        return Err(format!("{at} is not {}", types.join(" or ")));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return Err(format!("{at} is not one of {words:?}"));
    }
    if let Some(words) = schema["x-extensible-enum"].as_array()
        && value.is_string()
        && !words.contains(value)
    {
        return Err(format!("{at} is not one of {words:?}, which only the document can extend"));
    }
    let below = |least: f64| value.as_f64().is_some_and(|number| number < least);
    if schema["minimum"].as_f64().is_some_and(below) {
        return Err(format!("{at} is below {}", schema["minimum"]));
    }
    if schema["format"] == "date-time"
        && let Some(text) = value.as_str()
    {
        let fraction = text.split_once('.').map_or(0, |(_, rest)| rest.trim_end_matches('Z').len());
        if text.parse::<jiff::Timestamp>().is_err() || !text.ends_with('Z') || fraction > 6 {
            return Err(format!("{at} is not a UTC time with at most six fractional digits"));
        }
    }
    if let (Some(items), Some(schema)) = (value.as_array(), schema.get("items")) {
        for (index, item) in items.iter().enumerate() {
            fits(item, schema, &format!("{at}/{index}"))?;
        }
    }
    if let Some(object) = value.as_object() {
        for required in
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str)
        {
            if !object.contains_key(required) {
                return Err(format!("{at}/{required} is missing"));
            }
        }
        for (key, value) in object {
            let at = format!("{at}/{key}");
            match (schema["properties"].get(key), schema.get("additionalProperties")) {
                (Some(schema), _) => fits(value, schema, &at)?,
                (None, Some(schema)) if schema.is_object() => fits(value, schema, &at)?,
                (None, _) if schema.get("properties").is_some() => {
                    return Err(format!("{at} is not documented"));
                }
                (None, _) => {}
            }
        }
    }
    Ok(())
}

#[test]
fn the_checker_finds_each_kind_of_error() {
    let schema = serde_json::json!({
        "type": "object",
        "required": ["a", "b"],
        "properties": {
            "a": {"type": ["string", "null"]},
            "b": {"oneOf": [{"type": "null"}, {"type": "integer"}]},
            "c": {"type": "string", "format": "date-time"},
            "e": {"type": "string", "x-extensible-enum": ["f"]},
            "g": {"type": "integer", "minimum": 0},
        }
    });
    let wrong = |value: Value| fits(&value, &schema, "").err();
    let time = "2026-01-01T00:00:00.123456Z";
    let right = serde_json::json!({"a": null, "b": 3, "c": time, "e": "f", "g": 0});
    assert_eq!(wrong(right), None);
    for (value, place) in [
        (serde_json::json!({"a": "x"}), "/b is missing"),
        (serde_json::json!({"a": 1, "b": 1}), "/a is not string or null"),
        (serde_json::json!({"a": "x", "b": "1"}), "/b is not null, or /b is not integer"),
        (serde_json::json!({"a": "x", "b": 1, "d": 1}), "/d is not documented"),
        (
            serde_json::json!({"a": "x", "b": 1, "e": "h"}),
            "/e is not one of [String(\"f\")], which only the document can extend",
        ),
        (serde_json::json!({"a": "x", "b": 1, "g": -1}), "/g is below 0"),
        (
            serde_json::json!({"a": "x", "b": 1, "c": "2026-01-01T00:00:00.1234567Z"}),
            "/c is not a UTC time with at most six fractional digits",
        ),
    ] {
        assert_eq!(wrong(value).as_deref(), Some(place));
    }
}
