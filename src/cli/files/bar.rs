//! The bar that shows on a terminal how far a transfer is. Elsewhere it shows nothing.

use std::time::Duration;

use crate::cli::run::Progress;
use crate::clock::Clock;

/// The time between two drawings.
pub const REDRAW: Duration = Duration::from_millis(250);

/// The width of the bar alone, in columns.
const WIDTH: u64 = 24;

/// The bar of one transfer.
pub struct Bar<'p> {
    progress: &'p mut Progress,
    clock: Clock,
    /// What stands before the bar.
    label: String,
    /// The number of bytes at the end, if it is known.
    total: Option<u64>,
    /// The number of bytes at the start, which the speed does not count.
    first: u64,
    started: Duration,
    drawn: Option<Duration>,
}

impl<'p> Bar<'p> {
    /// A bar that begins with the next byte.
    ///
    /// # Parameters
    /// - `first`: the number of bytes that are there before the transfer.
    pub fn new(progress: &'p mut Progress, label: &str, first: u64, total: Option<u64>) -> Self {
        let clock = Clock::system();
        let started = clock.elapsed();
        Self { progress, clock, label: label.to_owned(), total, first, started, drawn: None }
    }

    /// Draws the bar, unless it was drawn a moment ago.
    ///
    /// # Parameters
    /// - `done`: the number of bytes that are there.
    pub fn show(&mut self, done: u64) {
        let now = self.clock.elapsed();
        let is_due = self.drawn.is_none_or(|drawn| now >= drawn + REDRAW);
        if self.progress.is_redrawn() && is_due {
            self.drawn = Some(now);
            let new = done.saturating_sub(self.first);
            let speed = speed(new, now.saturating_sub(self.started));
            self.progress.show(&line(&self.label, done, self.total, speed), None);
        }
    }
}

/// The line with the bar.
///
/// # Parameters
/// - `speed`: the bytes of a second, if they can be told.
fn line(label: &str, done: u64, total: Option<u64>, speed: Option<u64>) -> String {
    let speed_text = speed.map(|speed| format!(", {}/s", size(speed))).unwrap_or_default();
    let Some(total) = total.filter(|total| *total > 0) else {
        return format!("{label} {}{speed_text}", size(done));
    };
    let done = done.min(total);
    let part = |whole: u64| {
        u64::try_from(u128::from(done) * u128::from(whole) / u128::from(total)).unwrap_or(whole)
    };
    let full = part(WIDTH);
    let bar: String = (0..WIDTH).map(|column| if column < full { '#' } else { '.' }).collect();
    let left = speed.filter(|speed| *speed > 0).map(|speed| (total - done) / speed);
    let left = left.map(|left| format!(", {} left", seconds(left))).unwrap_or_default();
    format!("{label} [{bar}] {:>3} % of {}{speed_text}{left}", part(100), size(total))
}

/// The bytes of a second. `None` in the first second, in which they say little.
fn speed(bytes: u64, time: Duration) -> Option<u64> {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    (millis >= 1_000).then(|| bytes.saturating_mul(1_000) / millis)
}

/// A number of bytes for people, such as `5.9 GiB`.
pub fn size(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = units.into_iter().find(|(_, unit)| bytes >= *unit);
    unit.map_or_else(
        || format!("{bytes} B"),
        |(name, unit)| format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
    )
}

fn seconds(seconds: u64) -> String {
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_the_share_the_speed_and_the_rest() {
        assert_eq!(
            line("a.iso", 3 << 30, Some(6 << 30), Some(100 << 20)),
            "a.iso [############............]  50 % of 6.0 GiB, 100.0 MiB/s, 30 s left"
        );
        assert_eq!(
            line("a.iso", 7, Some(6), None),
            "a.iso [########################] 100 % of 6 B"
        );
        assert_eq!(line("a.iso", 0, Some(1 << 30), Some(0)).matches('.').count(), 26);
        assert_eq!(line("a.iso", 1_536, None, None), "a.iso 1.5 KiB");
        assert_eq!(line("empty", 0, Some(0), None), "empty 0 B");
    }

    #[test]
    fn times_and_speeds_are_for_people() {
        assert_eq!(seconds(59), "59 s");
        assert_eq!(seconds(61), "1 min 1 s");
        assert_eq!(seconds(7_260), "2 h 1 min");
        assert_eq!(speed(100, Duration::from_millis(999)), None);
        assert_eq!(speed(100, Duration::from_secs(2)), Some(50));
    }
}
