//! The text form of durations: `30s`, `10m`, `1h30m`, `7d`, or a number of seconds without a unit.

use std::time::Duration;

/// The maximum duration that is accepted: a hundred years. The sum of such a duration and a time
/// never overflows.
pub const MAX_DURATION: Duration = Duration::from_hours(100 * 365 * 24);

/// The units with their lengths in seconds, in the order in which they may follow each other.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// Why a text is not a duration. The messages are written for the person who wrote the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    #[error("expected a duration, such as 30s, 10m or 1h30m, not an empty text")]
    Empty,
    #[error("a duration cannot be negative")]
    Negative,
    #[error(
        "a duration is whole numbers with units, such as 30s, 10m or 1h30m; {0:?} is not a number"
    )]
    NotANumber(String),
    #[error(
        "{unit:?} is not a unit of time{}: the units are d, h, m and s",
        unit_hint(number, unit)
    )]
    UnknownUnit {
        /// The number that stands before the unit.
        number: String,
        unit: String,
    },
    #[error("the last number has no unit: d, h, m or s")]
    MissingUnit,
    #[error("units go from the largest to the smallest, each once, as in 1h30m")]
    Order,
    #[error("a duration can be a hundred years at most")]
    TooLong,
}

/// Parses a short duration: as [`parse`], or milliseconds, such as `250ms`.
pub fn parse_short(text: &str) -> Result<Duration, InvalidDuration> {
    let Some(number) = text.strip_suffix("ms") else { return parse(text) };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidDuration::NotANumber(text.to_owned()));
    }
    let duration = number.parse().ok().map(Duration::from_millis);
    duration.filter(|duration| *duration <= MAX_DURATION).ok_or(InvalidDuration::TooLong)
}

/// Parses a duration.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    if text.is_empty() {
        return Err(InvalidDuration::Empty);
    }
    if text.starts_with('-') {
        return Err(InvalidDuration::Negative);
    }
    let mut seconds: u64 = 0;
    let mut units = UNITS.as_slice();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits);
        if number.is_empty() {
            return Err(InvalidDuration::NotANumber(rest.to_owned()));
        }
        let letters =
            behind.find(|character: char| !character.is_alphabetic()).unwrap_or(behind.len());
        let unknown = |unit: &str| InvalidDuration::UnknownUnit {
            number: number.to_owned(),
            unit: unit.to_owned(),
        };
        let scale = match behind.chars().next() {
            None if rest.len() == text.len() => 1,
            None => return Err(InvalidDuration::MissingUnit),
            // A unit is a single letter, so several letters are a word that is not a unit.
            Some(unit) if letters > unit.len_utf8() => return Err(unknown(&behind[..letters])),
            Some(unit) => {
                let known = UNITS.iter().any(|(known, _)| *known == unit);
                let place = units.iter().position(|(allowed, _)| *allowed == unit);
                match place {
                    Some(place) => {
                        let scale = units[place].1;
                        units = &units[place + 1..];
                        rest = &behind[unit.len_utf8()..];
                        scale
                    }
                    None if known => return Err(InvalidDuration::Order),
                    None => return Err(unknown(&behind[..unit.len_utf8()])),
                }
            }
        };
        if behind.is_empty() {
            rest = behind;
        }
        seconds = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(scale))
            .and_then(|part| part.checked_add(seconds))
            .filter(|seconds| *seconds <= MAX_DURATION.as_secs())
            .ok_or(InvalidDuration::TooLong)?;
    }
    Ok(Duration::from_secs(seconds))
}

/// A hint that names the correct letter, for a unit that is written as a word or in upper case.
/// Empty if otter does not recognise the unit.
fn unit_hint(number: &str, unit: &str) -> String {
    let unit = unit.to_lowercase();
    let letter = match unit.as_str() {
        "sec" | "secs" | "second" | "seconds" => "s",
        "min" | "mins" | "minute" | "minutes" => "m",
        "hr" | "hrs" | "hour" | "hours" => "h",
        "day" | "days" => "d",
        other => match UNITS.iter().find(|(known, _)| other.chars().eq([*known])) {
            Some(_) => other,
            None => return String::new(),
        },
    };
    format!(" (write {number}{letter})")
}

/// Writes a duration in the form that [`parse`] accepts. Fractions of a second are dropped.
#[must_use]
pub fn format(duration: Duration) -> String {
    let mut seconds = duration.as_secs();
    let mut text = String::new();
    for (unit, scale) in UNITS {
        let count = seconds / scale;
        seconds %= scale;
        if count > 0 {
            text.push_str(&count.to_string());
            text.push(unit);
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_spellings_are_parsed() {
        for (text, seconds) in [
            ("30s", 30),
            ("10m", 600),
            ("1h30m", 5_400),
            ("45", 45),
            ("0", 0),
            ("0s", 0),
            ("7d", 604_800),
            ("1d2h3m4s", 93_784),
            ("90m", 5_400),
            ("007s", 7),
            ("36500d", MAX_DURATION.as_secs()),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn a_short_duration_may_have_milliseconds() {
        for (text, milliseconds) in [("250ms", 250), ("0ms", 0), ("2s", 2_000), ("1m30s", 90_000)] {
            assert_eq!(parse_short(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        let number = |text: &str| InvalidDuration::NotANumber(text.to_owned());
        for (text, error) in [
            ("ms", number("ms")),
            ("1s500ms", number("1s500ms")),
            ("1.5ms", number("1.5ms")),
            ("99999999999999999999ms", InvalidDuration::TooLong),
            ("18446744073709551615ms", InvalidDuration::TooLong),
            ("", InvalidDuration::Empty),
        ] {
            assert_eq!(parse_short(text), Err(error), "{text}");
        }
    }

    #[test]
    fn units_with_a_zero_are_not_written() {
        for (seconds, text) in [
            (0, "0s"),
            (45, "45s"),
            (60, "1m"),
            (90, "1m30s"),
            (93_784, "1d2h3m4s"),
            (604_800, "7d"),
        ] {
            assert_eq!(format(Duration::from_secs(seconds)), text);
        }
        assert_eq!(format(Duration::from_millis(1_999)), "1s");
    }

    #[test]
    fn invalid_texts_are_refused_with_a_reason() {
        let number = |text: &str| InvalidDuration::NotANumber(text.to_owned());
        let unit = |number: &str, unit: &str| InvalidDuration::UnknownUnit {
            number: number.to_owned(),
            unit: unit.to_owned(),
        };
        for (text, error) in [
            ("", InvalidDuration::Empty),
            ("-5s", InvalidDuration::Negative),
            ("s", number("s")),
            ("soon", number("soon")),
            (" 5s", number(" 5s")),
            ("+5s", number("+5s")),
            ("1h m", number(" m")),
            ("5x", unit("5", "x")),
            ("5S", unit("5", "S")),
            ("1.5h", unit("1", ".")),
            ("5µ", unit("5", "µ")),
            ("5min", unit("5", "min")),
            ("1h30minutes", unit("30", "minutes")),
            ("5 m", unit("5", " ")),
            ("1h30", InvalidDuration::MissingUnit),
            ("30m1h", InvalidDuration::Order),
            ("1h1h", InvalidDuration::Order),
            ("36501d", InvalidDuration::TooLong),
            ("36500d1s", InvalidDuration::TooLong),
            ("18446744073709551615d", InvalidDuration::TooLong),
            ("99999999999999999999", InvalidDuration::TooLong),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_unit_that_is_written_out_gets_a_hint() {
        for (text, expected) in [
            ("5min", "\"min\" is not a unit of time (write 5m): the units are d, h, m and s"),
            ("1h30minutes", "(write 30m)"),
            ("90Seconds", "(write 90s)"),
            ("2hrs", "(write 2h)"),
            ("1day", "(write 1d)"),
            ("5S", "(write 5s)"),
            ("5x", "\"x\" is not a unit of time: the units"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{expected} in {message}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_duration_is_parsed(seconds in 0..=MAX_DURATION.as_secs()) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_parse_panic(text in "[0-9dhms .\\-]{0,24}|\\PC{0,12}") {
            if let Ok(duration) = parse(&text) {
                prop_assert!(duration <= MAX_DURATION);
                prop_assert_eq!(parse(&format(duration)), Ok(duration));
            }
        }
    }
}
