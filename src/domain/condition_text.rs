//! The text of a condition such as `screen:<text>`: all after the first colon, used literally.

use std::fmt;
use std::sync::Arc;

use super::terminal::first_unprintable;

/// A text that a wait looks for, as the caller wrote it. It has at least one character that is not
/// white space, at most [`ConditionText::MAX_CHARACTERS`] characters, and no control character.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConditionText(Arc<str>);

/// Why a text is not a [`ConditionText`]. The text of the error is the rest of a sentence whose
/// subject is the condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConditionText {
    #[error("has no text after the colon")]
    Empty,
    #[error("has more than {} characters after the colon", ConditionText::MAX_CHARACTERS)]
    TooLong,
    #[error("has a control character after the colon")]
    ControlCharacter,
    /// Only of `serial@<port>:<text>`.
    #[error("names no serial port after serial@: write its key or its Linux name, such as ttyS0")]
    NoPort,
}

impl ConditionText {
    /// The largest number of characters.
    pub const MAX_CHARACTERS: usize = 256;

    /// Checks a text, which is used literally, commas and colons included.
    ///
    /// # Errors
    /// [`InvalidConditionText`]
    pub fn new(text: &str) -> Result<Self, InvalidConditionText> {
        if text.trim().is_empty() {
            return Err(InvalidConditionText::Empty);
        }
        if text.chars().nth(Self::MAX_CHARACTERS).is_some() {
            return Err(InvalidConditionText::TooLong);
        }
        if first_unprintable(text).is_some() {
            return Err(InvalidConditionText::ControlCharacter);
        }
        Ok(Self(Arc::from(text)))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConditionText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_out_of_range_are_refused() {
        assert_eq!(ConditionText::new(" "), Err(InvalidConditionText::Empty));
        assert_eq!(ConditionText::new("a\nb"), Err(InvalidConditionText::ControlCharacter));
        assert!(ConditionText::new(&"ä".repeat(256)).is_ok());
        assert_eq!(ConditionText::new(&"ä".repeat(257)), Err(InvalidConditionText::TooLong));
        assert_eq!(ConditionText::new("a: b, c ").unwrap().as_str(), "a: b, c ");
    }
}
