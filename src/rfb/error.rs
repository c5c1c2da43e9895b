//! What a peer can do wrong, in sentences for a person.

use crate::domain::screen::{Region, ScreenSize};

/// The peer does not speak the protocol, or it refused to. Its stream cannot be read any further:
/// close the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RfbError {
    /// The first bytes are no version: the peer is no RFB server or viewer, or it speaks another
    /// channel of VMware.
    #[error("the peer does not speak RFB: it began with `{begin}` and not with a version")]
    NoVersion {
        /// The first bytes, with escapes.
        begin: String,
    },
    /// Such as 3.3, which has another handshake.
    #[error("the server speaks RFB {major}.{minor}, and otter speaks 3.8")]
    UnsupportedVersion { major: u16, minor: u16 },
    /// The server closed the handshake with a reason.
    #[error("the server refused the connection: {reason}")]
    Refused { reason: String },
    /// The server wants a password or another protection inside of RFB.
    #[error("the server offers the security types {offered:?}, and otter speaks 1 (None) only")]
    NoSecurityNone { offered: Vec<u8> },
    /// The viewer chose a security type that it was not offered.
    #[error("the viewer chose the security type {chosen}, and otter offers 1 (None) only")]
    SecurityNotOffered { chosen: u8 },
    /// A number of bytes or items that no honest peer sends.
    #[error("the peer announced {announced} {what}, and {limit} is the maximum")]
    TooLong { what: &'static str, announced: u64, limit: u64 },
    /// A server must not have such a screen.
    #[error(
        "the server announced a screen of {size} pixels, and otter shows screens from 1×1 to \
         {max}×{max} pixels",
        max = ScreenSize::MAX_SIDE
    )]
    ScreenSize { size: ScreenSize },
    /// Usually an answer to a client that does not know the size of the screen any more.
    #[error("the server sent the rectangle {region}, which is beyond its screen of {size} pixels")]
    OutsideScreen { region: Region, size: ScreenSize },
    /// The rectangle has a length that only its encoding knows, so that it cannot be skipped.
    #[error("the server sent a rectangle in the encoding {0}, which otter did not offer")]
    UnknownEncoding(i32),
    /// The message has a length that only its type knows, so that it cannot be skipped.
    #[error("the peer sent a message of the unknown type {0}")]
    UnknownMessage(u8),
    /// A message that says two different things.
    #[error("the peer sent a broken message: {0}")]
    Broken(&'static str),
    /// The viewer wants a colour map, or a number of bits that no screen has.
    #[error("otter cannot send the pixel format that the viewer asks for: {0}")]
    UnsupportedPixelFormat(&'static str),
    /// A Tight rectangle has limits of its own, which the sender must keep.
    #[error("a PNG of {size} pixels and {bytes} bytes does not fit into one rectangle")]
    PictureTooLarge { size: ScreenSize, bytes: usize },
    /// The encoder failed.
    #[error("the picture cannot be encoded as PNG")]
    Png,
}

impl RfbError {
    /// Whether the server refused the connection with a reason of its own, and spoke RFB correctly.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}
