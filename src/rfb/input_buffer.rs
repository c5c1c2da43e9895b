//! The bytes of a peer that are not parsed yet.

use bytes::{Buf, BytesMut};

use crate::domain::terminal::printable;

/// A queue of bytes. Bytes are taken only if all bytes of an item are there, so that an item that
/// arrives in pieces costs as much as one that arrives at once.
#[derive(Debug, Default)]
pub struct InputBuffer {
    bytes: BytesMut,
    /// The number of bytes to skip that have not arrived yet.
    to_skip: u64,
}

impl InputBuffer {
    pub fn push(&mut self, mut bytes: &[u8]) {
        // Bytes to skip are never stored.
        if self.bytes.is_empty() {
            self.drop_skipped(&mut bytes);
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The number of bytes that are there.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes that are there, without taking them.
    pub fn peek(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes so many bytes. `None` if there are fewer.
    pub fn take(&mut self, count: usize) -> Option<BytesMut> {
        (self.bytes.len() >= count).then(|| self.bytes.split_to(count))
    }

    /// Takes the bytes of a fixed part of a message. `None` if some are missing.
    pub fn take_array<const COUNT: usize>(&mut self) -> Option<[u8; COUNT]> {
        let array = *self.bytes.first_chunk::<COUNT>()?;
        self.bytes.advance(COUNT);
        Some(array)
    }

    /// Makes room for an item of so many bytes, which arrives in pieces.
    pub fn expect(&mut self, count: usize) {
        self.bytes.reserve(count.saturating_sub(self.bytes.len()));
    }

    /// Skips so many bytes, also those that have not arrived yet.
    pub fn skip(&mut self, count: u64) {
        self.to_skip += count;
        self.is_past_skip();
    }

    /// Whether all bytes to skip have arrived. Nothing may be taken before that.
    pub fn is_past_skip(&mut self) -> bool {
        let here = usize::try_from(self.to_skip).unwrap_or(usize::MAX).min(self.bytes.len());
        self.bytes.advance(here);
        self.to_skip -= here as u64;
        self.to_skip == 0
    }

    fn drop_skipped(&mut self, bytes: &mut &[u8]) {
        let here = usize::try_from(self.to_skip).unwrap_or(usize::MAX).min(bytes.len());
        *bytes = bytes.get(here..).unwrap_or_default();
        self.to_skip -= here as u64;
    }
}

/// A text of a peer in one printable line, and without its end if it is long.
pub fn text(bytes: &[u8]) -> String {
    const MAX_CHARACTERS: usize = 256;
    let text: String = String::from_utf8_lossy(bytes).chars().take(MAX_CHARACTERS).collect();
    printable(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_bytes_are_not_stored() {
        let mut buffer = InputBuffer::default();
        buffer.push(b"ab");
        buffer.skip(1_000_001);
        assert!(!buffer.is_past_skip());
        for _ in 0..999 {
            buffer.push(&[0; 1000]);
            assert_eq!(buffer.len(), 0);
        }
        buffer.push(&[0; 999]);
        buffer.push(b"xyz");
        assert!(buffer.is_past_skip());
        assert_eq!(buffer.take_array(), Some(*b"xyz"));
        assert_eq!(buffer.take_array::<1>(), None);
    }

    #[test]
    fn an_item_is_taken_whole_or_not_at_all() {
        let mut buffer = InputBuffer::default();
        buffer.push(b"abc");
        assert_eq!(buffer.take(4), None);
        assert_eq!(buffer.take_array::<4>(), None);
        buffer.push(b"d");
        assert_eq!(buffer.take(4).as_deref(), Some(&b"abcd"[..]));
    }
}
