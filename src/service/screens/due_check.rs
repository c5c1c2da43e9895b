//! When a part of a screen is checked: as soon as it changed and was still for 300 ms, but at most
//! 2 s after its first change, so that a region that always blinks is checked too. Pure.

use std::time::Duration;

/// A check begins when the part was still for this time.
pub const SETTLE: Duration = Duration::from_millis(300);

/// A check begins at the latest this time after the first change that it has to see.
pub const AT_LATEST: Duration = Duration::from_secs(2);

/// The changes of one part of a screen since its last check began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DueCheck {
    /// The times of the first and the last change, on the monotonic clock.
    changes: Option<(Duration, Duration)>,
    /// Whether the part was never checked.
    is_new: bool,
}

impl DueCheck {
    /// A part that was never checked. Its first check is due at once.
    #[must_use]
    pub const fn first(now: Duration) -> Self {
        Self { changes: Some((now, now)), is_new: true }
    }

    /// The part changed.
    pub fn on_change(&mut self, now: Duration) {
        let first = self.changes.map_or(now, |(first, _)| first);
        self.changes = Some((first, now));
    }

    /// A check of the present picture begins.
    pub const fn begin(&mut self) {
        *self = Self { changes: None, is_new: false };
    }

    /// When the next check is due. `None` if the part did not change since the last one.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        let (first, last) = self.changes?;
        Some(if self.is_new { first } else { (last + SETTLE).min(first + AT_LATEST) })
    }

    /// Whether the part changed since the last check.
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        self.changes.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_first_check_is_due_at_once() {
        assert_eq!(DueCheck::first(at(1000)).due(), Some(at(1000)));
    }

    #[test]
    fn a_check_waits_until_the_part_is_still() {
        let mut check = DueCheck::default();
        assert_eq!(check.due(), None);
        check.on_change(at(1000));
        check.on_change(at(1200));
        assert_eq!(check.due(), Some(at(1500)));
        check.begin();
        assert_eq!(check.due(), None);
    }

    #[test]
    fn a_blinking_part_is_checked_every_two_seconds() {
        let mut check = DueCheck::default();
        let mut checks = Vec::new();
        for now in (0..=10_000).step_by(100) {
            check.on_change(at(now));
            if check.due().is_some_and(|due| due <= at(now)) {
                checks.push(now);
                check.begin();
            }
        }
        assert_eq!(checks, [2000, 4100, 6200, 8300]);
    }
}
