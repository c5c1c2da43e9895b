//! The values of query parameters that are more than a text, and what is wrong with a text that is none.

use std::fmt::Display;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use super::nearest;
use crate::domain::audit::{AuditAction, AuditOutcome};
use crate::domain::duration;
use crate::domain::event::EventType;
use crate::domain::ids::{JobId, LeaseId};
use crate::domain::job::{JobKind, JobState};
use crate::domain::lease::LeaseState;
use crate::domain::mac::MacAddress;
use crate::domain::network::Network;
use crate::domain::power::PowerState;
use crate::service::feed::Version;
use crate::service::machines::shorten;

/// A type that a parameter is read into.
pub trait Parameter: Sized {
    /// Reads the text of a parameter.
    fn from_text(text: &str) -> Result<Self, Invalid>;
}

/// Why a text is not the parameter that is wanted: the code of the problem, and the sentence for people
/// without its subject, which is the parameter's name.
#[derive(Debug, thiserror::Error)]
#[error("{code} {rest}")]
pub struct Invalid {
    code: &'static str,
    rest: String,
}

/// A parameter of one value.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<T>(pub T);

/// A parameter of several values, separated by commas.
#[derive(Clone, Debug)]
pub struct List<T>(pub Vec<T>);

/// How many items a page has: 1 to 1,000.
#[derive(Clone, Copy, Debug)]
pub struct Limit(pub u32);

impl Invalid {
    /// A text that something else is wanted in place of.
    pub fn new(code: &'static str, text: &str, wanted: impl Display) -> Self {
        Self { code, rest: format!("is {}; {wanted}.", shorten(text)) }
    }

    /// A word that is none of those known.
    pub fn word(text: &str, words: &[&str]) -> Self {
        let known: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let near = nearest(text, &known).map(|word| format!(" Did you mean {word}?")).unwrap_or_default();
        let rest = format!("is {}; one of {} is wanted.{near}", shorten(text), words.join(", "));
        Self { code: "not-one-of", rest }
    }

    fn empty() -> Self {
        Self { code: "empty", rest: "is empty; name one.".to_owned() }
    }
}

impl<T> Parsed<T> {
    /// The value itself.
    pub fn value(self) -> T {
        self.0
    }
}

impl<'de, T: Parameter> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::from_text(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl<'de, T: Parameter> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let items: Result<_, Invalid> = text.split(',').map(T::from_text).collect();
        items.map(Self).map_err(serde::de::Error::custom)
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// A text that must not be empty.
impl Parameter for String {
    fn from_text(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() { Err(Invalid::empty()) } else { Ok(text.to_owned()) }
    }
}

/// `30s`, `10m`, `1h30m`, or `45` for seconds.
impl Parameter for Duration {
    fn from_text(text: &str) -> Result<Self, Invalid> {
        duration::parse(text).map_err(|error| Invalid::new("not-a-duration", text, error))
    }
}

impl Parameter for Limit {
    fn from_text(text: &str) -> Result<Self, Invalid> {
        // The standard parser would take a `+` too.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse().ok().filter(|_| digits) {
            Some(limit @ 1..=1000) => Ok(Self(limit)),
            _ => Err(Invalid::new("out-of-range", text, "a whole number from 1 to 1000 is wanted")),
        }
    }
}

impl Parameter for MacAddress {
    fn from_text(text: &str) -> Result<Self, Invalid> {
        let text = String::from_text(text)?;
        text.parse().map_err(|error| Invalid::new("invalid-mac", &text, format!("this is {error}")))
    }
}

impl Parameter for JobId {
    fn from_text(text: &str) -> Result<Self, Invalid> {
        let text = String::from_text(text)?;
        text.parse().map_err(|_| Invalid::new("not-an-id", &text, "the id of a job is a UUID"))
    }
}

impl Parameter for LeaseId {
    fn from_text(text: &str) -> Result<Self, Invalid> {
        let text = String::from_text(text)?;
        text.parse().map_err(|_| Invalid::new("not-an-id", &text, "the id of a lease is a UUID"))
    }
}

impl Parameter for Timestamp {
    fn from_text(text: &str) -> Result<Self, Invalid> {
        let text = String::from_text(text)?;
        let wanted = "write a time as RFC 3339, such as 2026-03-01T12:00:00Z";
        text.parse().map_err(|_| Invalid::new("not-a-time", &text, wanted))
    }
}

impl Parameter for Version {
    fn from_text(text: &str) -> Result<Self, Invalid> {
        text.parse().map_err(|error| Invalid::new("not-a-version", text, error))
    }
}

impl Parameter for Network {
    fn from_text(text: &str) -> Result<Self, Invalid> {
        let wanted = "a network such as 10.0.0.0/8 is wanted";
        text.parse().map_err(|_| Invalid::new("not-a-network", text, wanted))
    }
}

macro_rules! words {
    ($($name:ty),*) => { $(
        impl Parameter for $name {
            fn from_text(text: &str) -> Result<Self, Invalid> {
                let words: Vec<&str> = Self::ALL.iter().map(|known| known.as_str()).collect();
                Self::parse(text).ok_or_else(|| Invalid::word(text, &words))
            }
        }
    )* };
}

words!(PowerState, JobState, JobKind, LeaseState, EventType, AuditAction, AuditOutcome);
