//! Encodes what otter's own RFB server sends to a viewer after the handshake.
//!
//! An update is [`update_header`] and then as many rectangles as it announces. A rectangle comes in
//! parts that must be written in order, so that viewers can share the large ones: a PNG is encoded
//! once for all of them, and pixels in otter's own format are not copied.

use bytes::{BufMut, Bytes, BytesMut};

use super::constants::{
    ENCODING_DESKTOP_SIZE, ENCODING_RAW, ENCODING_TIGHT_PNG, FRAMEBUFFER_UPDATE, TIGHT_CONTROL_PNG,
    TIGHT_MAX_BYTES, TIGHT_MAX_WIDTH,
};
use super::error::RfbError;
use super::pixel_format::PixelFormat;
use crate::domain::screen::{Region, ScreenSize};

/// The maximum number of bytes of a name.
const MAX_NAME_BYTES: usize = 256;

/// The number of bytes at the beginning of a rectangle.
const HEAD_BYTES: usize = 12;

/// The answer to [`ViewerEvent::ClientInit`](super::ViewerEvent::ClientInit): the size and the name
/// of the screen. The pixel format is [`PixelFormat::BGR0`] until the viewer asks for another.
#[must_use]
pub fn server_init(size: ScreenSize, name: &str) -> Vec<u8> {
    let end = name.floor_char_boundary(MAX_NAME_BYTES);
    let name = name.get(..end).unwrap_or_default();
    let length = u32::try_from(name.len()).unwrap_or_default();
    let mut message = Vec::with_capacity(24 + name.len());
    message.extend(size.width.to_be_bytes());
    message.extend(size.height.to_be_bytes());
    message.extend(PixelFormat::BGR0.to_bytes());
    message.extend(length.to_be_bytes());
    message.extend(name.bytes());
    message
}

/// The beginning of an update with so many rectangles.
#[must_use]
pub const fn update_header(rectangles: u16) -> [u8; 4] {
    let [n0, n1] = rectangles.to_be_bytes();
    [FRAMEBUFFER_UPDATE, 0, n0, n1]
}

/// A whole update that says only that the screen has a new size. Hosts send it without pixels, too,
/// and some viewers expect none with it.
#[must_use]
pub fn resize(size: ScreenSize) -> Bytes {
    let mut message = BytesMut::with_capacity(4 + HEAD_BYTES);
    message.put_slice(&update_header(1));
    put_head(&mut message, size.whole(), ENCODING_DESKTOP_SIZE);
    message.freeze()
}

/// A rectangle of raw pixels.
///
/// # Parameters
/// - `pixels`: the rows of the region, 4 bytes for each pixel: B, G, R and 0. There must be
///   [`ScreenSize::bytes`] of them; otherwise the viewer could not find the next message.
/// - `format`: what the viewer asked for. Pixels in [`PixelFormat::BGR0`] are shared and not
///   copied.
#[must_use]
pub fn raw_rectangle(region: Region, pixels: &Bytes, format: &PixelFormat) -> Vec<Bytes> {
    debug_assert_eq!(pixels.len(), region.size().bytes(), "the pixels are those of the region");
    let pixels = if format.is_bgr0() {
        pixels.clone()
    } else {
        let mut converted = Vec::new();
        format.encode(pixels, &mut converted);
        Bytes::from(converted)
    };
    let mut head = BytesMut::with_capacity(HEAD_BYTES);
    put_head(&mut head, region, ENCODING_RAW);
    vec![head.freeze(), pixels]
}

/// A rectangle that is a PNG. The pixel format of the viewer does not matter.
///
/// # Parameters
/// - `png`: a PNG of the region, of 8-bit colours without an alpha channel.
///
/// # Errors
/// [`RfbError::PictureTooLarge`] if the PNG has 4 MiB or more, or if the region is wider than 2,048
/// pixels.
pub fn tight_png_rectangle(region: Region, png: &Bytes) -> Result<Vec<Bytes>, RfbError> {
    if png.len() > TIGHT_MAX_BYTES || region.width > TIGHT_MAX_WIDTH {
        return Err(RfbError::PictureTooLarge { size: region.size(), bytes: png.len() });
    }
    let mut head = BytesMut::with_capacity(HEAD_BYTES + 4);
    put_head(&mut head, region, ENCODING_TIGHT_PNG);
    head.put_u8(TIGHT_CONTROL_PNG);
    put_compact_length(&mut head, png.len());
    Ok(vec![head.freeze(), png.clone()])
}

fn put_head(out: &mut BytesMut, region: Region, encoding: i32) {
    let Region { x, y, width, height } = region;
    for number in [x, y, width, height] {
        out.put_u16(number);
    }
    out.put_i32(encoding);
}

/// A length of up to 22 bits: 7 bits, 7 bits and 8 bits, the lowest first. The high bit of each of
/// the first two bytes says that another byte follows.
fn put_compact_length(out: &mut BytesMut, length: usize) {
    let [low, middle, high, _] = u32::try_from(length).unwrap_or_default().to_le_bytes();
    let (first, second) = (low & 0x7f, ((middle << 1) | (low >> 7)) & 0x7f);
    let third = (high << 2) | (middle >> 6);
    if third > 0 {
        out.put_slice(&[first | 0x80, second | 0x80, third]);
    } else if second > 0 {
        out.put_slice(&[first | 0x80, second]);
    } else {
        out.put_u8(first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rectangles_have_the_bytes_of_the_protocol() {
        let resize = resize(ScreenSize::new(0x0102, 0x0304));
        assert_eq!(resize[..], [0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4, 0xff, 0xff, 0xff, 0x21]);
        let pixels = Bytes::from_static(&[9, 8, 7, 0]);
        let raw = raw_rectangle(Region::new(1, 2, 1, 1), &pixels, &PixelFormat::BGR0);
        assert_eq!(raw.concat(), [0, 1, 0, 2, 0, 1, 0, 1, 0, 0, 0, 0, 9, 8, 7, 0]);
        let png = tight_png_rectangle(Region::new(3, 4, 5, 6), &Bytes::from_static(b"png"));
        let head = [0, 3, 0, 4, 0, 5, 0, 6, 0xff, 0xff, 0xfe, 0xfc, 0xa0, 3];
        assert_eq!(png.unwrap().concat(), [&head[..], b"png"].concat());
        assert_eq!(update_header(0x0203), [0, 0, 2, 3]);
    }

    #[test]
    fn large_parts_are_shared() {
        let pixels = Bytes::from(vec![1; 400]);
        let region = Region::new(0, 0, 10, 10);
        let raw = raw_rectangle(region, &pixels, &PixelFormat::BGR0);
        assert_eq!(raw[1].as_ptr(), pixels.as_ptr());
        let png = tight_png_rectangle(region, &pixels).unwrap();
        assert_eq!(png[1].as_ptr(), pixels.as_ptr());
    }

    #[test]
    fn lengths_are_compact() {
        for (length, expected) in [
            (0, &[0][..]),
            (127, &[127]),
            (128, &[0x80, 1]),
            (10_000, &[0x90, 0x4e]),
            (16_383, &[0xff, 0x7f]),
            (16_384, &[0x80, 0x80, 1]),
            (TIGHT_MAX_BYTES, &[0xff, 0xff, 0xff]),
        ] {
            let mut out = BytesMut::new();
            put_compact_length(&mut out, length);
            assert_eq!(out[..], *expected, "{length}");
        }
    }

    #[test]
    fn a_rectangle_that_no_viewer_reads_is_refused() {
        let large = Bytes::from(vec![0; TIGHT_MAX_BYTES + 1]);
        assert!(tight_png_rectangle(Region::new(0, 0, 9, 9), &large).is_err());
        let small = Bytes::from_static(b"png");
        assert!(tight_png_rectangle(Region::new(0, 0, 2049, 1), &small).is_err());
        assert!(tight_png_rectangle(Region::new(0, 0, 2048, 1), &small).is_ok());
    }

    #[test]
    fn a_long_name_is_cut_at_a_character() {
        let message = server_init(ScreenSize::new(720, 400), &"ä".repeat(300));
        assert_eq!(message.len(), 24 + 256);
        let message = server_init(ScreenSize::new(720, 400), &("x".to_owned() + &"ä".repeat(300)));
        assert_eq!(message[20..24], 255_u32.to_be_bytes());
    }
}
