//! The rules of the document as a whole and of its operations.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Broken, broken, types};
use crate::openapi::walk::{self, Operation, Place};

pub(super) fn license(document: &Value) -> Vec<Broken> {
    let root = Place::root(document);
    let license = root.get("info").and_then(|info| info.get("license"));
    let said = |license: &Place, key| license.text(key).is_some_and(|text| !text.trim().is_empty());
    match license {
        Some(license)
            if said(&license, "name")
                && (said(&license, "url") || said(&license, "identifier")) =>
        {
            Vec::new()
        }
        Some(license) => vec![broken(&license, "an incomplete license")],
        None => vec![broken(&root, "no license")],
    }
}

pub(super) fn dangling_reference(document: &Value) -> Vec<Broken> {
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

pub(super) fn operation_id(document: &Value) -> Vec<Broken> {
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for Operation { place, .. } in walk::operations(document) {
        match place.text("operationId") {
            None => findings.push(broken(&place, "no operationId")),
            Some(id) if !is_snake_case(id) => findings.push(broken(&place, format!("`{id}`"))),
            Some(id) if !seen.insert(id) => {
                findings.push(broken(&place, format!("a second `{id}`")));
            }
            Some(_) => {}
        }
    }
    findings
}

fn is_snake_case(name: &str) -> bool {
    let words = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    name.starts_with(|first: char| first.is_ascii_lowercase()) && name.split('_').all(words)
}

pub(super) fn operation_text(document: &Value) -> Vec<Broken> {
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

pub(super) fn parameter_text(document: &Value) -> Vec<Broken> {
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
        findings
            .extend(missing.map(|name| broken(&place, format!("`{{{name}}}` is not described"))));
    }
    findings
}

/// The names in braces of a path.
fn template_names(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name)
}

pub(super) fn response_text(document: &Value) -> Vec<Broken> {
    let responses =
        walk::operations(document).into_iter().flat_map(|operation| operation.responses);
    let silent = responses.filter(|(_, response)| {
        response.text("description").is_none_or(|text| text.trim().is_empty())
    });
    silent.map(|(status, response)| broken(&response, format!("{status} without a word"))).collect()
}

pub(super) fn one_success(document: &Value) -> Vec<Broken> {
    let mut findings = Vec::new();
    for operation in walk::operations(document) {
        let successes = operation.responses.iter().filter(|(status, _)| status.starts_with('2'));
        // A switch of protocols (101) has no body, and the operation has no other success.
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

pub(super) fn default_response(document: &Value) -> Vec<Broken> {
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

pub(super) fn text_body(document: &Value) -> Vec<Broken> {
    let mut findings = Vec::new();
    for Operation { place, responses, .. } in walk::operations(document) {
        let request = place.get("requestBody").and_then(|body| body.resolved());
        let bodies = request.into_iter().chain(responses.into_iter().map(|(_, response)| response));
        let media_types = bodies.flat_map(|body| body.entries("content"));
        for (name, media_type) in media_types.filter(|(name, _)| !is_json(name)) {
            let schema = media_type.get("schema").and_then(|schema| schema.resolved());
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

pub(super) fn problem_codes(document: &Value) -> Vec<Broken> {
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
