//! Where the bytes of a recorded serial port come from.

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::failure::Failure;
use crate::domain::machine::{Machine, SerialPort};

/// The serial ports of all machines.
#[async_trait]
pub trait SerialSource: Send + Sync {
    /// Begins to read a port of a machine.
    ///
    /// # Parameters
    /// - `from`: the offset of the first byte that the reader wants. `None`: the next byte that
    ///   comes.
    ///
    /// # Errors
    /// Why the port cannot be read at all.
    async fn read(
        &self,
        machine: &Machine,
        port: &SerialPort,
        from: Option<u64>,
    ) -> Result<Box<dyn SerialBytes>, Failure>;
}

/// The bytes of one port, in the order of their offsets.
#[async_trait]
pub trait SerialBytes: Send {
    /// The next bytes, or the next gap. Waits until there are some. No byte is lost if the future
    /// is dropped before it ends.
    ///
    /// # Errors
    /// Why no byte will come any more.
    async fn next(&mut self) -> Result<SerialPiece, Failure>;
}

/// A piece of what came from a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialPiece {
    /// Bytes, and the offset of the first one.
    Bytes { offset: u64, bytes: Bytes },
    /// Bytes are missing before this offset.
    Gap { offset: u64, reason: String },
}
