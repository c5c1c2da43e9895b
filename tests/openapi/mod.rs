//! The served OpenAPI document follows the rules of [`lint`], and the committed copies equal it.

mod lint;
mod walk;

use otter::api::document::v3_0;

#[test]
fn the_served_document_breaks_no_rule() {
    let findings = lint::lint(&otter::api::openapi());
    let lines: Vec<String> = findings
        .iter()
        .map(|finding| format!("{} at {}: {}", finding.rule, finding.pointer, finding.message))
        .collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

#[test]
fn the_committed_documents_equal_the_served_ones() {
    let new = otter::api::openapi();
    let old = v3_0::convert(&new);
    for (committed, served, name, flag) in [
        (include_str!("../../openapi/otter.json"), new, "otter.json", ""),
        (include_str!("../../openapi/otter-3.0.json"), old, "otter-3.0.json", " --version 3.0"),
    ] {
        let committed: serde_json::Value = serde_json::from_str(committed).unwrap();
        let same = committed == served;
        assert!(
            same,
            "openapi/{name} is stale; refresh it: cargo run -- openapi{flag} >openapi/{name}"
        );
    }
}
