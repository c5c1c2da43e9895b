//! Rules that keep the OpenAPI document digestible for generators of clients in several languages. Each names a
//! construct that breaks one of them, or leaves a reader without an answer, and what to write instead.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::walk::{self, Operation, Place};

/// A rule of the document.
#[derive(Debug)]
pub struct Rule {
    pub name: &'static str,
    /// What to do, and what breaks otherwise.
    pub advice: &'static str,
    check: fn(&Value) -> Vec<Broken>,
}

/// One place where a rule is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub rule: &'static str,
    /// The JSON pointer (RFC 6901) to the place.
    pub pointer: String,
    pub message: String,
}

/// Applies every rule. An empty answer is a good document.
#[must_use]
pub fn lint(document: &Value) -> Vec<Finding> {
    let findings = RULES.iter().flat_map(|rule| {
        (rule.check)(document).into_iter().map(|Broken { pointer, what }| Finding {
            rule: rule.name,
            pointer,
            message: format!("{what}: {}", rule.advice),
        })
    });
    findings.collect()
}

/// Every rule, in the order of its findings.
pub const RULES: &[Rule] = &[
    Rule {
        name: "license",
        advice: "give `info.license` a name, and a url or an identifier: openapi-generator refuses the whole \
                 document otherwise",
        check: license,
    },
    Rule {
        name: "dangling-reference",
        advice: "every `$ref` must lead to something in this document",
        check: dangling_reference,
    },
    Rule {
        name: "operation-id",
        advice: "every operation needs a unique snake_case `operationId`: generated methods are named by it",
        check: operation_id,
    },
    Rule {
        name: "operation-text",
        advice: "every operation needs a summary and a tag: people read the one and generators sort by the other",
        check: operation_text,
    },
    Rule {
        name: "parameter-text",
        advice: "every parameter needs a description, and those of a path must be exactly those of its template",
        check: parameter_text,
    },
    Rule {
        name: "response-text",
        advice: "every response needs a description: without one the document is not valid",
        check: response_text,
    },
    Rule {
        name: "null-in-parameter",
        advice: "leave it out instead (`value_type = String, required = false`): a query has no null",
        check: null_in_parameter,
    },
    Rule {
        name: "one-success",
        advice: "give an operation one schema of success, whatever the status: generators make one return type",
        check: one_success,
    },
    Rule {
        name: "default-response",
        advice: "write `4XX` and `5XX` instead of `default`: progenitor takes a default for the success",
        check: default_response,
    },
    Rule {
        name: "text-body",
        advice: "what is not JSON is a string to all generators; name the schema of its lines in its description, and \
                 among the components: they decode a stream as one object otherwise",
        check: text_body,
    },
    Rule {
        name: "nameless-object",
        advice: "name it among the components: generators call it `InlineObject1` or `FieldType0` otherwise",
        check: nameless_object,
    },
    Rule {
        name: "problem-text",
        advice: "the `title` and `detail` of a problem are never null: openapi-generator's Go prints them as the text of \
                 an error, and a pointer instead of what may be null",
        check: problem_text,
    },
    Rule {
        name: "problem-codes",
        advice: "list the problem codes of the operation in `x-otter-problems`, each once",
        check: problem_codes,
    },
    Rule {
        name: "tagged-union",
        advice: "write one flat object with optional fields: tagged enums and unions of inline objects lose their \
                 fields in half of the generators",
        check: tagged_union,
    },
    Rule {
        name: "union",
        advice: "choose one type: unions such as string|integer become `any` or do not compile",
        check: union,
    },
    Rule {
        name: "closed-enum-in-answer",
        advice: "write a plain string with `x-extensible-enum`: a client with a closed enum fails on the first new \
                 value. Closed for ever are only power states and the states of jobs and leases",
        check: closed_enum_in_answer,
    },
    Rule {
        name: "nullable-request-field",
        advice: "make the field optional instead: a client cannot tell null from absent",
        check: nullable_request_field,
    },
    Rule {
        name: "optional-answer-field",
        advice: "answers carry every field, null where there is nothing: list it in `required`",
        check: optional_answer_field,
    },
    Rule {
        name: "recursive-schema",
        advice: "refer by id instead: a schema that holds itself overflows generators, and utoipa",
        check: recursive_schema,
    },
    Rule {
        name: "reserved-schema-name",
        advice: "choose another name: generators map this one to a type of their language",
        check: reserved_schema_name,
    },
];

/// Names of schemas whose enums are closed for ever.
const CLOSED_ENUMS: &[&str] = &["PowerState", "JobState", "LeaseState"];

/// Lower-case names that generators take for their own.
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

struct Broken {
    pointer: String,
    what: String,
}

fn broken(place: &Place, what: impl Into<String>) -> Broken {
    Broken { pointer: place.pointer.clone(), what: what.into() }
}

fn license(document: &Value) -> Vec<Broken> {
    let root = Place::root(document);
    let license = root.get("info").and_then(|info| info.get("license"));
    let said = |license: &Place, key| license.text(key).is_some_and(|text| !text.trim().is_empty());
    match license {
        Some(license)
            if said(&license, "name") && (said(&license, "url") || said(&license, "identifier")) =>
        {
            Vec::new()
        }
        Some(license) => vec![broken(&license, "an incomplete license")],
        None => vec![broken(&root, "no license")],
    }
}

fn dangling_reference(document: &Value) -> Vec<Broken> {
    let mut findings = Vec::new();
    let mut waiting = vec![Place::root(document)];
    while let Some(place) = waiting.pop() {
        if place.has("$ref") && place.resolved().is_none() {
            findings.push(broken(&place, format!("{} leads nowhere", place.value["$ref"])));
        }
        waiting.extend(place.children().into_iter().map(|(_, child)| child));
    }
    findings
}

fn operation_id(document: &Value) -> Vec<Broken> {
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for Operation { place, .. } in walk::operations(document) {
        match place.text("operationId") {
            None => findings.push(broken(&place, "no operationId")),
            Some(id) if !is_snake_case(id) => findings.push(broken(&place, format!("`{id}`"))),
            Some(id) if !seen.insert(id) => findings.push(broken(&place, format!("a second `{id}`"))),
            Some(_) => {}
        }
    }
    findings
}

fn is_snake_case(name: &str) -> bool {
    let words =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.starts_with(|first: char| first.is_ascii_lowercase()) && name.split('_').all(words)
}

fn operation_text(document: &Value) -> Vec<Broken> {
    let mut findings = Vec::new();
    for Operation { place, .. } in walk::operations(document) {
        if place.text("summary").is_none_or(|text| text.trim().is_empty()) {
            findings.push(broken(&place, "no summary"));
        }
        if place.texts("tags").is_empty() {
            findings.push(broken(&place, "no tag"));
        }
    }
    findings
}

fn parameter_text(document: &Value) -> Vec<Broken> {
    let mut findings = Vec::new();
    for Operation { path, place, parameters, .. } in walk::operations(document) {
        let mut expected: BTreeSet<&str> = template_names(&path).collect();
        for parameter in &parameters {
            let name = parameter.text("name").unwrap_or_default();
            if parameter.text("description").is_none_or(|text| text.trim().is_empty()) {
                findings.push(broken(parameter, format!("`{name}` has no description")));
            }
            if parameter.text("in") == Some("path") && !expected.remove(name) {
                findings.push(broken(parameter, format!("`{name}` is not in the path `{path}`")));
            }
        }
        let missing = expected.into_iter();
        findings.extend(missing.map(|name| broken(&place, format!("`{{{name}}}` is not described"))));
    }
    findings
}

/// The names in braces of a path.
fn template_names(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name)
}

fn response_text(document: &Value) -> Vec<Broken> {
    let responses = walk::operations(document).into_iter().flat_map(|operation| operation.responses);
    let silent = responses
        .filter(|(_, response)| response.text("description").is_none_or(|text| text.trim().is_empty()));
    silent.map(|(status, response)| broken(&response, format!("{status} without a word"))).collect()
}

fn null_in_parameter(document: &Value) -> Vec<Broken> {
    let parameters = walk::operations(document).into_iter().flat_map(|operation| operation.parameters);
    let schemas = walk::reachable(parameters.filter_map(|parameter| parameter.get("schema")));
    schemas.iter().filter(|schema| admits_null(schema)).map(|schema| broken(schema, "null")).collect()
}

fn one_success(document: &Value) -> Vec<Broken> {
    let mut findings = Vec::new();
    for operation in walk::operations(document) {
        let successes = operation.responses.iter().filter(|(status, _)| status.starts_with('2'));
        // A switch of protocols (101) has no body, nor a success beside it.
        let switches = operation.responses.iter().any(|(status, _)| status == "101");
        let mut kinds: Vec<Option<&Value>> = Vec::new();
        for (_, response) in successes {
            let schemas = walk::content_schemas(response);
            if schemas.is_empty() {
                kinds.push(None);
            } else {
                kinds.extend(schemas.iter().map(|schema| Some(schema.value)));
            }
        }
        match kinds.as_slice() {
            [] if !switches => findings.push(broken(&operation.place, "no success")),
            [first, others @ ..] if others.iter().any(|other| other != first) => {
                findings.push(broken(&operation.place, "several kinds of success"));
            }
            _ => {}
        }
    }
    findings
}

fn default_response(document: &Value) -> Vec<Broken> {
    let mut findings = Vec::new();
    for Operation { place, responses, .. } in walk::operations(document) {
        let answers = |wanted: &str| responses.iter().any(|(status, _)| status == wanted);
        if answers("default") {
            findings.push(broken(&place, "a default response"));
        }
        for wanted in ["4XX", "5XX"] {
            if !answers(wanted) {
                findings.push(broken(&place, format!("no {wanted}")));
            }
        }
    }
    findings
}

fn text_body(document: &Value) -> Vec<Broken> {
    let mut findings = Vec::new();
    for Operation { place, responses, .. } in walk::operations(document) {
        let request = place.get("requestBody").and_then(|body| body.resolved());
        let bodies = request.into_iter().chain(responses.into_iter().map(|(_, response)| response));
        let media_types = bodies.flat_map(|body| body.entries("content"));
        for (name, media_type) in media_types.filter(|(name, _)| !is_json(name)) {
            let schema = media_type.get("schema");
            if schema.is_some_and(|schema| types(&schema) != ["string"]) {
                findings.push(broken(&media_type, format!("`{name}` that is no string")));
            }
        }
    }
    findings
}

fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim_end();
    essence == "application/json" || essence.ends_with("+json")
}

/// Maps of one type of value, never null, have their place in every language; other objects are structs.
fn nameless_object(document: &Value) -> Vec<Broken> {
    let bodies = walk::operations(document).into_iter().flat_map(|operation| {
        let answers = operation.responses.iter().flat_map(|(_, response)| walk::content_schemas(response));
        operation.request_schemas().into_iter().chain(answers).collect::<Vec<_>>()
    });
    let bodies: BTreeSet<String> = bodies.map(|body| body.pointer).collect();
    let nameless = |schema: &Place| {
        let named =
            schema.pointer.strip_prefix("/components/schemas/").is_some_and(|name| !name.contains('/'));
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

fn problem_text(document: &Value) -> Vec<Broken> {
    let responses = walk::operations(document).into_iter().flat_map(|operation| operation.responses);
    let content = responses.flat_map(|(_, response)| response.entries("content"));
    let problems = content
        .filter(|(name, _)| name == "application/problem+json")
        .filter_map(|(_, media_type)| media_type.get("schema")?.resolved())
        .map(|problem| (problem.pointer.clone(), problem));
    // Most operations share one.
    let problems: BTreeMap<String, Place> = problems.collect();
    let texts = problems.values().flat_map(|problem| problem.entries("properties"));
    texts
        .filter(|(name, text)| ["title", "detail"].contains(&name.as_str()) && admits_null(text))
        .map(|(name, text)| broken(&text, format!("`{name}` may be null")))
        .collect()
}

fn problem_codes(document: &Value) -> Vec<Broken> {
    let mut findings = Vec::new();
    for Operation { place, .. } in walk::operations(document) {
        let codes = place.texts("x-otter-problems");
        let distinct: BTreeSet<_> = codes.iter().collect();
        let kebab = |code: &&str| is_snake_case(&code.replace('-', "_")) && !code.contains('_');
        if codes.is_empty() || distinct.len() < codes.len() || !codes.iter().all(kebab) {
            findings.push(broken(&place, format!("codes {codes:?}")));
        }
    }
    findings
}

fn tagged_union(document: &Value) -> Vec<Broken> {
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

fn union(document: &Value) -> Vec<Broken> {
    let several = |schema: &&Place| {
        let kinds = types(schema).into_iter().filter(|name| *name != "null").count();
        kinds > 1 || alternatives(schema).len() > 1
    };
    let schemas = walk::all_schemas(document);
    schemas.iter().filter(several).map(|schema| broken(schema, "a union")).collect()
}

fn closed_enum_in_answer(document: &Value) -> Vec<Broken> {
    let operations = walk::operations(document);
    let schemas = walk::reachable(operations.iter().flat_map(walk::answer_schemas));
    let closed = schemas.iter().filter(|schema| schema.has("enum") || schema.has("const"));
    closed
        .filter(|schema| !may_be_closed(&schema.pointer))
        .map(|schema| broken(schema, "a closed enum"))
        .collect()
}

/// Whether the enum at this pointer is one of those that never grow.
fn may_be_closed(pointer: &str) -> bool {
    CLOSED_ENUMS.iter().any(|name| pointer == format!("/components/schemas/{name}"))
        || pointer.ends_with("/properties/power_state")
        || ["Job", "Lease"]
            .iter()
            .any(|owner| pointer == format!("/components/schemas/{owner}/properties/state"))
}

fn nullable_request_field(document: &Value) -> Vec<Broken> {
    let operations = walk::operations(document);
    let schemas = walk::reachable(operations.iter().flat_map(Operation::request_schemas));
    schemas.iter().filter(|schema| admits_null(schema)).map(|schema| broken(schema, "null")).collect()
}

fn optional_answer_field(document: &Value) -> Vec<Broken> {
    let operations = walk::operations(document);
    let mut findings = Vec::new();
    for schema in walk::reachable(operations.iter().flat_map(walk::answer_schemas)) {
        let required = schema.texts("required");
        let properties = schema.entries("properties").into_iter();
        let optional = properties.filter(|(name, _)| !required.contains(&name.as_str()));
        findings.extend(optional.map(|(name, place)| broken(&place, format!("`{name}` may be left out"))));
    }
    findings
}

fn recursive_schema(document: &Value) -> Vec<Broken> {
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

/// The named schemas that this one refers to, at any depth inside itself.
fn named_references<'a>(schema: &Place<'a>) -> BTreeSet<&'a str> {
    let own = schema.text("$ref").and_then(|reference| reference.strip_prefix("#/components/schemas/"));
    let inner = walk::subschemas(schema).into_iter().flat_map(|inner| named_references(&inner));
    own.into_iter().chain(inner).collect()
}

/// The shortest way from a schema back to itself, breadth first.
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

fn reserved_schema_name(document: &Value) -> Vec<Broken> {
    let components = Place::root(document).get("components");
    let schemas = components.iter().flat_map(|components| components.entries("schemas"));
    let reserved = schemas.filter(|(name, _)| {
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        RESERVED_NAMES.contains(&plain.to_ascii_lowercase().as_str())
    });
    reserved.map(|(name, place)| broken(&place, format!("a schema named `{name}`"))).collect()
}

/// What a schema may be besides null, where it says so by `oneOf` or `anyOf`.
fn alternatives<'a>(schema: &Place<'a>) -> Vec<Place<'a>> {
    let all = ["oneOf", "anyOf"].into_iter().flat_map(|key| schema.entries(key)).map(|(_, place)| place);
    all.filter(|alternative| types(alternative) != ["null"]).collect()
}

fn types<'a>(schema: &Place<'a>) -> Vec<&'a str> {
    schema.text("type").map_or_else(|| schema.texts("type"), |name| vec![name])
}

/// Whether null fits by the schema's own words; what it refers to speaks for itself.
fn admits_null(schema: &Place) -> bool {
    let listed =
        schema.value.get("enum").and_then(Value::as_array).is_some_and(|list| list.contains(&Value::Null));
    types(schema).contains(&"null")
        || schema.value.get("nullable") == Some(&Value::Bool(true))
        || schema.value.get("const") == Some(&Value::Null)
        || listed
}

#[cfg(test)]
mod fixtures;
