//! The pauses before otter connects to the host again. They grow while connects fail. They stay
//! short after a session that worked only for a moment. After a session that worked for longer,
//! there is no pause at first.

use std::time::Duration;

/// A session counts as good if it lasted this long after the inventory was loaded.
const GOOD_SESSION: Duration = Duration::from_secs(5);

/// The pause after the second failure in a row. Each further failure doubles the pause.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The maximum pause while no session works.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The maximum pause after a session that worked for a short time. It is short enough that otter
/// soon reconnects to an unstable host. It is long enough that otter does not flood with logins a
/// host that ends each session at once.
const LONGEST_PAUSE_AFTER_SESSION: Duration = Duration::from_secs(2);

/// The pauses before the connects to one host. There is no pause before the very first connect, and
/// none before the first connect after a good session.
#[derive(Clone, Debug, Default)]
pub struct RetryPauses {
    /// The pause before the next connect. `None` if nothing has failed yet, so that there is no
    /// pause.
    next: Option<Duration>,
}

impl RetryPauses {
    /// The pause before the next connect.
    #[must_use]
    pub fn next(&self) -> Duration {
        self.next.unwrap_or_default()
    }

    /// Records that a connect failed, or that its session failed before the inventory was loaded.
    pub fn connect_failed(&mut self) {
        self.lengthen(LONGEST_PAUSE);
    }

    /// Records that a session failed. `held` is the time for which the session lasted after the
    /// inventory was loaded.
    pub fn session_ended(&mut self, held: Duration) {
        if held >= GOOD_SESSION {
            self.next = Some(Duration::ZERO);
        } else {
            self.lengthen(LONGEST_PAUSE_AFTER_SESSION);
        }
    }

    fn lengthen(&mut self, longest: Duration) {
        self.next = Some(match self.next {
            None => Duration::ZERO,
            Some(Duration::ZERO) => FIRST_PAUSE,
            Some(last) => (last * 2).min(longest),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(pauses: &mut RetryPauses, fail: impl Fn(&mut RetryPauses)) -> Vec<u128> {
        let mut seen = Vec::new();
        for _ in 0..12 {
            fail(pauses);
            seen.push(pauses.next().as_millis());
        }
        seen
    }

    #[test]
    fn connects_that_fail_have_growing_pauses() {
        let mut pauses = RetryPauses::default();
        assert_eq!(pauses.next(), Duration::ZERO);
        let seen = milliseconds(&mut pauses, RetryPauses::connect_failed);
        let growing = [0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600];
        assert_eq!(seen, [&growing[..], &[30_000, 30_000]].concat());
    }

    #[test]
    fn a_session_that_held_for_some_seconds_is_followed_by_a_connect_at_once() {
        let mut pauses = RetryPauses::default();
        milliseconds(&mut pauses, RetryPauses::connect_failed);
        let seen = milliseconds(&mut pauses, |pauses| pauses.session_ended(GOOD_SESSION));
        assert_eq!(seen, [0; 12]);
    }

    #[test]
    fn a_session_that_worked_for_a_moment_is_followed_by_a_short_pause() {
        let mut pauses = RetryPauses::default();
        let seen = milliseconds(&mut pauses, |pauses| pauses.session_ended(Duration::ZERO));
        assert_eq!(seen[..7], [0, 100, 200, 400, 800, 1_600, 2_000]);
        assert_eq!(seen[7..], [2_000; 5]);
        // A session that worked for a short time after a long outage makes the pause short again.
        milliseconds(&mut pauses, RetryPauses::connect_failed);
        pauses.session_ended(Duration::from_secs(1));
        assert_eq!(pauses.next(), Duration::from_secs(2));
    }
}
