//! Encodes the messages of a client to a server.

use super::constants::{
    FRAMEBUFFER_UPDATE_REQUEST, KEY_EVENT, POINTER_EVENT, SET_ENCODINGS, SET_PIXEL_FORMAT,
};
use super::pixel_format::PixelFormat;
use crate::domain::keyboard::Keysym;
use crate::domain::screen::Region;

/// Asks for a region of the screen. An incremental request asks for its changes only, and the
/// server answers it when there are some. A server may answer either kind with a part only.
#[must_use]
pub fn update_request(incremental: bool, region: Region) -> [u8; 10] {
    let [[x0, x1], [y0, y1], [w0, w1], [h0, h1]] =
        [region.x, region.y, region.width, region.height].map(u16::to_be_bytes);
    [FRAMEBUFFER_UPDATE_REQUEST, incremental.into(), x0, x1, y0, y1, w0, w1, h0, h1]
}

/// A key that goes down or comes up.
#[must_use]
pub fn key(keysym: Keysym, down: bool) -> [u8; 8] {
    let [a, b, c, d] = keysym.0.to_be_bytes();
    [KEY_EVENT, down.into(), 0, 0, a, b, c, d]
}

/// The position of the pointer and its buttons.
///
/// # Parameters
/// - `buttons`: bit 0 is the left, bit 1 the middle and bit 2 the right button; bits 3 and 4 are a
///   step of the wheel up and down.
/// - `x`, `y`: in pixels.
#[must_use]
pub fn pointer(buttons: u8, x: u16, y: u16) -> [u8; 6] {
    let [[x0, x1], [y0, y1]] = [x, y].map(u16::to_be_bytes);
    [POINTER_EVENT, buttons, x0, x1, y0, y1]
}

/// Asks for pixels in a format.
#[must_use]
pub fn set_pixel_format(format: &PixelFormat) -> [u8; 20] {
    let mut message = [0; 20];
    message[0] = SET_PIXEL_FORMAT;
    // The message has 4 bytes more than the format.
    message[4..].copy_from_slice(&format.to_bytes());
    message
}

/// Offers encodings, the preferred ones first.
#[must_use]
pub fn set_encodings(encodings: &[i32]) -> Vec<u8> {
    let count = u16::try_from(encodings.len()).unwrap_or(u16::MAX);
    let mut message = vec![SET_ENCODINGS, 0];
    message.extend(count.to_be_bytes());
    for encoding in encodings.iter().take(count.into()) {
        message.extend(encoding.to_be_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rfb::constants::{ENCODING_DESKTOP_SIZE, ENCODING_RAW};

    #[test]
    fn messages_have_the_bytes_of_the_protocol() {
        let request = update_request(true, Region::new(1, 0x203, 0x405, 6));
        assert_eq!(request, [3, 1, 0, 1, 2, 3, 4, 5, 0, 6]);
        assert_eq!(key(Keysym(0xff0d), true), [4, 1, 0, 0, 0, 0, 0xff, 0x0d]);
        assert_eq!(pointer(1, 0x102, 3), [5, 1, 1, 2, 0, 3]);
        assert_eq!(
            set_pixel_format(&PixelFormat::BGR0),
            [0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]
        );
        assert_eq!(
            set_encodings(&[ENCODING_RAW, ENCODING_DESKTOP_SIZE]),
            [2, 0, 0, 2, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x21]
        );
    }
}
