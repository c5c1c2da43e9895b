//! The numbers of the RFB protocol (RFC 6143). The simulator shares them; it shares no code.

/// The protocol version 3.8, which both sides send first.
pub const VERSION_3_8: &[u8; 12] = b"RFB 003.008\n";
/// The number of bytes of a version.
pub const VERSION_BYTES: usize = 12;

/// The security type without authentication and encryption.
pub const SECURITY_NONE: u8 = 1;
/// The security result of a success.
pub const SECURITY_OK: u32 = 0;

/// Messages of a viewer to a server.
pub const SET_PIXEL_FORMAT: u8 = 0;
pub const SET_ENCODINGS: u8 = 2;
pub const FRAMEBUFFER_UPDATE_REQUEST: u8 = 3;
pub const KEY_EVENT: u8 = 4;
pub const POINTER_EVENT: u8 = 5;
pub const CLIENT_CUT_TEXT: u8 = 6;

/// Messages of a server to a viewer.
pub const FRAMEBUFFER_UPDATE: u8 = 0;
pub const SET_COLOUR_MAP_ENTRIES: u8 = 1;
pub const BELL: u8 = 2;
pub const SERVER_CUT_TEXT: u8 = 3;

/// The message of VMware's extensions, in both directions.
pub const VMWARE_MESSAGE: u8 = 127;

/// Encodings of rectangles. Those below 0 have no pixels.
pub const ENCODING_RAW: i32 = 0;
pub const ENCODING_COPY_RECT: i32 = 1;
pub const ENCODING_DESKTOP_SIZE: i32 = -223;
pub const ENCODING_LAST_RECT: i32 = -224;
pub const ENCODING_TIGHT_PNG: i32 = -260;

/// The control byte of a Tight rectangle that contains a PNG.
pub const TIGHT_CONTROL_PNG: u8 = 0xa0;
/// The maximum number of bytes of a PNG in a Tight rectangle: its length has 22 bits.
pub const TIGHT_MAX_BYTES: usize = (1 << 22) - 1;
/// The maximum width of a Tight rectangle.
pub const TIGHT_MAX_WIDTH: u16 = 2048;
