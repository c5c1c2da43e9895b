//! Calls that wait: how long a caller may wait, the permits that limit how many callers wait at the
//! same time, and the events that end a wait.

use std::future::Future;
use std::time::Duration;

use axum::response::Response;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::IntoParams;

use super::ApiState;
use super::extract::Parsed;
use super::respond::set;
use crate::domain::failure::{Failure, FailureKind};

/// The header with the longest time that the call could wait, which can be shorter than the
/// requested time.
pub const OTTER_WAIT: HeaderName = HeaderName::from_static("otter-wait");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The form in which a caller asks to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitMode {
    /// `?wait=`: the response has the outcome, or a problem if the time is up first.
    Outcome(Duration),
    /// `Prefer: wait=` (RFC 7240): the response has the outcome, or the current state if the time
    /// is up first.
    Preferred(Duration),
}

/// The query parameter that limits the time of an operation that always waits.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WaitQuery {
    /// The longest time that this call waits: `30s`, `10m`. Default and maximum: `http.max_wait`.
    #[param(value_type = Option<String>)]
    wait: Option<Parsed<Duration>>,
}

/// The event that ended a wait.
pub enum WaitEnd<T> {
    Done(T),
    TimeUp,
    ShuttingDown,
}

impl WaitQuery {
    /// The longest time that the call waits.
    pub fn time(&self, api: &ApiState) -> Duration {
        let longest = api.settings().max_wait;
        self.wait.map_or(longest, |Parsed(wait)| wait.min(longest))
    }
}

impl WaitMode {
    /// Reads `?wait=`, else the header `Prefer`. `None` if the request has neither. Limits the time
    /// to `http.max_wait`.
    pub fn from_request(
        api: &ApiState,
        wait: Option<Duration>,
        headers: &HeaderMap,
    ) -> Option<Self> {
        let longest = api.settings().max_wait;
        if let Some(wait) = wait {
            return Some(Self::Outcome(wait.min(longest)));
        }
        let mut lines = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        let preferred = lines.find_map(parse_preferred_wait);
        preferred.map(|wait| Self::Preferred(wait.min(longest)))
    }

    /// The longest time that the call waits.
    #[must_use]
    pub const fn time(self) -> Duration {
        match self {
            Self::Outcome(time) | Self::Preferred(time) => time,
        }
    }

    /// Adds the headers `Otter-Wait` and, if the preference was applied, `Preference-Applied` to a
    /// response. Problems get these headers too.
    pub fn set_headers(self, response: &mut Response) {
        let seconds = format!("{}s", self.time().as_secs());
        set(response, OTTER_WAIT, &seconds);
        if let Self::Preferred(time) = self {
            set(response, PREFERENCE_APPLIED, &format!("wait={}", time.as_secs()));
        }
    }
}

/// A permit to wait. At most `http.max_waits` permits exist at the same time. Dropping a permit
/// returns it.
#[derive(Debug)]
pub struct WaitPermit(OwnedSemaphorePermit);

impl WaitPermit {
    /// Acquires a permit. A call that starts a job acquires it before the start, so that a refused
    /// call has started nothing and can be repeated.
    ///
    /// # Errors
    /// `too-many-waits` if no permit is left.
    pub fn acquire(api: &ApiState) -> Result<Self, Failure> {
        api.waits().try_acquire_owned().map(Self).map_err(|_| {
            let detail =
                "Too many calls are waiting; try again in a moment, or send the request without \
                 wait.";
            Failure::new(FailureKind::TooManyWaits, detail)
        })
    }

    /// Waits for `work`, at most for `time`. If the client disconnects, this future is dropped,
    /// which also returns the permit.
    pub async fn wait<T>(
        self,
        api: &ApiState,
        time: Duration,
        work: impl Future<Output = T>,
    ) -> WaitEnd<T> {
        let Self(_held) = self;
        tokio::select! {
            biased;
            done = work => WaitEnd::Done(done),
            () = api.stop().cancelled() => WaitEnd::ShuttingDown,
            () = api.clock().sleep(time) => WaitEnd::TimeUp,
        }
    }
}

/// Acquires a permit and waits for `work`, at most for `time`.
///
/// # Errors
/// The errors of [`WaitPermit::acquire`].
pub async fn wait<T>(
    api: &ApiState,
    time: Duration,
    work: impl Future<Output = T>,
) -> Result<WaitEnd<T>, Failure> {
    Ok(WaitPermit::acquire(api)?.wait(api, time, work).await)
}

/// Parses `wait` in the value of `Prefer`. Ignores unknown and malformed preferences, as RFC 7240
/// requires.
fn parse_preferred_wait(preferences: &str) -> Option<Duration> {
    preferences.split(',').find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        let named = name.trim().eq_ignore_ascii_case("wait");
        let seconds = value.trim().trim_matches('"').parse().ok().filter(|_| named)?;
        Some(Duration::from_secs(seconds))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_preferences_are_ignored() {
        assert_eq!(parse_preferred_wait("wait=30"), Some(Duration::from_secs(30)));
        assert_eq!(
            parse_preferred_wait("respond-async, Wait=\"5\"; foo=bar"),
            Some(Duration::from_secs(5))
        );
        for odd in
            ["", "wait", "wait=", "wait=-1", "wait=soon", "respond-async", "handling=lenient"]
        {
            assert_eq!(parse_preferred_wait(odd), None, "{odd}");
        }
    }
}
