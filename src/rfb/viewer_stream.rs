//! Reads what a viewer sends to otter's own RFB server, and answers its handshake.
//!
//! ```text
//!           3.8, 3.7                       None
//! Version ──────────────► SecurityType ──────────► ClientInit ──► Message ◄──┐
//!    │ 3.3: the server decides                        ▲              └───────┘
//!    └────────────────────────────────────────────────┘
//! ```

use super::constants::{
    CLIENT_CUT_TEXT, ENCODING_DESKTOP_SIZE, ENCODING_TIGHT_PNG, FRAMEBUFFER_UPDATE_REQUEST,
    KEY_EVENT, POINTER_EVENT, SECURITY_NONE, SECURITY_OK, SET_ENCODINGS, SET_PIXEL_FORMAT,
    VERSION_3_8, VERSION_BYTES,
};
use super::error::RfbError;
use super::input_buffer::InputBuffer;
use super::pixel_format::PixelFormat;
use super::version::parse_version;
use crate::domain::keyboard::Keysym;
use crate::domain::screen::Region;

/// The maximum number of encodings that a viewer offers. Common viewers offer about 20.
const MAX_ENCODINGS: u16 = 1024;

/// The maximum number of bytes of a clipboard. They are skipped.
const MAX_CUT_TEXT_BYTES: u32 = 64 << 20;

/// The stream of bytes from a viewer. Viewers that speak RFB 3.3, 3.7 or 3.8 are served.
///
/// Send what [`Self::to_send`] gives, at first and after each round of [`Self::feed`] and
/// [`Self::next_event`]. The buffer holds one message of a few KiB at most, and the bytes of the
/// last feed.
#[derive(Debug)]
pub struct ViewerStream {
    input: InputBuffer,
    output: Vec<u8>,
    state: State,
    error: Option<RfbError>,
}

/// What a viewer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewerEvent {
    /// The version that the viewer speaks.
    Version { major: u16, minor: u16 },
    /// The viewer accepted that there is no authentication.
    Security,
    /// The handshake has ended: answer with [`server_init`](super::viewer_updates::server_init).
    /// `shared` is false if the viewer asks for the screen alone; otter shares it anyway.
    ClientInit { shared: bool },
    /// The format of all pixels from now on. The first format is that of `server_init`.
    PixelFormat(PixelFormat),
    /// What the viewer understands besides raw pixels.
    Encodings(ViewerEncodings),
    /// The viewer waits for an update. The region may be beyond the screen.
    UpdateRequest { incremental: bool, region: Region },
    /// A key goes down or comes up.
    Key { keysym: Keysym, down: bool },
    /// The pointer is at a position, and these of its buttons are down. See
    /// [`pointer`](super::client_messages::pointer) for the bits.
    Pointer { buttons: u8, x: u16, y: u16 },
    /// The viewer has a new clipboard. Its text is skipped.
    CutText,
}

/// The encodings that a viewer offered, as far as otter has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewerEncodings {
    pub tight_png: bool,
    /// The viewer follows a change of the screen's size.
    pub desktop_size: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Version,
    SecurityType {
        /// Version 3.8 tells the result; 3.7 does not.
        has_result: bool,
    },
    ClientInit,
    Message,
}

impl Default for ViewerStream {
    fn default() -> Self {
        Self::new()
    }
}

impl ViewerStream {
    /// The version of otter can be sent at once.
    #[must_use]
    pub fn new() -> Self {
        Self {
            input: InputBuffer::default(),
            output: VERSION_3_8.to_vec(),
            state: State::Version,
            error: None,
        }
    }

    /// Takes bytes that the viewer sent. Bytes after an error are ignored.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.input.push(bytes);
        }
    }

    /// The next event. `None` if more bytes must arrive.
    ///
    /// # Errors
    /// The viewer does not speak the protocol. Every later call gives the same error: close the
    /// connection.
    pub fn next_event(&mut self) -> Result<Option<ViewerEvent>, RfbError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        if !self.input.is_past_skip() {
            return Ok(None);
        }
        let event = match self.state {
            State::Version => self.version(),
            State::SecurityType { has_result } => self.security_type(has_result),
            State::ClientInit => Ok(self.client_init()),
            State::Message => self.message(),
        };
        if let Err(error) = &event {
            self.error = Some(error.clone());
            self.input = InputBuffer::default();
        }
        event
    }

    /// The answers of the handshake that must be sent before anything else. Empty if there are
    /// none.
    pub fn to_send(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// The number of bytes that wait for the rest of their message.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.input.len()
    }

    fn version(&mut self) -> Result<Option<ViewerEvent>, RfbError> {
        let Some((major, minor)) = parse_version(self.input.peek())? else { return Ok(None) };
        let _ = self.input.take_array::<VERSION_BYTES>();
        if (major, minor) >= (3, 7) {
            // A list with one security type.
            self.output.extend([1, SECURITY_NONE]);
            self.state = State::SecurityType { has_result: (major, minor) >= (3, 8) };
        } else {
            // In version 3.3 the server decides, and every lower number means 3.3.
            self.output.extend(u32::from(SECURITY_NONE).to_be_bytes());
            self.state = State::ClientInit;
        }
        Ok(Some(ViewerEvent::Version { major, minor }))
    }

    fn security_type(&mut self, has_result: bool) -> Result<Option<ViewerEvent>, RfbError> {
        let Some([chosen]) = self.input.take_array() else { return Ok(None) };
        if chosen != SECURITY_NONE {
            return Err(RfbError::SecurityNotOffered { chosen });
        }
        if has_result {
            self.output.extend(SECURITY_OK.to_be_bytes());
        }
        self.state = State::ClientInit;
        Ok(Some(ViewerEvent::Security))
    }

    fn client_init(&mut self) -> Option<ViewerEvent> {
        let [shared] = self.input.take_array()?;
        self.state = State::Message;
        Some(ViewerEvent::ClientInit { shared: shared != 0 })
    }

    fn message(&mut self) -> Result<Option<ViewerEvent>, RfbError> {
        let Some(kind) = self.input.peek().first().copied() else { return Ok(None) };
        match kind {
            SET_PIXEL_FORMAT => {
                let Some([_, _, _, _, format @ ..]) = self.input.take_array::<20>() else {
                    return Ok(None);
                };
                PixelFormat::from_bytes(format).map(|format| Some(ViewerEvent::PixelFormat(format)))
            }
            SET_ENCODINGS => self.encodings(),
            FRAMEBUFFER_UPDATE_REQUEST => Ok(self.update_request()),
            KEY_EVENT => Ok(self.key()),
            POINTER_EVENT => Ok(self.pointer()),
            CLIENT_CUT_TEXT => self.cut_text(),
            unknown => Err(RfbError::UnknownMessage(unknown)),
        }
    }

    fn encodings(&mut self) -> Result<Option<ViewerEvent>, RfbError> {
        const HEAD_BYTES: usize = 4;
        let Some([_, _, n0, n1]) = self.input.peek().first_chunk().copied() else {
            return Ok(None);
        };
        let count = u16::from_be_bytes([n0, n1]);
        if count > MAX_ENCODINGS {
            return Err(RfbError::TooLong {
                what: "encodings",
                announced: count.into(),
                limit: MAX_ENCODINGS.into(),
            });
        }
        let Some(message) = self.input.take(HEAD_BYTES + 4 * usize::from(count)) else {
            return Ok(None);
        };
        let (offered, _) = message.get(HEAD_BYTES..).unwrap_or_default().as_chunks::<4>();
        let mut encodings = ViewerEncodings::default();
        for offered in offered.iter().copied().map(i32::from_be_bytes) {
            encodings.tight_png |= offered == ENCODING_TIGHT_PNG;
            encodings.desktop_size |= offered == ENCODING_DESKTOP_SIZE;
        }
        Ok(Some(ViewerEvent::Encodings(encodings)))
    }

    fn update_request(&mut self) -> Option<ViewerEvent> {
        let [_, incremental, x0, x1, y0, y1, w0, w1, h0, h1] = self.input.take_array()?;
        let [x, y, width, height] =
            [[x0, x1], [y0, y1], [w0, w1], [h0, h1]].map(u16::from_be_bytes);
        let region = Region { x, y, width, height };
        Some(ViewerEvent::UpdateRequest { incremental: incremental != 0, region })
    }

    fn key(&mut self) -> Option<ViewerEvent> {
        let [_, down, _, _, keysym @ ..] = self.input.take_array::<8>()?;
        let keysym = Keysym(u32::from_be_bytes(keysym));
        Some(ViewerEvent::Key { keysym, down: down != 0 })
    }

    fn pointer(&mut self) -> Option<ViewerEvent> {
        let [_, buttons, x0, x1, y0, y1] = self.input.take_array()?;
        let [x, y] = [[x0, x1], [y0, y1]].map(u16::from_be_bytes);
        Some(ViewerEvent::Pointer { buttons, x, y })
    }

    fn cut_text(&mut self) -> Result<Option<ViewerEvent>, RfbError> {
        let Some([_, _, _, _, length @ ..]) = self.input.take_array::<8>() else {
            return Ok(None);
        };
        let announced = u32::from_be_bytes(length);
        if announced > MAX_CUT_TEXT_BYTES {
            return Err(RfbError::TooLong {
                what: "bytes of a clipboard",
                announced: announced.into(),
                limit: MAX_CUT_TEXT_BYTES.into(),
            });
        }
        self.input.skip(announced.into());
        Ok(Some(ViewerEvent::CutText))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All events of a stream, and what it sent.
    fn read<'a>(
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<ViewerEvent>, Vec<u8>, Option<RfbError>) {
        let mut stream = ViewerStream::new();
        let mut events = Vec::new();
        let mut sent = Vec::new();
        let mut failure = None;
        for part in parts {
            stream.feed(part);
            loop {
                match stream.next_event() {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                }
            }
            sent.extend(stream.to_send());
        }
        (events, sent, failure)
    }

    fn message_bytes() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(*b"RFB 003.008\n\x01\x01");
        bytes.extend([0, 0, 0, 0]);
        bytes.extend(PixelFormat::BGR0.to_bytes());
        bytes.extend([2, 0, 0, 3, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x21, 0xff, 0xff, 0xfe, 0xfc]);
        bytes.extend([3, 1, 0, 1, 0, 2, 0, 3, 0, 4]);
        bytes.extend([6, 0, 0, 0, 0, 0, 0, 5]);
        bytes.extend(*b"clip!");
        bytes.extend([4, 1, 0, 0, 0, 0, 0xff, 0x0d]);
        bytes.extend([5, 1, 0, 7, 0, 8]);
        bytes
    }

    fn message_events() -> Vec<ViewerEvent> {
        vec![
            ViewerEvent::Version { major: 3, minor: 8 },
            ViewerEvent::Security,
            ViewerEvent::ClientInit { shared: true },
            ViewerEvent::PixelFormat(PixelFormat::BGR0),
            ViewerEvent::Encodings(ViewerEncodings { tight_png: true, desktop_size: true }),
            ViewerEvent::UpdateRequest { incremental: true, region: Region::new(1, 2, 3, 4) },
            ViewerEvent::CutText,
            ViewerEvent::Key { keysym: Keysym(0xff0d), down: true },
            ViewerEvent::Pointer { buttons: 1, x: 7, y: 8 },
        ]
    }

    #[test]
    fn every_message_is_read() {
        let (events, sent, failure) = read([&message_bytes()[..]]);
        assert_eq!(events, message_events());
        assert_eq!(sent, b"RFB 003.008\n\x01\x01\0\0\0\0");
        assert_eq!(failure, None);
    }

    #[test]
    fn older_viewers_have_another_handshake() {
        let (events, sent, failure) = read([&b"RFB 003.007\n\x01\x00"[..]]);
        assert_eq!((events.len(), failure), (3, None));
        assert_eq!(sent, b"RFB 003.008\n\x01\x01");
        let (events, sent, failure) = read([&b"RFB 003.003\n\x00"[..]]);
        assert_eq!((events.len(), failure), (2, None));
        assert_eq!(sent, b"RFB 003.008\n\0\0\0\x01");
    }

    #[test]
    fn rubbish_is_an_error_that_stays() {
        for (bytes, message) in [
            (&b"GET / HTTP/1.1\r\n"[..], "does not speak RFB"),
            (b"RFB 003.008\n\x02", "security type 2"),
            (b"RFB 003.008\n\x01\x01\xff", "unknown type 255"),
            (b"RFB 003.008\n\x01\x01\x02\0\xff\xff", "65535 encodings"),
            (b"RFB 003.008\n\x01\x01\x06\0\0\0\xff\xff\xff\xf0", "clipboard"),
            (b"RFB 003.008\n\x01\x01\0\0\0\0\x18\x18\0\x01\0\0\0\0\0\0\0\0\0\0\0\0", "bits"),
        ] {
            let (_, _, failure) = read([bytes, b"more", b"and more"]);
            let failure = failure.unwrap().to_string();
            assert!(failure.contains(message), "{failure}");
        }
    }

    proptest! {
        #[test]
        fn events_do_not_depend_on_how_the_bytes_are_split(
            cuts in prop::collection::vec(1..9usize, 1..200),
        ) {
            let bytes = message_bytes();
            let mut rest = &bytes[..];
            let mut parts = Vec::new();
            for cut in cuts.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (part, after) = rest.split_at(cut.min(rest.len()));
                parts.push(part);
                rest = after;
            }
            let (events, _, failure) = read(parts);
            prop_assert_eq!(events, message_events());
            prop_assert_eq!(failure, None);
        }
    }
}
