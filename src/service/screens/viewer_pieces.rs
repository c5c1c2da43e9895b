//! The encoded pieces of a screen that viewers are sent. Viewers that need the same piece in the
//! same form share it: it is encoded once, and is in memory once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::{Bytes, BytesMut};
use tokio::sync::OnceCell;

use super::frame::Frame;
use super::viewer_damage::PieceLimits;
use super::{no_signal, png};
use crate::domain::screen::{Picture, Region, ScreenSize};
use crate::rfb::constants::TIGHT_MAX_WIDTH;
use crate::rfb::{PixelFormat, RfbError, viewer_updates};

/// The most pixels of a piece without compression: 64 KiB in the usual format.
const RAW_PIXELS: usize = 16 * 1_024;

/// The most pixels of a piece that is compressed.
const PNG_PIXELS: usize = 128 * 1_024;

/// Pieces with more pixels than this are compressed outside of the threads that serve requests.
const SMALL_PIXELS: usize = 4 * 1_024;

/// The most pieces that are kept for viewers that need them a little later. They have at most 4 MiB
/// in the usual format.
const MAX_PIECES: usize = 64;

/// What a viewer is shown.
#[derive(Clone, Debug)]
pub enum Shown {
    Frame(Arc<Frame>),
    NoSignal,
}

/// The form in which a viewer reads pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Raw(PixelFormat),
    TightPng,
}

/// The pieces of the screen of one machine.
#[derive(Debug, Default)]
pub struct SharedPieces {
    /// The newest last.
    pieces: Mutex<VecDeque<Piece>>,
}

#[derive(Debug)]
struct Piece {
    key: PieceKey,
    encoded: Arc<OnceCell<Bytes>>,
}

#[derive(Clone, Debug)]
struct PieceKey {
    /// `None` for “no signal”. The frame itself is not kept by it.
    frame: Option<Weak<Frame>>,
    /// The size that the viewer knows.
    size: ScreenSize,
    region: Region,
    coding: Coding,
}

impl Coding {
    /// The largest piece.
    #[must_use]
    pub const fn limits(self) -> PieceLimits {
        match self {
            Self::Raw(_) => PieceLimits { width: u16::MAX, pixels: RAW_PIXELS },
            Self::TightPng => PieceLimits { width: TIGHT_MAX_WIDTH, pixels: PNG_PIXELS },
        }
    }
}

impl SharedPieces {
    /// A rectangle of an update, with its header.
    ///
    /// # Parameters
    /// - `size`: the size of the screen that the viewer knows. Pixels outside of the frame are
    ///   black.
    ///
    /// # Errors
    /// The piece cannot be encoded, which does not happen to pieces that [`Coding::limits`]
    /// allows.
    pub async fn piece(
        &self,
        shown: &Shown,
        size: ScreenSize,
        region: Region,
        coding: Coding,
    ) -> Result<Bytes, RfbError> {
        let frame = match shown {
            Shown::Frame(frame) => Some(Arc::downgrade(frame)),
            Shown::NoSignal => None,
        };
        let key = PieceKey { frame, size, region, coding };
        let encoded = self.entry(key);
        let encoding = || encode(shown.clone(), size, region, coding);
        encoded.get_or_try_init(encoding).await.cloned()
    }

    /// The piece with this key, which may still have to be encoded.
    fn entry(&self, key: PieceKey) -> Arc<OnceCell<Bytes>> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        // Viewers mostly need the newest pieces.
        if let Some(known) = pieces.iter().rev().find(|piece| piece.key.is_same(&key)) {
            return Arc::clone(&known.encoded);
        }
        if pieces.len() >= MAX_PIECES {
            pieces.pop_front();
        }
        let encoded = Arc::default();
        pieces.push_back(Piece { key, encoded: Arc::clone(&encoded) });
        encoded
    }
}

impl PieceKey {
    fn is_same(&self, other: &Self) -> bool {
        let is_same_frame = match (&self.frame, &other.frame) {
            (Some(one), Some(other)) => one.ptr_eq(other),
            (None, None) => true,
            _ => false,
        };
        is_same_frame
            && self.region == other.region
            && self.size == other.size
            && self.coding == other.coding
    }
}

async fn encode(
    shown: Shown,
    size: ScreenSize,
    region: Region,
    coding: Coding,
) -> Result<Bytes, RfbError> {
    let format = match coding {
        Coding::Raw(format) => format,
        Coding::TightPng => {
            let encoding = move || encode_png(&shown, size, region);
            if usize::from(region.width) * usize::from(region.height) <= SMALL_PIXELS {
                return encoding();
            }
            // A panic of the encoder is a failure of this piece alone.
            return tokio::task::spawn_blocking(encoding).await.unwrap_or(Err(RfbError::Png));
        }
    };
    let pixels = pixels_of(&shown, size, region);
    Ok(joined(viewer_updates::raw_rectangle(region, &pixels, &format)))
}

fn encode_png(shown: &Shown, size: ScreenSize, region: Region) -> Result<Bytes, RfbError> {
    let pixels = pixels_of(shown, size, region);
    let size = ScreenSize { width: region.width, height: region.height };
    let png = png::encode(&Picture { size, pixels }).map_err(|_| RfbError::Png)?;
    viewer_updates::tight_png_rectangle(region, &png).map(joined)
}

/// The pixels of a region of what is shown, 4 bytes a pixel.
fn pixels_of(shown: &Shown, size: ScreenSize, region: Region) -> Bytes {
    let length = usize::from(region.width) * usize::from(region.height) * 4;
    let mut pixels = Vec::with_capacity(length);
    match shown {
        Shown::NoSignal => no_signal::copy_region(size, region, &mut pixels),
        Shown::Frame(frame) if region.is_within(frame.size) => {
            frame.copy_region(region, &mut pixels);
        }
        // The viewer keeps its size because it does not know resizes.
        Shown::Frame(frame) => {
            for y in region.y..region.y.saturating_add(region.height) {
                frame.copy_region(Region { y, height: 1, ..region }, &mut pixels);
                let row_end = usize::from(y - region.y + 1) * usize::from(region.width) * 4;
                pixels.resize(row_end, 0);
            }
        }
    }
    pixels.resize(length, 0);
    Bytes::from(pixels)
}

/// The parts of a rectangle as one message.
fn joined(parts: Vec<Bytes>) -> Bytes {
    let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    for part in parts {
        whole.extend_from_slice(&part);
    }
    whole.freeze()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::frame::Canvas;
    use super::*;

    const SIZE: ScreenSize = ScreenSize { width: 4, height: 3 };

    fn frame(byte: u8) -> Arc<Frame> {
        let mut canvas = Canvas::new(Timestamp::UNIX_EPOCH);
        canvas.clear(SIZE);
        canvas.set_live(true);
        let whole = Region { x: 0, y: 0, width: SIZE.width, height: SIZE.height };
        canvas.paint(whole, &[byte; 48]);
        canvas.publish(Timestamp::UNIX_EPOCH).unwrap().frame
    }

    #[tokio::test]
    async fn viewers_share_a_piece_in_the_same_form() {
        let (pieces, shown) = (SharedPieces::default(), Shown::Frame(frame(7)));
        let region = Region { x: 1, y: 1, width: 2, height: 2 };
        let raw = Coding::Raw(PixelFormat::BGR0);
        let get =
            async |shown: &Shown, coding| pieces.piece(shown, SIZE, region, coding).await.unwrap();
        let first = get(&shown, raw).await;
        assert_eq!(first.as_ptr(), get(&shown, raw).await.as_ptr());
        assert_ne!(first.as_ptr(), get(&shown, Coding::TightPng).await.as_ptr());
        let other = get(&Shown::Frame(frame(8)), raw).await;
        assert_ne!(first, other);
        assert_eq!(first.len(), 12 + 16, "the header of a rectangle and 4 pixels");
        assert_eq!(&first[12..], [7; 16]);
        assert_ne!(get(&Shown::NoSignal, raw).await, first);
    }

    #[tokio::test]
    async fn a_compressed_piece_is_a_png_of_its_region() {
        let (pieces, shown) = (SharedPieces::default(), Shown::NoSignal);
        let size = ScreenSize { width: 200, height: 90 };
        for region in [
            Region { x: 50, y: 40, width: 9, height: 5 },
            Region { x: 1, y: 0, width: 199, height: 90 },
        ] {
            let piece = pieces.piece(&shown, size, region, Coding::TightPng).await.unwrap();
            // After the header of the rectangle: the control byte, and the length in 7 bits each.
            assert_eq!(piece[12], 0xa0);
            let length_bytes = piece[13..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
            let picture = png::decode(&piece[13 + length_bytes..]).unwrap();
            assert_eq!(picture.size, ScreenSize { width: region.width, height: region.height });
            assert_eq!(picture.pixels, pixels_of(&shown, size, region));
        }
    }

    #[tokio::test]
    async fn the_number_of_kept_pieces_is_bounded() {
        let pieces = SharedPieces::default();
        for y in 0..1_000 {
            let region = Region { x: 0, y, width: 1, height: 1 };
            let size = ScreenSize { width: 1, height: 1_000 };
            let raw = Coding::Raw(PixelFormat::BGR0);
            pieces.piece(&Shown::NoSignal, size, region, raw).await.unwrap();
        }
        assert_eq!(pieces.pieces.lock().unwrap().len(), MAX_PIECES);
    }

    #[test]
    fn pixels_outside_the_frame_are_black() {
        let size = ScreenSize { width: 6, height: 4 };
        let whole = Region { x: 0, y: 0, width: 6, height: 4 };
        let pixels = pixels_of(&Shown::Frame(frame(9)), size, whole);
        let row = |y: usize| &pixels[y * 24..(y + 1) * 24];
        let (painted, black) = ([9; 16], [0; 8]);
        for y in 0..3 {
            assert_eq!(row(y), [&painted[..], &black].concat());
        }
        assert_eq!(row(3), [0; 24]);
    }
}
