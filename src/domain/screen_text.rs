//! A text that a wait looks for on a screen: all after the first colon of `screen:<text>`.

use std::fmt;
use std::sync::Arc;

use super::terminal::first_unprintable;

/// A text on a screen, as the caller wrote it. It has at least one character that is not white
/// space, at most [`ScreenText::MAX_CHARACTERS`] characters, and no control character.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScreenText(Arc<str>);

/// Why a text is not a [`ScreenText`]. The text of the error is the rest of a sentence whose
/// subject is the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScreenText {
    #[error("has no text after screen:")]
    Empty,
    #[error("has more than {} characters after screen:", ScreenText::MAX_CHARACTERS)]
    TooLong,
    #[error("has a control character after screen:")]
    ControlCharacter,
}

impl ScreenText {
    /// The beginning of a condition that waits for a text on the screen.
    pub const PREFIX: &'static str = "screen:";

    /// The largest number of characters.
    pub const MAX_CHARACTERS: usize = 256;

    /// Checks a text, which is used literally, commas and colons included.
    ///
    /// # Errors
    /// [`InvalidScreenText`]
    pub fn new(text: &str) -> Result<Self, InvalidScreenText> {
        if text.trim().is_empty() {
            return Err(InvalidScreenText::Empty);
        }
        if text.chars().nth(Self::MAX_CHARACTERS).is_some() {
            return Err(InvalidScreenText::TooLong);
        }
        if first_unprintable(text).is_some() {
            return Err(InvalidScreenText::ControlCharacter);
        }
        Ok(Self(Arc::from(text)))
    }

    /// Parses a condition `screen:<text>`. `None` if the condition does not begin so.
    #[must_use]
    pub fn from_condition(condition: &str) -> Option<Result<Self, InvalidScreenText>> {
        condition.strip_prefix(Self::PREFIX).map(Self::new)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The condition `screen:<text>`.
impl fmt::Display for ScreenText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", Self::PREFIX, self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_after_the_first_colon_is_literal() {
        let text = ScreenText::from_condition("screen:a: b, c ").unwrap().unwrap();
        assert_eq!(text.as_str(), "a: b, c ");
        assert_eq!(text.to_string(), "screen:a: b, c ");
        assert_eq!(ScreenText::from_condition("Screen:a"), None);
    }

    #[test]
    fn texts_out_of_range_are_refused() {
        assert_eq!(ScreenText::new(" "), Err(InvalidScreenText::Empty));
        assert_eq!(ScreenText::new("a\nb"), Err(InvalidScreenText::ControlCharacter));
        assert!(ScreenText::new(&"ä".repeat(256)).is_ok());
        assert_eq!(ScreenText::new(&"ä".repeat(257)), Err(InvalidScreenText::TooLong));
    }
}
