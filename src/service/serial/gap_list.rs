//! The last gaps of a serial port, in the order of their offsets. Each has a number, by which a
//! reader knows which ones it has passed.

use std::collections::VecDeque;

use crate::domain::serial::Gap;

/// The largest number of gaps that are kept.
pub const MAX_GAPS: usize = 64;

/// The gaps of one port.
#[derive(Debug, Default)]
pub struct GapList {
    gaps: VecDeque<(u64, Gap)>,
    /// The number of the last gap. Zero before the first.
    last: u64,
}

impl GapList {
    /// The list of these gaps, the oldest first.
    pub fn new(gaps: Vec<Gap>) -> Self {
        let mut list = Self::default();
        for gap in gaps {
            list.push(gap);
        }
        list
    }

    /// Adds a gap. If no byte came since the last one, it takes the place of the last one, so that
    /// a port that is lost again and again fills no list.
    pub fn push(&mut self, gap: Gap) {
        self.last += 1;
        if let Some((_, last)) = self.gaps.back()
            && last.offset == gap.offset
        {
            let skipped = last.skipped.max(gap.skipped);
            self.gaps.pop_back();
            self.gaps.push_back((self.last, Gap { skipped, ..gap }));
            return;
        }
        self.gaps.push_back((self.last, gap));
        while self.gaps.len() > MAX_GAPS {
            self.gaps.pop_front();
        }
    }

    /// The gaps that are not before this offset.
    pub fn since(&self, offset: u64) -> impl Iterator<Item = Gap> {
        self.gaps.iter().map(|(_, gap)| *gap).filter(move |gap| gap.offset >= offset)
    }

    /// The number of the last gap that a reader has behind it which begins at this offset.
    pub fn passed_at(&self, offset: u64) -> u64 {
        let passed = self.gaps.iter().rev().find(|(_, gap)| gap.offset <= offset);
        passed.map_or(0, |(number, _)| *number)
    }

    /// The first gap that a reader has not passed, with its number.
    ///
    /// # Parameters
    /// - `passed`: the number of the last gap that it passed.
    pub fn after(&self, passed: u64) -> Option<(u64, Gap)> {
        self.gaps.iter().find(|(number, _)| *number > passed).copied()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::serial::GapReason;

    fn gap(offset: u64, skipped: u64) -> Gap {
        Gap { offset, skipped, at: Timestamp::UNIX_EPOCH, reason: GapReason::Reconnect }
    }

    #[test]
    fn a_reader_passes_each_gap_once() {
        let mut list = GapList::new(vec![gap(10, 0), gap(20, 5)]);
        assert_eq!((list.passed_at(9), list.passed_at(10), list.passed_at(99)), (0, 1, 2));
        assert_eq!(list.after(1), Some((2, gap(20, 5))));
        assert_eq!(list.after(2), None);
        // A reader at the end sees a gap that comes while it waits there.
        list.push(gap(20, 0));
        assert_eq!(list.after(2), Some((3, gap(20, 5))), "no byte came in between");
        assert_eq!(list.since(11).collect::<Vec<_>>(), [gap(20, 5)]);
    }

    #[test]
    fn only_the_last_gaps_are_kept() {
        let list = GapList::new((0..100).map(|offset| gap(offset, 0)).collect());
        assert_eq!(
            list.since(0).map(|gap| gap.offset).collect::<Vec<_>>(),
            (36..100).collect::<Vec<_>>()
        );
    }
}
