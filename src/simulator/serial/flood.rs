//! Bytes that a port writes at a rate, for benchmarks and for tests of losses. Each line has 64
//! bytes and begins with its number, so that a reader sees what is missing.

use std::time::Duration;

/// The length of a line with its end.
const LINE: usize = 64;
/// How many digits the number of a line has.
const DIGITS: usize = 16;
/// The time between two writes.
const PERIOD: Duration = Duration::from_millis(10);
const FILL: &[u8; 46] = b" abcdefghijklmnopqrstuvwxyz+ABCDEFGHIJKLMNOPQR";

/// A flood of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flood {
    bytes_per_second: u64,
    /// How many bytes it has in all. `None`: it does not end by itself.
    total: Option<u64>,
    began: Duration,
    /// How many bytes were written or lost.
    position: u64,
    /// When it writes next. So it does not write each byte alone as soon as the byte is due.
    next_write: Duration,
}

impl Flood {
    /// A flood that begins now.
    pub const fn new(bytes_per_second: u64, total: Option<u64>, now: Duration) -> Self {
        Self { bytes_per_second, total, began: now, position: 0, next_write: now }
    }

    /// Whether it has no bytes left.
    pub fn is_over(&self) -> bool {
        self.total.is_some_and(|total| self.position >= total)
    }

    /// Writes the bytes that are due, at most `limit`. The others wait, as a guest waits for a full
    /// port.
    pub fn write_due(&mut self, now: Duration, limit: usize, output: &mut Vec<u8>) {
        if now < self.next_write {
            return;
        }
        let left = self.due(now).saturating_sub(self.position);
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        if left <= limit {
            self.next_write = now + PERIOD;
        }
        let end = self.position + left.min(limit);
        while self.position < end {
            let (number, within) = (self.position / 64, self.position % 64);
            let within = usize::try_from(within).unwrap_or_default();
            let length = usize::try_from(end - self.position).unwrap_or(usize::MAX);
            let length = length.min(LINE - within);
            output.extend(&line(number)[within..within + length]);
            self.position += u64::try_from(length).unwrap_or_default();
        }
    }

    /// The host's time at which it writes next.
    pub const fn next_write(&self) -> Duration {
        self.next_write
    }

    /// The bytes that are due are lost.
    pub fn lose_due(&mut self, now: Duration) {
        self.position = self.position.max(self.due(now));
    }

    /// How many bytes should have been written by now.
    fn due(&self, now: Duration) -> u64 {
        let passed = now.saturating_sub(self.began).as_micros();
        let due = passed.saturating_mul(u128::from(self.bytes_per_second)) / 1_000_000;
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        self.total.map_or(due, |total| due.min(total))
    }
}

/// The line with this number.
fn line(number: u64) -> [u8; LINE] {
    let mut line = [b'\n'; LINE];
    let mut rest = number;
    for digit in line[..DIGITS].iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
    }
    line[DIGITS..DIGITS + FILL.len()].copy_from_slice(FILL);
    line[DIGITS + FILL.len()] = b'\r';
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_bytes_come_at_the_rate_and_are_numbered_without_a_hole() {
        let mut flood = Flood::new(1_000, Some(2_500), SECOND);
        let mut output = Vec::new();
        flood.write_due(SECOND, usize::MAX, &mut output);
        assert_eq!(output.len(), 0);
        flood.write_due(2 * SECOND, 99, &mut output);
        assert_eq!(output.len(), 99, "the rest waits");
        flood.write_due(2 * SECOND, usize::MAX, &mut output);
        assert_eq!(output.len(), 1_000);
        flood.write_due(9 * SECOND, usize::MAX, &mut output);
        assert_eq!(output.len(), 2_500);
        assert!(flood.is_over());
        for (number, line) in output.chunks(64).enumerate() {
            let text = std::str::from_utf8(line).unwrap();
            assert!(text.starts_with(&format!("{number:016} a")[..line.len().min(18)]), "{text}");
            assert!(line.len() < 64 || text.ends_with("R\r\n"), "{text:?}");
        }
    }

    #[test]
    fn lost_bytes_leave_a_hole_in_the_numbers() {
        let mut flood = Flood::new(64, None, Duration::ZERO);
        let mut output = Vec::new();
        flood.lose_due(3 * SECOND);
        flood.write_due(4 * SECOND, usize::MAX, &mut output);
        assert!(output.starts_with(b"0000000000000003 "));
        assert!(!flood.is_over());
    }
}
