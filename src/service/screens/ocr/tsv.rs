//! Parses the TSV that tesseract prints: one row for each page, block, paragraph, line and word,
//! with the columns level, page, block, paragraph, line, word, left, top, width, height, confidence
//! and text. Only words (level 5) matter. Pure.

use crate::domain::screen::{Region, ScreenSize};
use crate::service::screens::text_match::{ReadText, Word};

/// The level of a row that is a word.
const WORD: &str = "5";

/// The text in the output of tesseract. Rows that are malformed or outside the picture are ignored.
///
/// # Parameters
/// - `scale`: how many pixels of the picture that tesseract read make one pixel of the screen.
/// - `margin`: how many pixels of that picture lie before the first one of the screen, in each
///   direction.
/// - `size`: the size of the picture before it was scaled.
#[must_use]
pub fn parse(tsv: &str, scale: u16, margin: u16, size: ScreenSize) -> ReadText {
    let words = tsv.lines().filter_map(|row| word_of(row, scale.max(1), margin, size));
    ReadText::new(in_lines(words.collect()))
}

/// Puts words into lines, from top to bottom, and each line in order from left to right. Words
/// whose heights overlap by more than half of the lower one are in one line, however far they are
/// apart, because tesseract splits a line at wide gaps.
fn in_lines(mut words: Vec<Word>) -> Vec<Word> {
    words.sort_by_key(|word| (middle(word.region), word.region.x));
    let mut line = 0;
    let mut of_line: Option<Region> = None;
    for word in &mut words {
        if of_line.is_some_and(|first| !share_a_line(first, word.region)) {
            line += 1;
            of_line = None;
        }
        of_line.get_or_insert(word.region);
        word.line = line;
    }
    words.sort_by_key(|word| (word.line, word.region.x));
    words
}

/// Twice the vertical middle of a region.
fn middle(region: Region) -> u32 {
    2 * u32::from(region.y) + u32::from(region.height)
}

/// Whether two regions overlap in height by more than half of the lower one.
fn share_a_line(one: Region, other: Region) -> bool {
    let top = u32::from(one.y.max(other.y));
    let overlap = one.bottom().min(other.bottom()).saturating_sub(top);
    overlap * 2 > u32::from(one.height.min(other.height))
}

fn word_of(row: &str, scale: u16, margin: u16, size: ScreenSize) -> Option<Word> {
    let mut columns = row.splitn(12, '\t');
    if columns.next()? != WORD {
        return None;
    }
    let mut columns = columns.skip(5);
    let mut number = || columns.next()?.parse::<u32>().ok();
    let (left, top, width, height) = (number()?, number()?, number()?, number()?);
    let confidence: f32 = columns.next()?.parse().ok()?;
    let text = columns.next()?.trim();
    if text.is_empty() || !(0.0..=100.0).contains(&confidence) {
        return None;
    }
    let (x, width) = scaled(left, width, scale, margin, size.width);
    let (y, height) = scaled(top, height, scale, margin, size.height);
    let region = Region { x, y, width, height };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
    let confidence = confidence as u8;
    let is_visible = width > 0 && height > 0;
    is_visible.then(|| Word {
        text: text.chars().filter(|character| !character.is_control()).collect(),
        confidence,
        region,
        line: 0,
    })
}

/// The start and the length of a word in pixels of the screen.
fn scaled(start: u32, length: u32, scale: u16, margin: u16, most: u16) -> (u16, u16) {
    let (scale, margin, most_pixels) = (u32::from(scale), u32::from(margin), u32::from(most));
    let end = start.saturating_add(length).saturating_sub(margin);
    let end = end.div_ceil(scale).min(most_pixels);
    let start = (start.saturating_sub(margin) / scale).min(most_pixels);
    // Both are at most `most`.
    let end = u16::try_from(end).unwrap_or(most);
    let start = u16::try_from(start).unwrap_or(most);
    (start, end.saturating_sub(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: ScreenSize = ScreenSize { width: 720, height: 400 };

    fn word(text: &str, x: u16, y: u16, width: u16, height: u16) -> Word {
        let region = Region { x, y, width, height };
        Word { text: text.to_owned(), confidence: 90, region, line: 0 }
    }

    #[test]
    fn words_are_scaled_back() {
        let tsv = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\t\
                   height\tconf\ttext\n\
                   1\t1\t0\t0\t0\t0\t0\t0\t1440\t800\t-1\t\n\
                   4\t1\t1\t1\t1\t0\t20\t20\t200\t32\t-1\t\n\
                   5\t1\t1\t1\t1\t1\t20\t21\t61\t30\t96.1\tLog\n\
                   5\t1\t1\t1\t1\t2\t100\t20\t40\t32\t91.5\tIn\n";
        let text = parse(tsv, 2, 0, SIZE);
        assert_eq!(text.text(), "Log In");
        assert_eq!(text.words()[0].region, Region { x: 10, y: 10, width: 31, height: 16 });
        assert_eq!(text.words()[0].confidence, 96);
        let text = parse(tsv, 2, 10, SIZE);
        assert_eq!(text.words()[0].region, Region { x: 5, y: 5, width: 31, height: 16 });
    }

    #[test]
    fn a_word_in_the_margin_is_none() {
        let word = |left: u32| format!("5\t1\t1\t1\t1\t1\t{left}\t20\t10\t32\t91.5\tIn\n");
        assert!(parse(&word(0), 2, 10, SIZE).words().is_empty());
        assert!(parse(&word(1450), 2, 10, SIZE).words().is_empty());
        assert_eq!(parse(&word(2), 2, 10, SIZE).words()[0].region, Region::new(0, 5, 1, 16));
    }

    #[test]
    fn words_are_read_line_by_line() {
        let words = in_lines(vec![
            word("In", 60, 101, 20, 14),
            word("user", 10, 50, 40, 12),
            word("Log", 20, 100, 30, 18),
            word("10:42", 600, 52, 50, 10),
        ]);
        let lines: Vec<_> = words.iter().map(|word| (word.line, word.text.as_str())).collect();
        assert_eq!(lines, [(0, "user"), (0, "10:42"), (1, "Log"), (1, "In")]);
    }

    #[test]
    fn malformed_rows_are_ignored() {
        for row in [
            "",
            "5",
            "5\t1\t1\t1\t1\t1\tx\t0\t9\t9\t90\ta",
            "5\t1\t1\t1\t1\t1\t0\t0\t9\t9\tnan\ta",
            "5\t1\t1\t1\t1\t1\t0\t0\t9\t9\t-1\ta",
            "5\t1\t1\t1\t1\t1\t0\t0\t9\t9\t90\t ",
            "5\t1\t1\t1\t1\t1\t4294967295\t0\t4294967295\t9\t90\ta",
        ] {
            assert!(parse(row, 1, 0, SIZE).words().is_empty(), "{row}");
        }
    }
}
