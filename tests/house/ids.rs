//! The ids of machines, snapshots, tasks, datastores and questions are opaque outside of the
//! backend: only a backend makes an id from a text and reads the text of an id. The store also does
//! so, to save and load ids. The text of a caller becomes an id only by `FromStr`.

use std::path::Path;

/// The functions that make an id from a text and that read its text.
const OPAQUE: [&str; 2] = ["from_backend", "backend_text"];

/// The paths of the files that may use these functions.
const ALLOWED: [&str; 3] = ["esx/", "store/", "domain/ids.rs"];

/// The lines of a file of `src` that use these functions although the file may not.
fn violations(file: &Path, text: &str) -> Vec<String> {
    let path = file.to_str().unwrap();
    if ALLOWED.iter().any(|allowed| path.starts_with(allowed)) || is_test(path) {
        return Vec::new();
    }
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = product.lines().enumerate();
    lines
        .filter(|(_, line)| OPAQUE.iter().any(|name| line.contains(name)))
        .map(|(number, line)| format!("{path}:{}: {}", number + 1, line.trim()))
        .collect()
}

/// Whether a file of `src` is compiled only for tests.
fn is_test(path: &str) -> bool {
    path.contains("tests/") || path.ends_with("tests.rs") || path.ends_with("samples.rs")
}

#[test]
fn ids_are_opaque_outside_of_the_backend() {
    let found: Vec<String> =
        super::sources().iter().flat_map(|(file, text)| violations(file, text)).collect();
    assert!(found.is_empty(), "{}\nsee tests/house/ids.rs", found.join("\n"));
}

#[test]
fn code_that_reads_or_makes_an_id_is_reported() {
    let makes = "fn f() {\n    MachineId::from_backend(format!(\"vm-{number}\"))\n}";
    let reads = "fn f(id: &TaskId) -> bool {\n    id.backend_text().starts_with(\"haTask\")\n}";
    for (text, line) in [
        (makes, "MachineId::from_backend(format!(\"vm-{number}\"))"),
        (reads, "id.backend_text().starts_with(\"haTask\")"),
    ] {
        for file in ["service/machines.rs", "api/links.rs", "domain/event.rs", "hypervisor/mod.rs"]
        {
            assert_eq!(violations(Path::new(file), text), [format!("{file}:2: {line}")]);
        }
        for file in ["esx/calls.rs", "store/jobs.rs", "service/jobs/tests/mod.rs"] {
            assert_eq!(violations(Path::new(file), text), Vec::<String>::new(), "{file}");
        }
        let tested = format!("#[cfg(test)]\nmod tests {{\n{text}\n}}");
        assert_eq!(violations(Path::new("domain/event.rs"), &tested), Vec::<String>::new());
    }
}
