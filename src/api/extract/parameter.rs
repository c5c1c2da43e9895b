//! Parses the values of query parameters into types, with an error for invalid values.

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
use crate::domain::screen::Region;
use crate::service::event_stream::Version;
use crate::service::machines::shorten;

/// A type that can be parsed from the value of a query parameter.
pub trait Parameter: Sized {
    /// Parses the text of a parameter.
    fn from_text(text: &str) -> Result<Self, InvalidValue>;
}

/// The error of an invalid value: the code of the problem, and a sentence without its first word,
/// which is the name of the parameter.
#[derive(Debug, thiserror::Error)]
#[error("{code} {rest}")]
pub struct InvalidValue {
    code: &'static str,
    rest: String,
}

/// A parsed parameter.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<T>(pub T);

/// The size of a page: 1 to 1,000 items.
#[derive(Clone, Copy, Debug)]
pub struct Limit(pub u32);

/// The values of an optional list. Empty if the list is absent.
pub fn values<T>(list: Option<Parsed<Vec<T>>>) -> Vec<T> {
    list.map(Parsed::value).unwrap_or_default()
}

impl InvalidValue {
    /// The error for `text`, which is not the `expected` value.
    pub fn new(code: &'static str, text: &str, expected: impl Display) -> Self {
        Self { code, rest: format!("is {}; {expected}.", shorten(text)) }
    }

    /// The error for a text that is not one of the known words.
    pub fn not_one_of(text: &str, words: &[&str]) -> Self {
        let known: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let near =
            nearest(text, &known).map(|word| format!(" Did you mean {word}?")).unwrap_or_default();
        let rest = format!("is {}; write one of {}.{near}", shorten(text), words.join(", "));
        Self { code: "not-one-of", rest }
    }

    fn empty() -> Self {
        Self { code: "empty", rest: "is empty; set a value.".to_owned() }
    }
}

impl<T> Parsed<T> {
    /// The value of the parameter.
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

/// A list parameter is a text with values that are separated by commas.
impl<T: Parameter> Parameter for Vec<T> {
    fn from_text(text: &str) -> Result<Self, InvalidValue> {
        text.split(',').map(T::from_text).collect()
    }
}

/// A text parameter may be any text that is not empty.
impl Parameter for String {
    fn from_text(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() { Err(InvalidValue::empty()) } else { Ok(text.to_owned()) }
    }
}

impl Parameter for Limit {
    fn from_text(text: &str) -> Result<Self, InvalidValue> {
        // Only digits are accepted, because the integer parser of the standard library also accepts
        // a leading `+`.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse().ok().filter(|_| digits) {
            Some(limit @ 1..=1000) => Ok(Self(limit)),
            _ => {
                Err(InvalidValue::new("out-of-range", text, "write a whole number from 1 to 1000"))
            }
        }
    }
}

/// Implements [`Parameter`] for a list of types. Each row has a type, the code of the problem for
/// an invalid value, whether an empty text has the code `empty` instead, and the parser of the
/// type.
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
    Region, "not-a-region", true, str::parse::<Region>;
    MacAddress, "invalid-mac", true, str::parse::<MacAddress>;
    bool, "not-a-boolean", false, |text: &str| text.parse().map_err(|_| "write true or false");
    JobId, "not-an-id", true, |text: &str| text.parse().map_err(|_| "the id of a job is a UUID");
    LeaseId, "not-an-id", true, |text: &str| text.parse().map_err(|_| "the id of a lease is a \
                                                                       UUID");
    Timestamp, "not-a-time", true,
        |text: &str| text.parse().map_err(|_| "write a time as RFC 3339, such as \
                                               2026-03-01T12:00:00Z");
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
