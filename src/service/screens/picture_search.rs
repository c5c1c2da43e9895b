//! Searches for a small picture in a screen. The similarity of a place is 1 for equal pixels and 0
//! for black on white: 1 minus the root of the mean square difference of all colours.
//!
//! The search is exact. It skips a place if the sums of a few blocks differ so much that the pixels
//! cannot be similar enough, and compares the rows with the most content first.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "sums of differences become shares of their maximum, with a margin for rounding"
)]

use std::time::Duration;

use crate::domain::screen::{Picture, Region, ScreenSize};

/// The least similarity of a match, if a caller names none.
pub const DEFAULT_SIMILARITY: f64 = 0.96;

/// How long a search may take on one core.
pub const SEARCH_LIMIT: Duration = Duration::from_secs(2);

/// The maximum number of blocks in each direction.
const MAX_BLOCKS: usize = 8;

/// The least width and height of a block, in pixels.
const BLOCK_PIXELS: usize = 8;

/// The number of compared bytes after which a search asks whether its time is over.
const BYTES_UNTIL_ASKED: usize = 1 << 20;

/// A picture that is searched for, prepared for any number of searches.
#[derive(Clone, Debug)]
pub struct Template {
    picture: Picture,
    /// The rows, those with the most content first.
    rows: Vec<u16>,
    /// The columns at which the blocks begin and end.
    columns: Vec<usize>,
    /// The rows of blocks, from top to bottom.
    block_rows: Vec<BlockRow>,
}

/// Where a search looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchArea {
    /// `None` is the whole screen.
    pub region: Option<Region>,
    /// The number of pixels around the region that belong to the area.
    pub margin: u16,
}

/// The best place of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    pub region: Region,
    /// From 0 to 1.
    pub similarity: f64,
}

/// The time of a search was over before it had looked everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the search for the image took longer than {} s: name a smaller region, or use an image with \
     more contrast",
    SEARCH_LIMIT.as_secs()
)]
pub struct SearchTooLong;

/// Rows of a template that the search sums up together.
#[derive(Clone, Debug)]
struct BlockRow {
    start: usize,
    end: usize,
    /// The sum of all colours in each block.
    sums: Vec<u32>,
}

/// The best place of a template in an area of a screen. Blocks the thread.
///
/// # Parameters
/// - `similarity`: the least similarity of a match, from 0 to 1.
/// - `is_over`: whether the time of the search is over. It is asked many times in a millisecond.
///
/// # Errors
/// [`SearchTooLong`] if `is_over` says so.
pub fn find(
    screen: &Picture,
    template: &Template,
    area: SearchArea,
    similarity: f64,
    is_over: &mut dyn FnMut() -> bool,
) -> Result<Option<Found>, SearchTooLong> {
    let ScreenSize { width, height } = template.size();
    let area = area.region.unwrap_or(screen.size.whole()).grow(area.margin, screen.size);
    let is_whole = |picture: &Picture| picture.pixels.len() == picture.size.bytes();
    let fits = area.width >= width && area.height >= height;
    if !fits || template.rows.is_empty() || !is_whole(screen) || !is_whole(&template.picture) {
        return Ok(None);
    }
    let mut budget = template.largest_difference(similarity);
    let mut best = None;
    let mut sums = ColumnSums::new(screen, template, area);
    let mut bounds = Vec::new();
    let mut compared = 0;
    for y in area.y..=area.y + (area.height - height) {
        if is_over() {
            return Err(SearchTooLong);
        }
        if y > area.y {
            sums.move_down();
        }
        sums.least_differences(&mut bounds);
        for (x, bound) in (area.x..).zip(&bounds) {
            // The margin is more than the rounding of the sums.
            if f64::from(*bound) > budget as f64 * 1.0001 + 1.0 {
                continue;
            }
            if compared > BYTES_UNTIL_ASKED {
                compared = 0;
                if is_over() {
                    return Err(SearchTooLong);
                }
            }
            let Some(difference) = template.difference(screen, (x, y), budget, &mut compared)
            else {
                continue;
            };
            let region = Region { x, y, width, height };
            best = Some(Found { region, similarity: template.similarity(difference) });
            // Only a better place is of interest from now on.
            let Some(better) = difference.checked_sub(1) else { return Ok(best) };
            budget = better;
        }
    }
    Ok(best)
}

impl Template {
    #[must_use]
    pub fn new(picture: Picture) -> Self {
        let ScreenSize { width, height } = picture.size;
        let mut rows: Vec<u16> = if width == 0 { Vec::new() } else { (0..height).collect() };
        let mean = mean_colour(&picture);
        rows.sort_by_cached_key(|y| {
            let row = picture.row(*y).as_chunks::<4>().0;
            std::cmp::Reverse(row.iter().map(|pixel| row_difference(pixel, &mean)).sum::<u64>())
        });
        let columns = edges(width.into());
        let row_edges = edges(height.into());
        let block_rows = row_edges.windows(2).filter_map(|edges| {
            let &[start, end] = edges else { return None };
            let mut sums = vec![0; columns.len().saturating_sub(1)];
            for y in start..end {
                let brightness = brightness(picture.row(u16::try_from(y).unwrap_or(u16::MAX)));
                let brightness: Vec<u32> = brightness.collect();
                for (sum, edges) in sums.iter_mut().zip(columns.windows(2)) {
                    let &[left, right] = edges else { continue };
                    *sum += brightness.get(left..right).unwrap_or_default().iter().sum::<u32>();
                }
            }
            Some(BlockRow { start, end, sums })
        });
        let block_rows = block_rows.collect();
        Self { picture, rows, columns, block_rows }
    }

    #[must_use]
    pub const fn size(&self) -> ScreenSize {
        self.picture.size
    }

    /// The sum of all square differences at a place. `None` if it is larger than the budget.
    ///
    /// # Parameters
    /// - `compared`: grows by the number of compared bytes.
    fn difference(
        &self,
        screen: &Picture,
        (x, y): (u16, u16),
        budget: u64,
        compared: &mut usize,
    ) -> Option<u64> {
        let start = usize::from(x) * 4;
        let length = usize::from(self.picture.size.width) * 4;
        let mut difference = 0;
        for row in &self.rows {
            let here = screen.row(y + row).get(start..start + length)?;
            difference += row_difference(here, self.picture.row(*row));
            *compared += length;
            if difference > budget {
                return None;
            }
        }
        Some(difference)
    }

    /// The number of compared colours.
    fn colours(&self) -> f64 {
        self.picture.size.pixels() as f64 * 3.0
    }

    fn similarity(&self, difference: u64) -> f64 {
        1.0 - (difference as f64 / self.colours()).sqrt() / 255.0
    }

    /// The largest sum of square differences with this similarity.
    fn largest_difference(&self, similarity: f64) -> u64 {
        let root = (1.0 - similarity.clamp(0.0, 1.0)) * 255.0;
        (root * root * self.colours()).round() as u64
    }
}

/// For one row of places: the sums of the screen's columns over each row of blocks.
struct ColumnSums<'a> {
    screen: &'a Picture,
    template: &'a Template,
    area: Region,
    /// The first row of the places.
    y: usize,
    /// For each row of blocks: the sum of each column of the area.
    sums: Vec<Vec<u32>>,
}

impl<'a> ColumnSums<'a> {
    /// The sums of the first row of places.
    fn new(screen: &'a Picture, template: &'a Template, area: Region) -> Self {
        let y = usize::from(area.y);
        let sums = vec![vec![0; area.width.into()]; template.block_rows.len()];
        let mut all = Self { screen, template, area, y, sums };
        for (at, block_row) in template.block_rows.iter().enumerate() {
            for row in block_row.start..block_row.end {
                all.change(at, y + row, u32::wrapping_add);
            }
        }
        all
    }

    /// Goes to the next row of places.
    fn move_down(&mut self) {
        for (at, block_row) in self.template.block_rows.iter().enumerate() {
            self.change(at, self.y + block_row.start, u32::wrapping_sub);
            self.change(at, self.y + block_row.end, u32::wrapping_add);
        }
        self.y += 1;
    }

    /// Adds a row of the screen to a row of blocks, or takes it away.
    fn change(&mut self, block_row: usize, y: usize, change: fn(u32, u32) -> u32) {
        let row = self.screen.row(u16::try_from(y).unwrap_or(u16::MAX));
        let start = usize::from(self.area.x) * 4;
        let row = row.get(start..start + usize::from(self.area.width) * 4).unwrap_or_default();
        if let Some(sums) = self.sums.get_mut(block_row) {
            for (sum, brightness) in sums.iter_mut().zip(brightness(row)) {
                *sum = change(*sum, brightness);
            }
        }
    }

    /// For each place of the row: a sum of square differences that the pixels exceed or reach. The
    /// square of a sum of differences is at most their number times the sum of their squares.
    fn least_differences(&self, bounds: &mut Vec<f32>) {
        let places = usize::from(self.area.width - self.template.picture.size.width) + 1;
        bounds.clear();
        bounds.resize(places, 0.0);
        let mut totals = Vec::with_capacity(self.area.width.into());
        for (block_row, sums) in self.template.block_rows.iter().zip(&self.sums) {
            // `totals` may overflow. Differences of it do not: a block has at most 2^20 pixels.
            totals.clear();
            totals.push(0_u32);
            totals.extend(sums.iter().scan(0_u32, |total, sum| {
                *total = total.wrapping_add(*sum);
                Some(*total)
            }));
            let blocks = self.template.columns.windows(2).zip(&block_row.sums);
            for (edges, expected) in blocks {
                let &[left, right] = edges else { continue };
                let colours = (right - left) * (block_row.end - block_row.start) * 3;
                let share = 1.0 / colours as f32;
                let lefts = totals.get(left..).unwrap_or_default();
                let rights = totals.get(right..).unwrap_or_default();
                for ((bound, left), right) in bounds.iter_mut().zip(lefts).zip(rights) {
                    let sum = right.wrapping_sub(*left);
                    let difference = sum.wrapping_sub(*expected).cast_signed() as f32;
                    *bound += difference * difference * share;
                }
            }
        }
    }
}

/// The sum of the colours of each pixel.
fn brightness(row: &[u8]) -> impl Iterator<Item = u32> {
    let pixels = row.as_chunks::<4>().0.iter();
    pixels.map(|[blue, green, red, _]| u32::from(*blue) + u32::from(*green) + u32::from(*red))
}

/// The sum of the square differences of two rows. The fourth byte of each pixel is 0 in both.
fn row_difference(row: &[u8], other: &[u8]) -> u64 {
    let square = |(one, other): (&u8, &u8)| {
        // The square of a byte fits into 16 bits, which makes the sum much faster than 32 bits.
        let difference = u16::from(one.abs_diff(*other));
        u32::from(difference * difference)
    };
    // A row has at most 8,192 pixels, so that its sum fits into 32 bits.
    let sum: u32 = row.iter().zip(other).map(square).sum();
    sum.into()
}

fn mean_colour(picture: &Picture) -> [u8; 4] {
    let mut sums = [0_u64; 4];
    let pixels = picture.pixels.as_chunks::<4>().0;
    for pixel in pixels {
        for (sum, value) in sums.iter_mut().zip(pixel) {
            *sum += u64::from(*value);
        }
    }
    let count = pixels.len().max(1) as u64;
    sums.map(|sum| u8::try_from(sum / count).unwrap_or(u8::MAX))
}

/// Where blocks begin and end in a length: 1 to [`MAX_BLOCKS`] blocks of about the same length.
fn edges(length: usize) -> Vec<usize> {
    let count = (length / BLOCK_PIXELS).clamp(1, MAX_BLOCKS);
    (0..=count).map(|at| at * length / count).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: SearchArea = SearchArea { region: None, margin: 0 };

    fn search(screen: &Picture, template: &Picture, similarity: f64) -> Option<Found> {
        let template = Template::new(template.clone());
        find(screen, &template, WHOLE, similarity, &mut || false).unwrap()
    }

    fn changed(picture: &Picture, change: impl FnOnce(&mut [u8])) -> Picture {
        let mut pixels = picture.pixels.to_vec();
        change(&mut pixels);
        Picture::new(picture.size, pixels.into()).unwrap()
    }

    /// A picture without any pattern.
    fn noise(width: u16, height: u16) -> Picture {
        let size = ScreenSize::new(width, height);
        let mut state = 1_u32;
        let pixels = (0..size.pixels()).flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [_, blue, green, red] = state.to_le_bytes();
            [blue, green, red, 0]
        });
        Picture::new(size, pixels.collect()).unwrap()
    }

    /// The definition of the search.
    fn slow_search(screen: &Picture, template: &Picture, similarity: f64) -> Option<Found> {
        let ScreenSize { width, height } = template.size;
        let mut best: Option<Found> = None;
        for y in 0..=screen.size.height.checked_sub(height)? {
            for x in 0..=screen.size.width.checked_sub(width)? {
                let region = Region { x, y, width, height };
                let here = screen.crop(region);
                let squares = here
                    .pixels
                    .iter()
                    .zip(&template.pixels[..])
                    .map(|(one, other)| (f64::from(*one) - f64::from(*other)).powi(2));
                let mean = squares.sum::<f64>() / (region.pixels() as f64 * 3.0);
                let found = Found { region, similarity: 1.0 - mean.sqrt() / 255.0 };
                if best.is_none_or(|best| found.similarity > best.similarity) {
                    best = Some(found);
                }
            }
        }
        best.filter(|best| best.similarity >= similarity)
    }

    #[test]
    fn an_equal_part_is_found_at_its_place() {
        let screen = noise(90, 70);
        let region = Region::new(31, 22, 40, 20);
        let found = search(&screen, &screen.crop(region), 1.0).unwrap();
        assert_eq!((found.region, found.similarity), (region, 1.0));
        assert_eq!(search(&screen, &noise(80, 60).crop(Region::new(3, 3, 20, 20)), 0.9), None);
    }

    #[test]
    fn a_similar_part_is_found_with_its_similarity() {
        let screen = noise(60, 50);
        let region = Region::new(7, 9, 10, 10);
        // One of a hundred pixels is another: 1 - sqrt(1/100 * d²) / 255.
        let template = changed(&screen.crop(region), |pixels| {
            for byte in &mut pixels[..3] {
                *byte = byte.wrapping_add(128);
            }
        });
        let found = search(&screen, &template, 0.9).unwrap();
        assert_eq!(found.region, region);
        assert!((found.similarity - (1.0 - 12.8 / 255.0)).abs() < 1e-6, "{found:?}");
        assert_eq!(search(&screen, &template, DEFAULT_SIMILARITY), None);
    }

    #[test]
    fn only_the_area_is_searched() {
        let screen = noise(60, 50);
        let template = Template::new(screen.crop(Region::new(20, 20, 10, 10)));
        for (region, margin, is_found) in [
            (Region::new(20, 20, 10, 10), 0, true),
            (Region::new(22, 22, 10, 10), 0, false),
            (Region::new(22, 22, 10, 10), 1, false),
            (Region::new(22, 22, 10, 10), 2, true),
            (Region::new(22, 22, 4, 4), 2, false),
            (Region::new(59, 49, 1, 1), u16::MAX, true),
            (Region::new(0, 0, 5, 5), 4, false),
        ] {
            let area = SearchArea { region: Some(region), margin };
            let found = find(&screen, &template, area, 0.99, &mut || false).unwrap();
            assert_eq!(found.is_some(), is_found, "{region} {margin}");
        }
    }

    #[test]
    fn a_template_that_does_not_fit_is_not_found() {
        let screen = noise(20, 20);
        assert_eq!(search(&screen, &noise(21, 3), 0.0), None);
        assert_eq!(search(&screen, &Picture::blank(ScreenSize::new(0, 3)), 0.0), None);
        assert_eq!(search(&screen, &Picture::blank(ScreenSize::new(3, 0)), 0.0), None);
        assert!(search(&screen, &screen, 1.0).is_some());
    }

    #[test]
    fn a_search_ends_when_its_time_is_over() {
        let screen = noise(60, 50);
        let template = Template::new(noise(3, 3));
        let mut asked = 0;
        let mut is_over = || {
            asked += 1;
            asked == 5
        };
        assert_eq!(find(&screen, &template, WHOLE, 1.0, &mut is_over), Err(SearchTooLong));
        assert_eq!(asked, 5);
    }

    #[test]
    fn a_large_search_asks_for_its_time_within_a_row() {
        // A place is compared to the end, because all pixels are almost equal.
        let screen = Picture::blank(ScreenSize::new(600, 301));
        let template = changed(&Picture::blank(ScreenSize::new(300, 300)), |pixels| pixels[0] = 9);
        let mut asked = 0;
        let mut is_over = || {
            asked += 1;
            false
        };
        find(&screen, &Template::new(template), WHOLE, 0.5, &mut is_over).unwrap();
        assert!(asked > 2, "{asked}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_best_place_is_found(
            colours in prop::collection::vec(0..3u8, 24 * 20),
            (width, height) in (1..20u16, 1..18u16),
            (x, y) in (0..12u16, 0..12u16),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            similarity in prop::sample::select(vec![0.0, 0.8, 0.96, 1.0]),
        ) {
            let size = ScreenSize::new(24, 20);
            let pixels = colours.iter().flat_map(|colour| [*colour * 90, 40, *colour, 0]);
            let screen = Picture::new(size, pixels.collect()).unwrap();
            let template = screen.crop(Region { x, y, width, height });
            let template = changed(&template, |pixels| {
                for (at, value) in changes {
                    // Not the fourth byte of a pixel.
                    let at = at.index(pixels.len()) / 4 * 4;
                    pixels[at] = value;
                }
            });
            let (found, expected) = (
                search(&screen, &template, similarity),
                slow_search(&screen, &template, similarity),
            );
            let places = (found.map(|found| found.region), expected.map(|found| found.region));
            prop_assert_eq!(places.0, places.1);
            if let (Some(found), Some(expected)) = (found, expected) {
                prop_assert!((found.similarity - expected.similarity).abs() < 1e-9);
            }
        }
    }
}
