//! What an RFB client sends after the handshake, read from the stream of its bytes.

use super::damage::Rectangle;
use super::pixel_format::PixelFormat;

/// The maximum length of a text that a client cuts.
const MAX_CUT_TEXT: usize = 1 << 20;
/// The maximum number of encodings in one message.
const MAX_ENCODINGS: usize = 1_024;

/// A message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    PixelFormat(PixelFormat),
    /// The encodings that the client understands, in the order of its preference.
    Encodings(Vec<i32>),
    /// The client asks for an update: of all of the rectangle, or only of what changed.
    Request {
        is_incremental: bool,
        rectangle: Rectangle,
    },
    /// A keysym of X11 goes down or up.
    Key {
        keysym: u32,
        is_down: bool,
    },
    /// A scan code of set 1 goes down or up: an extension of VMware.
    ScanCode {
        code: u16,
        is_down: bool,
    },
    Pointer {
        buttons: u8,
        x: u16,
        y: u16,
    },
    /// A message that the host ignores: a cut text, and the other extensions of VMware.
    Ignored,
}

/// The client breaks the protocol. The host then closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("the client sent the unknown message {0}")]
    UnknownMessage(u8),
    #[error("the client sent an invalid handshake, format or length")]
    Invalid,
}

/// Reads the first message. `None` if it is not complete yet. Also returns the length of the
/// message.
///
/// # Errors
/// Fails if no message begins like this, or if a length is out of bounds.
pub fn read(bytes: &[u8]) -> Result<Option<(ClientMessage, usize)>, Violation> {
    let Some(kind) = bytes.first() else { return Ok(None) };
    let length = match kind {
        0 => 20,
        2 => match word(bytes, 2) {
            Some(count) if usize::from(count) > MAX_ENCODINGS => return Err(Violation::Invalid),
            Some(count) => 4 + 4 * usize::from(count),
            None => return Ok(None),
        },
        3 => 10,
        4 => 8,
        5 => 6,
        6 => match double(bytes, 4) {
            Some(length) => {
                let length = usize::try_from(length).ok().filter(|length| *length <= MAX_CUT_TEXT);
                8 + length.ok_or(Violation::Invalid)?
            }
            None => return Ok(None),
        },
        127 => match word(bytes, 2) {
            Some(length) if length < 4 => return Err(Violation::Invalid),
            Some(length) => usize::from(length),
            None => return Ok(None),
        },
        unknown => return Err(Violation::UnknownMessage(*unknown)),
    };
    let Some(message) = bytes.get(..length) else { return Ok(None) };
    let read = match kind {
        0 => {
            PixelFormat::read(message.get(4..).unwrap_or_default()).map(ClientMessage::PixelFormat)
        }
        2 => Some(ClientMessage::Encodings(encodings(message))),
        3 => request(message),
        4 => key(message),
        5 => pointer(message),
        127 => Some(extension(message).unwrap_or(ClientMessage::Ignored)),
        _ => Some(ClientMessage::Ignored),
    };
    Ok(Some((read.ok_or(Violation::Invalid)?, length)))
}

fn encodings(message: &[u8]) -> Vec<i32> {
    let numbers = message.get(4..).unwrap_or_default().chunks_exact(4);
    numbers.filter_map(|number| number.try_into().ok()).map(i32::from_be_bytes).collect()
}

fn request(message: &[u8]) -> Option<ClientMessage> {
    let rectangle = Rectangle {
        x: word(message, 2)?,
        y: word(message, 4)?,
        width: word(message, 6)?,
        height: word(message, 8)?,
    };
    Some(ClientMessage::Request { is_incremental: *message.get(1)? != 0, rectangle })
}

fn key(message: &[u8]) -> Option<ClientMessage> {
    Some(ClientMessage::Key { is_down: *message.get(1)? != 0, keysym: double(message, 4)? })
}

fn pointer(message: &[u8]) -> Option<ClientMessage> {
    let (x, y) = (word(message, 2)?, word(message, 4)?);
    Some(ClientMessage::Pointer { buttons: *message.get(1)?, x, y })
}

/// A message of VMware: only a key event means something here.
fn extension(message: &[u8]) -> Option<ClientMessage> {
    match message.get(1)? {
        0 => {
            let is_down = *message.get(6)? != 0;
            Some(ClientMessage::ScanCode { code: word(message, 4)?, is_down })
        }
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn double(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_once_it_is_complete() {
        let messages: [(&[u8], ClientMessage); 6] = [
            (
                &[3, 1, 0, 1, 0, 2, 0, 3, 0, 4],
                ClientMessage::Request {
                    is_incremental: true,
                    rectangle: Rectangle { x: 1, y: 2, width: 3, height: 4 },
                },
            ),
            (&[4, 1, 0, 0, 0, 0, 0xff, 0x0d], ClientMessage::Key { keysym: 0xff0d, is_down: true }),
            (&[5, 3, 1, 0, 0, 2], ClientMessage::Pointer { buttons: 3, x: 256, y: 2 }),
            (&[2, 0, 0, 1, 0xff, 0xff, 0xff, 0x21], ClientMessage::Encodings(vec![-223])),
            (&[6, 0, 0, 0, 0, 0, 0, 2, b'h', b'i'], ClientMessage::Ignored),
            (
                &[127, 0, 0, 8, 1, 0x48, 1, 0],
                ClientMessage::ScanCode { code: 0x148, is_down: true },
            ),
        ];
        for (bytes, message) in messages {
            for part in 0..bytes.len() {
                assert_eq!(read(&bytes[..part]), Ok(None), "{message:?}");
            }
            let two = [bytes, bytes].concat();
            assert_eq!(read(&two), Ok(Some((message, bytes.len()))));
        }
    }

    #[test]
    fn rubbish_is_a_violation() {
        assert_eq!(read(&[99]), Err(Violation::UnknownMessage(99)));
        assert_eq!(read(&[6, 0, 0, 0, 0xff, 0, 0, 0]), Err(Violation::Invalid));
        assert_eq!(read(&[127, 0, 0, 3]), Err(Violation::Invalid));
        assert_eq!(read(&[0; 20]), Err(Violation::Invalid), "a palette");
    }
}
