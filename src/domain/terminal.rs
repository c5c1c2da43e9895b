//! Makes texts safe to show on a terminal: says which characters control the terminal, and escapes
//! them.
//!
//! Names come from the host and from callers. A control character in a name could clear the screen,
//! forge a log line, or reverse the direction of the text after it.

use std::borrow::Cow;

/// Whether the character controls a terminal. Such characters are C0, DEL and C1, the line and
/// paragraph separators of Unicode, and the marks that change the direction of a text.
#[must_use]
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

/// The first character of a text that controls a terminal. `None` if there is none.
#[must_use]
pub fn first_unprintable(text: &str) -> Option<char> {
    text.chars().find(|character| is_unprintable(*character))
}

/// Makes a text of one line that is safe to show. Each character that controls a terminal is
/// escaped, for example as `\n` or `\u{1b}`.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, is_unprintable)
}

/// Makes a text of several lines that is safe to show. It works like [`printable`], but does not
/// escape the line ends.
#[must_use]
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |character| character != '\n' && is_unprintable(character))
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            plain if !is_escaped(plain) => safe.push(plain),
            '\n' | '\r' | '\t' => safe.extend(character.escape_default()),
            other => safe.extend(other.escape_unicode()),
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_control_characters_are_escaped() {
        for (text, safe) in [
            ("qubes-4.2 ÄÖ 🦦 \\", "qubes-4.2 ÄÖ 🦦 \\"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("\r\n\t", "\\r\\n\\t"),
            ("\u{7f}\u{9b}31m", "\\u{7f}\\u{9b}31m"),
            ("a\u{2028}b\u{202e}c\u{2066}", "a\\u{2028}b\\u{202e}c\\u{2066}"),
        ] {
            assert_eq!(printable(text), safe);
            assert_eq!(first_unprintable(text).is_some(), text != safe);
        }
        assert_eq!(printable_lines("a\nb\u{1b}"), "a\nb\\u{1b}");
    }
}
