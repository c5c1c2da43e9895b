//! The document as it is served, held to the rules and to the copy that is committed.

use super::lint;

#[test]
fn the_served_document_breaks_no_rule() {
    let findings = lint::lint(&crate::api::openapi());
    let lines: Vec<String> = findings
        .iter()
        .map(|finding| format!("{} at {}: {}", finding.rule, finding.pointer, finding.message))
        .collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

#[test]
fn the_committed_document_is_the_served_one() {
    let committed: serde_json::Value =
        serde_json::from_str(include_str!("../../../openapi/otter.json")).unwrap();
    let same = committed == crate::api::openapi();
    assert!(same, "openapi/otter.json is stale; refresh it: cargo run -- openapi >openapi/otter.json");
}
