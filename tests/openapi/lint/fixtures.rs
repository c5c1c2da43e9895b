//! For every rule a document that breaks it, and near misses that do not.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

/// A document that satisfies every rule and is close to a violation of each.
fn good() -> Value {
    let job = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Job" } } });
    let problem = json!({ "description": "it failed", "content": {
        "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } } });
    json!({
        "openapi": "3.1.0",
        "info": { "title": "otter", "version": "1", "license": { "name": "MIT", "identifier": "MIT" } },
        "paths": {
            "/v1/machines/{machine}/power": {
                "parameters": [{ "$ref": "#/components/parameters/machine" }],
                "post": {
                    "operationId": "power_machine_v2", "summary": "Powers it", "tags": ["machines"],
                    "parameters": [{ "name": "wait", "in": "query", "description": "how long",
                        "schema": { "type": "string" } }],
                    "requestBody": { "content": { "application/json": {
                        "schema": { "$ref": "#/components/schemas/PowerRequest" } } } },
                    "responses": {
                        "200": { "description": "done", "content": job },
                        "202": { "description": "accepted", "content": job,
                            "headers": { "Location": { "schema": { "type": "string" } } } },
                        "4XX": problem, "5XX": problem,
                    },
                    "x-otter-problems": ["not-found", "queue-full"],
                },
            },
        },
        "components": {
            "parameters": { "machine": { "name": "machine", "in": "path", "required": true,
                "description": "the machine", "schema": { "type": "string" } } },
            "schemas": {
                // Requests may have closed enums.
                "PowerRequest": { "type": "object", "required": ["action"], "properties": {
                    "action": { "type": "string", "enum": ["on", "off"] },
                    "force_after": { "type": "string" } } },
                "Job": { "type": "object", "required": ["state", "power_state", "kind", "error", "parent"],
                    "properties": {
                        "state": { "$ref": "#/components/schemas/JobState" },
                        "power_state": { "type": ["string", "null"], "enum": ["on", null] },
                        "kind": { "type": "string", "x-extensible-enum": ["machine.kill"] },
                        "error": { "oneOf": [{ "type": "null" }, { "$ref": "#/components/schemas/Problem" }] },
                        "parent": { "type": ["string", "null"] } } },
                "JobState": { "type": "string", "enum": ["queued", "running"] },
                "Problem": { "type": "object", "required": ["title", "job"], "properties": {
                    "title": { "type": "string" }, "job": { "type": ["string", "null"] } } },
            },
        },
    })
}

const POST: &str = "/paths/~1v1~1machines~1{machine}~1power/post";
const SCHEMAS: &str = "/components/schemas";

/// Sets one value in the good document, at a pointer. Returns the findings, each as `rule pointer`.
fn findings(at: &str, value: Value) -> Vec<String> {
    let mut document = good();
    let (parent, key) = at.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        parent => parent[&key.replace("~1", "/")] = value,
    }
    lint(&document)
        .into_iter()
        .map(|finding| format!("{} {}", finding.rule, finding.pointer))
        .collect()
}

#[test]
fn a_good_document_has_no_findings() {
    assert_eq!(lint(&good()), []);
}

#[test]
fn what_comes_near_to_a_rule_does_not_break_it() {
    let text = json!({ "text/plain": { "schema": { "type": "string" } } });
    for (at, value) in [
        ("/info/license".to_owned(), json!({ "name": "n", "url": "https://example.org" })),
        // A schema that allows every value counts as one type.
        (format!("{SCHEMAS}/Job/properties/parent"), json!({})),
        (format!("{SCHEMAS}/Job/properties/parent"), json!({ "oneOf": [{ "type": "string" }] })),
        (
            format!("{SCHEMAS}/Job/properties/state"),
            json!({ "type": "string", "enum": ["queued"] }),
        ),
        (format!("{SCHEMAS}/DurationText"), json!({ "type": "string" })),
        // A map of plain values.
        (
            format!("{SCHEMAS}/Job/properties/parent"),
            json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        ),
        // Two references that lead to the same schema are not a circle.
        (
            format!("{SCHEMAS}/Diamond"),
            json!({ "allOf": [{ "$ref": "#/components/schemas/Job" }, { "$ref": "#/components/schemas/Problem" }] }),
        ),
        // No request and no response uses this schema.
        (format!("{SCHEMAS}/Stray"), json!({ "properties": { "a": { "enum": [null] } } })),
        (
            format!("{POST}/responses"),
            json!({ "101": { "description": "d" }, "4XX": { "description": "d" }, "5XX": { "description": "d" } }),
        ),
        (
            format!("{POST}/responses"),
            json!({ "200": { "description": "d", "content": text }, "4XX": { "description": "d" },
                "503": { "description": "d", "content": text }, "5XX": { "description": "d" } }),
        ),
    ] {
        assert_eq!(findings(&at, value.clone()), Vec::<String>::new(), "{at} {value}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table: a change of the document, and the findings")]
fn every_rule_finds_what_breaks_it() {
    let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let content = |schema: Value| json!({ "description": "d", "content": { "application/json": { "schema": schema } } });
    let parameter = "/components/parameters/machine";
    let request = format!("{SCHEMAS}/PowerRequest/properties/force_after");
    let field = format!("{SCHEMAS}/Job/properties/parent");
    let cases = vec![
        ("/info/license".to_owned(), json!(null), vec!["license /info/license".to_owned()]),
        (
            "/info/license".to_owned(),
            json!({ "name": "MIT" }),
            vec!["license /info/license".to_owned()],
        ),
        (
            "/info/license".to_owned(),
            json!({ "name": " ", "url": "u" }),
            vec!["license /info/license".to_owned()],
        ),
        ("/info".to_owned(), json!({ "title": "t" }), vec!["license ".to_owned()]),
        (field.clone(), reference("Nowhere"), vec![format!("dangling-reference {field}")]),
        (
            "/paths/~1v1~1x".to_owned(),
            json!({ "get": good().pointer(POST).unwrap() }),
            vec!["operation-id /paths/~1v1~1x/get".to_owned()],
        ),
        (
            format!("{POST}/operationId"),
            json!("powerMachine"),
            vec![format!("operation-id {POST}")],
        ),
        (
            format!("{POST}/operationId"),
            json!("power__machine"),
            vec![format!("operation-id {POST}")],
        ),
        (format!("{POST}/operationId"), json!(null), vec![format!("operation-id {POST}")]),
        (format!("{POST}/summary"), json!(""), vec![format!("operation-text {POST}")]),
        (format!("{POST}/tags"), json!([]), vec![format!("operation-text {POST}")]),
        (
            format!("{parameter}/description"),
            json!(""),
            vec![format!("parameter-text {parameter}")],
        ),
        (
            format!("{parameter}/name"),
            json!("host"),
            vec![format!("parameter-text {parameter}"), format!("parameter-text {POST}")],
        ),
        (
            format!("{POST}/responses/200/description"),
            json!(" "),
            vec![format!("response-text {POST}/responses/200")],
        ),
        (
            format!("{parameter}/schema"),
            json!({ "type": ["string", "null"] }),
            vec![format!("null-in-parameter {parameter}/schema")],
        ),
        (
            format!("{POST}/parameters/0/schema"),
            json!({ "oneOf": [{ "type": "null" }, { "type": "string" }] }),
            vec![format!("null-in-parameter {POST}/parameters/0/schema/oneOf/0")],
        ),
        (
            format!("{POST}/responses/202"),
            content(reference("Problem")),
            vec![format!("one-success {POST}")],
        ),
        (
            format!("{POST}/responses/204"),
            json!({ "description": "d" }),
            vec![format!("one-success {POST}")],
        ),
        (
            format!("{POST}/responses"),
            json!({ "4XX": { "description": "d" }, "5XX": { "description": "d" } }),
            vec![format!("one-success {POST}")],
        ),
        (
            format!("{POST}/responses/default"),
            json!({ "description": "d" }),
            vec![format!("default-response {POST}")],
        ),
        (
            format!("{POST}/responses"),
            json!({ "200": { "description": "d" } }),
            vec![format!("default-response {POST}"), format!("default-response {POST}")],
        ),
        (format!("{POST}/x-otter-problems"), json!([]), vec![format!("problem-codes {POST}")]),
        (
            format!("{POST}/x-otter-problems"),
            json!(["a", "a"]),
            vec![format!("problem-codes {POST}")],
        ),
        (
            format!("{POST}/x-otter-problems"),
            json!(["not_found"]),
            vec![format!("problem-codes {POST}")],
        ),
        (
            field.clone(),
            json!({ "oneOf": [{ "type": "null" }, { "type": "object" }] }),
            vec![format!("nameless-object {field}/oneOf/1"), format!("tagged-union {field}")],
        ),
        (
            field.clone(),
            json!({ "oneOf": [{ "allOf": [reference("Problem"), { "type": "object" }] }, reference("JobState")] }),
            vec![
                format!("nameless-object {field}/oneOf/0/allOf/1"),
                format!("tagged-union {field}"),
                format!("union {field}"),
            ],
        ),
        (
            field.clone(),
            json!({ "type": ["object", "null"], "additionalProperties": {} }),
            vec![format!("nameless-object {field}")],
        ),
        (
            field.clone(),
            json!({ "type": "array", "items": { "properties": {} } }),
            vec![format!("nameless-object {field}/items")],
        ),
        (
            format!("{POST}/responses/200/content"),
            json!({ "application/json": { "schema": { "type": "object", "additionalProperties": {} } } }),
            vec![
                format!("one-success {POST}"),
                format!("nameless-object {POST}/responses/200/content/application~1json/schema"),
            ],
        ),
        (
            format!("{POST}/responses/4XX/content"),
            json!({ "text/event-stream": { "schema": reference("Problem") } }),
            vec![format!("text-body {POST}/responses/4XX/content/text~1event-stream")],
        ),
        (
            format!("{POST}/requestBody/content"),
            json!({ "application/x-ndjson": { "schema": {} } }),
            vec![format!("text-body {POST}/requestBody/content/application~1x-ndjson")],
        ),
        (
            field.clone(),
            json!({ "oneOf": [reference("Problem")], "discriminator": { "propertyName": "kind" } }),
            vec![format!("tagged-union {field}")],
        ),
        (
            field.clone(),
            json!({ "type": ["string", "integer", "null"] }),
            vec![format!("union {field}")],
        ),
        (
            field.clone(),
            json!({ "anyOf": [{ "type": "string" }, { "type": "integer" }] }),
            vec![format!("union {field}")],
        ),
        (
            field.clone(),
            json!({ "type": "string", "enum": ["a"] }),
            vec![format!("closed-enum-in-answer {field}")],
        ),
        (
            field.clone(),
            json!({ "type": "array", "items": { "const": "a" } }),
            vec![format!("closed-enum-in-answer {field}/items")],
        ),
        (
            // The states of other objects may get new values.
            format!("{SCHEMAS}/Problem"),
            json!({ "properties": { "state": { "enum": ["a"] } }, "required": ["state"] }),
            vec![format!("closed-enum-in-answer {SCHEMAS}/Problem/properties/state")],
        ),
        (
            request.clone(),
            json!({ "type": ["string", "null"] }),
            vec![format!("nullable-request-field {request}")],
        ),
        (
            request.clone(),
            json!({ "enum": ["a", null] }),
            vec![format!("nullable-request-field {request}")],
        ),
        (
            format!("{SCHEMAS}/Problem/required"),
            json!(["title"]),
            vec![format!("optional-answer-field {SCHEMAS}/Problem/properties/job")],
        ),
        (
            format!("{SCHEMAS}/Problem/properties/title"),
            json!({ "type": ["string", "null"] }),
            vec![format!("problem-text {SCHEMAS}/Problem/properties/title")],
        ),
        (
            format!("{SCHEMAS}/Problem/properties/job"),
            json!({ "type": "array", "items": reference("Job") }),
            vec![format!("recursive-schema {SCHEMAS}/Job")],
        ),
        (field.clone(), reference("Job"), vec![format!("recursive-schema {SCHEMAS}/Job")]),
        (
            format!("{SCHEMAS}/Date-Time"),
            json!({ "type": "string" }),
            vec![format!("reserved-schema-name {SCHEMAS}/Date-Time")],
        ),
    ];
    let mut proven = BTreeSet::new();
    for (at, value, expected) in cases {
        assert_eq!(findings(&at, value.clone()), expected, "{at} {value}");
        proven.extend(
            expected
                .iter()
                .filter_map(|line| line.split_once(' '))
                .map(|(rule, _)| rule.to_owned()),
        );
    }
    let all: BTreeSet<String> = RULES.iter().map(|rule| rule.name.to_owned()).collect();
    assert_eq!(proven, all, "a rule has no fixture that fails it");
}

#[test]
fn a_finding_says_where_and_what_to_do() {
    let mut document = good();
    document["components"]["schemas"]["Problem"]["properties"]["job"] =
        json!({ "$ref": "#/components/schemas/Job" });
    let [finding] = lint(&document).try_into().unwrap();
    assert_eq!(finding.rule, "recursive-schema");
    assert!(finding.message.starts_with("Job → Problem → Job: refer by id"), "{}", finding.message);
}
