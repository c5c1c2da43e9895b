//! A reader of the output of a serial port. Reading consumes nothing, and each reader has a
//! position of its own.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::port_log::{Bounds, FilePart, Found};
use super::shared_port::{PortStatus, PortUse};
use crate::domain::failure::Failure;
use crate::domain::serial::{Gap, GapReason};

/// The most bytes of one piece.
pub const MAX_PIECE: usize = 64 * 1024;

/// The next part of the output for a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialPiece {
    /// Bytes, and the offset of the first one.
    Bytes { offset: u64, bytes: Bytes },
    /// Bytes may be missing here. The reader goes on at this offset.
    Gap { offset: u64, reason: GapReason },
}

/// Reads the output of a port from an offset on. While it exists, otter stays connected to the
/// port.
pub struct SerialReader {
    usage: PortUse,
    status: watch::Receiver<PortStatus>,
    changes: watch::Receiver<u64>,
    position: u64,
    /// The number of the last gap behind the position.
    passed: u64,
    /// The file that was read last, with the offset by which it is named.
    file: Option<(u64, Arc<File>)>,
}

impl SerialReader {
    /// # Parameters
    /// - `usage`: of a port whose output is loaded.
    /// - `position`: an offset that the port has, or its end.
    pub(super) fn new(usage: PortUse, position: u64) -> Self {
        let port = usage.port();
        let (status, changes) = (port.status.subscribe(), port.log.changes());
        let passed = port.log.passed_at(position);
        Self { usage, status, changes, position, passed, file: None }
    }

    /// The offset of the next byte of this reader.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Which offsets the port has.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.usage.port().log.bounds()
    }

    /// The use of the port.
    #[must_use]
    pub const fn usage(&self) -> &PortUse {
        &self.usage
    }

    /// Waits for the next piece. Cancel safe: a piece that was not returned is returned by the next
    /// call.
    ///
    /// # Errors
    /// The end of the port, once all its output was read: `machine-gone`, `shutting-down`.
    pub async fn next(&mut self) -> Result<SerialPiece, Failure> {
        loop {
            self.changes.mark_unchanged();
            let end = self.status.borrow_and_update().end.clone();
            if let Some(piece) = self.available(MAX_PIECE).await {
                return Ok(piece);
            }
            if let Some(end) = end {
                return Err(end);
            }
            // The senders live as long as `usage`.
            tokio::select! {
                _ = self.changes.changed() => {}
                _ = self.status.changed() => {}
            }
        }
    }

    /// Waits until there is a byte to read. Passes the gaps before it. Cancel safe.
    ///
    /// # Errors
    /// As [`SerialReader::next`].
    pub async fn ready(&mut self) -> Result<(), Failure> {
        loop {
            self.changes.mark_unchanged();
            let end = self.status.borrow_and_update().end.clone();
            if self.pass_gaps() < self.bounds().next {
                return Ok(());
            }
            if let Some(end) = end {
                return Err(end);
            }
            // The senders live as long as `usage`.
            tokio::select! {
                _ = self.changes.changed() => {}
                _ = self.status.changed() => {}
            }
        }
    }

    /// Passes the gaps at the position.
    ///
    /// # Returns
    /// The offset of the next byte.
    pub fn pass_gaps(&mut self) -> u64 {
        loop {
            match self.usage.port().log.find(self.position, self.passed, 1) {
                Found::Gap(number, gap) => {
                    self.passed = number;
                    self.position = self.position.max(gap.offset);
                }
                Found::Dropped(offset) => {
                    self.jump(offset);
                }
                Found::Bytes(_) | Found::InFile(_) | Found::Nothing => return self.position,
            }
        }
    }

    /// The end of the bytes that follow the position without a hole in their numbers.
    #[must_use]
    pub fn run_end(&self) -> u64 {
        self.usage.port().log.run_end(self.position)
    }

    /// The next piece, if there is one already. Cancel safe.
    ///
    /// # Parameters
    /// - `limit`: the most bytes.
    pub async fn available(&mut self, limit: usize) -> Option<SerialPiece> {
        loop {
            let found = self.usage.port().log.find(self.position, self.passed, limit);
            match found {
                Found::Nothing => return None,
                Found::Bytes(bytes) => return Some(self.advance(bytes)),
                Found::Gap(number, Gap { offset, reason, .. }) => {
                    self.passed = number;
                    self.position = self.position.max(offset);
                    return Some(SerialPiece::Gap { offset: self.position, reason });
                }
                Found::Dropped(offset) => {
                    return Some(self.jump(offset));
                }
                Found::InFile(part) => {
                    if let Some(bytes) = self.read(part).await {
                        return Some(self.advance(bytes));
                    }
                    // The file was deleted meanwhile.
                    self.usage.port().log.forget_file(part.file);
                }
            }
        }
    }

    /// Goes on at a later offset, because the reader cannot keep up.
    pub fn jump(&mut self, offset: u64) -> SerialPiece {
        self.position = self.position.max(offset);
        self.passed = self.passed.max(self.usage.port().log.passed_at(self.position));
        SerialPiece::Gap { offset: self.position, reason: GapReason::Overflow }
    }

    fn advance(&mut self, bytes: Bytes) -> SerialPiece {
        let offset = self.position;
        self.position += super::ring::length(bytes.len());
        SerialPiece::Bytes { offset, bytes }
    }

    /// Reads a part of a file. `None` if it is not there any more.
    async fn read(&mut self, part: FilePart) -> Option<Bytes> {
        let FilePart { file: start, position, length } = part;
        let known = self.file.clone().filter(|(of, _)| *of == start).map(|(_, file)| file);
        let path = self.usage.port().log.file(start)?;
        let reading = tokio::task::spawn_blocking(move || {
            let file = match known {
                Some(file) => file,
                None => Arc::new(File::open(path)?),
            };
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, position)?;
            Ok::<_, std::io::Error>((file, bytes))
        });
        let (file, bytes) = reading.await.ok()?.ok()?;
        self.file = Some((start, file));
        Some(Bytes::from(bytes))
    }
}
