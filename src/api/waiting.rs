//! Blocking calls: how long a caller may wait, how many may at once, and what ends a wait.

use std::future::Future;
use std::time::Duration;

use axum::response::Response;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::IntoParams;

use super::Api;
use super::extract::Parsed;
use super::respond::set;
use crate::domain::failure::{Failure, FailureKind};

/// How long the call really was to block.
pub const OTTER_WAIT: HeaderName = HeaderName::from_static("otter-wait");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// How a caller wants to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
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
pub enum Waited<T> {
    Done(T),
    TimeUp,
    ShuttingDown,
}

impl WaitQuery {
    /// How long the call may block.
    pub fn time(&self, api: &Api) -> Duration {
        let longest = api.settings().max_wait;
        self.wait.map_or(longest, |Parsed(wait)| wait.min(longest))
    }
}

impl Wait {
    /// Reads `?wait=` and `Prefer`; the parameter wins. Longer times than `http.max_wait` are cut
    /// to it.
    pub fn read(api: &Api, wait: Option<Duration>, headers: &HeaderMap) -> Option<Self> {
        let longest = api.settings().max_wait;
        if let Some(wait) = wait {
            return Some(Self::Outcome(wait.min(longest)));
        }
        let mut lines = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        let preferred = lines.find_map(preferred_wait);
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
    pub fn mark(self, response: &mut Response) {
        let seconds = format!("{}s", self.time().as_secs());
        set(response, OTTER_WAIT, &seconds);
        if let Self::Preferred(time) = self {
            set(response, PREFERENCE_APPLIED, &format!("wait={}", time.as_secs()));
        }
    }
}

/// One of the places that waiting calls share; dropping it gives it back.
#[derive(Debug)]
pub struct Place(OwnedSemaphorePermit);

impl Place {
    /// Takes a place. A call that starts something takes it first: a refusal then means that
    /// nothing was started, and may be repeated.
    ///
    /// # Errors
    /// `too-many-waits` where too many wait already.
    pub fn take(api: &Api) -> Result<Self, Failure> {
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
        api: &Api,
        time: Duration,
        work: impl Future<Output = T>,
    ) -> Waited<T> {
        let Self(_held) = self;
        tokio::select! {
            biased;
            done = work => Waited::Done(done),
            () = api.stop().cancelled() => Waited::ShuttingDown,
            () = api.clock().sleep(time) => Waited::TimeUp,
        }
    }
}

/// Takes a place and waits in it.
///
/// # Errors
/// As [`Place::take`].
pub async fn wait<T>(
    api: &Api,
    time: Duration,
    work: impl Future<Output = T>,
) -> Result<Waited<T>, Failure> {
    Ok(Place::take(api)?.wait(api, time, work).await)
}

/// The `wait` among the preferences; what is not understood is ignored, as RFC 7240 asks.
fn preferred_wait(preferences: &str) -> Option<Duration> {
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
        assert_eq!(preferred_wait("wait=30"), Some(Duration::from_secs(30)));
        assert_eq!(
            preferred_wait("respond-async, Wait=\"5\"; foo=bar"),
            Some(Duration::from_secs(5))
        );
        for odd in
            ["", "wait", "wait=", "wait=-1", "wait=soon", "respond-async", "handling=lenient"]
        {
            assert_eq!(preferred_wait(odd), None, "{odd}");
        }
    }
}
