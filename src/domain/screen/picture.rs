//! Immutable pictures of a screen, in colour and in grey.

use bytes::Bytes;

use super::geometry::{Region, ScreenSize};
use super::resample::shrink;

/// A picture of a screen or of a region of it. A copy shares the pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub size: ScreenSize,
    /// Rows from top to bottom without padding. A pixel is 4 bytes: blue, green, red and 0. There
    /// are [`ScreenSize::bytes`] of them; a picture that lacks some reads as black there.
    pub pixels: Bytes,
}

/// A picture in shades of grey, as text recognition reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrayPicture {
    pub size: ScreenSize,
    /// Rows from top to bottom without padding. A pixel is one byte: 0 is black, 255 is white.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// A picture with these pixels. `None` if their number is not that of the size.
    #[must_use]
    pub fn new(size: ScreenSize, pixels: Bytes) -> Option<Self> {
        (pixels.len() == size.bytes()).then_some(Self { size, pixels })
    }

    /// A black picture.
    #[must_use]
    pub fn blank(size: ScreenSize) -> Self {
        Self { size, pixels: vec![0; size.bytes()].into() }
    }

    /// The pixels of a row. Empty if there is no such row.
    #[must_use]
    pub fn row(&self, y: u16) -> &[u8] {
        let width = usize::from(self.size.width) * 4;
        let start = usize::from(y) * width;
        self.pixels.get(start..start + width).unwrap_or_default()
    }

    /// Blue, green and red of a pixel. `None` if it is not in the picture.
    #[must_use]
    pub fn pixel(&self, x: u16, y: u16) -> Option<[u8; 3]> {
        self.row(y).chunks_exact(4).nth(x.into())?.first_chunk().copied()
    }

    /// The part of the picture that is in the region. It has the size of the region if the region
    /// is in the picture.
    #[must_use]
    pub fn crop(&self, region: Region) -> Self {
        if region == self.size.whole() {
            return self.clone();
        }
        let region = region.intersect(self.size.whole()).unwrap_or(Region::new(0, 0, 0, 0));
        let mut pixels = Vec::with_capacity(region.size().bytes());
        for row in self.rows_of(region) {
            pixels.extend_from_slice(row);
        }
        Self { size: region.size(), pixels: pixels.into() }
    }

    /// The picture with this width and the same proportions. Each pixel has the mean colour of what
    /// it covers. The picture itself if it is not wider than that.
    ///
    /// # Parameters
    /// - `width`: at least 1 pixel; 0 means 1.
    #[must_use]
    pub fn scale_to_width(&self, width: u16) -> Self {
        let is_whole = !self.pixels.is_empty() && self.pixels.len() == self.size.bytes();
        if width >= self.size.width || !is_whole {
            return self.clone();
        }
        let width = width.max(1);
        let (old_width, product) =
            (u32::from(self.size.width), u32::from(self.size.height) * u32::from(width));
        let height = (product + old_width / 2) / old_width;
        // The picture becomes smaller, so its height fits.
        let height = u16::try_from(height).unwrap_or(self.size.height).max(1);
        let to = ScreenSize { width, height };
        Self { size: to, pixels: shrink(&self.pixels, self.size, to).into() }
    }

    /// Whether all pixels have the same colour. A machine that blanks its screen shows such a
    /// picture.
    #[must_use]
    pub fn is_one_colour(&self) -> bool {
        let mut pixels = self.pixels.chunks_exact(4);
        let first = pixels.next();
        pixels.all(|pixel| Some(pixel) == first)
    }

    /// The picture in shades of grey.
    #[must_use]
    pub fn gray(&self) -> GrayPicture {
        let shade = |pixel: &[u8]| {
            let &[blue, green, red, ..] = pixel else { return 0 };
            let sum = u32::from(blue) * 29 + u32::from(green) * 150 + u32::from(red) * 77 + 128;
            // The weights add up to 256, so the high byte is the mean.
            sum.to_le_bytes()[1]
        };
        let mut pixels: Vec<u8> = self.pixels.chunks_exact(4).map(shade).collect();
        pixels.resize(self.size.pixels(), 0);
        GrayPicture { size: self.size, pixels }
    }

    /// How many pixels of the region differ from those of another picture. All pixels of the region
    /// differ if the pictures have different sizes.
    #[must_use]
    pub fn changed_pixels(&self, other: &Self, region: Region) -> usize {
        if self.size != other.size {
            return region.pixels();
        }
        let Some(region) = region.intersect(self.size.whole()) else { return 0 };
        let rows = self.rows_of(region).zip(other.rows_of(region));
        rows.filter(|(row, others)| row != others)
            .map(|(row, others)| {
                let pairs = row.chunks_exact(4).zip(others.chunks_exact(4));
                pairs.filter(|(pixel, others)| pixel != others).count()
            })
            .sum()
    }

    /// The rows of a region of the picture.
    fn rows_of(&self, region: Region) -> impl Iterator<Item = &[u8]> {
        let (start, width) = (usize::from(region.x) * 4, usize::from(region.width) * 4);
        let rows = usize::from(region.y)..usize::from(region.y) + usize::from(region.height);
        let stride = usize::from(self.size.width) * 4;
        rows.map(move |y| {
            let start = y * stride + start;
            self.pixels.get(start..start + width).unwrap_or_default()
        })
    }
}

impl GrayPicture {
    /// The picture with black and white exchanged.
    #[must_use]
    pub fn inverted(mut self) -> Self {
        self.pixels.iter_mut().for_each(|pixel| *pixel = !*pixel);
        self
    }

    /// The mean of all pixels: 0 is black, 255 is white. 0 if there is no pixel.
    #[must_use]
    pub fn mean(&self) -> u8 {
        let sum: u64 = self.pixels.iter().copied().map(u64::from).sum();
        let mean = sum.checked_div(self.pixels.len() as u64).unwrap_or_default();
        u8::try_from(mean).unwrap_or(u8::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pictures with up to 12 by 12 pixels of few colours.
    fn pictures() -> impl Strategy<Value = Picture> {
        (1..12u16, 1..12u16).prop_flat_map(|(width, height)| {
            let size = ScreenSize::new(width, height);
            prop::collection::vec(0..3u8, size.pixels()).prop_map(move |colours| {
                let pixels = colours.into_iter().flat_map(|colour| [colour, colour * 90, 7, 0]);
                Picture::new(size, pixels.collect()).unwrap()
            })
        })
    }

    #[test]
    fn the_number_of_pixels_must_be_that_of_the_size() {
        let size = ScreenSize::new(3, 2);
        assert_eq!(Picture::new(size, vec![0; 23].into()), None);
        assert!(Picture::new(size, vec![0; 24].into()).is_some());
    }

    #[test]
    fn a_picture_that_lacks_pixels_panics_nowhere() {
        let size = ScreenSize::new(3, 2);
        let broken = Picture { size, pixels: vec![9; 5].into() };
        assert_eq!(broken.row(0), [0; 0]);
        assert_eq!(broken.pixel(0, 0), None);
        assert_eq!(broken.gray().pixels.len(), 6);
        let _ = (broken.crop(Region::new(1, 1, 2, 1)), broken.scale_to_width(9));
        assert_eq!(broken.changed_pixels(&broken, size.whole()), 0);
    }

    #[test]
    fn an_empty_picture_stays_empty() {
        let empty = Picture::blank(ScreenSize::new(0, 0));
        assert_eq!(empty.scale_to_width(10), empty);
        assert_eq!(empty.scale_to_width(0), empty);
        assert_eq!(empty.gray().mean(), 0);
    }

    #[test]
    fn grey_keeps_black_and_white_and_weighs_green_most() {
        let colours = [[0, 0, 0, 0], [255, 255, 255, 0], [255, 0, 0, 0], [0, 255, 0, 0]];
        let picture = Picture::new(ScreenSize::new(4, 1), colours.concat().into()).unwrap();
        assert_eq!(picture.gray().pixels, [0, 255, 29, 149]);
        assert_eq!(picture.gray().inverted().pixels, [255, 0, 226, 106]);
        assert_eq!(picture.gray().mean(), 108);
    }

    #[test]
    fn a_scaled_picture_keeps_its_proportions() {
        let picture = Picture::blank(ScreenSize::new(720, 400));
        for (width, size) in [(100, (100, 56)), (0, (1, 1)), (719, (719, 399)), (1440, (720, 400))]
        {
            let scaled = picture.scale_to_width(width).size;
            assert_eq!((scaled.width, scaled.height), size, "{width}");
        }
        let flat = Picture::blank(ScreenSize::new(800, 1));
        assert_eq!(flat.scale_to_width(3).size, ScreenSize::new(3, 1));
    }

    proptest! {
        #[test]
        fn a_crop_has_the_pixels_of_its_region(
            picture in pictures(),
            (x, y, width, height) in (0..14u16, 0..14u16, 1..14u16, 1..14u16),
        ) {
            let crop = picture.crop(Region::new(x, y, width, height));
            let inside = Region::new(x, y, width, height).intersect(picture.size.whole());
            prop_assert_eq!(crop.size.pixels(), inside.map_or(0, Region::pixels));
            prop_assert_eq!(crop.pixels.len(), crop.size.bytes());
            for (column, row) in (0..crop.size.width).zip(0..crop.size.height) {
                prop_assert_eq!(crop.pixel(column, row), picture.pixel(x + column, y + row));
            }
        }

        #[test]
        fn a_change_of_one_pixel_is_counted(picture in pictures(), at: prop::sample::Index) {
            let mut pixels = picture.pixels.to_vec();
            let at = at.index(picture.size.pixels());
            pixels[at * 4] ^= 1;
            let changed = Picture::new(picture.size, pixels.into()).unwrap();
            prop_assert_eq!(picture.changed_pixels(&changed, picture.size.whole()), 1);
            let above = Region::new(0, 0, picture.size.width, 1);
            let is_above = at < usize::from(picture.size.width);
            prop_assert_eq!(picture.changed_pixels(&changed, above), usize::from(is_above));
        }

        #[test]
        fn a_picture_of_one_colour_keeps_it_in_every_size(
            colour: [u8; 3],
            (width, height, to) in (1..90u16, 1..40u16, 0..90u16),
        ) {
            let size = ScreenSize::new(width, height);
            let [blue, green, red] = colour;
            let pixels = [blue, green, red, 0].repeat(size.pixels());
            let picture = Picture::new(size, pixels.into()).unwrap().scale_to_width(to);
            prop_assert!(picture.is_one_colour());
            prop_assert_eq!(picture.pixel(0, 0), Some(colour));
            prop_assert_eq!(picture.pixels.len(), picture.size.bytes());
        }
    }
}
