//! The picture of one screen: the canvas that the upstream paints, and the immutable frames that
//! readers share. The canvas knows which pixels were painted since it was cleared.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use jiff::Timestamp;

use super::encoded::{EncodedPicture, EncodedPictures, PictureRequest};
use crate::domain::failure::Failure;
use crate::domain::screen::{Picture, Region, ScreenSize};

/// Bytes of one pixel: blue, green, red, and a byte without meaning.
const PIXEL: usize = 4;

/// The rows of one band. ESX aligns its updates to 16 pixels, so a small change copies one or two
/// bands.
const BAND_ROWS: u16 = 16;

/// The versions whose damage is kept for readers that fall behind.
const KEPT_VERSIONS: usize = 64;

/// The most regions of damage of one version. More are joined into one.
const MAX_REGIONS: usize = 32;

/// One version of the screen. It never changes. Versions share the bands that did not change
/// between them.
#[derive(Debug)]
pub struct Frame {
    /// The size of the screen. 0 × 0 before the first connection.
    pub size: ScreenSize,
    /// Grows with each change of the pixels, the size, `live` or `complete`.
    pub version: u64,
    /// When the pixels or the size last changed, by otter's clock.
    pub changed_at: Timestamp,
    /// Whether the host still shows the screen to otter: a connection stands, or the fallback reads
    /// pictures. If not, viewers show “no signal”.
    pub live: bool,
    /// Whether every pixel was painted since the last resize, restart, revert, power-off or new
    /// connection.
    pub complete: bool,
    bands: Vec<Arc<Vec<u8>>>,
    picture: OnceLock<Picture>,
    encoded: EncodedPictures,
}

impl Frame {
    /// The frame before the first connection.
    #[must_use]
    pub fn empty(now: Timestamp) -> Self {
        Self {
            size: ScreenSize::new(0, 0),
            version: 0,
            changed_at: now,
            live: false,
            complete: false,
            bands: Vec::new(),
            picture: OnceLock::new(),
            encoded: EncodedPictures::default(),
        }
    }

    /// What a reader remembers of this frame.
    #[must_use]
    pub const fn seen(&self) -> SeenFrame {
        SeenFrame { version: self.version, size: self.size }
    }

    /// Whether the frame is what the host shows: live and complete.
    #[must_use]
    pub const fn is_current(&self) -> bool {
        self.live && self.complete
    }

    /// The whole picture. It is made once for each version. `None` unless the frame is complete.
    #[must_use]
    pub fn picture(&self) -> Option<Picture> {
        if !self.complete {
            return None;
        }
        let picture = self.picture.get_or_init(|| {
            let length = self.bands.iter().map(|band| band.len()).sum();
            let mut pixels = Vec::with_capacity(length);
            for band in &self.bands {
                pixels.extend_from_slice(band);
            }
            Picture { size: self.size, pixels: Bytes::from(pixels) }
        });
        Some(picture.clone())
    }

    /// A picture of the frame as PNG, encoded once for all who ask for it. `None` unless the frame
    /// is complete.
    ///
    /// # Errors
    /// `internal` if the picture could not be encoded.
    pub async fn png(&self, request: PictureRequest) -> Result<Option<EncodedPicture>, Failure> {
        match self.picture() {
            Some(picture) => self.encoded.png(picture, request).await.map(Some),
            None => Ok(None),
        }
    }

    /// Appends the pixels of a region to `out`, row by row, 4 bytes a pixel. Appends nothing unless
    /// the frame is complete.
    ///
    /// # Parameters
    /// - `region`: only the part inside the screen is copied.
    pub fn copy_region(&self, region: Region, out: &mut Vec<u8>) {
        let inside = region.intersect(self.size.whole());
        let Some(region) = inside.filter(|_| self.complete) else { return };
        let row_length = usize::from(self.size.width) * PIXEL;
        let (start, length) = (usize::from(region.x) * PIXEL, usize::from(region.width) * PIXEL);
        for y in region.y..region.y + region.height {
            let row = usize::from(y % BAND_ROWS) * row_length + start;
            let band = self.bands.get(usize::from(y / BAND_ROWS));
            if let Some(pixels) = band.and_then(|band| band.get(row..row + length)) {
                out.extend_from_slice(pixels);
            }
        }
    }

    /// Whether a region has the same pixels in both frames. False if one of them lacks a part of
    /// it.
    #[must_use]
    pub fn is_same_in(&self, other: &Self, region: Region) -> bool {
        let both = region.is_within(self.size) && region.is_within(other.size);
        let mut rows = region.y..region.y.saturating_add(region.height);
        both && rows.all(|y| {
            let row = Region { y, height: 1, ..region };
            let shares_band = self.size == other.size && {
                let index = usize::from(y / BAND_ROWS);
                let bands = self.bands.get(index).zip(other.bands.get(index));
                bands.is_some_and(|(mine, others)| Arc::ptr_eq(mine, others))
            };
            shares_band || self.row(row) == other.row(row)
        })
    }

    /// The pixels of a region that is one row high. Empty outside the screen.
    fn row(&self, region: Region) -> &[u8] {
        let start = usize::from(region.y % BAND_ROWS) * usize::from(self.size.width)
            + usize::from(region.x);
        let range = start * PIXEL..(start + usize::from(region.width)) * PIXEL;
        let band = self.bands.get(usize::from(region.y / BAND_ROWS));
        band.and_then(|band| band.get(range)).unwrap_or_default()
    }
}

/// What a reader remembers of the last frame that it saw. It keeps no pixels, so that a reader that
/// is slow does not keep an old frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenFrame {
    pub version: u64,
    pub size: ScreenSize,
}

/// What changed since a reader last looked.
#[derive(Clone, Debug)]
pub struct FrameChange {
    /// The newest frame.
    pub frame: Arc<Frame>,
    /// The regions whose pixels may differ. Empty if only `live` or `complete` changed. The whole
    /// screen if its size changed, or if the reader fell too far behind.
    pub damage: Vec<Region>,
}

/// The pixels as the upstream paints them.
#[derive(Debug)]
pub struct Canvas {
    size: ScreenSize,
    bands: Vec<Arc<Vec<u8>>>,
    coverage: Coverage,
    /// The regions that changed since the last frame.
    damage: Vec<Region>,
    is_resized: bool,
    live: bool,
    /// The last frame.
    frame: Arc<Frame>,
}

impl Canvas {
    /// A canvas without a size, and its empty frame.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            size: ScreenSize::new(0, 0),
            bands: Vec::new(),
            coverage: Coverage::default(),
            damage: Vec::new(),
            is_resized: false,
            live: false,
            frame: Arc::new(Frame::empty(now)),
        }
    }

    /// The size of the screen.
    #[must_use]
    pub const fn size(&self) -> ScreenSize {
        self.size
    }

    /// The frame that [`Canvas::publish`] last made.
    #[must_use]
    pub const fn frame(&self) -> &Arc<Frame> {
        &self.frame
    }

    /// Whether every pixel was painted since the canvas was cleared.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.size.pixels() > 0 && self.coverage.is_complete()
    }

    /// Sets whether the host still shows the screen.
    pub const fn set_live(&mut self, live: bool) {
        self.live = live;
    }

    /// Throws all pixels away. Each has to be painted again before the canvas is complete.
    pub fn clear(&mut self, size: ScreenSize) {
        self.is_resized |= size != self.size;
        self.size = size;
        let row_length = usize::from(size.width) * PIXEL;
        let mut rows_left = size.height;
        self.bands.clear();
        while rows_left > 0 {
            let rows = rows_left.min(BAND_ROWS);
            self.bands.push(Arc::new(vec![0; usize::from(rows) * row_length]));
            rows_left -= rows;
        }
        self.coverage = Coverage::empty(size);
        self.damage.clear();
        self.damage.push(size.whole());
    }

    /// Demands that each pixel is painted again before the canvas is complete. The pixels stay
    /// until then, so that a repaint of the same pixels is no change.
    pub fn uncover(&mut self) {
        self.coverage = Coverage::empty(self.size);
    }

    /// Paints a rectangle. The part outside the screen is left out. Pixels that were there before
    /// count as painted, and not as changed.
    ///
    /// # Parameters
    /// - `pixels`: the rows of `region`, 4 bytes a pixel. Missing rows are left out.
    pub fn paint(&mut self, region: Region, pixels: &[u8]) {
        let Some(inside) = region.intersect(self.size.whole()) else { return };
        let source_row = usize::from(region.width) * PIXEL;
        let skipped = usize::from(inside.x - region.x) * PIXEL;
        let length = usize::from(inside.width) * PIXEL;
        let row_length = usize::from(self.size.width) * PIXEL;
        let column = usize::from(inside.x) * PIXEL;
        let mut changed: Option<(u16, u16)> = None;
        for y in inside.y..inside.y + inside.height {
            let from = usize::from(y - region.y) * source_row + skipped;
            let Some(source) = pixels.get(from..from + length) else { break };
            let Some(band) = self.bands.get_mut(usize::from(y / BAND_ROWS)) else { break };
            let to = usize::from(y % BAND_ROWS) * row_length + column;
            let is_same = band.get(to..to + length).is_some_and(|old| same_colours(old, source));
            if !is_same && let Some(target) = Arc::make_mut(band).get_mut(to..to + length) {
                target.copy_from_slice(source);
                changed = Some((changed.map_or(y, |(first, _)| first), y));
            }
        }
        self.coverage.cover(inside);
        if let Some((first, last)) = changed {
            self.add_damage(Region { y: first, height: last - first + 1, ..inside });
        }
    }

    /// A region of which no pixel was painted since the canvas was cleared: the first one, from
    /// the top. `None` if the canvas is complete.
    #[must_use]
    pub fn missing(&self) -> Option<Region> {
        self.coverage.missing_region(self.size)
    }

    /// Copies a rectangle of the screen to `region` (RFB `CopyRect`).
    pub fn copy(&mut self, region: Region, from_x: u16, from_y: u16) {
        let source = Region { x: from_x, y: from_y, ..region };
        if !source.is_within(self.size) || !region.is_within(self.size) {
            return;
        }
        let mut pixels =
            Vec::with_capacity(usize::from(region.width) * usize::from(region.height) * PIXEL);
        let row_length = usize::from(self.size.width) * PIXEL;
        let (start, length) = (usize::from(from_x) * PIXEL, usize::from(region.width) * PIXEL);
        for y in from_y..from_y + region.height {
            let row = usize::from(y % BAND_ROWS) * row_length + start;
            let band = self.bands.get(usize::from(y / BAND_ROWS));
            pixels.extend_from_slice(
                band.and_then(|band| band.get(row..row + length)).unwrap_or_default(),
            );
        }
        // A copy of pixels that were not painted paints nothing.
        if self.coverage.covers(source) {
            self.paint(region, &pixels);
        }
    }

    /// Makes the next frame, if anything changed since the last one.
    ///
    /// # Returns
    /// The frame and the regions whose pixels changed.
    pub fn publish(&mut self, now: Timestamp) -> Option<FrameChange> {
        let complete = self.is_complete();
        let pixels_changed = self.is_resized || !self.damage.is_empty();
        if !pixels_changed && self.frame.live == self.live && self.frame.complete == complete {
            return None;
        }
        self.is_resized = false;
        let frame = Arc::new(Frame {
            size: self.size,
            version: self.frame.version + 1,
            changed_at: if pixels_changed { now } else { self.frame.changed_at },
            live: self.live,
            complete,
            bands: self.bands.clone(),
            picture: OnceLock::new(),
            encoded: EncodedPictures::default(),
        });
        self.frame = Arc::clone(&frame);
        Some(FrameChange { frame, damage: std::mem::take(&mut self.damage) })
    }

    fn add_damage(&mut self, region: Region) {
        if self.damage.iter().any(|known| known.contains(region)) {
            return;
        }
        self.damage.push(region);
        if self.damage.len() > MAX_REGIONS {
            let joined = self.damage.drain(..).reduce(Region::union);
            self.damage.extend(joined);
        }
    }
}

/// Whether two rows have the same colours. The fourth byte of a pixel has no meaning.
fn same_colours(old: &[u8], new: &[u8]) -> bool {
    // Most rows are equal in all bytes, which is faster to see.
    old == new
        || old
            .chunks_exact(PIXEL)
            .zip(new.chunks_exact(PIXEL))
            .all(|(old, new)| old.get(..3) == new.get(..3))
}

/// Which pixels were painted: one bit a pixel, in rows of whole words.
#[derive(Clone, Debug, Default)]
struct Coverage {
    words_per_row: usize,
    bits: Vec<u64>,
    missing: usize,
}

impl Coverage {
    fn empty(size: ScreenSize) -> Self {
        let words_per_row = usize::from(size.width).div_ceil(64);
        let bits = vec![0; words_per_row * usize::from(size.height)];
        Self { words_per_row, bits, missing: size.pixels() }
    }

    const fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Marks a region inside the screen as painted.
    fn cover(&mut self, region: Region) {
        if self.missing == 0 {
            return;
        }
        for (index, mask) in self.words(region) {
            if let Some(word) = self.bits.get_mut(index) {
                self.missing -= (mask & !*word).count_ones() as usize;
                *word |= mask;
            }
        }
    }

    fn covers(&self, region: Region) -> bool {
        self.missing == 0
            || self
                .words(region)
                .all(|(index, mask)| self.bits.get(index).is_some_and(|word| word & mask == mask))
    }

    /// A region of which no pixel was painted: from the first such pixel as far to the right, and
    /// then as far down, as there are only such pixels.
    fn missing_region(&self, size: ScreenSize) -> Option<Region> {
        if self.missing == 0 || self.words_per_row == 0 {
            return None;
        }
        let is_missing = |x: u16, y: u16| {
            let index = usize::from(y) * self.words_per_row + usize::from(x) / 64;
            self.bits.get(index).is_some_and(|word| word & (1u64 << (x % 64)) == 0)
        };
        let (x, y) = (0..size.height).find_map(|y| {
            let x = (0..size.width).find(|x| is_missing(*x, y))?;
            Some((x, y))
        })?;
        let right = (x..size.width).find(|x| !is_missing(*x, y)).unwrap_or(size.width);
        let width = right - x;
        let is_row_missing = |y: u16| {
            let mut words = self.words(Region { x, y, width, height: 1 });
            words.all(|(index, mask)| self.bits.get(index).is_some_and(|word| word & mask == 0))
        };
        let below = (y..size.height).find(|y| !is_row_missing(*y)).unwrap_or(size.height);
        Some(Region { x, y, width, height: below - y })
    }

    /// The words that hold the bits of a region, and the bits in them.
    fn words(&self, region: Region) -> impl Iterator<Item = (usize, u64)> + use<> {
        let words_per_row = self.words_per_row;
        let (from, to) = (usize::from(region.x), usize::from(region.x + region.width));
        let rows = usize::from(region.y)..usize::from(region.y + region.height);
        rows.flat_map(move |y| {
            (from / 64..to.div_ceil(64)).map(move |word| {
                let first = from.saturating_sub(word * 64);
                let last = (to - word * 64).min(64);
                let below = |bits: usize| if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
                (y * words_per_row + word, below(last) & !below(first))
            })
        })
    }
}

/// The damage of the last versions, for readers that look at different times.
#[derive(Debug, Default)]
pub struct DamageHistory {
    /// Ascending versions, each with the damage that led to it.
    versions: VecDeque<(u64, Vec<Region>)>,
}

impl DamageHistory {
    /// Records the damage of a new version.
    pub fn record(&mut self, change: &FrameChange) {
        if self.versions.len() >= KEPT_VERSIONS {
            self.versions.pop_front();
        }
        self.versions.push_back((change.frame.version, change.damage.clone()));
    }

    /// The damage since a version that a reader has seen. The whole screen if the history no longer
    /// reaches back to it.
    ///
    /// # Parameters
    /// - `seen`: the frame that the reader has seen.
    /// - `frame`: the newest frame.
    #[must_use]
    pub fn since(&self, seen: SeenFrame, frame: &Frame) -> Vec<Region> {
        let whole = frame.size.whole();
        let reaches_back =
            self.versions.front().is_some_and(|(first, _)| *first <= seen.version + 1);
        if seen.version == frame.version {
            return Vec::new();
        }
        if seen.size != frame.size || !reaches_back {
            return vec![whole];
        }
        let newer = self.versions.iter().filter(|(version, _)| *version > seen.version);
        let mut damage: Vec<Region> = Vec::new();
        for region in newer.flat_map(|(_, damage)| damage) {
            if !damage.iter().any(|known| known.contains(*region)) {
                damage.push(*region);
            }
        }
        // The size may have changed twice.
        if damage.iter().any(|region| !region.is_within(frame.size)) {
            return vec![whole];
        }
        if damage.len() > MAX_REGIONS {
            return damage.into_iter().reduce(Region::union).into_iter().collect();
        }
        damage
    }
}
