//! The two clocks of a deadline. A deadline counts on the clock that never jumps, and otter shows
//! and stores the deadline as a time of the wall clock. After a jump of the wall clock, otter
//! computes the shown and stored time again.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::domain::job::Job;

/// The smallest difference between the clocks that counts as a jump. Time synchronization causes
/// smaller differences all the time.
const MIN_JUMP: SignedDuration = SignedDuration::from_secs(1);

/// One moment on two clocks: the wall clock, and the clock that never jumps.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub wall: Timestamp,
    /// The moment, as the elapsed time of the clock that never jumps.
    pub elapsed: Duration,
}

impl Moment {
    /// Reads both clocks.
    pub fn now(clock: &Clock) -> Self {
        Self { wall: clock.now(), elapsed: clock.elapsed() }
    }

    /// The moment at which the wall clock will read `at`, as the elapsed time of the clock that
    /// never jumps.
    pub fn due(&self, at: Timestamp) -> Duration {
        self.elapsed + Duration::try_from(at.duration_since(self.wall)).unwrap_or_default()
    }

    /// How far the wall clock is ahead of the clock that never jumps.
    fn offset(&self) -> SignedDuration {
        let elapsed = SignedDuration::try_from(self.elapsed).unwrap_or(SignedDuration::MAX);
        self.wall.duration_since(Timestamp::UNIX_EPOCH).saturating_sub(elapsed)
    }
}

/// Notices jumps of the wall clock.
#[derive(Clone, Debug)]
pub struct JumpDetector {
    offset: SignedDuration,
}

impl JumpDetector {
    /// A detector of the jumps that happen after this moment.
    pub fn new(now: Moment) -> Self {
        Self { offset: now.offset() }
    }

    /// The size of the jump since the last call; `None` if the wall clock did not jump.
    pub fn detect(&mut self, now: Moment) -> Option<SignedDuration> {
        let offset = now.offset();
        let jump = offset.saturating_sub(self.offset);
        if jump.abs() < MIN_JUMP {
            return None;
        }
        self.offset = offset;
        Some(jump)
    }
}

/// Reports the jumps of the wall clock to the jobs. The reported value is the sum of all jumps
/// since otter started.
#[derive(Debug, Default)]
pub struct JumpSender(watch::Sender<SignedDuration>);

/// Receives the jumps of the wall clock for one job, whose deadline has to follow them.
#[derive(Debug)]
pub struct JumpReceiver {
    sum: watch::Receiver<SignedDuration>,
    followed: SignedDuration,
}

impl JumpSender {
    /// Reports a jump of the wall clock to all receivers.
    pub fn send(&self, by: SignedDuration) {
        self.0.send_modify(|sum| *sum = sum.saturating_add(by));
    }

    /// A receiver of the jumps that are reported from now on.
    pub fn subscribe(&self) -> JumpReceiver {
        let sum = self.0.subscribe();
        let followed = *sum.borrow();
        JumpReceiver { sum, followed }
    }
}

impl JumpReceiver {
    /// Waits for the next jump and returns its size.
    pub async fn next(&mut self) -> SignedDuration {
        if self.sum.changed().await.is_err() {
            // The sender no longer exists, because otter stops. So no jump follows.
            std::future::pending::<()>().await;
        }
        self.take()
    }

    /// The sum of the jumps since the last call; zero if there were none.
    pub fn take(&mut self) -> SignedDuration {
        let sum = *self.sum.borrow_and_update();
        let by = sum.saturating_sub(self.followed);
        self.followed = sum;
        by
    }
}

/// Subtracts otter's downtime, by the wall clock, from the time that the job has left. The downtime
/// is never negative: if the wall clock is behind the time at which otter last ran, the job keeps
/// the time that it had left then. Returns whether the job changed.
///
/// # Parameters
/// - `last_seen`: the last time at which otter is known to have run.
pub fn count_downtime(job: &mut Job, last_seen: Option<Timestamp>, now: Timestamp) -> bool {
    let ran = last_seen.map_or(job.updated_at, |seen| seen.max(job.updated_at));
    if now >= ran {
        return false;
    }
    shift_deadline(job, now.duration_since(ran), now);
    true
}

/// Moves a deadline by a jump of the wall clock. The time until the deadline stays the same.
pub fn shift_deadline(job: &mut Job, by: SignedDuration, now: Timestamp) {
    let limit = if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
    job.deadline_at = job.deadline_at.saturating_add(by).unwrap_or(limit);
    job.updated_at = now;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::job::JobRequest;
    use crate::service::jobs::samples;

    fn after(seconds: i64) -> Timestamp {
        samples::start() + SignedDuration::from_secs(seconds)
    }

    #[test]
    fn a_jump_is_found_once_and_a_slow_drift_is_none() {
        let clock = Clock::stepped(samples::start());
        let mut jumps = JumpDetector::new(Moment::now(&clock));
        clock.advance(Duration::from_hours(5));
        assert_eq!(jumps.detect(Moment::now(&clock)), None);
        clock.jump(SignedDuration::from_hours(-2));
        assert_eq!(jumps.detect(Moment::now(&clock)), Some(SignedDuration::from_hours(-2)));
        clock.jump(SignedDuration::from_millis(900));
        assert_eq!(jumps.detect(Moment::now(&clock)), None);
        clock.jump(SignedDuration::from_millis(900));
        assert_eq!(jumps.detect(Moment::now(&clock)), Some(SignedDuration::from_millis(1_800)));
    }

    #[test]
    fn downtime_is_never_negative() {
        let job = || Job {
            updated_at: after(10),
            deadline_at: after(600),
            ..samples::job(JobRequest::PowerOn)
        };
        let left = |last_seen: Option<i64>, now: i64| {
            let mut job = job();
            count_downtime(&mut job, last_seen.map(after), after(now));
            job.deadline_at.duration_since(after(now)).as_secs()
        };
        assert_eq!(left(Some(100), 300), 300, "the time that otter was down counts");
        assert_eq!(left(Some(100), 100), 500);
        assert_eq!(left(Some(100), -5_000), 500, "the clock was set back while otter was down");
        assert_eq!(left(None, 0), 590, "only the job's last change shows when otter last ran");
        assert_eq!(left(Some(5), 0), 590);
    }
}
