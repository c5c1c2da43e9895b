//! Prepares a picture for tesseract: gray, dark on white, without frames, twice as large if it is
//! small, with a white margin, as a PNG. Pure.

use super::OcrError;
use crate::domain::screen::{GrayPicture, Picture, ScreenSize};
use crate::service::screens::png;

/// A picture that is narrower than this is scaled. tesseract reads the fonts of text modes with far
/// fewer mistakes when they are twice as large.
const SMALL_WIDTH: u16 = 1000;

/// The side of the blocks that have one background each, in pixels.
const BLOCK: usize = 8;

/// How far to the left and to the right of a block its background is looked for, in pixels. Lines
/// of text are long, so that there is more background than ink.
const AROUND: usize = 32;

/// How far above and below a block its background is looked for, in pixels. Bars are low.
const ABOVE: usize = 4;

/// A dark run of so many pixels in a row or a column is no part of a character, but the frame of a
/// button or of a window, or the edge of an area.
const LINE: usize = 40;

/// A pixel that is darker than this is a part of a line.
const INK: u8 = 200;

/// The width of the white margin, in pixels of the prepared picture. tesseract splits and loses
/// words that touch the edge, and the lines of a text mode begin there. It reads some lines worse
/// with a wider margin.
const MARGIN: u16 = 2;

/// A picture that is ready for tesseract.
pub struct PreparedPicture {
    /// A gray PNG with 8 bits a pixel.
    pub png: bytes::Bytes,
    /// How many of its pixels make one pixel of the original, in each direction.
    pub scale: u16,
    /// How many of its pixels lie before the first pixel of the original, in each direction.
    pub margin: u16,
}

/// Prepares a picture.
///
/// # Errors
/// [`OcrError::Failed`] if the picture cannot be encoded.
pub fn prepare(picture: &Picture) -> Result<PreparedPicture, OcrError> {
    let gray = without_lines(&on_white(picture.gray()));
    let (gray, scale) = if gray.size.width < SMALL_WIDTH { (doubled(&gray), 2) } else { (gray, 1) };
    let png = png::encode_gray(&with_margin(&gray));
    let png = png.map_err(|error| OcrError::Failed(error.to_string()))?;
    Ok(PreparedPicture { png, scale, margin: MARGIN })
}

/// The picture with a white background everywhere: each pixel is as dark as it differs from the
/// background around it. So light text on a dark window and dark text on a light button of the same
/// screen are both dark on white.
fn on_white(gray: GrayPicture) -> GrayPicture {
    let GrayPicture { size, pixels } = gray;
    let (width, height) = (usize::from(size.width), usize::from(size.height));
    let mut out = vec![u8::MAX; pixels.len()];
    let rows = |top: usize, bottom: usize, left: usize, right: usize| {
        (top..bottom).map(move |y| y * width + left..y * width + right)
    };
    for top in (0..height).step_by(BLOCK) {
        for left in (0..width).step_by(BLOCK) {
            let (bottom, right) = ((top + BLOCK).min(height), (left + BLOCK).min(width));
            let mut counts = [0_u32; 256];
            let around = rows(
                top.saturating_sub(ABOVE),
                (bottom + ABOVE).min(height),
                left.saturating_sub(AROUND),
                (right + AROUND).min(width),
            );
            for value in around.filter_map(|row| pixels.get(row)).flatten() {
                counts[usize::from(*value)] += 1;
            }
            let darkness = darkness_on(most_frequent(&counts));
            for row in rows(top, bottom, left, right) {
                let (Some(from), Some(to)) = (pixels.get(row.clone()), out.get_mut(row)) else {
                    continue;
                };
                for (from, to) in from.iter().zip(to) {
                    *to = u8::MAX - darkness[usize::from(*from)];
                }
            }
        }
    }
    GrayPicture { size, pixels: out }
}

/// The value that most pixels have.
fn most_frequent(counts: &[u32; 256]) -> u8 {
    let most = (0..=u8::MAX).zip(counts).max_by_key(|(_, count)| **count);
    most.map_or(u8::MAX, |(value, _)| value)
}

/// How dark each value is drawn if this is the background: 0 for the background itself, 255 for the
/// value that differs most from it.
fn darkness_on(background: u8) -> [u8; 256] {
    let most = u32::from(background.max(u8::MAX - background));
    let mut darkness = [0; 256];
    for (value, drawn) in (0..=u8::MAX).zip(&mut darkness) {
        let scaled = u32::from(value.abs_diff(background)) * 255 / most;
        *drawn = u8::try_from(scaled).unwrap_or(u8::MAX);
    }
    darkness
}

/// The picture without long lines, because tesseract takes a framed text for a drawing.
fn without_lines(gray: &GrayPicture) -> GrayPicture {
    let (width, height) = (usize::from(gray.size.width), usize::from(gray.size.height));
    let mut pixels = gray.pixels.clone();
    let mut erase = |line: &mut dyn Iterator<Item = usize>| {
        let mut run = Vec::with_capacity(LINE);
        for index in line {
            if gray.pixels.get(index).is_some_and(|value| *value < INK) {
                run.push(index);
            } else {
                erase_run(&mut pixels, &mut run);
            }
        }
        erase_run(&mut pixels, &mut run);
    };
    for y in 0..height {
        erase(&mut (y * width..(y + 1) * width));
    }
    for x in 0..width {
        erase(&mut (x..width * height).step_by(width));
    }
    GrayPicture { size: gray.size, pixels }
}

/// Makes a run of dark pixels white if it is a line.
fn erase_run(pixels: &mut [u8], run: &mut Vec<usize>) {
    let is_line = run.len() >= LINE;
    for index in run.drain(..) {
        if let Some(pixel) = pixels.get_mut(index).filter(|_| is_line) {
            *pixel = u8::MAX;
        }
    }
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

/// Doubles the length of each row by a Lanczos filter with three lobes. The new pixels lie a
/// quarter of a pixel to the left and to the right of each old one.
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

/// The picture with a white margin on each side.
fn with_margin(gray: &GrayPicture) -> GrayPicture {
    let margin = usize::from(MARGIN);
    let size = ScreenSize {
        width: gray.size.width.saturating_add(2 * MARGIN),
        height: gray.size.height.saturating_add(2 * MARGIN),
    };
    let above = usize::from(size.width) * margin;
    let mut pixels = vec![u8::MAX; above];
    for row in gray.pixels.chunks_exact(usize::from(gray.size.width).max(1)) {
        pixels.resize(pixels.len() + margin, u8::MAX);
        pixels.extend_from_slice(row);
        pixels.resize(pixels.len() + margin, u8::MAX);
    }
    pixels.resize(pixels.len() + above, u8::MAX);
    GrayPicture { size, pixels }
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
    fn small_pictures_become_twice_as_large() {
        let prepared = prepare(&picture(72, 40, 10)).unwrap();
        let (width, height, pixels) = decoded(&prepared.png);
        assert_eq!((width, height, prepared.scale, prepared.margin), (148, 84, 2, 2));
        assert!(pixels.iter().all(|pixel| *pixel == 255), "a flat picture has no text");
        let prepared = prepare(&picture(1280, 16, 200)).unwrap();
        let (width, height, pixels) = decoded(&prepared.png);
        assert_eq!((width, height, prepared.scale, prepared.margin), (1284, 20, 1, 2));
        assert!(pixels.iter().all(|pixel| *pixel == 255));
    }

    #[test]
    fn a_picture_keeps_its_pixels_within_the_margin() {
        let size = ScreenSize { width: 3, height: 2 };
        let framed = with_margin(&GrayPicture { size, pixels: vec![1, 2, 3, 4, 5, 6] });
        assert_eq!(framed.size, ScreenSize { width: 7, height: 6 });
        let rows: Vec<&[u8]> = framed.pixels.chunks(7).collect();
        let white: &[u8] = &[255; 7];
        let (first, second) = ([255_u8, 255, 1, 2, 3, 255, 255], [255_u8, 255, 4, 5, 6, 255, 255]);
        assert_eq!(rows, [white, white, &first, &second, white, white]);
    }

    #[test]
    fn text_is_dark_on_white_whatever_its_colours() {
        let size = ScreenSize { width: 200, height: 64 };
        let mut pixels = vec![30; 200 * 64];
        // The right half is light. Each half has a small mark of the other colour.
        for (index, pixel) in pixels.iter_mut().enumerate() {
            let (x, y) = (index % 200, index / 200);
            let is_mark =
                (30..34).contains(&y) && ((20..24).contains(&x) || (170..174).contains(&x));
            *pixel = if (x < 100) == is_mark { 230 } else { 30 };
        }
        let drawn = on_white(GrayPicture { size, pixels });
        let at = |x: usize, y: usize| drawn.pixels[y * 200 + x];
        assert_eq!((at(10, 30), at(180, 30)), (255, 255), "both backgrounds");
        assert!(at(21, 31) < 80 && at(171, 31) < 80, "both marks");
    }

    #[test]
    fn frames_are_erased_and_characters_are_not() {
        let size = ScreenSize { width: 100, height: 60 };
        let mut pixels = vec![255; 100 * 60];
        for x in 10..90 {
            pixels[5 * 100 + x] = 0;
        }
        for y in 5..55 {
            pixels[y * 100 + 10] = 0;
        }
        for y in 20..40 {
            pixels[y * 100 + 50] = 0;
        }
        let drawn = without_lines(&GrayPicture { size, pixels });
        let dark = drawn.pixels.iter().map(|value| usize::from(*value == 0)).sum::<usize>();
        assert_eq!(dark, 20, "only the stroke of 20 pixels is left");
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
