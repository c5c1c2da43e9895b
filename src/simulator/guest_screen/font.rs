//! The fonts of guests, from the crate `spleen-font`: bitmaps of fixed width for OCR programs.

use spleen_font::{Glyph, PSF2Font};

/// A font by its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Font {
    /// 8 × 16 pixels, as in text modes.
    Small,
    /// 12 × 24 pixels.
    Medium,
    /// 16 × 32 pixels.
    Large,
}

impl Font {
    /// The width of a character in pixels.
    pub const fn width(self) -> i32 {
        match self {
            Self::Small => 8,
            Self::Medium => 12,
            Self::Large => 16,
        }
    }

    /// The height of a character in pixels.
    pub const fn height(self) -> i32 {
        2 * self.width()
    }

    /// The rows of a character, each with one boolean per pixel. A character that the font does not
    /// have is drawn as a question mark.
    pub fn glyph(self, character: char) -> impl Iterator<Item = impl Iterator<Item = bool>> {
        self.find(character).or_else(|| self.find('?')).into_iter().flatten()
    }

    fn find(self, character: char) -> Option<Glyph<'static>> {
        let data = match self {
            Self::Small => spleen_font::FONT_8X16,
            Self::Medium => spleen_font::FONT_12X24,
            Self::Large => spleen_font::FONT_16X32,
        };
        let mut text = [0; 4];
        PSF2Font::new(data).ok()?.glyph_for_utf8(character.encode_utf8(&mut text).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_of_the_keyboards_have_different_shapes() {
        let shape =
            |font: Font, character| -> Vec<bool> { font.glyph(character).flatten().collect() };
        for font in [Font::Small, Font::Medium, Font::Large] {
            let pixels = usize::try_from(font.width() * font.height()).unwrap();
            for character in ('!'..='~').chain("äöüÄÖÜß§°€".chars()) {
                let drawn = shape(font, character);
                assert_eq!(drawn.len(), pixels, "{character}");
                assert!(drawn.contains(&true), "{character}");
                if character != '?' {
                    assert_ne!(drawn, shape(font, '?'), "{character} in {font:?}");
                }
            }
        }
    }
}
