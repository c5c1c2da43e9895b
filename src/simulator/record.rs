//! Keeps what is answered, so that a stricter reader than otter can look at it after the tests.
//!
//! In builds with the feature `sabotage` alone, and only where `OTTER_RECORD_ANSWERS` names a directory. An answer is
//! kept as `<method>-<shape>.xml` if something in it was not in any kept before: an element at a place, a type, a
//! word. What reads them need not look at a million like answers, and never misses a new kind.

#[cfg(not(feature = "sabotage"))]
pub const fn answer(_: &str, _: &str) {}

#[cfg(feature = "sabotage")]
pub use enabled::answer;

#[cfg(feature = "sabotage")]
mod enabled {
    use std::collections::{BTreeSet, HashSet};
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::path::{Path, PathBuf};
    use std::sync::{LazyLock, Mutex, PoisonError};

    use crate::esx::soap::xml::{Document, Element};

    /// When so many things were seen, no more is kept.
    const MOST: usize = 100_000;

    /// Where answers are kept, if they are.
    static DIRECTORY: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("OTTER_RECORD_ANSWERS").map(PathBuf::from));

    static SEEN: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Mutex::default);

    /// Keeps the answer to a method if it shows anything new.
    pub fn answer(method: &str, body: &str) {
        let Some(directory) = DIRECTORY.as_deref() else { return };
        let Ok(document) = Document::parse(body.as_bytes()) else {
            return keep(directory, method, hash(&body), body);
        };
        let shape = shape(method, document.root());
        let is_new = {
            let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
            let before = seen.len();
            if before < MOST {
                seen.extend(&shape);
            }
            seen.len() > before
        };
        if is_new {
            keep(directory, method, hash(&shape), body);
        }
    }

    /// What there is in an answer: each element with its place, its type, and what kind of text it holds.
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

    /// A word is itself, for it may be one of an enum; of other texts only the kind counts.
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

    /// Other processes may be at the same answer, so it gets its name when it is whole.
    fn keep(directory: &Path, method: &str, shape: u64, body: &str) {
        let path = directory.join(format!("{method}-{shape:016x}.xml"));
        let draft = directory.join(format!(".{}-{method}-{shape:016x}", std::process::id()));
        let kept = std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(&draft, body))
            .and_then(|()| std::fs::rename(&draft, &path));
        if let Err(error) = kept {
            tracing::error!(%error, "an answer of the simulator could not be kept");
        }
    }
}
