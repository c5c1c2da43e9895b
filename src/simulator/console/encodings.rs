//! How rectangles of a screen are encoded: Raw, Hextile or `TightPNG`, by what the client offered.

use super::super::guest_screen::Bitmap;
use super::damage::Rectangle;
use super::pixel_format::PixelFormat;
use super::screen_picture::encode_png;

/// The edge of a tile of Hextile.
const TILE: u16 = 16;

/// An encoding of pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Raw,
    Hextile,
    TightPng,
}

impl Encoding {
    /// The first of the client's encodings that the host has. Raw if there is none.
    pub fn choose(offered: &[i32]) -> Self {
        let known = |number: &i32| match number {
            0 => Some(Self::Raw),
            5 => Some(Self::Hextile),
            -260 => Some(Self::TightPng),
            _ => None,
        };
        offered.iter().find_map(known).unwrap_or_default()
    }

    /// The number of the encoding in a message.
    const fn number(self) -> i32 {
        match self {
            Self::Raw => 0,
            Self::Hextile => 5,
            Self::TightPng => -260,
        }
    }

    /// Writes a rectangle of a bitmap, with its header.
    pub fn write(self, of: Rectangle, bitmap: &Bitmap, format: &PixelFormat, out: &mut Vec<u8>) {
        write_header(of, self.number(), out);
        match self {
            Self::Raw => {
                for y in of.y..of.y.saturating_add(of.height) {
                    format.write_pixels(bitmap.row(of.x, y, of.width), out);
                }
            }
            Self::Hextile => write_hextile(of, bitmap, format, out),
            Self::TightPng => write_tight_png(of, bitmap, out),
        }
    }
}

/// Writes the header of a rectangle.
pub fn write_header(of: Rectangle, encoding: i32, out: &mut Vec<u8>) {
    for number in [of.x, of.y, of.width, of.height] {
        out.extend(number.to_be_bytes());
    }
    out.extend(encoding.to_be_bytes());
}

/// Each tile is one colour, or raw.
fn write_hextile(of: Rectangle, bitmap: &Bitmap, format: &PixelFormat, out: &mut Vec<u8>) {
    const RAW: u8 = 1;
    const BACKGROUND: u8 = 2;
    let (right, bottom) = (of.x.saturating_add(of.width), of.y.saturating_add(of.height));
    for y in (of.y..bottom).step_by(usize::from(TILE)) {
        for x in (of.x..right).step_by(usize::from(TILE)) {
            let (width, height) = (TILE.min(right - x), TILE.min(bottom - y));
            let tile = Rectangle { x, y, width, height };
            if let Some(colour) = only_colour(tile, bitmap) {
                out.push(BACKGROUND);
                format.write_pixels(colour, out);
            } else {
                out.push(RAW);
                for y in y..y + height {
                    format.write_pixels(bitmap.row(x, y, width), out);
                }
            }
        }
    }
}

/// A filled rectangle, or a PNG.
fn write_tight_png(of: Rectangle, bitmap: &Bitmap, out: &mut Vec<u8>) {
    const FILL: u8 = 0x80;
    const PNG: u8 = 0xa0;
    if let Some(&[blue, green, red, _]) = only_colour(of, bitmap) {
        out.extend([FILL, red, green, blue]);
        return;
    }
    let png = encode_png(of.width, of.height, |y| bitmap.row(of.x, of.y + y, of.width));
    out.push(PNG);
    write_compact_length(png.len(), out);
    out.extend(png);
}

/// A length in one to three bytes of seven bits each.
fn write_compact_length(length: usize, out: &mut Vec<u8>) {
    let byte = |shift: usize, mask: usize| u8::try_from((length >> shift) & mask).unwrap_or(0);
    match length {
        0..0x80 => out.push(byte(0, 0x7f)),
        0x80..0x4000 => out.extend([byte(0, 0x7f) | 0x80, byte(7, 0x7f)]),
        _ => out.extend([byte(0, 0x7f) | 0x80, byte(7, 0x7f) | 0x80, byte(14, 0xff)]),
    }
}

/// The colour of a rectangle that has only one.
fn only_colour(of: Rectangle, bitmap: &Bitmap) -> Option<&[u8]> {
    let first = bitmap.row(of.x, of.y, 1);
    let mut rows = (of.y..of.y.saturating_add(of.height)).map(|y| bitmap.row(of.x, y, of.width));
    let is_same = rows.all(|row| row.chunks_exact(Bitmap::PIXEL).all(|pixel| pixel == first));
    (is_same && !first.is_empty()).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::super::super::guest_screen::{GuestScreen, Layout, ScreenStage};
    use super::*;
    use crate::simulator::world::Moment;

    fn screen() -> Bitmap {
        let mut guest = GuestScreen::new(Layout::Us);
        guest.show(ScreenStage::Login, std::time::Duration::ZERO);
        let now = Moment { wall: jiff::Timestamp::UNIX_EPOCH, elapsed: std::time::Duration::ZERO };
        guest.picture(now, "machine").unwrap().draw()
    }

    const PART: Rectangle = Rectangle { x: 192, y: 176, width: 200, height: 70 };

    fn encoded(encoding: Encoding) -> Vec<u8> {
        let mut out = Vec::new();
        encoding.write(PART, &screen(), &PixelFormat::NATIVE, &mut out);
        assert_eq!(out[..8], [0, 192, 0, 176, 0, 200, 0, 70]);
        out.split_off(12)
    }

    #[test]
    fn hextile_and_tight_png_hold_the_same_pixels_as_raw() {
        let raw = encoded(Encoding::Raw);
        assert_eq!(raw.len(), 200 * 70 * 4);
        let row = |y: usize| &raw[y * 800..(y + 1) * 800];

        let hextile = encoded(Encoding::Hextile);
        let mut at = 0;
        for top in (0..70_usize).step_by(16) {
            for left in (0..200_usize).step_by(16) {
                let (width, height) = (16.min(200 - left), 16.min(70 - top));
                let mode = hextile[at];
                at += 1;
                for y in top..top + height {
                    for x in left..left + width {
                        if mode == 1 && (x, y) != (left, top) {
                            at += 4;
                        }
                        assert_eq!(hextile[at..at + 4], row(y)[x * 4..x * 4 + 4], "{x} {y}");
                    }
                }
                at += 4;
            }
        }
        assert_eq!(at, hextile.len());

        let tight = encoded(Encoding::TightPng);
        assert_eq!(tight[0], 0xa0);
        let mut reader = png::Decoder::new(std::io::Cursor::new(&tight[3..])).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        for (rgb, bgr) in pixels.chunks_exact(3).zip(raw.chunks_exact(4)) {
            assert_eq!([rgb[2], rgb[1], rgb[0]], bgr[..3]);
        }
    }

    #[test]
    fn the_first_known_offer_counts() {
        assert_eq!(Encoding::choose(&[7, -260, 5, 0]), Encoding::TightPng);
        assert_eq!(Encoding::choose(&[-223, 0, 5]), Encoding::Raw);
        assert_eq!(Encoding::choose(&[5, 0]), Encoding::Hextile);
        assert_eq!(Encoding::choose(&[]), Encoding::Raw);
    }

    #[test]
    fn lengths_are_compact() {
        let written = |length| {
            let mut out = Vec::new();
            write_compact_length(length, &mut out);
            out
        };
        assert_eq!(written(100), [100]);
        assert_eq!(written(10_000), [0x90, 0x4e]);
        assert_eq!(written(1_000_000), [0xc0, 0x84, 0x3d]);
    }
}
