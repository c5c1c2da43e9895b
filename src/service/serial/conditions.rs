//! The conditions of a wait for the output of a serial port, and their search in bytes that come
//! piece by piece.

use regex::bytes::Regex;
use serde::{Deserialize, Serialize};

use super::SerialPiece;
use super::ring::length;
use crate::domain::serial::SerialText;
use crate::service::screens::wait_memory::WaitSpace;

/// The bytes before the newest piece in which a match may begin.
const WINDOW: usize = 16 * 1024;

/// What a wait waits for: one of `any`, which is not empty.
#[derive(Debug)]
pub struct SerialConditions {
    pub any: Vec<SerialCondition>,
}

/// Something that a port outputs.
#[derive(Debug)]
pub struct SerialCondition {
    /// The caller's name for it.
    pub name: Option<String>,
    pub subject: Subject,
}

/// What a condition looks for.
#[derive(Debug)]
pub enum Subject {
    /// Exactly these bytes. Not empty.
    Text(Vec<u8>),
    /// A regular expression.
    Regex {
        regex: Regex,
        /// Its memory.
        _space: WaitSpace,
    },
}

/// The condition that holds, and what it found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialMatch {
    /// Its position in `any`.
    pub index: usize,
    pub name: Option<String>,
    /// The bytes that match, as text.
    pub text: String,
    /// What the groups of the regular expression matched. Empty for a text.
    pub captures: Vec<Option<String>>,
    /// The offset of the first byte that matches.
    pub offset: u64,
    /// The offset after the last byte that matches.
    pub next_offset: u64,
}

/// A search in bytes that come piece by piece. The match that ends first is found; of those that
/// end at the same byte, the one of the first condition. No match has a gap in it.
#[derive(Debug)]
pub struct SerialSearch {
    /// The last bytes.
    window: Vec<u8>,
    /// The offset of the first byte of the window.
    start: u64,
    /// Whether the search began later than with the first byte of the window. That byte is then
    /// only there so that `^` does not match after it.
    is_cut: bool,
}

impl SerialConditions {
    /// The condition that a port outputs a text.
    #[must_use]
    pub fn of_text(text: &SerialText) -> Self {
        let subject = Subject::Text(text.as_str().as_bytes().to_vec());
        Self { any: vec![SerialCondition { name: None, subject }] }
    }
}

impl SerialSearch {
    /// A search that begins with the byte at this offset.
    #[must_use]
    pub const fn new(start: u64) -> Self {
        Self { window: Vec::new(), start, is_cut: false }
    }

    /// Searches the next piece, together with the last bytes before it.
    ///
    /// # Returns
    /// The match, after which the search is over.
    pub fn take(
        &mut self,
        conditions: &SerialConditions,
        piece: &SerialPiece,
    ) -> Option<SerialMatch> {
        let (offset, bytes) = match piece {
            SerialPiece::Bytes { offset, bytes } => (*offset, bytes),
            SerialPiece::Gap { offset, .. } => {
                *self = Self::new(*offset);
                return None;
            }
        };
        if offset != self.start + length(self.window.len()) {
            *self = Self::new(offset);
        }
        let known = self.window.len();
        self.window.extend_from_slice(bytes);
        let from = usize::from(self.is_cut);
        let all = conditions.any.iter().enumerate();
        let matches = all.filter_map(|(index, condition)| {
            let found = condition.subject.find(&self.window, from, known)?;
            Some((found, index, condition))
        });
        let first = matches.min_by_key(|(found, index, _)| (found.end, *index));
        let found = first.map(|(found, index, condition)| SerialMatch {
            index,
            name: condition.name.clone(),
            text: text_of(self.window.get(found.begin..found.end).unwrap_or_default()),
            captures: found.captures,
            offset: self.start + length(found.begin),
            next_offset: self.start + length(found.end),
        });
        self.trim();
        found
    }

    /// The last bytes that were searched, at most some thousands of them.
    #[must_use]
    pub fn tail(&self) -> &[u8] {
        &self.window
    }

    fn trim(&mut self) {
        let excess = self.window.len().saturating_sub(WINDOW);
        if excess > 0 {
            self.window.drain(..excess);
            self.start += length(excess);
            self.is_cut = true;
        }
    }
}

/// Where a condition matches, as positions in the window.
struct Found {
    begin: usize,
    end: usize,
    captures: Vec<Option<String>>,
}

impl Subject {
    /// Finds the first match in the window.
    ///
    /// # Parameters
    /// - `from`: where a match may begin.
    /// - `known`: how many bytes of the window were searched before.
    fn find(&self, window: &[u8], from: usize, known: usize) -> Option<Found> {
        match self {
            Self::Text(text) => {
                if text.is_empty() {
                    return None;
                }
                let from = from.max((known + 1).saturating_sub(text.len()));
                let at = window.get(from..)?.windows(text.len()).position(|part| part == text)?;
                let begin = from + at;
                Some(Found { begin, end: begin + text.len(), captures: Vec::new() })
            }
            Self::Regex { regex, .. } => {
                let mut locations = regex.capture_locations();
                let whole = regex.captures_read_at(&mut locations, window, from)?;
                let captures = (1..locations.len()).map(|group| {
                    let (begin, end) = locations.get(group)?;
                    Some(text_of(window.get(begin..end)?))
                });
                let captures = captures.collect();
                Some(Found { begin: whole.start(), end: whole.end(), captures })
            }
        }
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::serial::GapReason;
    use crate::service::screens::wait_memory::WaitMemory;
    use crate::service::wait_conditions::compile_bytes_regex;

    fn text(text: &str) -> SerialCondition {
        SerialCondition { name: None, subject: Subject::Text(text.as_bytes().to_vec()) }
    }

    fn regex(pattern: &str) -> SerialCondition {
        SerialCondition {
            name: Some(pattern.to_owned()),
            subject: Subject::Regex {
                regex: compile_bytes_regex(pattern).unwrap().0,
                _space: WaitMemory::default().reserve(1).unwrap(),
            },
        }
    }

    /// Searches pieces that follow each other from offset 100 on.
    fn search(any: Vec<SerialCondition>, pieces: &[&[u8]]) -> Option<SerialMatch> {
        let conditions = SerialConditions { any };
        let mut search = SerialSearch::new(100);
        let mut offset = 100;
        pieces.iter().find_map(|piece| {
            let bytes = Bytes::copy_from_slice(piece);
            let piece = SerialPiece::Bytes { offset, bytes };
            offset += length(match &piece {
                SerialPiece::Bytes { bytes, .. } => bytes.len(),
                SerialPiece::Gap { .. } => 0,
            });
            search.take(&conditions, &piece)
        })
    }

    fn place(found: Option<SerialMatch>) -> Option<(usize, u64, u64)> {
        found.map(|found| (found.index, found.offset, found.next_offset))
    }

    #[test]
    fn a_text_is_found_across_pieces() {
        let pieces: &[&[u8]] = &[b"dom0 lo", b"", b"gin", b": "];
        assert_eq!(place(search(vec![text("login: ")], pieces)), Some((0, 105, 112)));
        assert_eq!(place(search(vec![text("Login")], pieces)), None);
    }

    #[test]
    fn the_match_that_ends_first_counts_and_then_the_first_condition() {
        let any = || vec![text("bcd"), text("abc"), text("c")];
        assert_eq!(place(search(any(), &[b"xabcd"])), Some((1, 101, 104)));
        assert_eq!(place(search(vec![text("c"), text("bc")], &[b"abc"])), Some((0, 102, 103)));
    }

    #[test]
    fn a_regular_expression_names_what_its_groups_matched() {
        let found =
            search(vec![regex(r"version (\d+)\.(\d+)(rc)?\r\n")], &[b"version 4", b".2\r\n"]);
        let found = found.unwrap();
        assert_eq!(found.name.as_deref(), Some(r"version (\d+)\.(\d+)(rc)?\r\n"));
        assert_eq!(found.text, "version 4.2\r\n");
        assert_eq!(found.captures, [Some("4".to_owned()), Some("2".to_owned()), None]);
        assert_eq!(search(vec![regex(r"(?-u)\xff+")], &[b"a\xff"]).unwrap().text, "\u{fffd}");
    }

    #[test]
    fn the_start_of_the_search_is_a_start_only_once() {
        assert_eq!(place(search(vec![regex("^login")], &[b"login"])), Some((0, 100, 105)));
        let long = vec![b'x'; WINDOW + 10];
        assert_eq!(place(search(vec![regex("^x")], &[b"a", &long, b"x"])), None);
        let lines = regex(r"(?m)^login");
        assert_eq!(
            place(search(vec![lines], &[&long, b"\n", b"login"])).map(|found| found.0),
            Some(0)
        );
    }

    #[test]
    fn no_match_has_a_gap_in_it() {
        let conditions = SerialConditions { any: vec![text("login")] };
        let mut search = SerialSearch::new(0);
        let bytes = |offset, bytes: &'static [u8]| SerialPiece::Bytes {
            offset,
            bytes: Bytes::from_static(bytes),
        };
        assert_eq!(search.take(&conditions, &bytes(0, b"log")), None);
        let gap = SerialPiece::Gap { offset: 3, reason: GapReason::Reconnect };
        assert_eq!(search.take(&conditions, &gap), None);
        assert_eq!(search.take(&conditions, &bytes(3, b"in login")).unwrap().offset, 6);
    }

    proptest! {
        #[test]
        fn a_text_is_found_where_it_first_is_however_the_bytes_are_cut(
            bytes in prop::collection::vec(prop_oneof![Just(b'a'), Just(b'b')], 0..60),
            needle in "[ab]{1,4}",
            cuts in prop::collection::vec(1..9_usize, 1..20),
        ) {
            let mut pieces: Vec<&[u8]> = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            let whole = String::from_utf8(bytes.clone()).unwrap();
            let expected = whole.find(&needle).map(|at| 100 + length(at));
            let found = search(vec![text(&needle)], &pieces);
            prop_assert_eq!(found.map(|found| found.offset), expected);
        }
    }
}
