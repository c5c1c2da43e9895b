//! Finds a text in what OCR read from a screen. Case, white space and the usual errors of OCR do
//! not matter: both sides are folded with one table.

use std::ops::Range;

use regex::Regex;

use crate::domain::screen::Region;

/// A word that OCR read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    /// How sure OCR is: 0 to 100.
    pub confidence: u8,
    /// The box of the word.
    pub region: Region,
    /// The line of the word. Words of one line have the same number.
    pub line: usize,
}

/// Everything that OCR read from a picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadText {
    words: Vec<Word>,
    /// The words with spaces between them, and a line feed between lines.
    text: String,
    /// The place of each word in `text`.
    places: Vec<Range<usize>>,
    folded: Folded,
}

/// A text that a caller looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needle {
    /// The text as the caller wrote it.
    text: String,
    folded: String,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextMatch {
    /// The text as OCR read it.
    pub text: String,
    /// The box around the words that have a part of it.
    pub region: Region,
}

/// Characters that OCR reads as each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confusion {
    /// The characters, in lower case.
    pub characters: &'static str,
    /// What all of them are compared as.
    pub folded: &'static str,
}

/// The published table of confusions. No two digits are compared as the same, so that `16:00` is
/// never `18:00`.
pub const CONFUSIONS: &[Confusion] = &[
    confusion("0@", "o"),
    confusion("1i|!", "l"),
    confusion("2", "z"),
    confusion("5$§", "s"),
    confusion("8", "b"),
    confusion("9", "g"),
    confusion("/", "7"),
    confusion("(©", "c"),
    confusion("w", "u"),
    confusion("m", "rn"),
    confusion("_~–—−", "-"),
    confusion(",·", "."),
    confusion(";", ":"),
    confusion("`´‘’", "'"),
    confusion("\"“”„", "''"),
    confusion("×", "x"),
    confusion("…", "..."),
    confusion("ﬁﬂ", "fl"),
];

const fn confusion(characters: &'static str, folded: &'static str) -> Confusion {
    Confusion { characters, folded }
}

/// The text as it is compared: in lower case, with one space for all white space in a row, without
/// white space at its ends, and with the characters of [`CONFUSIONS`] replaced.
#[must_use]
pub fn fold(text: &str) -> String {
    let mut folded = Folded::new(text).text;
    folded.truncate(folded.trim_end().len());
    folded
}

impl ReadText {
    /// # Parameters
    /// - `words`: line by line, and in each line from left to right.
    #[must_use]
    pub fn new(words: Vec<Word>) -> Self {
        let mut text = String::new();
        let mut places = Vec::with_capacity(words.len());
        let mut line = None;
        for word in &words {
            if let Some(line) = line {
                text.push(if line == word.line { ' ' } else { '\n' });
            }
            line = Some(word.line);
            let start = text.len();
            text.push_str(&word.text);
            places.push(start..text.len());
        }
        let folded = Folded::new(&text);
        Self { words, text, places, folded }
    }

    /// The lines from top to bottom with a line feed between them.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    #[must_use]
    pub fn words(&self) -> &[Word] {
        &self.words
    }

    /// The first place of a text. It may begin and end within words, and span lines.
    #[must_use]
    pub fn find(&self, needle: &Needle) -> Option<TextMatch> {
        let start = self.folded.text.find(&needle.folded)?;
        self.found(self.folded.origin(start..start + needle.folded.len())?)
    }

    /// The first match of a regular expression that has at least one character. Nothing is folded.
    #[must_use]
    pub fn find_regex(&self, regex: &Regex) -> Option<TextMatch> {
        let found = regex.find_iter(&self.text).find(|found| !found.is_empty())?;
        self.found(found.range())
    }

    /// A part of the text with the box of its words. `None` if it has no part of a word.
    fn found(&self, part: Range<usize>) -> Option<TextMatch> {
        let words = self.words.iter().zip(&self.places);
        let of_part = words.filter(|(_, place)| place.start < part.end && part.start < place.end);
        let region = of_part.map(|(word, _)| word.region).reduce(Region::union)?;
        Some(TextMatch { text: self.text.get(part)?.to_owned(), region })
    }
}

impl Needle {
    /// A text to look for. `None` if it has white space only.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let folded = fold(text);
        (!folded.is_empty()).then(|| Self { text: text.to_owned(), folded })
    }

    /// The text as the caller wrote it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// A folded text, and where its parts come from. White space at the end is one space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Folded {
    text: String,
    /// For each byte of `text`: the place of its character in the original text.
    origins: Vec<Range<usize>>,
}

impl Folded {
    fn new(text: &str) -> Self {
        let mut folded = Self::default();
        for (start, character) in text.char_indices() {
            let origin = start..start + character.len_utf8();
            if character.is_whitespace() {
                if !folded.text.is_empty() && !folded.text.ends_with(' ') {
                    folded.push(" ", &origin);
                }
                continue;
            }
            for lower in character.to_lowercase() {
                let same = CONFUSIONS.iter().find(|same| same.characters.contains(lower));
                let plain = lower.encode_utf8(&mut [0; 4]).to_owned();
                folded.push(same.map_or(&plain, |same| same.folded), &origin);
            }
        }
        folded
    }

    fn push(&mut self, text: &str, origin: &Range<usize>) {
        self.text.push_str(text);
        self.origins.resize(self.text.len(), origin.clone());
    }

    /// Where a part of the folded text comes from.
    fn origin(&self, part: Range<usize>) -> Option<Range<usize>> {
        let last = part.end.checked_sub(1)?;
        Some(self.origins.get(part.start)?.start..self.origins.get(last)?.end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// Lines of words. Each word is 10 by 8 pixels at a column and a line.
    fn read(lines: &[&str]) -> ReadText {
        let words = lines.iter().enumerate().flat_map(|(line, text)| {
            text.split_whitespace().enumerate().map(move |(column, text)| {
                let [x, y] = [column * 20, line * 10].map(|at| u16::try_from(at).unwrap());
                let region = Region::new(x, y, 10, 8);
                Word { text: text.to_owned(), confidence: 90, region, line }
            })
        });
        ReadText::new(words.collect())
    }

    fn find(read: &ReadText, needle: &str) -> Option<TextMatch> {
        read.find(&Needle::new(needle).unwrap())
    }

    #[test]
    fn a_text_is_found_with_the_box_of_its_words() {
        let read = read(&["Qubes OS", "user name: L0g 1n", "Applications"]);
        assert_eq!(read.text(), "Qubes OS\nuser name: L0g 1n\nApplications");
        let found = find(&read, "log in").unwrap();
        assert_eq!(found.text, "L0g 1n");
        assert_eq!(found.region, Region::new(40, 10, 30, 8));
        let over_lines = find(&read, "  OS\n\nUSER ").unwrap();
        assert_eq!(
            (over_lines.text.as_str(), over_lines.region),
            ("OS\nuser", Region::new(0, 0, 30, 18))
        );
        let part_of_a_word = find(&read, "plic").unwrap();
        assert_eq!((part_of_a_word.text.as_str(), part_of_a_word.region.y), ("plic", 20));
        assert_eq!(find(&read, "login"), None, "white space counts");
        assert_eq!(find(&read, "terminal"), None);
    }

    #[test]
    fn the_errors_of_ocr_do_not_matter() {
        for (shown, read_as) in [
            ("[user@dom0 ~]$", "[user0dom@ -]5"),
            ("Hello-otter_42", "HeIIo_0tter-4z"),
            ("(c) 2021", "Cc) 202l"),
            ("/usr/bin", "7usr7bin"),
            ("Terminal", "Terrninal"),
            ("window", "uindou"),
            ("\"quoted\"", "“quoted''"),
            ("finished", "ﬁnished"),
        ] {
            let found = find(&read(&["x", read_as]), shown).map(|found| found.text);
            assert_eq!(found.as_deref(), Some(read_as), "{shown}");
        }
    }

    #[test]
    fn a_character_that_is_compared_as_two_is_found_whole() {
        let found = find(&read(&["corner mm"]), "m").unwrap();
        assert_eq!(found.text, "rn");
        assert_eq!(find(&read(&["…"]), ".").unwrap().text, "…");
    }

    #[test]
    fn a_regular_expression_sees_the_text_as_it_was_read() {
        let read = read(&["load 0.42", "user"]);
        let find = |pattern: &str| read.find_regex(&Regex::new(pattern).unwrap());
        assert_eq!(find(r"\d+\.\d+\nu").unwrap().region, Region::new(0, 0, 30, 18));
        assert_eq!(find("LOAD"), None);
        assert_eq!(find("x*").map(|found| found.text), None, "an empty match is none");
        assert_eq!(find("z?u").unwrap().text, "u");
        assert_eq!(find(" ").map(|found| found.text), None, "a space is no part of a word");
    }

    #[test]
    fn no_needle_is_white_space() {
        for text in ["", " ", "\n\t "] {
            assert_eq!(Needle::new(text), None);
        }
        assert_eq!(ReadText::default().find(&Needle::new("a").unwrap()), None);
    }

    #[test]
    fn no_two_digits_are_compared_as_the_same() {
        let digits: HashSet<String> = ('0'..='9').map(|digit| fold(&digit.to_string())).collect();
        assert_eq!(digits.len(), 10);
        let mut known = HashSet::new();
        for Confusion { characters, folded } in CONFUSIONS {
            assert!(characters.chars().all(|character| known.insert(character)), "{characters}");
            assert_eq!(fold(folded), *folded, "a folded text stays");
        }
    }

    #[test]
    fn the_guide_has_the_table() {
        let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("GUIDE.md");
        let guide = std::fs::read_to_string(guide).unwrap();
        for Confusion { characters, folded } in CONFUSIONS {
            let cells = characters.chars().map(|character| match character {
                '`' => "`` ` ``".to_owned(),
                '|' => r"`\|`".to_owned(),
                other => format!("`{other}`"),
            });
            let row = format!("| {} | `{folded}` |", cells.collect::<Vec<_>>().join(" "));
            assert!(guide.contains(&row), "GUIDE.md lacks {row}");
        }
    }

    proptest! {
        #[test]
        fn every_part_of_the_text_is_found(
            words in prop::collection::vec("[a-zA-Z0-9@(/_|~,;\"ßéİǅﬁ…]{1,6}", 1..8),
            (from, to) in any::<(prop::sample::Index, prop::sample::Index)>(),
        ) {
            let read = read(&[&words.join(" ")]);
            let places: Vec<usize> = read.text().char_indices().map(|(at, _)| at).collect();
            let (from, to) = (*from.get(&places), *to.get(&places));
            let part = read.text()[from.min(to)..from.max(to)].to_owned();
            if let Some(needle) = Needle::new(&part) {
                let found = read.find(&needle).unwrap();
                prop_assert!(fold(&found.text).contains(fold(&part).as_str()));
            }
        }

        #[test]
        fn folding_twice_changes_nothing(text in "\\PC{0,40}") {
            prop_assert_eq!(fold(&fold(&text)), fold(&text));
        }
    }
}
