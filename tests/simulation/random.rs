//! Random numbers from a seed. The same seed gives the same numbers on every machine.

use std::time::Duration;

/// A `SplitMix64` generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which must not be 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True with this chance in percent.
    pub const fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// One of the choices. `None` if there are none.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        if choices.is_empty() {
            return None;
        }
        choices.get(usize::try_from(self.below(choices.len() as u64)).unwrap())
    }

    /// A duration from `min` to `max`.
    pub fn between(&mut self, min: Duration, max: Duration) -> Duration {
        let span = u64::try_from((max.saturating_sub(min)).as_micros()).unwrap_or(u64::MAX);
        min + Duration::from_micros(self.below(span.saturating_add(1)))
    }

    /// A latency. Most are short, and one of 20 is long.
    pub fn latency(&mut self) -> Duration {
        match self.below(20) {
            0 => self.between(Duration::from_millis(300), Duration::from_secs(5)),
            _ => self.between(Duration::from_millis(1), Duration::from_millis(80)),
        }
    }
}
