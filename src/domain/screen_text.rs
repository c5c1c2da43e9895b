//! A text that a wait looks for on a screen: all after the first colon of `screen:<text>`.

use std::fmt;

use super::condition_text::{ConditionText, InvalidConditionText};

/// A text on a screen, as the caller wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScreenText(ConditionText);

impl ScreenText {
    /// The beginning of a condition that waits for a text on the screen.
    pub const PREFIX: &'static str = "screen:";

    /// Checks a text, which is used literally, commas and colons included.
    ///
    /// # Errors
    /// [`InvalidConditionText`]
    pub fn new(text: &str) -> Result<Self, InvalidConditionText> {
        ConditionText::new(text).map(Self)
    }

    /// Parses a condition `screen:<text>`. `None` if the condition does not begin so.
    #[must_use]
    pub fn from_condition(condition: &str) -> Option<Result<Self, InvalidConditionText>> {
        condition.strip_prefix(Self::PREFIX).map(Self::new)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
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
}
