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

/// The sizes of compiled regular expressions, in bytes. Each gets the smallest one that it fits
/// into. The time of a search grows with it.
const COMPILED_SIZES: [usize; 3] = [8 << 10, 64 << 10, 1 << 20];

/// How deeply the parts of a regular expression may be nested.
const MAX_NESTING: u32 = 50;

/// Compiles a regular expression of a caller for texts, with the limits that keep its searches
/// fast.
///
/// # Returns
/// The regular expression, and the bytes that it takes at most, with those of its searches.
///
/// # Errors
/// A line that says what is wrong with it.
pub fn compile_regex(pattern: &str) -> Result<(Regex, usize), String> {
    smallest(pattern, |size| {
        let mut builder = RegexBuilder::new(pattern);
        builder.size_limit(size).dfa_size_limit(size).nest_limit(MAX_NESTING).build()
    })
}

/// As [`compile_regex`], for bytes that may be no text.
///
/// # Errors
/// As [`compile_regex`].
pub fn compile_bytes_regex(pattern: &str) -> Result<(bytes::Regex, usize), String> {
    smallest(pattern, |size| {
        let mut builder = bytes::RegexBuilder::new(pattern);
        builder.size_limit(size).dfa_size_limit(size).nest_limit(MAX_NESTING).build()
    })
}

/// Compiles a regular expression into the smallest size that it fits into.
fn smallest<R>(
    pattern: &str,
    build: impl Fn(usize) -> Result<R, regex::Error>,
) -> Result<(R, usize), String> {
    if pattern.len() > MAX_REGEX {
        return Err(format!("it has {} bytes, and {MAX_REGEX} are allowed", pattern.len()));
    }
    for size in COMPILED_SIZES {
        match build(size) {
            Ok(regex) => return Ok((regex, 2 * size)),
            Err(regex::Error::CompiledTooBig(_)) => {}
            Err(error) => return Err(reason(&error)),
        }
    }
    Err("it is too large once its repetitions are counted; use smaller ones".to_owned())
}

/// The reason of a syntax error. The parser draws the pattern and the place over several lines, and
/// the last one is the reason.
fn reason(error: &regex::Error) -> String {
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

    #[test]
    fn a_regular_expression_takes_as_much_memory_as_it_needs() {
        let bytes = |pattern: &str| compile_regex(pattern).unwrap().1;
        let sizes = ["Terminal|Konsole", r"\w+", r"\w{20}"].map(bytes);
        assert_eq!(sizes, COMPILED_SIZES.map(|size| 2 * size));
    }
}
