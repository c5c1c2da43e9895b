//! Prepares a picture for tesseract: gray, twice as large if it is small, dark on light, as a PNG.
//! Pure.

use super::OcrError;
use crate::domain::screen::{GrayPicture, Picture, ScreenSize};
use crate::service::screens::png;

/// A picture that is narrower than this is scaled. tesseract reads the fonts of text modes with far
/// fewer mistakes when they are twice as large.
const SMALL_WIDTH: u16 = 1000;

/// A picture whose mean brightness is lower than this is inverted.
const DARK: u8 = 128;

/// A picture that is ready for tesseract.
pub struct PreparedPicture {
    /// A gray PNG with 8 bits a pixel.
    pub png: bytes::Bytes,
    /// How many of its pixels make one pixel of the original, in each direction.
    pub scale: u16,
}

/// Prepares a picture.
///
/// # Errors
/// [`OcrError::Failed`] if the picture cannot be encoded.
pub fn prepare(picture: &Picture) -> Result<PreparedPicture, OcrError> {
    let gray = picture.gray();
    let gray = if gray.mean() < DARK { gray.inverted() } else { gray };
    let (gray, scale) = if gray.size.width < SMALL_WIDTH { (doubled(&gray), 2) } else { (gray, 1) };
    let png = png::encode_gray(&gray).map_err(|error| OcrError::Failed(error.to_string()))?;
    Ok(PreparedPicture { png, scale })
}

/// The picture with twice the width and twice the height.
fn doubled(gray: &GrayPicture) -> GrayPicture {
    let (width, height) = (usize::from(gray.size.width), usize::from(gray.size.height));
    let wide = double_rows(&gray.pixels, width);
    let columns = transpose(&wide, 2 * width);
    let pixels = transpose(&double_rows(&columns, height), 2 * height);
    let size = ScreenSize {
        width: gray.size.width.saturating_mul(2),
        height: gray.size.height.saturating_mul(2),
    };
    GrayPicture { size, pixels }
}

/// Doubles the length of each row by a Lanczos filter with three lobes. The new pixels lie a quarter
/// of a pixel to the left and to the right of each old one.
fn double_rows(gray: &[u8], width: usize) -> Vec<u8> {
    // The weights for a quarter of a pixel to the right, in 1/1024, for the pixels from -2 to +3.
    // Their mirror image serves the other side.
    const WEIGHTS: [i32; 6] = [31, -136, 913, 278, -70, 8];
    let mut out = Vec::with_capacity(gray.len() * 2);
    for row in gray.chunks_exact(width.max(1)) {
        let last = row.len().saturating_sub(1);
        let at = |index: usize, offset: isize| {
            let index = index.saturating_add_signed(offset).min(last);
            i32::from(row.get(index).copied().unwrap_or_default())
        };
        let clamped = |sum: i32| u8::try_from(((sum + 512) >> 10).clamp(0, 255)).unwrap_or(0);
        for index in 0..row.len() {
            let (mut left, mut right) = (0, 0);
            for (weight, offset) in WEIGHTS.into_iter().zip(-2..) {
                right += weight * at(index, offset);
                left += weight * at(index, -offset);
            }
            out.extend([clamped(left), clamped(right)]);
        }
    }
    out
}

/// Swaps rows and columns.
fn transpose(gray: &[u8], width: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(gray.len());
    for x in 0..width {
        out.extend(gray.iter().skip(x).step_by(width.max(1)));
    }
    out
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn picture(width: u16, height: u16, value: u8) -> Picture {
        let count = usize::from(width) * usize::from(height);
        let pixels = [value, value, value, 0].repeat(count);
        Picture { size: ScreenSize { width, height }, pixels: Bytes::from(pixels) }
    }

    fn decoded(png: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = ::png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width, info.height, pixels)
    }

    #[test]
    fn small_and_dark_pictures_become_large_and_light() {
        let prepared = prepare(&picture(72, 40, 10)).unwrap();
        let (width, height, pixels) = decoded(&prepared.png);
        assert_eq!((width, height, prepared.scale), (144, 80, 2));
        assert!(pixels.iter().all(|pixel| *pixel > 240), "a flat picture stays flat");
    }

    #[test]
    fn large_and_light_pictures_keep_their_size_and_colours() {
        let prepared = prepare(&picture(1280, 16, 200)).unwrap();
        let (width, height, pixels) = decoded(&prepared.png);
        assert_eq!((width, height, prepared.scale), (1280, 16, 1));
        assert!(pixels.iter().all(|pixel| pixel.abs_diff(200) < 2));
    }

    #[test]
    fn an_edge_stays_where_it_is() {
        let row = [0, 0, 0, 0, 255, 255, 255, 255];
        let doubled = double_rows(&row, row.len());
        assert!(doubled[..7].iter().all(|value| *value < 60), "{doubled:?}");
        assert!(doubled[9..].iter().all(|value| *value > 195), "{doubled:?}");
    }

    #[test]
    fn rows_and_columns_are_swapped() {
        assert_eq!(transpose(&[1, 2, 3, 4, 5, 6], 3), [1, 4, 2, 5, 3, 6]);
    }
}
