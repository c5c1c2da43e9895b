//! The newest bytes of a serial port in memory, each with its offset. The oldest make room.

use std::collections::VecDeque;

use bytes::Bytes;

/// The bytes of a port in memory.
pub const MEMORY_BYTES: usize = 1024 * 1024;

/// Contiguous bytes, and the offset of the first one.
#[derive(Debug)]
pub struct Ring {
    start: u64,
    bytes: VecDeque<u8>,
    capacity: usize,
}

impl Ring {
    /// Makes a ring without bytes.
    ///
    /// # Parameters
    /// - `start`: the offset of the next byte.
    pub const fn new(start: u64, capacity: usize) -> Self {
        Self { start, bytes: VecDeque::new(), capacity }
    }

    /// The offset of the first byte that the ring has.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// The offset of the next byte.
    pub fn end(&self) -> u64 {
        self.start + length(self.bytes.len())
    }

    /// Adds bytes. Drops the oldest ones if there are too many.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let excess = self.bytes.len().saturating_sub(self.capacity);
        self.bytes.drain(..excess);
        self.start += length(excess);
    }

    /// Drops all bytes, and frees their memory. The offset of the next byte stays.
    pub fn clear(&mut self) {
        self.start = self.end();
        self.bytes = VecDeque::new();
    }

    /// The bytes from an offset on, at most `limit` of them. Empty if the ring does not have the
    /// first one.
    pub fn read(&self, from: u64, limit: usize) -> Bytes {
        let Some(skip) = from.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok())
        else {
            return Bytes::new();
        };
        let end = self.bytes.len().min(skip.saturating_add(limit));
        if skip >= end {
            return Bytes::new();
        }
        let (first, second) = self.bytes.as_slices();
        let mut read = Vec::with_capacity(end - skip);
        read.extend_from_slice(first.get(skip..end.min(first.len())).unwrap_or_default());
        let (skip, end) = (skip.saturating_sub(first.len()), end.saturating_sub(first.len()));
        read.extend_from_slice(second.get(skip..end).unwrap_or_default());
        Bytes::from(read)
    }
}

/// A length as a distance of offsets.
pub fn length(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_oldest_bytes_make_room() {
        let mut ring = Ring::new(100, 4);
        ring.push(b"abc");
        assert_eq!((ring.start(), ring.end()), (100, 103));
        ring.push(b"def");
        assert_eq!((ring.start(), ring.end()), (102, 106));
        assert_eq!(ring.read(102, 9), "cdef");
        assert_eq!(ring.read(103, 2), "de");
        assert_eq!((ring.read(101, 9), ring.read(106, 9)), (Bytes::new(), Bytes::new()));
        ring.push(b"0123456789");
        assert_eq!((ring.start(), ring.read(112, 9)), (112, Bytes::from_static(b"6789")));
        ring.clear();
        assert_eq!((ring.start(), ring.end()), (116, 116));
    }

    proptest! {
        #[test]
        fn a_ring_has_the_end_of_all_that_was_pushed(
            start in 0..1000_u64,
            capacity in 1..40_usize,
            pushes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..20),
            (from, limit) in (0..700_u64, 0..50_usize),
        ) {
            let mut ring = Ring::new(start, capacity);
            let mut all = Vec::new();
            for bytes in &pushes {
                ring.push(bytes);
                all.extend_from_slice(bytes);
            }
            let end = start + length(all.len());
            prop_assert_eq!(ring.end(), end);
            prop_assert_eq!(ring.start(), end - length(all.len().min(capacity)));
            let from = ring.start() + from % 60;
            let skip = usize::try_from(from - start).unwrap().min(all.len());
            let expected: Vec<u8> = all[skip..].iter().copied().take(limit).collect();
            prop_assert_eq!(ring.read(from, limit), expected);
        }
    }
}
