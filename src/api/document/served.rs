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
