//! The size of a screen, and rectangular regions of it. All numbers are pixels.

use std::fmt;
use std::str::FromStr;

/// The size of a screen or of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScreenSize {
    pub width: u16,
    pub height: u16,
}

/// A rectangle of a screen, in pixels. `x` and `y` are its left upper corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    pub x: u16,
    pub y: u16,
    pub width: u16,
    pub height: u16,
}

/// The text is not a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write a region as x,y,width,height in pixels, such as 100,50,200,30; its width and height \
     are at least 1"
)]
pub struct InvalidRegion;

impl ScreenSize {
    /// The maximum of the width and of the height.
    pub const MAX_SIDE: u16 = 8192;

    #[must_use]
    pub const fn new(width: u16, height: u16) -> Self {
        Self { width, height }
    }

    /// The number of pixels.
    #[must_use]
    pub const fn pixels(self) -> usize {
        self.width as usize * self.height as usize
    }

    /// The number of bytes of a picture with this size: 4 for each pixel.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.pixels() * 4
    }

    /// The region that is the whole screen.
    #[must_use]
    pub const fn whole(self) -> Region {
        Region { x: 0, y: 0, width: self.width, height: self.height }
    }

    /// Whether both sides are at least 1 and at most [`Self::MAX_SIDE`].
    #[must_use]
    pub const fn is_allowed(self) -> bool {
        self.width > 0
            && self.height > 0
            && self.width <= Self::MAX_SIDE
            && self.height <= Self::MAX_SIDE
    }
}

impl Region {
    #[must_use]
    pub const fn new(x: u16, y: u16, width: u16, height: u16) -> Self {
        Self { x, y, width, height }
    }

    /// The first column to the right of the region.
    #[must_use]
    pub const fn right(self) -> u32 {
        self.x as u32 + self.width as u32
    }

    /// The first row below the region.
    #[must_use]
    pub const fn bottom(self) -> u32 {
        self.y as u32 + self.height as u32
    }

    #[must_use]
    pub const fn size(self) -> ScreenSize {
        ScreenSize { width: self.width, height: self.height }
    }

    /// The number of pixels.
    #[must_use]
    pub const fn pixels(self) -> usize {
        self.size().pixels()
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// Whether the point is in the region.
    #[must_use]
    pub fn has_point(self, x: u16, y: u16) -> bool {
        x >= self.x && y >= self.y && u32::from(x) < self.right() && u32::from(y) < self.bottom()
    }

    /// Whether the other region is completely in this one.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        other.x >= self.x
            && other.y >= self.y
            && other.right() <= self.right()
            && other.bottom() <= self.bottom()
    }

    /// Whether the region is completely on a screen of this size.
    #[must_use]
    pub const fn is_within(self, size: ScreenSize) -> bool {
        size.whole().contains(self)
    }

    /// What both regions have in common. `None` if this is nothing.
    #[must_use]
    pub fn intersect(self, other: Self) -> Option<Self> {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        let width = length(x, self.right().min(other.right()));
        let height = length(y, self.bottom().min(other.bottom()));
        let common = Self { x, y, width, height };
        (!common.is_empty()).then_some(common)
    }

    /// The smallest region that contains both. An empty region adds nothing.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let width = length(x, self.right().max(other.right()));
        let height = length(y, self.bottom().max(other.bottom()));
        Self { x, y, width, height }
    }

    /// The region with `margin` pixels more on each side, as far as the screen reaches. The result
    /// is empty if the region is not on the screen.
    #[must_use]
    pub fn grow(self, margin: u16, size: ScreenSize) -> Self {
        let (x, y) = (self.x.saturating_sub(margin), self.y.saturating_sub(margin));
        let margin = u32::from(margin);
        let width = length(x, (self.right() + margin).min(size.width.into()));
        let height = length(y, (self.bottom() + margin).min(size.height.into()));
        Self { x, y, width, height }
    }
}

/// The distance from a start to an end: 0 if the end is before the start, and at most `u16::MAX`.
fn length(start: u16, end: u32) -> u16 {
    u16::try_from(end.saturating_sub(start.into())).unwrap_or(u16::MAX)
}

impl FromStr for Region {
    type Err = InvalidRegion;

    fn from_str(text: &str) -> Result<Self, InvalidRegion> {
        let mut numbers = text.split(',').map(|number| {
            let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
            number.parse::<u16>().ok().filter(|_| is_number).ok_or(InvalidRegion)
        });
        let mut number = || numbers.next().unwrap_or(Err(InvalidRegion));
        let region = Self::new(number()?, number()?, number()?, number()?);
        if numbers.next().is_some() || region.is_empty() {
            return Err(InvalidRegion);
        }
        Ok(region)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { x, y, width, height } = self;
        write!(formatter, "{x},{y},{width},{height}")
    }
}

impl fmt::Display for ScreenSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}×{}", self.width, self.height)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn regions() -> impl Strategy<Value = Region> {
        (0..40u16, 0..40u16, 0..40u16, 0..40u16)
            .prop_map(|(x, y, width, height)| Region::new(x, y, width, height))
    }

    #[test]
    fn a_region_is_four_numbers() {
        assert_eq!("1,2,30,40".parse(), Ok(Region::new(1, 2, 30, 40)));
        for text in [
            "",
            "1,2,3",
            "1,2,3,4,5",
            "1,2,0,4",
            "1,2,3,0",
            "1, 2,3,4",
            "+1,2,3,4",
            "-1,2,3,4",
            "1,2,3,65536",
            "1,2,3,4,",
            "a,b,c,d",
        ] {
            assert_eq!(text.parse::<Region>(), Err(InvalidRegion), "{text}");
        }
    }

    #[test]
    fn a_region_at_the_end_of_all_numbers_does_not_overflow() {
        let last = Region::new(u16::MAX, u16::MAX, u16::MAX, u16::MAX);
        let size = ScreenSize::new(u16::MAX, u16::MAX);
        assert!(!last.is_within(size));
        assert!(last.grow(u16::MAX, size).is_within(size));
        assert_eq!(Region::new(0, 0, 1, 1).union(last).width, u16::MAX);
        assert_eq!(Region::new(700, 0, 50, 10).grow(4, ScreenSize::new(600, 400)).width, 0);
    }

    proptest! {
        #[test]
        fn regions_are_sets_of_points(
            (a, b) in (regions(), regions()),
            (x, y) in (0..90u16, 0..90u16),
        ) {
            let common = a.intersect(b).is_some_and(|common| common.has_point(x, y));
            prop_assert_eq!(common, a.has_point(x, y) && b.has_point(x, y));
            if a.has_point(x, y) || b.has_point(x, y) {
                prop_assert!(a.union(b).has_point(x, y));
            }
            prop_assert!(a.union(b).contains(a) || a.is_empty());
            let size = ScreenSize::new(x, y);
            let is_within = a.right() <= x.into() && a.bottom() <= y.into();
            prop_assert_eq!(a.is_within(size), is_within);
            prop_assert!(a.grow(7, size).is_within(size) || a.grow(7, size).is_empty());
        }

        #[test]
        fn a_written_region_is_read_back(region in regions()) {
            let expected = if region.is_empty() { Err(InvalidRegion) } else { Ok(region) };
            prop_assert_eq!(region.to_string().parse(), expected);
        }
    }
}
