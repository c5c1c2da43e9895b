//! The sizes of WebSocket messages. A host cuts its stream of bytes into messages without regard
//! for the messages of RFB: some are a single byte, most are large.

use bytes::Bytes;

/// Cuts a stream of bytes into messages. The sizes look random, and are the same at each run.
#[derive(Debug)]
pub struct Slices {
    state: u64,
    max: usize,
}

impl Slices {
    /// Messages of at most `max` bytes.
    pub fn new(max: usize) -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, max: max.max(1) }
    }

    /// Cuts `bytes` into messages.
    pub fn cut(&mut self, mut bytes: Bytes) -> Vec<Bytes> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            let size = self.next_size().min(bytes.len());
            messages.push(bytes.split_to(size));
        }
        messages
    }

    fn next_size(&mut self) -> usize {
        // Xorshift, by Marsaglia.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let random = usize::try_from(self.state >> 33).unwrap_or_default();
        match random % 16 {
            0 => 1,
            1 | 2 => (1 + random / 16 % 63).min(self.max),
            3 => 1 + random / 16 % self.max,
            _ => self.max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_and_sizes_are_odd() {
        let bytes: Bytes = (0..200_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        let mut slices = Slices::new(8_192);
        let cut = slices.cut(bytes.clone());
        assert_eq!(cut.concat(), bytes);
        assert!(cut.iter().any(|message| message.len() == 1));
        assert!(cut.iter().all(|message| (1..=8_192).contains(&message.len())));
        assert_eq!(Slices::new(0).cut(Bytes::from_static(b"ab")).len(), 2);
    }
}
