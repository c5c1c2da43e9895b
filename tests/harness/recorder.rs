//! Records answers of the simulator for a stricter reader than otter: `tests/run` lets pyvmomi read
//! them.
//!
//! It records only if `OTTER_RECORD_ANSWERS` names a directory. It writes an answer to
//! `<method>-<shape>.xml` if the answer has a part that no earlier answer had: an element at a
//! place, a type, or a word.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use otter::esx::soap::xml::{Document, Element};

/// The number of recorded parts after which no more answers are written.
const PARTS_LIMIT: usize = 100_000;

/// The directory for the answers. `None` if nothing is recorded.
static DIRECTORY: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| std::env::var_os("OTTER_RECORD_ANSWERS").map(PathBuf::from));

static SEEN: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Mutex::default);

/// Writes the answer to a method if it has a new part.
pub fn record_answer(method: &str, body: &str) {
    let Some(directory) = DIRECTORY.as_deref() else { return };
    let Ok(document) = Document::parse(body.as_bytes()) else {
        return keep(directory, method, hash(&body), body);
    };
    let shape = shape(method, document.root());
    let is_new = {
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.len();
        if before < PARTS_LIMIT {
            seen.extend(&shape);
        }
        seen.len() > before
    };
    if is_new {
        keep(directory, method, hash(&shape), body);
    }
}

/// The hashes of the parts of an answer: each element with its place, its type, and the kind of its
/// text.
fn shape(method: &str, root: Element<'_>) -> BTreeSet<u64> {
    let mut shape = BTreeSet::new();
    let mut open = vec![(root, "", "")];
    while let Some((element, parent, parent_type)) = open.pop() {
        let own_type = element.type_name().unwrap_or_default();
        let text = element.text().trim();
        let place = (method, parent, parent_type, element.name(), own_type);
        shape.insert(hash(&(place, element.attribute("type"), class(text))));
        open.extend(element.children().map(|child| (child, element.name(), own_type)));
    }
    shape
}

/// The kind of a text. Each word is a kind of its own, because it may be an enum value.
fn class(text: &str) -> &str {
    let is_word = text.len() <= 40 && text.bytes().all(|byte| byte.is_ascii_alphabetic());
    let is_time = text.len() > 10 && text.as_bytes()[10] == b'T' && text.ends_with('Z');
    match text {
        word if is_word => word,
        number if number.parse::<i64>().is_ok() => "0",
        _ if is_time => "T0",
        _ => "a text",
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Writes a file. Another process may write the same answer, so the file is renamed when it is
/// complete.
fn keep(directory: &Path, method: &str, shape: u64, body: &str) {
    let path = directory.join(format!("{method}-{shape:016x}.xml"));
    let draft = directory.join(format!(".{}-{method}-{shape:016x}", std::process::id()));
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(&draft, body).unwrap();
    std::fs::rename(&draft, &path).unwrap();
}
