//! Where a reader of a serial port begins: an offset, or a number of bytes before the end.

use crate::api::extract::{InvalidValue, Parameter};
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::service::serial::ReadFrom;

/// The value of `since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(pub ReadFrom);

impl Parameter for Since {
    fn from_text(text: &str) -> Result<Self, InvalidValue> {
        if text.starts_with('-') {
            let before_end = text.parse().ok().map(i64::unsigned_abs);
            return before_end.map(ReadFrom::BeforeEnd).map(Self).ok_or_else(|| invalid(text));
        }
        // The integer parser of the standard library also accepts a leading `+`.
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let offset = text.parse().ok().filter(|_| is_number).map(i64::unsigned_abs);
        offset.map(ReadFrom::Offset).map(Self).ok_or_else(|| invalid(text))
    }
}

fn invalid(text: &str) -> InvalidValue {
    let expected = "write an offset, such as 4096, or -4096 for the last 4096 bytes";
    InvalidValue::new("not-an-offset", text, expected)
}

/// The `since` of a body. Absent: what comes from now on.
#[must_use]
pub fn in_body(since: Option<i64>) -> ReadFrom {
    match since {
        None => ReadFrom::BeforeEnd(0),
        Some(offset) => match u64::try_from(offset) {
            Ok(offset) => ReadFrom::Offset(offset),
            Err(_) => ReadFrom::BeforeEnd(offset.unsigned_abs()),
        },
    }
}

/// The failure of an offset in the body, whose error points to the field.
#[must_use]
pub fn pointed_at(failure: Failure) -> Failure {
    if failure.kind != FailureKind::OffsetOutOfRange {
        return failure;
    }
    let point = |error: &InputError| InputError {
        pointer: Some("/since".to_owned()),
        parameter: None,
        ..error.clone()
    };
    Failure { errors: failure.errors.iter().map(point).collect(), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_counts_from_the_start_or_from_the_end() {
        let read = |text: &str| Since::from_text(text).map(|since| since.0).ok();
        assert_eq!(read("0"), Some(ReadFrom::Offset(0)));
        assert_eq!(read("9223372036854775807"), Some(ReadFrom::Offset(i64::MAX.unsigned_abs())));
        assert_eq!(read("-9223372036854775808"), Some(ReadFrom::BeforeEnd(1 << 63)));
        assert_eq!(read("-0"), Some(ReadFrom::BeforeEnd(0)));
        assert_eq!(read("-4096"), Some(ReadFrom::BeforeEnd(4096)));
        for wrong in ["", "-", "+1", "1.5", "9223372036854775808", "end", "--1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(in_body(None), ReadFrom::BeforeEnd(0));
        assert_eq!(in_body(Some(7)), ReadFrom::Offset(7));
        assert_eq!(in_body(Some(i64::MIN)), ReadFrom::BeforeEnd(1 << 63));
    }
}
