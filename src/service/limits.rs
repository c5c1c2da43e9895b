//! The limits of tokens: requests per second and open streams.
//!
//! A token bucket limits the requests of each token. The capacity of the bucket is the number of
//! requests that the token may make in one second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::domain::access::TokenLimits;
use crate::domain::failure::{Failure, FailureKind};

/// The counts of requests and streams, by the names of tokens. Only tokens with a limit are
/// counted.
#[derive(Debug, Default)]
pub struct Limiter {
    buckets: Mutex<HashMap<Arc<str>, Bucket>>,
    streams: Arc<Mutex<Streams>>,
}

type Streams = HashMap<Arc<str>, u32>;

/// The number of requests that a token had left at a moment. The moment is an elapsed time of the
/// clock.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    available: f64,
    at: Duration,
}

/// An open stream of a token that has a limit of streams. The stream counts until this value is
/// dropped.
#[derive(Debug)]
pub struct CountedStream {
    streams: Arc<Mutex<Streams>>,
    token: Arc<str>,
}

impl Limiter {
    /// Counts a request of a token.
    ///
    /// # Parameters
    /// - `now`: the elapsed time of the clock.
    ///
    /// # Errors
    /// `too-many-requests` if the token has used its requests of the last second.
    pub fn count_request(
        &self,
        token: &Arc<str>,
        limits: &TokenLimits,
        now: Duration,
    ) -> Result<(), Failure> {
        let Some(max) = limits.requests_per_second else { return Ok(()) };
        let capacity = f64::from(max);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket =
            buckets.entry(Arc::clone(token)).or_insert(Bucket { available: capacity, at: now });
        let refilled = now.saturating_sub(bucket.at).as_secs_f64() * capacity;
        let available = (bucket.available + refilled).min(capacity);
        *bucket = Bucket { available, at: now };
        if available < 1.0 {
            let failure = too_many(token, &format!("{max} requests per second"));
            let until_next = Duration::from_secs_f64((1.0 - available) / capacity);
            return Err(Failure { retry_after: Some(until_next), ..failure });
        }
        bucket.available = available - 1.0;
        Ok(())
    }

    /// Counts a stream of a token, until the result is dropped. Returns `None` if the token has no
    /// limit of streams.
    ///
    /// # Errors
    /// `too-many-requests` if the token already has as many open streams as it may have.
    pub fn count_stream(
        &self,
        token: &Arc<str>,
        limits: &TokenLimits,
    ) -> Result<Option<CountedStream>, Failure> {
        let Some(max) = limits.streams else { return Ok(None) };
        let mut streams = lock(&self.streams);
        let open = streams.entry(Arc::clone(token)).or_default();
        if *open >= max {
            return Err(too_many(token, &format!("{max} open streams of events")));
        }
        *open += 1;
        Ok(Some(CountedStream { streams: Arc::clone(&self.streams), token: Arc::clone(token) }))
    }
}

impl Drop for CountedStream {
    fn drop(&mut self) {
        let mut streams = lock(&self.streams);
        if let Some(open) = streams.get_mut(&self.token) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                streams.remove(&self.token);
            }
        }
    }
}

/// The failure of a token that has reached a limit.
#[must_use]
pub fn too_many(token: &str, limit: &str) -> Failure {
    let detail = format!("The token {token} may have {limit}. Try again after Retry-After.");
    Failure::new(FailureKind::TooManyRequests, detail)
}

/// The failure of a token that has reached its limit of waiting leases or jobs.
#[must_use]
pub fn queue_full(token: &str, limit: &str) -> Failure {
    let detail = format!("The token {token} may have {limit}. Try again once some were served.");
    Failure::new(FailureKind::QueueFull, detail)
}

fn lock(streams: &Mutex<Streams>) -> MutexGuard<'_, Streams> {
    streams.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Arc<str> {
        Arc::from("ci")
    }

    #[test]
    fn requests_over_the_limit_are_refused_until_time_passes() {
        let limiter = Limiter::default();
        let limits = TokenLimits { requests_per_second: Some(2), ..TokenLimits::default() };
        let at = |milliseconds| {
            limiter.count_request(&token(), &limits, Duration::from_millis(milliseconds)).is_ok()
        };
        assert!(at(0) && at(0));
        let refused = limiter.count_request(&token(), &limits, Duration::ZERO).unwrap_err();
        assert_eq!(refused.kind, FailureKind::TooManyRequests);
        assert_eq!(refused.retry_after, Some(Duration::from_millis(500)));
        assert!(!at(499) && at(500) && !at(500));
        // However long the token made no request, it may then make at most the requests of one
        // second at once.
        assert!(at(60_000) && at(60_000) && !at(60_000));
        let none = TokenLimits::default();
        assert!((0..1_000).all(|_| limiter.count_request(&token(), &none, Duration::ZERO).is_ok()));
    }

    #[test]
    fn streams_are_counted_until_they_are_dropped() {
        let limiter = Limiter::default();
        let limits = TokenLimits { streams: Some(1), ..TokenLimits::default() };
        let open = limiter.count_stream(&token(), &limits).unwrap();
        assert_eq!(
            limiter.count_stream(&token(), &limits).unwrap_err().kind,
            FailureKind::TooManyRequests
        );
        drop(open);
        assert!(limiter.count_stream(&token(), &limits).unwrap().is_some());
        assert!(limiter.count_stream(&token(), &TokenLimits::default()).unwrap().is_none());
    }
}
