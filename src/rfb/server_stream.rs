//! Reads what an RFB server sends, from the version to the pixels, and answers its handshake.
//!
//! ```text
//! Version ─► SecurityTypes ─► SecurityResult ─► Init ─► Message ◄─────────────────┐
//!               │ none offered      │ failed            │  ▲ other messages       │
//!               ▼                   ▼                   │  └─ skipped             │
//!            ReasonLength ──► Reason ──► error          ▼ update                  │
//!                                        no rectangle left: UpdateEnd ── Rectangle┘
//!                                                  Raw ─► Pixels ─► Rectangle
//! ```

use bytes::Bytes;

use super::client_messages::{set_encodings, set_pixel_format};
use super::constants::{
    BELL, ENCODING_COPY_RECT, ENCODING_DESKTOP_SIZE, ENCODING_LAST_RECT, ENCODING_RAW,
    FRAMEBUFFER_UPDATE, SECURITY_NONE, SECURITY_OK, SERVER_CUT_TEXT, SET_COLOUR_MAP_ENTRIES,
    VERSION_3_8, VERSION_BYTES, VMWARE_MESSAGE,
};
use super::error::RfbError;
use super::input_buffer::{InputBuffer, text};
use super::pixel_format::PixelFormat;
use super::version::parse_version;
use crate::domain::screen::{Region, ScreenSize};

/// The encodings that otter offers to a host: pictures without loss, and no pseudo-encoding to
/// which a host could answer with something that otter does not know.
const OFFERED: [i32; 3] = [ENCODING_RAW, ENCODING_DESKTOP_SIZE, ENCODING_LAST_RECT];

/// A rectangle with more bytes comes as several events, so that memory stays bounded.
const BAND_BYTES: usize = 1 << 20;

/// The maximum number of bytes of a name and of a reason.
const MAX_TEXT_BYTES: u32 = 64 << 10;

/// The maximum number of bytes of a clipboard. They are skipped.
const MAX_CUT_TEXT_BYTES: u32 = 64 << 20;

/// The stream of bytes from an RFB 3.8 server without authentication.
///
/// Call [`Self::feed`] with bytes as they arrive, then [`Self::next_event`] until it gives `None`,
/// and send what [`Self::to_send`] gives. The buffer holds one message or about 1 MiB of pixels at
/// most, and the bytes of the last feed.
#[derive(Debug)]
pub struct ServerStream {
    input: InputBuffer,
    output: Vec<u8>,
    state: State,
    size: ScreenSize,
    error: Option<RfbError>,
}

/// What an RFB server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// The handshake has ended. From now on the server sends pixels if it is asked for them.
    Ready { size: ScreenSize, name: String },
    /// The screen has a new size, and nothing of the earlier picture holds.
    Resize(ScreenSize),
    /// Pixels of a region of the screen: 4 bytes each in the order B, G, R, 0, row by row. They may
    /// share a larger buffer; copy them to keep them.
    Rectangle { region: Region, pixels: Bytes },
    /// A region of the screen has the pixels that another region had before.
    Copy { region: Region, from_x: u16, from_y: u16 },
    /// The end of the answer to a request. It may have had no pixels.
    UpdateEnd,
    /// The machine rang its bell.
    Bell,
    /// The server has a new clipboard. Its text is skipped.
    CutText,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Version,
    SecurityTypes,
    SecurityResult,
    ReasonLength,
    Reason {
        bytes: usize,
    },
    Init,
    Message,
    /// Between two rectangles of an update, of which so many are left.
    Rectangle {
        left: u16,
    },
    /// The rows of a raw rectangle that have not arrived yet.
    Pixels {
        rows: Region,
        left: u16,
    },
    /// The origin of a copied rectangle comes next.
    Copy {
        region: Region,
        left: u16,
    },
}

/// What one step of the parser gives.
enum Step {
    Event(ServerEvent),
    /// Something that is no event.
    Nothing,
    /// More bytes must arrive.
    Wait,
}

impl Default for ServerStream {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerStream {
    #[must_use]
    pub fn new() -> Self {
        Self {
            input: InputBuffer::default(),
            output: Vec::new(),
            state: State::Version,
            size: ScreenSize::new(0, 0),
            error: None,
        }
    }

    /// Takes bytes that the server sent. Bytes after an error are ignored.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.input.push(bytes);
        }
    }

    /// The next event. `None` if more bytes must arrive.
    ///
    /// # Errors
    /// The server does not speak the protocol, or it refused the connection. Every later call gives
    /// the same error: close the connection.
    pub fn next_event(&mut self) -> Result<Option<ServerEvent>, RfbError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        loop {
            match self.step() {
                Ok(Step::Event(event)) => return Ok(Some(event)),
                Ok(Step::Nothing) => {}
                Ok(Step::Wait) => return Ok(None),
                Err(error) => {
                    self.error = Some(error.clone());
                    self.input = InputBuffer::default();
                    return Err(error);
                }
            }
        }
    }

    /// What must be sent to the server before anything else: the answers of the handshake, and
    /// after it the pixel format and the encodings of otter. Empty if there is nothing.
    pub fn to_send(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Whether the handshake has ended.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(
            self.state,
            State::Message | State::Rectangle { .. } | State::Pixels { .. } | State::Copy { .. }
        )
    }

    /// The number of bytes that wait for the rest of their message.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.input.len()
    }

    fn step(&mut self) -> Result<Step, RfbError> {
        if !self.input.is_past_skip() {
            return Ok(Step::Wait);
        }
        match self.state {
            State::Version => self.version(),
            State::SecurityTypes => self.security_types(),
            State::SecurityResult => Ok(self.security_result()),
            State::ReasonLength => self.reason_length(),
            State::Reason { bytes } => self.reason(bytes),
            State::Init => self.init(),
            State::Message => self.message(),
            State::Rectangle { left: 0 } => {
                self.state = State::Message;
                Ok(Step::Event(ServerEvent::UpdateEnd))
            }
            State::Rectangle { left } => self.rectangle(left - 1),
            State::Pixels { rows, left } => Ok(self.pixels(rows, left)),
            State::Copy { region, left } => self.copy(region, left),
        }
    }

    fn version(&mut self) -> Result<Step, RfbError> {
        let Some((major, minor)) = parse_version(self.input.peek())? else {
            return Ok(Step::Wait);
        };
        // A server with a later version understands 3.8, and only 3.8 is answered.
        if (major, minor) < (3, 8) {
            return Err(RfbError::UnsupportedVersion { major, minor });
        }
        let _ = self.input.take_array::<VERSION_BYTES>();
        self.output.extend(VERSION_3_8);
        self.state = State::SecurityTypes;
        Ok(Step::Nothing)
    }

    fn security_types(&mut self) -> Result<Step, RfbError> {
        let Some(count) = self.input.peek().first().copied() else { return Ok(Step::Wait) };
        let Some(message) = self.input.take(1 + usize::from(count)) else { return Ok(Step::Wait) };
        let offered = message.get(1..).unwrap_or_default();
        if offered.is_empty() {
            self.state = State::ReasonLength;
        } else if offered.contains(&SECURITY_NONE) {
            self.output.push(SECURITY_NONE);
            self.state = State::SecurityResult;
        } else {
            return Err(RfbError::NoSecurityNone { offered: offered.to_vec() });
        }
        Ok(Step::Nothing)
    }

    fn security_result(&mut self) -> Step {
        let Some(result) = self.input.take_array().map(u32::from_be_bytes) else {
            return Step::Wait;
        };
        self.state = if result == SECURITY_OK {
            // One byte: the connection is shared with others.
            self.output.push(1);
            State::Init
        } else {
            State::ReasonLength
        };
        Step::Nothing
    }

    fn reason_length(&mut self) -> Result<Step, RfbError> {
        let Some(length) = self.input.take_array().map(u32::from_be_bytes) else {
            return Ok(Step::Wait);
        };
        self.state = State::Reason { bytes: limited("bytes of a reason", length)? };
        Ok(Step::Nothing)
    }

    fn reason(&mut self, bytes: usize) -> Result<Step, RfbError> {
        match self.input.take(bytes) {
            Some(reason) => Err(RfbError::Refused { reason: text(&reason) }),
            None => Ok(Step::Wait),
        }
    }

    fn init(&mut self) -> Result<Step, RfbError> {
        const FIXED_BYTES: usize = 24;
        let Some([w0, w1, h0, h1, .., l0, l1, l2, l3]) =
            self.input.peek().first_chunk::<FIXED_BYTES>().copied()
        else {
            return Ok(Step::Wait);
        };
        let name_bytes = limited("bytes of a name", u32::from_be_bytes([l0, l1, l2, l3]))?;
        let size = size([w0, w1], [h0, h1])?;
        let Some(message) = self.input.take(FIXED_BYTES + name_bytes) else {
            return Ok(Step::Wait);
        };
        let name = text(message.get(FIXED_BYTES..).unwrap_or_default());
        self.size = size;
        self.output.extend(set_pixel_format(&PixelFormat::BGR0));
        self.output.extend(set_encodings(&OFFERED));
        self.state = State::Message;
        Ok(Step::Event(ServerEvent::Ready { size, name }))
    }

    fn message(&mut self) -> Result<Step, RfbError> {
        let Some(kind) = self.input.peek().first().copied() else { return Ok(Step::Wait) };
        match kind {
            FRAMEBUFFER_UPDATE => {
                let Some([_, _, n0, n1]) = self.input.take_array() else { return Ok(Step::Wait) };
                self.state = State::Rectangle { left: u16::from_be_bytes([n0, n1]) };
                Ok(Step::Nothing)
            }
            SET_COLOUR_MAP_ENTRIES => {
                let Some([_, _, _, _, n0, n1]) = self.input.take_array() else {
                    return Ok(Step::Wait);
                };
                self.input.skip(u64::from(u16::from_be_bytes([n0, n1])) * 6);
                Ok(Step::Nothing)
            }
            BELL => {
                let _ = self.input.take_array::<1>();
                Ok(Step::Event(ServerEvent::Bell))
            }
            SERVER_CUT_TEXT => {
                let Some([_, _, _, _, length @ ..]) = self.input.take_array::<8>() else {
                    return Ok(Step::Wait);
                };
                let announced = u32::from_be_bytes(length);
                if announced > MAX_CUT_TEXT_BYTES {
                    return Err(too_long("bytes of a clipboard", announced, MAX_CUT_TEXT_BYTES));
                }
                self.input.skip(announced.into());
                Ok(Step::Event(ServerEvent::CutText))
            }
            VMWARE_MESSAGE => {
                let Some([_, _, n0, n1]) = self.input.take_array() else { return Ok(Step::Wait) };
                // The length is that of the whole message.
                let rest = u16::from_be_bytes([n0, n1]).checked_sub(4);
                let rest = rest.ok_or(RfbError::Broken("a VMware message is shorter than 4"))?;
                self.input.skip(rest.into());
                Ok(Step::Nothing)
            }
            unknown => Err(RfbError::UnknownMessage(unknown)),
        }
    }

    /// Reads the head of a rectangle, after which `left` others follow.
    fn rectangle(&mut self, left: u16) -> Result<Step, RfbError> {
        let Some([x0, x1, y0, y1, w0, w1, h0, h1, e0, e1, e2, e3]) = self.input.take_array() else {
            return Ok(Step::Wait);
        };
        let [x, y, width, height] =
            [[x0, x1], [y0, y1], [w0, w1], [h0, h1]].map(u16::from_be_bytes);
        let region = Region { x, y, width, height };
        let encoding = i32::from_be_bytes([e0, e1, e2, e3]);
        match encoding {
            ENCODING_RAW => {
                self.check_is_within(region)?;
                self.begin_band(region, left);
                Ok(Step::Nothing)
            }
            ENCODING_COPY_RECT => {
                self.check_is_within(region)?;
                self.state = State::Copy { region, left };
                Ok(Step::Nothing)
            }
            ENCODING_DESKTOP_SIZE => {
                self.size = size([w0, w1], [h0, h1])?;
                self.state = State::Rectangle { left };
                Ok(Step::Event(ServerEvent::Resize(self.size)))
            }
            ENCODING_LAST_RECT => {
                self.state = State::Rectangle { left: 0 };
                Ok(Step::Nothing)
            }
            unknown => Err(RfbError::UnknownEncoding(unknown)),
        }
    }

    fn check_is_within(&self, region: Region) -> Result<(), RfbError> {
        if region.is_within(self.size) {
            Ok(())
        } else {
            Err(RfbError::OutsideScreen { region, size: self.size })
        }
    }

    /// Goes on to the rows of a raw rectangle that are still to come.
    fn begin_band(&mut self, rows: Region, left: u16) {
        if rows.is_empty() {
            self.state = State::Rectangle { left };
        } else {
            self.input.expect(band(rows).size().bytes());
            self.state = State::Pixels { rows, left };
        }
    }

    fn pixels(&mut self, rows: Region, left: u16) -> Step {
        let region = band(rows);
        let Some(mut pixels) = self.input.take(region.size().bytes()) else { return Step::Wait };
        // The fourth byte means nothing, and a host may send anything in it.
        pixels.as_chunks_mut::<4>().0.iter_mut().for_each(|pixel| pixel[3] = 0);
        // A band is a part of the rows, so nothing overflows.
        let rest = Region {
            y: rows.y.saturating_add(region.height),
            height: rows.height.saturating_sub(region.height),
            ..rows
        };
        self.begin_band(rest, left);
        Step::Event(ServerEvent::Rectangle { region, pixels: pixels.freeze() })
    }

    fn copy(&mut self, region: Region, left: u16) -> Result<Step, RfbError> {
        let Some([x0, x1, y0, y1]) = self.input.take_array() else { return Ok(Step::Wait) };
        let [from_x, from_y] = [[x0, x1], [y0, y1]].map(u16::from_be_bytes);
        self.check_is_within(Region { x: from_x, y: from_y, ..region })?;
        self.state = State::Rectangle { left };
        Ok(Step::Event(ServerEvent::Copy { region, from_x, from_y }))
    }
}

/// The first of the rows, as many as one event has.
fn band(rows: Region) -> Region {
    let row_bytes = usize::from(rows.width).max(1) * 4;
    let height = u16::try_from(BAND_BYTES / row_bytes).unwrap_or(u16::MAX).max(1);
    Region { height: rows.height.min(height), ..rows }
}

/// The size of a screen in two numbers of a message.
fn size(width: [u8; 2], height: [u8; 2]) -> Result<ScreenSize, RfbError> {
    let [width, height] = [width, height].map(u16::from_be_bytes);
    let size = ScreenSize { width, height };
    if size.is_allowed() { Ok(size) } else { Err(RfbError::ScreenSize { size }) }
}

/// The length of a text, if it is not too long.
fn limited(what: &'static str, announced: u32) -> Result<usize, RfbError> {
    match usize::try_from(announced) {
        Ok(length) if announced <= MAX_TEXT_BYTES => Ok(length),
        _ => Err(too_long(what, announced, MAX_TEXT_BYTES)),
    }
}

fn too_long(what: &'static str, announced: u32, limit: u32) -> RfbError {
    RfbError::TooLong { what, announced: announced.into(), limit: limit.into() }
}

#[cfg(test)]
mod tests;
