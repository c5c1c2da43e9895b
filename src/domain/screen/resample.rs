//! Makes a picture smaller: each new pixel has the mean colour of what it covers.

use std::ops::Range;

use super::geometry::ScreenSize;

/// The pixels that a new pixel covers, in one direction.
struct Cover {
    pixels: Range<usize>,
    /// The part of each of these pixels that is covered. The sum of all parts is the old length.
    parts: Vec<u32>,
}

/// The picture with a size that is not larger in either direction.
///
/// # Parameters
/// - `pixels`: the rows of the picture, 4 bytes for each pixel, without padding.
/// - `from`, `to`: the sizes; no side of them is 0.
pub fn shrink(pixels: &[u8], from: ScreenSize, to: ScreenSize) -> Vec<u8> {
    let row_bytes = usize::from(from.width) * 4;
    let columns = covers(from.width, to.width);
    let mut narrow = Vec::with_capacity(columns.len() * 4 * usize::from(from.height));
    for row in pixels.chunks_exact(row_bytes) {
        let row = row.as_chunks::<4>().0;
        for Cover { pixels, parts } in &columns {
            let mut sums = [0; 4];
            let covered = row.get(pixels.clone()).unwrap_or_default();
            covered.iter().zip(parts).for_each(|(pixel, part)| add(&mut sums, pixel, *part));
            narrow.extend(sums.map(|sum| mean(sum, from.width)));
        }
    }
    let row_bytes = columns.len() * 4;
    let mut result = Vec::with_capacity(row_bytes * usize::from(to.height));
    for Cover { pixels, parts } in covers(from.height, to.height) {
        let mut sums = vec![0; row_bytes];
        let covered = narrow.chunks_exact(row_bytes).skip(pixels.start);
        covered.zip(parts).for_each(|(row, part)| add(&mut sums, row, part));
        result.extend(sums.into_iter().map(|sum| mean(sum, from.height)));
    }
    result
}

fn add(sums: &mut [u32], values: &[u8], part: u32) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += u32::from(*value) * part;
    }
}

fn mean(sum: u32, length: u16) -> u8 {
    let length = u32::from(length).max(1);
    u8::try_from((sum + length / 2) / length).unwrap_or(u8::MAX)
}

/// What each of `to` new pixels covers in a line of `from` pixels.
fn covers(from: u16, to: u16) -> Vec<Cover> {
    // In these units a pixel has the length `to`, and a new pixel the length `from`.
    let (from, to) = (u32::from(from), u32::from(to));
    let cover = |at: u32| {
        let (left, right) = (at * from, (at + 1) * from);
        let pixels = left / to..right.div_ceil(to);
        let part = |pixel: u32| right.min((pixel + 1) * to) - left.max(pixel * to);
        let parts = pixels.clone().map(part).collect();
        Cover { pixels: pixels.start as usize..pixels.end as usize, parts }
    };
    (0..to).map(cover).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_size_has_the_means() {
        let pixels = [0, 100, 10, 20, 200, 100, 30, 40].map(|value| [value, 7, 255, 0]).concat();
        let half = shrink(&pixels, ScreenSize::new(4, 2), ScreenSize::new(2, 1));
        assert_eq!(half, [[100, 7, 255, 0], [25, 7, 255, 0]].concat());
    }

    #[test]
    fn a_pixel_counts_by_the_part_that_is_covered() {
        let pixels = [30, 60, 90].map(|value| [value, 0, 0, 0]).concat();
        let two = shrink(&pixels, ScreenSize::new(3, 1), ScreenSize::new(2, 1));
        assert_eq!(two, [[40, 0, 0, 0], [80, 0, 0, 0]].concat());
    }

    #[test]
    fn the_parts_add_up_to_the_length() {
        for (from, to) in [(1, 1), (3, 2), (1280, 311), (8192, 1), (8192, 8191)] {
            for Cover { pixels, parts } in covers(from, to) {
                assert_eq!(parts.iter().sum::<u32>(), u32::from(from), "{from} {to}");
                assert!(
                    pixels.end <= usize::from(from) && pixels.len() == parts.len(),
                    "{from} {to}"
                );
            }
        }
    }
}
