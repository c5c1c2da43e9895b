//! The host's RFB server for one connection, without I/O.
//!
//! ```text
//! version ──► security: none ──► client init ──► open: requests are answered, input is passed on
//!
//! request ──► the size of the screen changed ──► an update with the new size alone
//!         ──► the client lacks parts ──► an update with some of them
//!         ──► the client lacks nothing ──► silence until something changes
//! ```
//! An update never promises to be complete, even if the client asks for the whole screen. A client
//! has to ask again until it has every part.

use super::super::guest_screen::{Bitmap, Key};
use super::client_message::{self, ClientMessage, Violation};
use super::damage::{Damage, Rectangle};
use super::encodings::{Encoding, write_header};
use super::pixel_format::PixelFormat;
use super::{ConsoleQuirks, FirstUpdate};

const VERSION: &[u8; 12] = b"RFB 003.008\n";
const SECURITY_NONE: u8 = 1;
/// The pseudo-encoding with which a client says that it understands new sizes.
const DESKTOP_SIZE: i32 = -223;
/// The number of no encoding: the mishap [`FirstUpdate::UnknownEncoding`] sends it.
const UNKNOWN_ENCODING: i32 = 0x7a7a_7a7a;
/// The encodings of VMware. Who offers one of them gets messages of VMware.
const VMWARE_ENCODINGS: std::ops::RangeInclusive<i32> = 0x574d_5600..=0x574d_56ff;
/// The message with which the host names its extensions: none.
const VMWARE_CAPABILITIES: [u8; 8] = [127, 0, 0, 8, 0, 0, 0, 0];
/// The maximum number of bytes of a message that is not complete.
const MAX_BUFFER: usize = 2 << 20;

/// What the client does to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestInput {
    Key { key: Key, is_down: bool },
    Pointer { x: u16, y: u16, buttons: u8 },
}

/// The state of one connection.
#[derive(Debug)]
pub struct RfbServer {
    name: String,
    quirks: ConsoleQuirks,
    phase: Phase,
    received: Vec<u8>,
    to_send: Vec<u8>,
    format: PixelFormat,
    encoding: Encoding,
    understands_sizes: bool,
    understands_vmware: bool,
    /// The size that the client knows.
    size: (u16, u16),
    request: Option<Request>,
    /// The screen as it was when the damage was last brought up to date.
    screen: Option<Bitmap>,
    damage: Damage,
    has_updated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Version,
    Security,
    Init,
    Open,
}

/// What the client asks for.
#[derive(Clone, Copy, Debug)]
struct Request {
    rectangle: Rectangle,
    /// The rectangle of which the client asks for all pixels, changed or not.
    full: Option<Rectangle>,
}

impl RfbServer {
    /// A new connection to a machine of this name, whose screen has this size.
    pub fn new(name: &str, (width, height): (u16, u16), quirks: ConsoleQuirks) -> Self {
        Self {
            name: name.to_owned(),
            quirks,
            phase: Phase::Version,
            received: Vec::new(),
            to_send: VERSION.to_vec(),
            format: PixelFormat::NATIVE,
            encoding: Encoding::Raw,
            understands_sizes: false,
            understands_vmware: false,
            size: (width, height),
            request: None,
            screen: None,
            damage: Damage::whole(width, height),
            has_updated: false,
        }
    }

    /// Takes bytes of the client. Returns what they do to the guest.
    ///
    /// # Errors
    /// Fails if the client breaks the protocol.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<GuestInput>, Violation> {
        self.received.extend_from_slice(bytes);
        let mut inputs = Vec::new();
        let mut used = 0;
        loop {
            let rest = self.received.get(used..).unwrap_or_default();
            let read = match self.phase {
                Phase::Open => match client_message::read(rest)? {
                    None => None,
                    Some((message, length)) => {
                        inputs.extend(self.handle(message));
                        Some(length)
                    }
                },
                _ => self.shake_hands(used)?,
            };
            match read {
                Some(length) => used += length,
                None => break,
            }
        }
        self.received.drain(..used);
        if self.received.len() > MAX_BUFFER { Err(Violation::Invalid) } else { Ok(inputs) }
    }

    /// The bytes that are ready for the client. Empty if there are none.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.to_send)
    }

    /// Whether the client waits for an update.
    pub const fn is_asked(&self) -> bool {
        self.request.is_some() && !self.quirks.silent
    }

    /// Whether consoles answer requests for updates.
    pub const fn set_silent(&mut self, is_silent: bool) {
        self.quirks.silent = is_silent;
    }

    /// The screen shows this now.
    pub fn show(&mut self, screen: Bitmap) {
        let size = (screen.width(), screen.height());
        match &self.screen {
            Some(old) if (old.width(), old.height()) == size => {
                self.damage.add_difference(old, &screen);
            }
            _ => self.damage = Damage::whole(size.0, size.1),
        }
        self.screen = Some(screen);
    }

    /// Prepares the answer to the client's request, if there is one and the client lacks something.
    pub fn answer(&mut self) {
        let Some(request) = self.request.filter(|_| !self.quirks.silent) else { return };
        let Some(screen) = self.screen.take() else { return };
        self.answer_with(&screen, request);
        self.screen = Some(screen);
    }

    fn answer_with(&mut self, screen: &Bitmap, request: Request) {
        let size = (screen.width(), screen.height());
        if let Some(full) = request.full {
            self.damage.add(full);
            self.request = Some(Request { full: None, ..request });
        }
        let whole = Rectangle { x: 0, y: 0, width: size.0, height: size.1 };
        let is_first = !std::mem::replace(&mut self.has_updated, true);
        let sends_size = self.understands_sizes
            && (self.size != size
                || (is_first && self.quirks.first_update == FirstUpdate::SizeAlone));
        if sends_size {
            // A client throws its picture away when the size changes.
            self.damage = Damage::whole(size.0, size.1);
            self.size = size;
            self.begin_update(1);
            return write_header(whole, DESKTOP_SIZE, &mut self.to_send);
        }
        match self.quirks.first_update {
            FirstUpdate::OnePixel if is_first => {
                let pixel = Rectangle { width: 1, height: 1, ..whole };
                let mut encoded = Vec::new();
                Encoding::Raw.write(pixel, screen, &self.format, &mut encoded);
                self.begin_update(1);
                self.to_send.extend(encoded);
                return;
            }
            FirstUpdate::UnknownEncoding if is_first => {
                self.begin_update(1);
                write_header(
                    Rectangle { width: 16, height: 16, ..whole },
                    UNKNOWN_ENCODING,
                    &mut self.to_send,
                );
                self.to_send.extend([0x5a; 64]);
                return;
            }
            _ => {}
        }
        // A client that does not understand sizes is sent rectangles beyond its screen.
        let region = if self.size == size { request.rectangle } else { whole };
        let rectangles = self.damage.take(region, self.quirks.rectangles.max(1));
        if rectangles.is_empty() {
            return;
        }
        let mut encoded = Vec::new();
        for rectangle in &rectangles {
            self.encoding.write(*rectangle, screen, &self.format, &mut encoded);
        }
        self.begin_update(u16::try_from(rectangles.len()).unwrap_or(u16::MAX));
        self.to_send.extend(encoded);
    }

    /// Starts an update with this number of rectangles. It answers the request.
    fn begin_update(&mut self, rectangles: u16) {
        self.request = None;
        self.to_send.extend([0, 0]);
        self.to_send.extend(rectangles.to_be_bytes());
    }

    /// Reads a part of the handshake that begins at `used`. Returns its length.
    fn shake_hands(&mut self, used: usize) -> Result<Option<usize>, Violation> {
        let rest = self.received.get(used..).unwrap_or_default();
        match self.phase {
            Phase::Version => {
                let Some(version) = rest.get(..VERSION.len()) else { return Ok(None) };
                if version != VERSION {
                    return Err(Violation::Invalid);
                }
                self.to_send.extend([1, SECURITY_NONE]);
                self.phase = Phase::Security;
                Ok(Some(VERSION.len()))
            }
            Phase::Security => match rest.first() {
                None => Ok(None),
                Some(&SECURITY_NONE) => {
                    self.to_send.extend([0; 4]);
                    self.phase = Phase::Init;
                    Ok(Some(1))
                }
                Some(_) => Err(Violation::Invalid),
            },
            Phase::Init if rest.is_empty() => Ok(None),
            Phase::Init => {
                self.to_send.extend(self.size.0.to_be_bytes());
                self.to_send.extend(self.size.1.to_be_bytes());
                PixelFormat::NATIVE.write(&mut self.to_send);
                let length = u32::try_from(self.name.len()).unwrap_or_default();
                self.to_send.extend(length.to_be_bytes());
                self.to_send.extend(self.name.as_bytes());
                self.phase = Phase::Open;
                Ok(Some(1))
            }
            Phase::Open => Ok(None),
        }
    }

    fn handle(&mut self, message: ClientMessage) -> Option<GuestInput> {
        match message {
            ClientMessage::PixelFormat(format) => self.format = format,
            ClientMessage::Encodings(offered) => {
                self.encoding = Encoding::choose(&offered);
                self.understands_sizes = offered.contains(&DESKTOP_SIZE);
                let knew = std::mem::replace(
                    &mut self.understands_vmware,
                    offered.iter().any(|number| VMWARE_ENCODINGS.contains(number)),
                );
                if self.understands_vmware && !knew {
                    self.to_send.extend(VMWARE_CAPABILITIES);
                }
            }
            ClientMessage::Request { is_incremental, rectangle } => {
                let full = (!is_incremental).then_some(rectangle);
                let request = match self.request {
                    Some(before) => Request {
                        rectangle: around(before.rectangle, rectangle),
                        full: match (before.full, full) {
                            (Some(before), Some(full)) => Some(around(before, full)),
                            (before, full) => before.or(full),
                        },
                    },
                    None => Request { rectangle, full },
                };
                self.request = Some(request);
            }
            ClientMessage::Key { keysym, is_down } => {
                return Key::of_keysym(keysym).map(|key| GuestInput::Key { key, is_down });
            }
            ClientMessage::ScanCode { code, is_down } if self.understands_vmware => {
                return Key::of_scan_code(code).map(|key| GuestInput::Key { key, is_down });
            }
            ClientMessage::Pointer { buttons, x, y } => {
                return Some(GuestInput::Pointer { x, y, buttons });
            }
            ClientMessage::ScanCode { .. } | ClientMessage::Ignored => {}
        }
        None
    }
}

/// The smallest rectangle around two.
fn around(one: Rectangle, other: Rectangle) -> Rectangle {
    let (x, y) = (one.x.min(other.x), one.y.min(other.y));
    let end = |start: u16, length: u16| start.saturating_add(length);
    let right = end(one.x, one.width).max(end(other.x, other.width));
    let bottom = end(one.y, one.height).max(end(other.y, other.height));
    Rectangle { x, y, width: right - x, height: bottom - y }
}
