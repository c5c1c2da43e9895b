//! The checks of the fields that the conditions of waits have in common, for screens and for serial
//! ports, and the words that name conditions in details.

use super::extract::{check_printable_field, failure_in_body};
use crate::domain::failure::Failure;
use crate::service::machines::shorten;
use crate::service::wait_conditions::{MAX_CONDITIONS, MAX_NAME, MAX_TEXT};

/// Checks the number of conditions.
///
/// # Parameters
/// - `at`: the JSON Pointer of the list, which ends in its name.
///
/// # Errors
/// `invalid-request` if there is none, or too many.
pub fn check_count(at: &str, count: usize) -> Result<(), Failure> {
    if count == 0 {
        let detail = "any is empty; add a condition.".to_owned();
        return Err(failure_in_body(at, "empty", detail));
    }
    if count > MAX_CONDITIONS {
        let detail = format!("any has more than {MAX_CONDITIONS} conditions.");
        return Err(failure_in_body(at, "out-of-range", detail));
    }
    Ok(())
}

/// Checks the name of a condition.
///
/// # Parameters
/// - `at`: the JSON Pointer of the name.
///
/// # Errors
/// `invalid-request` if it is empty or too long, or has a control character.
pub fn check_name(at: &str, name: &str) -> Result<(), Failure> {
    check_printable_field(at, name)?;
    if name.is_empty() || name.chars().count() > MAX_NAME {
        let detail = format!("name must have 1 to {MAX_NAME} characters.");
        return Err(failure_in_body(at, "out-of-range", detail));
    }
    Ok(())
}

/// Checks the length of the text of a condition.
///
/// # Parameters
/// - `at`: the JSON Pointer of the text.
///
/// # Errors
/// `invalid-request` if it is too long.
pub fn check_text_length(at: &str, text: &str) -> Result<(), Failure> {
    if text.chars().nth(MAX_TEXT).is_some() {
        let detail = format!("text has more than {MAX_TEXT} characters.");
        return Err(failure_in_body(at, "out-of-range", detail));
    }
    Ok(())
}

/// Compiles the regular expression of a condition.
///
/// # Parameters
/// - `at`: the JSON Pointer of the expression.
/// - `compile`: returns what is wrong with an expression, as the rest of a sentence.
///
/// # Errors
/// `invalid-request` if it is empty or not a regular expression.
pub fn parse_regex<R>(
    at: &str,
    pattern: &str,
    compile: impl FnOnce(&str) -> Result<R, String>,
) -> Result<R, Failure> {
    if pattern.is_empty() {
        let detail = "regex is empty, so that it is everywhere.".to_owned();
        return Err(failure_in_body(at, "empty", detail));
    }
    compile(pattern).map_err(|error| {
        let detail = format!("regex is {}: {error}.", shorten(pattern));
        failure_in_body(at, "not-a-regex", detail)
    })
}

/// The conditions of a wait in words.
///
/// # Parameters
/// - `shown`: the words for each of them, in their order.
pub fn in_words(shown: &[String]) -> String {
    /// The conditions that a detail names.
    const MAX_NAMED: usize = 4;
    let named = &shown[..shown.len().min(MAX_NAMED)];
    match shown.len() - named.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[test]
    fn a_detail_names_the_first_conditions() {
        let shown: Vec<String> = ["a", "b", "c", "d", "e", "f"].map(str::to_owned).to_vec();
        assert_eq!(in_words(&shown[..1]), "a");
        assert_eq!(in_words(&shown[..4]), "a, b, c, d");
        assert_eq!(in_words(&shown), "a, b, c, d and 2 more");
    }
}
