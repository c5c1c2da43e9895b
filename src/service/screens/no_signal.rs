//! The picture that viewers see while the host shows no screen: “NO SIGNAL” on dark grey. It is
//! computed from its size, so that it is not kept.

use crate::domain::screen::{Region, ScreenSize};

/// The colours, as blue, green and red.
const BACKGROUND: [u8; 4] = [0x28, 0x28, 0x28, 0];
const LETTERS: [u8; 4] = [0xa0, 0xa0, 0xa0, 0];

/// The size of a letter in dots.
const LETTER_WIDTH: u16 = 5;
const LETTER_HEIGHT: u16 = 7;
/// The dots from one letter to the next.
const ADVANCE: u16 = LETTER_WIDTH + 1;

/// The number of letters of the text, the space included.
const TEXT_LENGTH: u16 = 9;

/// The letters of the text. Each byte is a row; bit 4 is its left dot.
const TEXT: [[u8; LETTER_HEIGHT as usize]; TEXT_LENGTH as usize] = [
    [0b10001, 0b11001, 0b10101, 0b10101, 0b10011, 0b10001, 0b10001], // N
    [0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110], // O
    [0; 7],
    [0b01111, 0b10000, 0b10000, 0b01110, 0b00001, 0b00001, 0b11110], // S
    [0b01110, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110], // I
    [0b01110, 0b10001, 0b10000, 0b10111, 0b10001, 0b10001, 0b01110], // G
    [0b10001, 0b11001, 0b10101, 0b10101, 0b10011, 0b10001, 0b10001], // N
    [0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001], // A
    [0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111], // L
];

/// The dots of the whole text.
const TEXT_WIDTH: u16 = TEXT_LENGTH * ADVANCE - 1;

/// Appends the pixels of a region of the picture to `out`, row by row, 4 bytes a pixel.
///
/// # Parameters
/// - `size`: the size of the whole picture. The text takes about half of its width.
pub fn copy_region(size: ScreenSize, region: Region, out: &mut Vec<u8>) {
    let scale = (size.width / 2 / TEXT_WIDTH).max(1);
    let left = size.width.saturating_sub(TEXT_WIDTH * scale) / 2;
    let top = size.height.saturating_sub(LETTER_HEIGHT * scale) / 2;
    for y in region.y..region.y.saturating_add(region.height) {
        for x in region.x..region.x.saturating_add(region.width) {
            let dot = x.checked_sub(left).zip(y.checked_sub(top));
            let is_letter = dot.is_some_and(|(x, y)| is_set(x / scale, y / scale));
            out.extend_from_slice(if is_letter { &LETTERS } else { &BACKGROUND });
        }
    }
}

/// Whether a dot of the text is set.
fn is_set(x: u16, y: u16) -> bool {
    let row = TEXT.get(usize::from(x / ADVANCE)).and_then(|letter| letter.get(usize::from(y)));
    let column = x % ADVANCE;
    row.is_some_and(|row| column < LETTER_WIDTH && row >> (LETTER_WIDTH - 1 - column) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_readable_and_in_the_middle() {
        let size = ScreenSize { width: 120, height: 13 };
        let whole = Region { x: 0, y: 0, width: size.width, height: size.height };
        let mut pixels = Vec::new();
        copy_region(size, whole, &mut pixels);
        let shown: Vec<String> = pixels
            .chunks(usize::from(size.width) * 4)
            .map(|row| {
                let dots = row.chunks(4).map(|pixel| if pixel[0] == 0xa0 { '#' } else { ' ' });
                dots.collect::<String>().trim().to_owned()
            })
            .filter(|row| !row.is_empty())
            .collect();
        assert_eq!(
            shown,
            [
                "#   #  ###         ####  ###   ###  #   #  ###  #",
                "##  # #   #       #       #   #   # ##  # #   # #",
                "# # # #   #       #       #   #     # # # #   # #",
                "# # # #   #        ###    #   # ### # # # ##### #",
                "#  ## #   #           #   #   #   # #  ## #   # #",
                "#   # #   #           #   #   #   # #   # #   # #",
                "#   #  ###        ####   ###   ###  #   # #   # #####",
            ]
        );
    }

    #[test]
    fn each_part_has_the_pixels_of_the_whole() {
        for (width, height) in [(1, 1), (37, 5), (720, 400), (2_000, 3)] {
            let size = ScreenSize { width, height };
            let pixels = |region| {
                let mut pixels = Vec::new();
                copy_region(size, region, &mut pixels);
                pixels
            };
            let whole = pixels(Region { x: 0, y: 0, width, height });
            assert_eq!(whole.len(), usize::from(width) * usize::from(height) * 4);
            let rows = (0..height).map(|y| pixels(Region { x: 0, y, width, height: 1 }));
            assert_eq!(rows.collect::<Vec<_>>().concat(), whole);
        }
    }
}
