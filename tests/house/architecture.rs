//! ARCHITECTURE.md keeps up with the code: each path and each type that it names exists, and each
//! module with files of its own is on its map.

use std::collections::BTreeSet;
use std::path::Path;

use super::sources;

#[test]
fn every_path_that_the_architecture_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = code_words(&architecture());
    let paths: Vec<&String> = names.iter().filter(|name| is_path(name)).collect();
    assert!(paths.len() > 50, "only {} paths", paths.len());
    let missing: Vec<_> = paths.into_iter().filter(|path| !root.join(path).exists()).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names paths that do not exist: {missing:?}");
}

#[test]
fn every_type_that_the_architecture_names_exists() {
    let defined: BTreeSet<String> = sources().iter().flat_map(|(_, text)| types(text)).collect();
    let names = code_words(&architecture());
    let in_page: Vec<&String> = names.iter().filter(|name| is_type(name)).collect();
    assert!(in_page.len() > 20, "only {} types", in_page.len());
    let missing: Vec<_> = in_page.into_iter().filter(|name| !defined.contains(*name)).collect();
    assert!(
        missing.is_empty(),
        "ARCHITECTURE.md names types that src does not define: {missing:?}"
    );
}

#[test]
fn every_module_of_files_is_on_the_map_of_the_architecture() {
    let text = architecture();
    let folders: BTreeSet<String> = sources()
        .iter()
        .filter_map(|(file, _)| file.parent()?.to_str().map(str::to_owned))
        .filter(|folder| !folder.is_empty() && !folder.ends_with("tests"))
        .map(|folder| format!("src/{folder}"))
        .collect();
    let missing: Vec<_> =
        folders.into_iter().filter(|folder| !text.contains(&format!("`{folder}`"))).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md does not list {missing:?}");
}

fn architecture() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    std::fs::read_to_string(file).unwrap()
}

/// The texts between backticks within a line. Indented code is skipped.
fn code_words(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.starts_with("    "));
    lines.flat_map(|line| line.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

fn is_path(name: &str) -> bool {
    let folders = ["src/", "tests/", "config/", "deploy/", "openapi/", ".ci/", ".cargo/"];
    folders.iter().any(|folder| name.starts_with(folder)) && !name.contains([' ', '…', '<', '*'])
}

/// Whether a name is that of a type: `LeaseActor`, but not `GET`, `JSON` or `Otter-Lease`.
fn is_type(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric())
        && name.chars().any(|letter| letter.is_ascii_lowercase())
}

/// The types and traits that a source file defines.
fn types(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let definitions =
        words.windows(2).filter(|pair| matches!(pair[0], "struct" | "enum" | "trait" | "type"));
    definitions
        .map(|pair| pair[1].chars().take_while(char::is_ascii_alphanumeric).collect())
        .collect()
}
