//! The rules of schemas, wherever they stand.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Broken, admits_null, broken, types};
use crate::openapi::walk::{self, Operation, Place};

pub(super) fn null_in_parameter(document: &Value) -> Vec<Broken> {
    let parameters =
        walk::operations(document).into_iter().flat_map(|operation| operation.parameters);
    let schemas = walk::reachable(parameters.filter_map(|parameter| parameter.get("schema")));
    schemas
        .iter()
        .filter(|schema| admits_null(schema))
        .map(|schema| broken(schema, "null"))
        .collect()
}

/// An object schema without a name must be a map whose values have one type and are never null,
/// because every language has such maps. Generators make structs of other objects, and structs need
/// names.
pub(super) fn nameless_object(document: &Value) -> Vec<Broken> {
    let bodies = walk::operations(document).into_iter().flat_map(|operation| {
        let answers =
            operation.responses.iter().flat_map(|(_, response)| walk::content_schemas(response));
        operation.request_schemas().into_iter().chain(answers).collect::<Vec<_>>()
    });
    let bodies: BTreeSet<String> = bodies.map(|body| body.pointer).collect();
    let nameless = |schema: &Place| {
        let named = schema
            .pointer
            .strip_prefix("/components/schemas/")
            .is_some_and(|name| !name.contains('/'));
        let map = schema.has("additionalProperties")
            && !schema.has("properties")
            && !admits_null(schema)
            && !bodies.contains(&schema.pointer);
        !named && !map && (types(schema).contains(&"object") || schema.has("properties"))
    };
    let schemas = walk::all_schemas(document);
    schemas
        .iter()
        .filter(|schema| nameless(schema))
        .map(|schema| broken(schema, "a nameless object"))
        .collect()
}

pub(super) fn problem_text(document: &Value) -> Vec<Broken> {
    let responses =
        walk::operations(document).into_iter().flat_map(|operation| operation.responses);
    let content = responses.flat_map(|(_, response)| response.entries("content"));
    let problems = content
        .filter(|(name, _)| name == "application/problem+json")
        .filter_map(|(_, media_type)| media_type.get("schema")?.resolved())
        .map(|problem| (problem.pointer.clone(), problem));
    // Most operations share one problem schema. The map contains each schema once.
    let problems: BTreeMap<String, Place> = problems.collect();
    let texts = problems.values().flat_map(|problem| problem.entries("properties"));
    texts
        .filter(|(name, text)| ["title", "detail"].contains(&name.as_str()) && admits_null(text))
        .map(|(name, text)| broken(&text, format!("`{name}` may be null")))
        .collect()
}

pub(super) fn tagged_union(document: &Value) -> Vec<Broken> {
    let mut findings = Vec::new();
    for schema in walk::all_schemas(document) {
        let inline = alternatives(&schema).into_iter().any(|alternative| {
            ["properties", "allOf"].iter().any(|key| alternative.has(key))
                || types(&alternative).contains(&"object")
        });
        if inline || schema.has("discriminator") {
            findings.push(broken(&schema, "a union of inline objects"));
        }
    }
    findings
}

pub(super) fn union(document: &Value) -> Vec<Broken> {
    let several = |schema: &&Place| {
        let kinds = types(schema).into_iter().filter(|name| *name != "null").count();
        kinds > 1 || alternatives(schema).len() > 1
    };
    let schemas = walk::all_schemas(document);
    schemas.iter().filter(several).map(|schema| broken(schema, "a union")).collect()
}

pub(super) fn closed_enum_in_answer(document: &Value) -> Vec<Broken> {
    let operations = walk::operations(document);
    let schemas = walk::reachable(operations.iter().flat_map(walk::answer_schemas));
    let closed = schemas.iter().filter(|schema| schema.has("enum") || schema.has("const"));
    closed
        .filter(|schema| !may_be_closed(&schema.pointer))
        .map(|schema| broken(schema, "a closed enum"))
        .collect()
}

/// Whether the enum at this pointer never gets new values.
fn may_be_closed(pointer: &str) -> bool {
    CLOSED_ENUMS.iter().any(|name| pointer == format!("/components/schemas/{name}"))
        || pointer.ends_with("/properties/power_state")
        || ["Job", "Lease"]
            .iter()
            .any(|owner| pointer == format!("/components/schemas/{owner}/properties/state"))
}

pub(super) fn nullable_request_field(document: &Value) -> Vec<Broken> {
    let operations = walk::operations(document);
    let schemas = walk::reachable(operations.iter().flat_map(Operation::request_schemas));
    schemas
        .iter()
        .filter(|schema| admits_null(schema))
        .map(|schema| broken(schema, "null"))
        .collect()
}

pub(super) fn optional_answer_field(document: &Value) -> Vec<Broken> {
    let operations = walk::operations(document);
    let mut findings = Vec::new();
    for schema in walk::reachable(operations.iter().flat_map(walk::answer_schemas)) {
        let required = schema.texts("required");
        let properties = schema.entries("properties").into_iter();
        let optional = properties.filter(|(name, _)| !required.contains(&name.as_str()));
        findings.extend(
            optional.map(|(name, place)| broken(&place, format!("`{name}` may be left out"))),
        );
    }
    findings
}

pub(super) fn recursive_schema(document: &Value) -> Vec<Broken> {
    let components = Place::root(document).get("components");
    let schemas: BTreeMap<String, Place> =
        components.iter().flat_map(|components| components.entries("schemas")).collect();
    let references = schemas.iter().map(|(name, schema)| (name.as_str(), named_references(schema)));
    let references: BTreeMap<&str, BTreeSet<&str>> = references.collect();
    let mut findings = Vec::new();
    let mut told = BTreeSet::new();
    for (name, schema) in &schemas {
        if let Some(circle) = shortest_circle(name, &references)
            && told.insert(circle.iter().copied().collect::<BTreeSet<_>>())
        {
            findings.push(broken(schema, format!("{} → {name}", circle.join(" → "))));
        }
    }
    findings
}

/// The named schemas to which this schema or a schema inside it refers.
fn named_references<'a>(schema: &Place<'a>) -> BTreeSet<&'a str> {
    let own =
        schema.text("$ref").and_then(|reference| reference.strip_prefix("#/components/schemas/"));
    let inner = walk::subschemas(schema).into_iter().flat_map(|inner| named_references(&inner));
    own.into_iter().chain(inner).collect()
}

/// The shortest chain of references from a schema back to itself, by breadth-first search.
fn shortest_circle<'a>(
    from: &'a str,
    references: &BTreeMap<&'a str, BTreeSet<&'a str>>,
) -> Option<Vec<&'a str>> {
    let mut seen = BTreeSet::new();
    let mut ways = vec![vec![from]];
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let targets = way.last().and_then(|last| references.get(last));
            for target in targets.into_iter().flatten() {
                if *target == from {
                    return Some(way);
                }
                if seen.insert(*target) {
                    longer.push(way.iter().chain([target]).copied().collect());
                }
            }
        }
        ways = longer;
    }
    None
}

pub(super) fn reserved_schema_name(document: &Value) -> Vec<Broken> {
    let components = Place::root(document).get("components");
    let schemas = components.iter().flat_map(|components| components.entries("schemas"));
    let reserved = schemas.filter(|(name, _)| {
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        RESERVED_NAMES.contains(&plain.to_ascii_lowercase().as_str())
    });
    reserved.map(|(name, place)| broken(&place, format!("a schema named `{name}`"))).collect()
}

/// The alternatives other than null, if the schema lists alternatives in `oneOf` or `anyOf`.
fn alternatives<'a>(schema: &Place<'a>) -> Vec<Place<'a>> {
    let all =
        ["oneOf", "anyOf"].into_iter().flat_map(|key| schema.entries(key)).map(|(_, place)| place);
    all.filter(|alternative| types(alternative) != ["null"]).collect()
}

/// Names of schemas whose enums are closed for ever.
const CLOSED_ENUMS: &[&str] = &["PowerState", "JobState", "LeaseState"];

/// Lower-case names that code generators reserve.
const RESERVED_NAMES: &[&str] = &[
    "any",
    "array",
    "binary",
    "boolean",
    "byte",
    "bytes",
    "date",
    "datetime",
    "decimal",
    "double",
    "duration",
    "email",
    "file",
    "float",
    "hostname",
    "instant",
    "integer",
    "ipv4",
    "ipv6",
    "list",
    "localdate",
    "map",
    "null",
    "number",
    "object",
    "set",
    "string",
    "time",
    "timestamp",
    "uri",
    "url",
    "uuid",
];
