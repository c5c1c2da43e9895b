//! Whether a region of a screen is still. Pure.
//!
//! The region is compared with a reference, the picture at which it last changed. A change of more
//! than the tolerance makes the new picture the reference. So neither a blinking cursor nor a clock
//! ends stillness, but a slow scroll does.

use std::time::Duration;

use super::conditions::DEFAULT_TOLERANCE;
use crate::domain::screen::{Picture, Region};

/// Watches one region.
#[derive(Debug)]
pub struct Stillness {
    /// `None` for the whole screen.
    region: Option<Region>,
    /// The share of the pixels that may differ from the reference, 0 to 1.
    tolerance: f64,
    reference: Option<Reference>,
}

#[derive(Debug)]
struct Reference {
    picture: Picture,
    since: Duration,
}

impl Stillness {
    /// Watches a region, of which nothing is known yet.
    #[must_use]
    pub const fn new(region: Option<Region>, tolerance: f64) -> Self {
        Self { region, tolerance, reference: None }
    }

    /// Watches a region with the default tolerance.
    #[must_use]
    pub const fn with_default_tolerance(region: Option<Region>) -> Self {
        Self::new(region, DEFAULT_TOLERANCE)
    }

    /// Takes the present picture of the screen. `None` if there is no complete one, or if the
    /// screen does not have the region: then the region is not still.
    ///
    /// # Parameters
    /// - `since`: when the pixels last changed, on the monotonic clock.
    pub fn observe(&mut self, picture: Option<&Picture>, since: Duration) {
        let Some(picture) = picture else {
            self.reference = None;
            return;
        };
        let region = self.region.unwrap_or_else(|| picture.size.whole());
        if region.is_empty() || !region.is_within(picture.size) {
            self.reference = None;
            return;
        }
        let is_still = self.reference.as_ref().is_some_and(|reference| {
            reference.picture.size == picture.size && {
                let changed = reference.picture.changed_pixels(picture, region);
                is_tolerable(changed, region.pixels(), self.tolerance)
            }
        });
        if !is_still {
            self.reference = Some(Reference { picture: picture.clone(), since });
        }
    }

    /// Since when the region is still, on the monotonic clock. `None` if it has no picture.
    #[must_use]
    pub fn since(&self) -> Option<Duration> {
        self.reference.as_ref().map(|reference| reference.since)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a screen has far fewer than 2^52 pixels")]
fn is_tolerable(changed: usize, pixels: usize, tolerance: f64) -> bool {
    changed as f64 <= pixels as f64 * tolerance
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::screen::ScreenSize;

    const SIZE: ScreenSize = ScreenSize { width: 100, height: 100 };

    /// A picture whose first `changed` pixels are white.
    fn picture(changed: usize) -> Picture {
        let mut pixels = vec![0; 100 * 100 * 4];
        pixels[..changed * 4].fill(255);
        Picture { size: SIZE, pixels: Bytes::from(pixels) }
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_and_a_cursor_do_not_end_stillness() {
        let mut still = Stillness::with_default_tolerance(None);
        still.observe(Some(&picture(0)), at(1));
        for second in 2..20 {
            still.observe(Some(&picture(usize::from(second % 2 == 0) * 50)), at(second));
        }
        assert_eq!(still.since(), Some(at(1)));
        still.observe(Some(&picture(51)), at(20));
        assert_eq!(still.since(), Some(at(20)), "more than 0.5 % of 10,000 pixels");
    }

    #[test]
    fn small_changes_in_a_row_add_up() {
        let mut still = Stillness::with_default_tolerance(None);
        for second in 0..10 {
            still.observe(Some(&picture(30 * usize::try_from(second).unwrap())), at(second));
        }
        assert_eq!(still.since(), Some(at(8)));
    }

    #[test]
    fn only_the_region_counts() {
        let region = Region { x: 0, y: 50, width: 100, height: 50 };
        let mut still = Stillness::new(Some(region), 0.0);
        still.observe(Some(&picture(0)), at(1));
        still.observe(Some(&picture(5000)), at(2));
        assert_eq!(still.since(), Some(at(1)));
        still.observe(Some(&picture(5001)), at(3));
        assert_eq!(still.since(), Some(at(3)));
    }

    #[test]
    fn without_the_region_nothing_is_still() {
        let mut still = Stillness::new(Some(Region { x: 99, y: 0, width: 2, height: 1 }), 0.0);
        still.observe(Some(&picture(0)), at(1));
        assert_eq!(still.since(), None);
        let mut still = Stillness::with_default_tolerance(None);
        still.observe(Some(&picture(0)), at(1));
        still.observe(None, at(2));
        assert_eq!(still.since(), None);
    }
}
