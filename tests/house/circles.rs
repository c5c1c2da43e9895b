//! No files of `src` import each other in a circle. A file depends on the file that *defines* the
//! item that it names: the check follows a path through every `use` and `pub use` to the
//! definition.
//!
//! These are no dependencies: a `mod` line, a re-export, the name of a module, the items that a
//! file uses of modules below it, because its job is to combine them, and the items that a `mod
//! tests` uses, because no other file depends on tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::module;
use super::paths::{Mention, mentions};

/// The files that each file depends on, and the items that cause each dependency, each with its
/// first line.
type Dependencies = BTreeMap<String, BTreeMap<String, BTreeMap<String, usize>>>;

struct Sources {
    /// The file of each module.
    files: BTreeMap<Vec<String>, String>,
    /// The imports of each module, by the name that the module uses.
    imports: BTreeMap<Vec<String>, BTreeMap<String, Mention>>,
    mentions: Vec<(String, Mention)>,
}

impl Sources {
    fn new(sources: &[(PathBuf, String)]) -> Self {
        let mut all =
            Sources { files: BTreeMap::new(), imports: BTreeMap::new(), mentions: Vec::new() };
        for (file, text) in sources {
            let path = file.to_str().unwrap().to_owned();
            let mut module = module(file);
            if module == ["lib"] {
                module.clear();
            }
            let names: Vec<&str> = module.iter().map(String::as_str).collect();
            for mention in mentions(&names, text) {
                if mention.scope[module.len()..].iter().any(|part| part == "tests") {
                    continue;
                }
                all.files.insert(mention.scope.clone(), path.clone());
                if let Some(import) = &mention.import {
                    let imports = all.imports.entry(mention.scope.clone()).or_default();
                    imports.insert(import.name.clone(), mention.clone());
                }
                all.mentions.push((path.clone(), mention));
            }
            all.files.insert(module, path);
        }
        all
    }

    fn dependencies(&self) -> Dependencies {
        let mut all = Dependencies::new();
        for (file, mention) in &self.mentions {
            if mention.import.as_ref().is_some_and(|import| import.is_reexport) {
                continue;
            }
            if let Some((definer, item)) = self.definition(mention, &[], 0)
                && !is_same_or_below(definer, file)
            {
                let items =
                    all.entry(file.clone()).or_default().entry(definer.to_owned()).or_default();
                items.entry(item).or_insert(mention.line);
            }
        }
        all
    }

    /// The file that defines the item at the path of `mention` and `rest`, and the name of the
    /// item. `None` for a module, for a local name, and for an item of another crate.
    fn definition(
        &self,
        mention: &Mention,
        rest: &[String],
        depth: usize,
    ) -> Option<(&str, String)> {
        // A `use` that leads back to itself imports from an external crate with that name.
        if depth > 8 {
            return None;
        }
        let path = [&mention.path, rest].concat();
        let mut module = if mention.is_rooted { Vec::new() } else { mention.scope.clone() };
        for (at, part) in path.iter().enumerate() {
            let inner = [&module[..], std::slice::from_ref(part)].concat();
            if self.files.contains_key(&inner) {
                module = inner;
                continue;
            }
            let import = self.imports.get(&module).and_then(|imports| imports.get(part));
            return match import {
                Some(import) if part != "*" => self.definition(import, &path[at + 1..], depth + 1),
                _ if at == 0 && !mention.is_rooted => None,
                _ => Some((self.files.get(&module)?, part.clone())),
            };
        }
        None
    }
}

/// Whether `file` is the file `above`, or a module below it.
fn is_same_or_below(file: &str, above: &str) -> bool {
    module(Path::new(file)).starts_with(&module(Path::new(above)))
}

/// The files of each circle: they depend on each other, directly or through other files.
fn circles(dependencies: &Dependencies) -> BTreeSet<Vec<&str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        dependencies.keys().map(|file| (file.as_str(), reach(dependencies, file))).collect();
    reached
        .iter()
        .filter(|(file, reached)| reached.contains(*file))
        .map(|(file, own)| {
            own.iter()
                .filter(|other| reached.get(*other).is_some_and(|back| back.contains(file)))
                .copied()
                .collect()
        })
        .collect()
}

/// The files that `file` depends on, directly or through other files.
fn reach<'a>(dependencies: &'a Dependencies, file: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next = vec![file];
    while let Some(file) = next.pop() {
        for other in dependencies.get(file).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(other.as_str()) {
                next.push(other);
            }
        }
    }
    reached
}

/// The items that cause a circle: one line for each pair of files.
fn causes(dependencies: &Dependencies, circle: &[&str]) -> String {
    let mut text = format!("{circle:?}:\n");
    for file in circle {
        for (other, items) in &dependencies[*file] {
            if circle.contains(&other.as_str()) {
                let items: Vec<String> =
                    items.iter().map(|(item, line)| format!("{item} (line {line})")).collect();
                writeln!(text, "    {file} imports from {other}: {}", items.join(", ")).unwrap();
            }
        }
    }
    text
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let dependencies = Sources::new(&super::sources()).dependencies();
    let found: String =
        circles(&dependencies).iter().map(|circle| causes(&dependencies, circle)).collect();
    assert!(
        found.is_empty(),
        "files import each other in a circle:\n{found}see tests/house/circles.rs"
    );
}

/// The circles of files with these texts.
fn found(sources: &[(&str, &str)]) -> Vec<String> {
    let sources: Vec<_> =
        sources.iter().map(|(file, text)| (PathBuf::from(file), (*text).to_owned())).collect();
    let dependencies = Sources::new(&sources).dependencies();
    circles(&dependencies).iter().map(|circle| causes(&dependencies, circle)).collect()
}

#[test]
fn a_circle_is_reported_with_its_causes() {
    let found = found(&[
        ("a.rs", "use crate::b::B;"),
        ("b.rs", "\nfn f() { super::c::g() }"),
        ("c.rs", "use crate::a; fn g(x: a::A) {}"),
        ("d.rs", "use crate::a::A;"),
    ]);
    let expected = r#"["a.rs", "b.rs", "c.rs"]:
    a.rs imports from b.rs: B (line 1)
    b.rs imports from c.rs: g (line 2)
    c.rs imports from a.rs: A (line 1)
"#;
    assert_eq!(found, [expected]);
}

#[test]
fn a_circle_is_found_however_its_files_name_each_other() {
    for (a, b) in [
        ("use super::b::{B, C as D};", "use super::a::*;"),
        ("use crate::facade::B;", "use crate::a::A;"),
        ("use crate::facade::other;\nfn f() -> other::B {}", "use crate::a::A;"),
        ("use crate::b::B as _;", "mod inner { fn f() { super::super::a::g() } }"),
        ("pub use crate::b::B; fn f() { B::new() }", "use crate::a::{self, A};"),
        ("use super::b::Enum::{self, Variant};", "const C: u8 = crate::a::C;"),
    ] {
        let found = found(&[
            ("x/a.rs", &a.replace("crate::a", "crate::x::a").replace("crate::b", "crate::x::b")),
            ("x/b.rs", &b.replace("crate::a", "crate::x::a")),
            ("x/mod.rs", "mod a; mod b;"),
            ("facade.rs", "pub use crate::x::b as other; pub(crate) use other::B;"),
        ]);
        assert_eq!(found.len(), 1, "{a} {b}");
    }
}

#[test]
fn a_path_that_is_no_dependency_makes_no_circle() {
    for (a, b) in [
        ("use crate::b::B;", "use crate::a; mod tests { use crate::a::A; }"),
        ("pub use crate::b::B;", "use crate::a::A;"),
        ("use crate::b::B;", "// crate::a::A\nuse std::a::A; fn f() { x.a::<A>() }"),
    ] {
        assert_eq!(found(&[("a.rs", a), ("b.rs", b)]), Vec::<String>::new(), "{a} {b}");
    }
    // A module uses the modules below it, and these use the items of the module.
    let below = [("a/mod.rs", "mod b; use b::B; struct A;"), ("a/b.rs", "use super::A;")];
    assert_eq!(found(&below), Vec::<String>::new());
}
