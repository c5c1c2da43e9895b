//! Changes the size of a picture: the mean of the pixels that a smaller picture combines, and a
//! smooth curve through the pixels (Lanczos) for a larger one.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the numbers are weights from -1 to 1, and positions on a screen"
)]

use super::geometry::ScreenSize;

/// The weights are fractions of this number.
const ONE: i32 = 1 << 14;

/// The pixels that a new pixel is made of, in one direction.
struct Taps {
    /// The first of these pixels.
    start: usize,
    /// The weight of each of them. The weights add up to [`ONE`].
    weights: Vec<i32>,
}

/// The picture with another size.
///
/// # Parameters
/// - `CHANNELS`: the bytes of a pixel.
/// - `pixels`: the rows of the picture, without padding.
/// - `from`, `to`: the sizes; no side of them is 0.
pub fn resample<const CHANNELS: usize>(pixels: &[u8], from: ScreenSize, to: ScreenSize) -> Vec<u8> {
    let row_bytes = usize::from(from.width) * CHANNELS;
    let columns = taps(from.width.into(), to.width.into());
    let new_row_bytes = columns.len() * CHANNELS;
    let mut narrow = Vec::with_capacity(new_row_bytes * usize::from(from.height));
    for row in pixels.chunks_exact(row_bytes) {
        let (row, _) = row.as_chunks::<CHANNELS>();
        for Taps { start, weights } in &columns {
            let mut sums = [ONE / 2; CHANNELS];
            for (pixel, weight) in row.iter().skip(*start).zip(weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            narrow.extend(sums.map(to_byte));
        }
    }
    let mut result = Vec::with_capacity(new_row_bytes * usize::from(to.height));
    for Taps { start, weights } in taps(from.height.into(), to.height.into()) {
        let mut sums = vec![ONE / 2; new_row_bytes];
        for (row, weight) in narrow.chunks_exact(new_row_bytes).skip(start).zip(weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        result.extend(sums.into_iter().map(to_byte));
    }
    result
}

/// The byte of a weighted sum.
fn to_byte(sum: i32) -> u8 {
    u8::try_from((sum / ONE).clamp(0, 255)).unwrap_or_default()
}

/// The taps of each of `to` new pixels in a line of `from` pixels.
fn taps(from: u32, to: u32) -> Vec<Taps> {
    (0..to).map(|at| if to <= from { mean(at, from, to) } else { curve(at, from, to) }).collect()
}

/// The mean of the pixels that a new pixel covers.
fn mean(at: u32, from: u32, to: u32) -> Taps {
    // In these units a pixel has the length `to`, and a new pixel the length `from`.
    let (left, right) = (u64::from(at) * u64::from(from), u64::from(at + 1) * u64::from(from));
    let to = u64::from(to);
    let covered = left / to..right.div_ceil(to);
    let overlap = |pixel: u64| (right.min((pixel + 1) * to) - left.max(pixel * to)) as f64;
    let weights: Vec<f64> = covered.clone().map(overlap).collect();
    Taps { start: covered.start as usize, weights: normalised(&weights) }
}

/// A smooth curve through the three pixels on each side of a new pixel.
fn curve(at: u32, from: u32, to: u32) -> Taps {
    let centre = (f64::from(at) + 0.5) * f64::from(from) / f64::from(to) - 0.5;
    let nearest = centre.floor();
    let last = f64::from(from - 1);
    let (first, end) = ((nearest - 2.0).max(0.0), (nearest + 3.0).min(last));
    let mut weights = vec![0.0; (end - first) as usize + 1];
    for step in -2..=3 {
        let pixel = nearest + f64::from(step);
        // The pixels at the edge also stand for those that are missing behind it.
        let index = (pixel.clamp(first, end) - first) as usize;
        if let Some(weight) = weights.get_mut(index) {
            *weight += lanczos(centre - pixel);
        }
    }
    Taps { start: first as usize, weights: normalised(&weights) }
}

/// The Lanczos function with three lobes.
fn lanczos(x: f64) -> f64 {
    if x.abs() < 1e-9 {
        return 1.0;
    }
    if x.abs() >= 3.0 {
        return 0.0;
    }
    let x = x * std::f64::consts::PI;
    3.0 * x.sin() * (x / 3.0).sin() / (x * x)
}

/// The weights as fractions of [`ONE`] that add up to it exactly, so that a picture of one colour
/// keeps it.
fn normalised(weights: &[f64]) -> Vec<i32> {
    let sum: f64 = weights.iter().sum();
    let mut whole: Vec<i32> =
        weights.iter().map(|weight| (weight / sum * f64::from(ONE)).round() as i32).collect();
    let rest = ONE - whole.iter().sum::<i32>();
    if let Some(largest) = whole.iter_mut().max() {
        *largest += rest;
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_size_has_the_means() {
        let pixels = [0, 100, 10, 20, 200, 100, 30, 40];
        let half = resample::<1>(&pixels, ScreenSize::new(4, 2), ScreenSize::new(2, 1));
        assert_eq!(half, [100, 25]);
    }

    #[test]
    fn channels_do_not_mix() {
        let pixels = [[10, 200], [30, 100]].concat();
        let one = resample::<2>(&pixels, ScreenSize::new(2, 1), ScreenSize::new(1, 1));
        assert_eq!(one, [20, 150]);
    }

    #[test]
    fn a_larger_picture_goes_through_the_pixels() {
        let pixels = [0, 0, 0, 255, 255, 255];
        let size = ScreenSize::new(6, 1);
        let large = resample::<1>(&pixels, size, ScreenSize::new(18, 1));
        let centres: Vec<u8> = large.iter().copied().skip(1).step_by(3).collect();
        assert_eq!(centres, pixels);
        assert!(large.windows(2).skip(6).take(5).all(|pair| pair[0] <= pair[1]), "{large:?}");
    }

    #[test]
    fn all_weights_add_up_to_one() {
        for (from, to) in [(1, 1), (1, 9), (2, 3), (720, 1440), (1280, 311), (8192, 1), (7, 8192)] {
            for Taps { start, weights } in taps(from, to) {
                assert_eq!(weights.iter().sum::<i32>(), ONE, "{from} {to}");
                assert!(start + weights.len() <= from as usize, "{from} {to}");
            }
        }
    }
}
