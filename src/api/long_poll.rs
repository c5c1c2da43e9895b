//! Blocking calls: how long a caller may wait, how many may at once, and what ends a wait.

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

/// How long the call really was to block.
pub const OTTER_WAIT: HeaderName = HeaderName::from_static("otter-wait");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// How a caller wants to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitMode {
    /// `?wait=`: the outcome, or a problem when the time is up.
    Outcome(Duration),
    /// `Prefer: wait=` (RFC 7240): the outcome if it comes in time, else what there is.
    Preferred(Duration),
}

/// How long a call that always waits does.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WaitQuery {
    /// How long this call may block: `30s`, `10m`. The longest there is where nothing is said.
    #[param(value_type = Option<String>)]
    wait: Option<Parsed<Duration>>,
}

/// How a wait ended.
pub enum WaitEnd<T> {
    Done(T),
    TimeUp,
    ShuttingDown,
}

impl WaitQuery {
    /// How long the call may block.
    pub fn time(&self, api: &ApiState) -> Duration {
        let longest = api.settings().max_wait;
        self.wait.map_or(longest, |Parsed(wait)| wait.min(longest))
    }
}

impl WaitMode {
    /// Reads `?wait=` and `Prefer`; the parameter wins. Longer times than `http.max_wait` are cut
    /// to it.
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

    /// How long it may block.
    #[must_use]
    pub const fn time(self) -> Duration {
        match self {
            Self::Outcome(time) | Self::Preferred(time) => time,
        }
    }

    /// Says in the answer, a problem too, how long the call was to block, and that the preference
    /// was honoured.
    pub fn set_headers(self, response: &mut Response) {
        let seconds = format!("{}s", self.time().as_secs());
        set(response, OTTER_WAIT, &seconds);
        if let Self::Preferred(time) = self {
            set(response, PREFERENCE_APPLIED, &format!("wait={}", time.as_secs()));
        }
    }
}

/// One of the places that waiting calls share; dropping it gives it back.
#[derive(Debug)]
pub struct WaitPermit(OwnedSemaphorePermit);

impl WaitPermit {
    /// Takes a place. A call that starts something takes it first: a refusal then means that
    /// nothing was started, and may be repeated.
    ///
    /// # Errors
    /// `too-many-waits` where too many wait already.
    pub fn acquire(api: &ApiState) -> Result<Self, Failure> {
        api.waits().try_acquire_owned().map(Self).map_err(|_| {
            let detail =
                "Too many calls wait at once; try again in a moment, or ask without waiting.";
            Failure::new(FailureKind::TooManyWaits, detail)
        })
    }

    /// Waits for `work`, at most this long. Nothing is polled; a caller that hangs up drops the
    /// future and the place.
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

/// Takes a place and waits in it.
///
/// # Errors
/// As [`WaitPermit::acquire`].
pub async fn wait<T>(
    api: &ApiState,
    time: Duration,
    work: impl Future<Output = T>,
) -> Result<WaitEnd<T>, Failure> {
    Ok(WaitPermit::acquire(api)?.wait(api, time, work).await)
}

/// The `wait` among the preferences; what is not understood is ignored, as RFC 7240 asks.
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
    fn preferences_are_read_and_odd_ones_ignored() {
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
