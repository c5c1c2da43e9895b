//! Rules for the source code that the compiler does not check.

mod architecture;
mod circles;
mod examples;
mod headers;
mod ids;
mod imports;
mod paths;
mod words;

use std::path::{Path, PathBuf};

/// Every Rust file below `src`: its path relative to `src`, and its text.
pub fn sources() -> Vec<(PathBuf, String)> {
    sources_of(&["rs"])
}

/// Every file of the pages for people, as [`sources`].
pub fn page_sources() -> Vec<(PathBuf, String)> {
    sources_of(&["js", "css", "html"])
}

fn sources_of(extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|own| extensions.iter().any(|one| own == *one)) {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(&root).unwrap().to_owned(), text));
            }
        }
    }
    files.sort();
    files
}

/// The module path of a file of `src`.
fn module(file: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if module.len() > 1 && module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}
