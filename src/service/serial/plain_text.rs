//! The output of a serial port as plain text: without the sequences that move a cursor or set a
//! colour, and without other control characters.

/// The longest escape sequence whose end is waited for.
const MAX_SEQUENCE: usize = 256;

const ESCAPE: u8 = 0x1b;
const BELL: u8 = 0x07;

/// A text, and how many bytes it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainText {
    pub text: String,
    /// All of them, unless the last ones begin a character or a sequence whose end is missing.
    pub taken: usize,
}

/// Makes a text of bytes. A byte that is no UTF-8 becomes U+FFFD, and a line ends with a line feed.
#[must_use]
pub fn plain_text(bytes: &[u8]) -> PlainText {
    let mut kept = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    let mut cut = None;
    while let Some((byte, after)) = rest.split_first() {
        let at = bytes.len() - rest.len();
        match *byte {
            ESCAPE => match sequence(after) {
                Some(length) => rest = after.get(length..).unwrap_or_default(),
                None if rest.len() < MAX_SEQUENCE => {
                    cut = Some(at);
                    break;
                }
                // What follows is no sequence.
                None => rest = after,
            },
            b'\r' => {
                // Guests send several, for one line.
                let ends_line = !matches!(after.first(), Some(b'\r' | b'\n') | None);
                if ends_line {
                    kept.push(b'\n');
                }
                rest = after;
            }
            // The other control characters, without the tab and the line feed.
            0..=0x08 | 0x0b..=0x1f | 0x7f => rest = after,
            _ => {
                kept.push(*byte);
                rest = after;
            }
        }
    }
    let mut taken = cut.unwrap_or(bytes.len());
    let begun = begun_character(&kept);
    let begins = kept.get(kept.len() - begun..).unwrap_or_default();
    if cut.is_none() && begun > 0 && bytes.ends_with(begins) {
        taken -= begun;
        kept.truncate(kept.len() - begun);
    }
    PlainText { text: String::from_utf8_lossy(&kept).into_owned(), taken }
}

/// The last part of the output of a port, as text with at most this many characters.
#[must_use]
pub fn last_text(bytes: &[u8], max_characters: usize) -> String {
    let PlainText { text, .. } = plain_text(bytes);
    let skipped = text.chars().count().saturating_sub(max_characters);
    text.chars().skip(skipped).collect()
}

/// The length of the sequence that an escape begins, without the escape. `None` if its end is
/// missing.
fn sequence(after: &[u8]) -> Option<usize> {
    let is_end_of_command = |byte: &u8| (0x40..=0x7e).contains(byte);
    match after.first()? {
        // A command with parameters, such as a colour.
        b'[' => Some(2 + after.get(1..)?.iter().position(is_end_of_command)?),
        // A text for the terminal itself, such as its title.
        b']' | b'P' | b'X' | b'^' | b'_' => {
            let text = after.get(1..)?;
            let at = text.iter().position(|byte| matches!(*byte, BELL | ESCAPE))?;
            match text.get(at)? {
                &ESCAPE => text.get(at + 1).map(|_| at + 3),
                _ => Some(at + 2),
            }
        }
        // A character set, and other sequences with one more byte.
        b' ' | b'#' | b'%' | b'(' | b')' | b'*' | b'+' => after.get(1).map(|_| 2),
        _ => Some(1),
    }
}

/// The number of bytes at the end that begin a character of UTF-8 whose rest is missing.
fn begun_character(bytes: &[u8]) -> usize {
    let tail = bytes.get(bytes.len().saturating_sub(3)..).unwrap_or_default();
    let first = tail.iter().rposition(|byte| byte & 0xc0 != 0x80);
    let Some(begun) = first.and_then(|first| tail.get(first..)) else { return 0 };
    match std::str::from_utf8(begun) {
        Err(error) if error.error_len().is_none() => begun.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(bytes: &[u8]) -> String {
        plain_text(bytes).text
    }

    #[test]
    fn what_controls_a_terminal_is_left_out() {
        assert_eq!(text(b"\x1b[1;32mok\x1b[0m\r\n"), "ok\n");
        assert_eq!(text(b"\x1b]0;dom0\x07# \x1b]0;dom0\x1b\\x"), "# x");
        assert_eq!(text(b"\x1b(B\x1bc\x1b=a\x00\x07\x08\x7fb\tc"), "ab\tc");
        assert_eq!(text(b"10%\r20%\r\r\nend\r"), "10%\n20%\nend");
        assert_eq!(text(b"a\xffb\xc3\xa4"), "a\u{fffd}bä");
    }

    #[test]
    fn a_part_at_the_end_waits_for_its_rest() {
        let whole = b"a\xc3\xa4\x1b[0m";
        for (length, taken, expected) in [(1, 1, "a"), (2, 1, "a"), (3, 3, "aä"), (5, 3, "aä")] {
            let expected = PlainText { text: expected.to_owned(), taken };
            assert_eq!(plain_text(&whole[..length]), expected, "{length}");
        }
        assert_eq!(plain_text(whole).taken, whole.len());
        assert_eq!(plain_text(b"\xff").taken, 1, "no rest makes it a character");
        let endless = [b"\x1b]".as_slice(), &[b'x'; MAX_SEQUENCE]].concat();
        assert_eq!(plain_text(&endless).taken, endless.len());
    }

    #[test]
    fn the_last_text_has_whole_characters() {
        assert_eq!(last_text("aäöü".as_bytes(), 2), "öü");
        assert_eq!(last_text(b"ab", 5), "ab");
    }

    proptest! {
        #[test]
        fn no_control_character_is_left(bytes: Vec<u8>) {
            let PlainText { text, taken } = plain_text(&bytes);
            prop_assert!(taken <= bytes.len());
            let is_control = |character: char| {
                character.is_ascii_control() && !matches!(character, '\n' | '\t')
            };
            prop_assert!(!text.contains(is_control));
        }
    }
}
