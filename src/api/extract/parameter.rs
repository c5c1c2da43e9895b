//! The values of query parameters that are more than a text, and what is wrong with a text that is
//! none.

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
use crate::service::event_stream::Version;
use crate::service::machines::shorten;

/// A type that a parameter is read into.
pub trait Parameter: Sized {
    /// Reads the text of a parameter.
    fn from_text(text: &str) -> Result<Self, InvalidValue>;
}

/// Why a text is not the parameter that is wanted: the code of the problem, and the sentence for
/// people without its subject, which is the parameter's name.
#[derive(Debug, thiserror::Error)]
#[error("{code} {rest}")]
pub struct InvalidValue {
    code: &'static str,
    rest: String,
}

/// A parameter of one value.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<T>(pub T);

/// How many items a page has: 1 to 1,000.
#[derive(Clone, Copy, Debug)]
pub struct Limit(pub u32);

/// The values of a list that may be absent.
pub fn values<T>(list: Option<Parsed<Vec<T>>>) -> Vec<T> {
    list.map(Parsed::value).unwrap_or_default()
}

impl InvalidValue {
    /// A text that something else is wanted in place of.
    pub fn new(code: &'static str, text: &str, expected: impl Display) -> Self {
        Self { code, rest: format!("is {}; {expected}.", shorten(text)) }
    }

    /// A word that is none of those known.
    pub fn not_one_of(text: &str, words: &[&str]) -> Self {
        let known: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let near =
            nearest(text, &known).map(|word| format!(" Did you mean {word}?")).unwrap_or_default();
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

/// Values that are separated by commas.
impl<T: Parameter> Parameter for Vec<T> {
    fn from_text(text: &str) -> Result<Self, InvalidValue> {
        text.split(',').map(T::from_text).collect()
    }
}

/// A text that must not be empty.
impl Parameter for String {
    fn from_text(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() { Err(InvalidValue::empty()) } else { Ok(text.to_owned()) }
    }
}

impl Parameter for Limit {
    fn from_text(text: &str) -> Result<Self, InvalidValue> {
        // The standard parser would take a `+` too.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse().ok().filter(|_| digits) {
            Some(limit @ 1..=1000) => Ok(Self(limit)),
            _ => Err(InvalidValue::new(
                "out-of-range",
                text,
                "a whole number from 1 to 1000 is wanted",
            )),
        }
    }
}

/// Each type, the code of its problem, whether an empty text has the problem `empty`, and how it is
/// read.
macro_rules! parameters {
    ($($name:ty, $code:literal, $empty:literal, $read:expr;)*) => { $(
        impl Parameter for $name {
            fn from_text(text: &str) -> Result<Self, InvalidValue> {
                if $empty && text.is_empty() {
                    return Err(InvalidValue::empty());
                }
                $read(text).map_err(|error| InvalidValue::new($code, text, error))
            }
        }
    )* };
}

parameters! {
    Duration, "not-a-duration", false, duration::parse;
    Version, "not-a-version", false, str::parse::<Version>;
    Network, "not-a-network", false, str::parse::<Network>;
    MacAddress, "invalid-mac", true, str::parse::<MacAddress>;
    bool, "not-a-boolean", false, |text: &str| text.parse().map_err(|_| "true or false is wanted");
    JobId, "not-an-id", true, |text: &str| text.parse().map_err(|_| "the id of a job is a UUID");
    LeaseId, "not-an-id", true, |text: &str| text.parse().map_err(|_| "the id of a lease is a UUID");
    Timestamp, "not-a-time", true,
        |text: &str| text.parse().map_err(|_| "write a time as RFC 3339, such as 2026-03-01T12:00:00Z");
}

macro_rules! words {
    ($($name:ty),*) => { $(
        impl Parameter for $name {
            fn from_text(text: &str) -> Result<Self, InvalidValue> {
                let words: Vec<&str> = Self::ALL.iter().map(|known| known.as_str()).collect();
                Self::parse(text).ok_or_else(|| InvalidValue::not_one_of(text, &words))
            }
        }
    )* };
}

words!(PowerState, JobState, JobKind, LeaseState, EventType, AuditAction, AuditOutcome);
