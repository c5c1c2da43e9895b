//! The RFB protocol (RFC 6143) as a pure codec: bytes in, events out, and bytes to send. No I/O.
//!
//! [`ServerStream`] reads what a server (the host's console) sends; [`client_messages`] writes what
//! otter sends to it. [`ViewerStream`] reads what a viewer sends; [`viewer_updates`] writes what
//! otter sends to it. Pixels are 4 bytes in the order B, G, R, 0 in both directions.

pub mod client_messages;
pub mod constants;
mod error;
mod input_buffer;
pub mod pixel_format;
mod server_stream;
mod version;
mod viewer_stream;
pub mod viewer_updates;

pub use error::RfbError;
pub use pixel_format::PixelFormat;
pub use server_stream::{ServerEvent, ServerStream};
pub use viewer_stream::{ViewerEncodings, ViewerEvent, ViewerStream};
