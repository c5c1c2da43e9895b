//! The words of the project. Phrases of an odd dialect that earlier texts used do not return: this
//! test counts them by file and line. Whether a sentence is plain English is for a reader to judge.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each phrase is one or more whole words, in upper or lower case.
const PHRASES: [&str; 21] = [
    "a word about it",
    "anew",
    "are told",
    "are to be",
    "are wanted",
    "as it were",
    "be had",
    "beside",
    "him who",
    "is had",
    "is none of",
    "is to be",
    "is told",
    "is wanted",
    "looked at askance",
    "nobody",
    "none where",
    "was told",
    "were told",
    "who hears",
    "whoever",
];

/// The maximum number of odd phrases in each part of the repository.
const CEILINGS: [(&str, usize); 3] = [("documents", 0), ("src", 0), ("tests", 0)];

/// One odd phrase in one line.
struct Finding {
    part: &'static str,
    file: PathBuf,
    line: usize,
    phrase: &'static str,
}

#[test]
fn no_text_uses_an_odd_phrase() {
    let findings: Vec<Finding> = texts().iter().flat_map(|(file, text)| find(file, text)).collect();
    for (part, ceiling) in CEILINGS {
        let of_part: Vec<&Finding> =
            findings.iter().filter(|finding| finding.part == part).collect();
        let mut report = String::new();
        for Finding { file, line, phrase, .. } in &of_part {
            writeln!(report, "{}:{line}: {phrase:?}", file.display()).unwrap();
        }
        assert!(
            of_part.len() <= ceiling,
            "{part}: {} odd phrases, at most {ceiling} are allowed. Write plain English (subject, \
             verb, object) in these lines:\n{report}",
            of_part.len()
        );
    }
}

#[test]
fn a_phrase_counts_only_as_whole_words_and_in_any_case() {
    let phrases = |text: &str| -> Vec<&str> {
        find(Path::new("src/a.rs"), text).iter().map(|finding| finding.phrase).collect()
    };
    assert_eq!(phrases("Nobody starts it ANEW."), ["anew", "nobody"]);
    assert_eq!(phrases("besides, a_nobody, nobody2, renew"), [""; 0]);
    assert_eq!(phrases("x is to\nbe"), [""; 0]);
}

/// Every text file that the repository keeps, except lock files and this file.
pub fn texts() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().unwrap();
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).unwrap();
    let kept = names
        .split('\0')
        .filter(|name| !name.is_empty() && Path::new(name).extension() != Some("lock".as_ref()))
        .filter(|name| *name != "tests/house/words.rs" && !name.contains("/corpus/"))
        // A migration that has run must not change, because the database stores its checksum.
        .filter(|name| !name.starts_with("src/store/migrations/"))
        // These files contain the dump of an earlier database, and the patch of the earlier code
        // that wrote it.
        .filter(|name| !name.starts_with("tests/storage/earlier/"));
    kept.filter_map(|name| {
        // A file that is not text, or that is deleted and not yet committed, has no words.
        Some((PathBuf::from(name), std::fs::read_to_string(root.join(name)).ok()?))
    })
    .collect()
}

fn find(file: &Path, text: &str) -> Vec<Finding> {
    let part = match file.iter().next().and_then(|first| first.to_str()) {
        Some("src") => "src",
        Some("tests") => "tests",
        _ => "documents",
    };
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.to_lowercase();
        for phrase in PHRASES {
            if has_words(&line, phrase) {
                findings.push(Finding { part, file: file.to_owned(), line: at + 1, phrase });
            }
        }
    }
    findings
}

fn has_words(line: &str, phrase: &str) -> bool {
    let is_of_word = |letter: Option<char>| {
        letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
    };
    line.match_indices(phrase).any(|(at, _)| {
        !is_of_word(line[..at].chars().next_back())
            && !is_of_word(line[at + phrase.len()..].chars().next())
    })
}
