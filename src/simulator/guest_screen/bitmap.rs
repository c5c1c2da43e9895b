//! The pixels of a screen, and the few shapes that guests draw: filled areas and texts.
//!
//! A pixel is four bytes in the order blue, green, red, 0. This is the pixel format that the
//! console of a host proposes to its clients.

use super::font::Font;

/// A colour, as a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour([u8; 4]);

impl Colour {
    pub const BLACK: Self = Self::rgb(0, 0, 0);
    pub const WHITE: Self = Self::rgb(0xff, 0xff, 0xff);

    pub const fn rgb(red: u8, green: u8, blue: u8) -> Self {
        Self([blue, green, red, 0])
    }
}

/// A rectangle in pixels. It may lie partly or wholly outside of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    pub x: i32,
    pub y: i32,
    pub width: i32,
    pub height: i32,
}

impl Area {
    pub const fn new(x: i32, y: i32, width: i32, height: i32) -> Self {
        Self { x, y, width, height }
    }

    pub const fn contains(self, x: i32, y: i32) -> bool {
        x >= self.x && y >= self.y && x < self.x + self.width && y < self.y + self.height
    }
}

/// The pixels of a whole screen, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    width: u16,
    height: u16,
    pixels: Vec<u8>,
}

impl Bitmap {
    /// The size of a pixel in bytes.
    pub const PIXEL: usize = 4;

    /// A screen of one colour.
    pub fn new(width: u16, height: u16, colour: Colour) -> Self {
        let pixels = colour.0.repeat(usize::from(width) * usize::from(height));
        Self { width, height, pixels }
    }

    pub const fn width(&self) -> u16 {
        self.width
    }

    pub const fn height(&self) -> u16 {
        self.height
    }

    /// `width` pixels of the row `y` from column `x` on. Empty if they are not all on the screen.
    pub fn row(&self, x: u16, y: u16, width: u16) -> &[u8] {
        if y >= self.height || u32::from(x) + u32::from(width) > u32::from(self.width) {
            return &[];
        }
        let start = self.offset(usize::from(x), usize::from(y));
        self.pixels.get(start..start + usize::from(width) * Self::PIXEL).unwrap_or_default()
    }

    /// The pixels of all rows, from top to bottom.
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }

    /// Fills the part of an area that is on the screen.
    pub fn fill(&mut self, area: Area, colour: Colour) {
        let columns = clip(area.x, area.width, self.width);
        let rows = clip(area.y, area.height, self.height);
        if columns.is_empty() {
            return;
        }
        // Copies of one row are much faster than single pixels in a build without optimization.
        let filled = colour.0.repeat(columns.len());
        for y in rows {
            let start = self.offset(columns.start, y);
            if let Some(row) = self.pixels.get_mut(start..start + filled.len()) {
                row.copy_from_slice(&filled);
            }
        }
    }

    /// Draws a text. `advance` is the distance from one character to the next. The parts outside of
    /// the screen are left out.
    pub fn text(&mut self, (x, y): (i32, i32), font: Font, advance: i32, ink: Colour, text: &str) {
        let mut left = x;
        for character in text.chars() {
            for (top, row) in (y..).zip(font.glyph(character)) {
                for (column, is_set) in (left..).zip(row) {
                    if is_set {
                        self.dot(column, top, ink);
                    }
                }
            }
            left += advance;
        }
    }

    fn dot(&mut self, x: i32, y: i32, colour: Colour) {
        let (Ok(x), Ok(y)) = (u16::try_from(x), u16::try_from(y)) else { return };
        if x < self.width && y < self.height {
            let start = self.offset(usize::from(x), usize::from(y));
            if let Some(pixel) = self.pixels.get_mut(start..start + Self::PIXEL) {
                pixel.copy_from_slice(&colour.0);
            }
        }
    }

    fn offset(&self, x: usize, y: usize) -> usize {
        (y * usize::from(self.width) + x) * Self::PIXEL
    }
}

/// The part of `start..start + length` that is below `end`.
fn clip(start: i32, length: i32, end: u16) -> std::ops::Range<usize> {
    let end = i64::from(start).saturating_add(i64::from(length)).clamp(0, i64::from(end));
    let start = i64::from(start).clamp(0, end);
    let index = |at| usize::try_from(at).unwrap_or_default();
    index(start)..index(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_clipped_to_the_screen() {
        let mut bitmap = Bitmap::new(4, 3, Colour::BLACK);
        bitmap.fill(Area::new(-5, 1, 7, 100), Colour::WHITE);
        bitmap.fill(Area::new(10, 10, 5, 5), Colour::WHITE);
        bitmap.fill(Area::new(3, 0, -2, 5), Colour::WHITE);
        let white = |x, y| bitmap.row(x, y, 1)[0] == 0xff;
        assert!(!white(0, 0) && white(0, 1) && white(1, 2) && !white(2, 2));
        bitmap.text((2, -3), Font::Small, 8, Colour::WHITE, "M");
        assert_eq!(bitmap.row(0, 0, 5), [0; 0]);
        assert_eq!(bitmap.row(0, 3, 1), [0; 0]);
    }
}
