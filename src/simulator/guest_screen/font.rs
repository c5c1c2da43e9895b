//! The fonts of guests, from the crate `spleen-font`: bitmaps of fixed width for OCR programs.

use spleen_font::PSF2Font;

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
        let rows = self.find(character).or_else(|| self.find('?')).unwrap_or_default();
        rows.into_iter().map(Vec::into_iter)
    }

    /// The rows of a character. `None` if the font does not have it.
    fn find(self, character: char) -> Option<Vec<Vec<bool>>> {
        let data = match self {
            Self::Small => return find_in_psf1(spleen_font::FONT_8X16, character),
            Self::Medium => spleen_font::FONT_12X24,
            Self::Large => spleen_font::FONT_16X32,
        };
        let mut text = [0; 4];
        let mut font = PSF2Font::new(data).ok()?;
        let glyph = font.glyph_for_utf8(character.encode_utf8(&mut text).as_bytes())?;
        Some(glyph.map(Iterator::collect).collect())
    }
}

/// The rows of an ASCII character in a font of the format PSF 1: four bytes of header, of which the
/// last one is the height, then the characters, one byte a row.
fn find_in_psf1(data: &[u8], character: char) -> Option<Vec<Vec<bool>>> {
    let (header, glyphs) = data.split_at_checked(4)?;
    let height = usize::from(*header.last()?);
    let index =
        Some(character).filter(char::is_ascii).and_then(|ascii| u8::try_from(ascii).ok())?;
    let rows = glyphs.chunks_exact(height.max(1)).nth(usize::from(index))?;
    let pixels = |row: &u8| (0..8).map(|bit| row & (0x80 >> bit) != 0).collect();
    Some(rows.iter().map(pixels).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_font_has_the_shapes_of_letters() {
        let drawn: Vec<String> = Font::Small
            .glyph('T')
            .map(|row| row.map(|is_ink| if is_ink { '#' } else { '.' }).collect())
            .collect();
        assert_eq!(drawn.len(), 16);
        let inked: Vec<&String> = drawn.iter().filter(|row| row.contains('#')).collect();
        assert!(inked.len() >= 9, "{drawn:#?}");
        assert!(
            inked[0].matches('#').count() > 4 && inked[4].matches('#').count() <= 3,
            "{drawn:#?}"
        );
    }

    #[test]
    fn characters_of_the_keyboards_have_different_shapes() {
        let shape =
            |font: Font, character| -> Vec<bool> { font.glyph(character).flatten().collect() };
        for (font, more) in
            [(Font::Small, ""), (Font::Medium, "äöüÄÖÜß§°€"), (Font::Large, "äöüÄÖÜß§°€")]
        {
            let pixels = usize::try_from(font.width() * font.height()).unwrap();
            for character in ('!'..='~').chain(more.chars()) {
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
