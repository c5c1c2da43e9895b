//! The limits of the conditions for which calls wait, on screens and on serial ports, and the check
//! of their regular expressions.

use regex::{Regex, RegexBuilder, bytes};

/// The largest number of conditions of one wait.
pub const MAX_CONDITIONS: usize = 16;

/// The largest regular expression, in bytes.
pub const MAX_REGEX: usize = 1024;

/// The largest text of a condition, in characters.
pub const MAX_TEXT: usize = 1024;

/// The largest name of a condition, in characters.
pub const MAX_NAME: usize = 64;

/// The largest compiled regular expression, in bytes. The time of a search grows with it.
const MAX_COMPILED_REGEX: usize = 1024 * 1024;

/// How deeply the parts of a regular expression may be nested.
const MAX_NESTING: u32 = 50;

/// Compiles a regular expression of a caller for texts, with the limits that keep its searches
/// fast.
///
/// # Errors
/// A line that says what is wrong with it.
pub fn compile_regex(pattern: &str) -> Result<Regex, String> {
    check_length(pattern)?;
    let built = RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED_REGEX)
        .dfa_size_limit(MAX_COMPILED_REGEX)
        .nest_limit(MAX_NESTING)
        .build();
    built.map_err(|error| reason(&error))
}

/// As [`compile_regex`], for bytes that may be no text.
///
/// # Errors
/// As [`compile_regex`].
pub fn compile_bytes_regex(pattern: &str) -> Result<bytes::Regex, String> {
    check_length(pattern)?;
    let built = bytes::RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED_REGEX)
        .dfa_size_limit(MAX_COMPILED_REGEX)
        .nest_limit(MAX_NESTING)
        .build();
    built.map_err(|error| reason(&error))
}

fn check_length(pattern: &str) -> Result<(), String> {
    if pattern.len() > MAX_REGEX {
        return Err(format!("it has {} bytes, and {MAX_REGEX} are allowed", pattern.len()));
    }
    Ok(())
}

fn reason(error: &regex::Error) -> String {
    if let regex::Error::CompiledTooBig(_) = error {
        return "it is too large once its repetitions are counted; use smaller ones".to_owned();
    }
    // The parser draws the pattern and the place over several lines; the last one is the reason.
    let text = error.to_string();
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.unwrap_or(&text).trim().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_expressions_that_explode_are_refused() {
        assert!(compile_regex("a{1000}{1000}").unwrap_err().contains("too large"));
        assert!(compile_bytes_regex("a{1000}{1000}").unwrap_err().contains("too large"));
        assert!(compile_regex(&"a".repeat(1025)).unwrap_err().contains("1025 bytes"));
        assert!(compile_bytes_regex(&"a".repeat(1025)).unwrap_err().contains("1025 bytes"));
        assert!(compile_regex(&"(".repeat(500)).is_err());
        assert_eq!(compile_regex("(abc").unwrap_err(), "unclosed group");
        assert_eq!(compile_bytes_regex("(abc").unwrap_err(), "unclosed group");
    }
}
