//! Time and randomness as a value that is passed to the code that needs them, so that tests can
//! control them. `.clippy.toml` forbids direct access to the system clock.
#![expect(clippy::disallowed_methods, reason = "only this file reads the system clock")]

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use uuid::Uuid;

/// The source of the wall clock, the monotonic clock, pauses, and random ids. All clones show the
/// same time.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Source>);

#[derive(Debug)]
enum Source {
    System { started: Instant },
    Stepped { now: Mutex<Stepped>, moved: Notify },
    Other(Box<dyn Time>),
}

/// A source of time and randomness that another part of the program provides, such as a test.
pub trait Time: Debug + Send + Sync {
    /// The time of the wall clock.
    fn now(&self) -> Timestamp;

    /// The time of the monotonic clock: the time since an arbitrary start.
    fn elapsed(&self) -> Duration;

    /// Waits for this duration.
    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()>;

    /// 256 random bits.
    fn random(&self) -> [u8; 32];

    /// Makes a new UUID of version 7.
    fn uuid(&self) -> Uuid;
}

#[derive(Debug)]
struct Stepped {
    wall: Timestamp,
    elapsed: Duration,
}

impl Clock {
    /// The clock and the randomness of the operating system.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(Source::System { started: Instant::now() }))
    }

    /// A clock whose time changes only by [`advance`](Self::advance) and [`jump`](Self::jump).
    #[must_use]
    pub fn stepped(start: Timestamp) -> Self {
        let now = Mutex::new(Stepped { wall: start, elapsed: Duration::ZERO });
        Self(Arc::new(Source::Stepped { now, moved: Notify::new() }))
    }

    /// A clock with the time and the randomness of another source.
    #[must_use]
    pub fn from_time(time: impl Time + 'static) -> Self {
        Self(Arc::new(Source::Other(Box::new(time))))
    }

    /// The time of the wall clock, rounded down to the microsecond, because times in the HTTP API
    /// have at most six digits after the point.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let now = match &*self.0 {
            Source::System { .. } => Timestamp::now(),
            Source::Stepped { now, .. } => now.lock().unwrap_or_else(PoisonError::into_inner).wall,
            Source::Other(time) => time.now(),
        };
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }

    /// The time of the monotonic clock: the time since an arbitrary start. If the wall clock jumps,
    /// the monotonic clock does not.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        match &*self.0 {
            Source::System { started } => started.elapsed(),
            Source::Stepped { now, .. } => {
                now.lock().unwrap_or_else(PoisonError::into_inner).elapsed
            }
            Source::Other(time) => time.elapsed(),
        }
    }

    /// Waits until this duration has passed on the monotonic clock.
    pub async fn sleep(&self, duration: Duration) {
        match &*self.0 {
            Source::System { .. } => tokio::time::sleep(duration).await,
            Source::Other(time) => time.sleep(duration).await,
            Source::Stepped { moved, .. } => {
                let due = self.elapsed() + duration;
                loop {
                    let changed = moved.notified();
                    tokio::pin!(changed);
                    changed.as_mut().enable();
                    if self.elapsed() >= due {
                        return;
                    }
                    changed.await;
                }
            }
        }
    }

    /// Advances a stepped clock, and wakes the tasks whose sleep is then over. On other kinds of
    /// clocks this has no effect.
    pub fn advance(&self, duration: Duration) {
        if let Source::Stepped { now, moved } = &*self.0 {
            {
                let mut now = now.lock().unwrap_or_else(PoisonError::into_inner);
                now.elapsed += duration;
                now.wall += duration;
            }
            moved.notify_waiters();
        }
    }

    /// Makes the wall clock of a stepped clock jump, as an administrator or NTP can do. The
    /// monotonic clock does not change. On other kinds of clocks this has no effect.
    pub fn jump(&self, by: SignedDuration) {
        if let Source::Stepped { now, .. } = &*self.0 {
            let mut now = now.lock().unwrap_or_else(PoisonError::into_inner);
            now.wall = now.wall.saturating_add(by).unwrap_or(now.wall);
        }
    }

    /// 256 random bits that are good enough for a secret.
    ///
    /// # Errors
    /// Fails if the operating system provides no random bits.
    pub fn random(&self) -> Result<[u8; 32], getrandom::Error> {
        if let Source::Other(time) = &*self.0 {
            return Ok(time.random());
        }
        let mut bits = [0; 32];
        getrandom::fill(&mut bits)?;
        Ok(bits)
    }

    /// Makes a new UUID of version 7, from the wall clock and random bits.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        match &*self.0 {
            Source::System { .. } => Uuid::now_v7(),
            Source::Other(time) => time.uuid(),
            Source::Stepped { .. } => {
                let now = self.now();
                let seconds = u64::try_from(now.as_second()).unwrap_or(0);
                let nanoseconds = u32::try_from(now.subsec_nanosecond()).unwrap_or(0);
                Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanoseconds))
            }
        }
    }
}
