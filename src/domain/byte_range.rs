//! The part of a file that a caller asks for, as the header `Range` of HTTP says it (RFC 9110,
//! section 14).

use std::fmt;

/// A part of a file of any length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// From the position `first` to the position `last`, both included. `None` means the end of the
    /// file.
    From { first: u64, last: Option<u64> },
    /// The last bytes: this number of them.
    Last(u64),
}

impl ByteRange {
    /// Parses a range: `bytes=2-5`, `bytes=2-` or `bytes=-5`. `None` if it is anything else, such
    /// as several ranges.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
        let number = |text: &str| -> Option<u64> {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            // A number that is too large for the type lies outside of every file.
            is_number.then(|| text.parse().unwrap_or(u64::MAX))
        };
        match (first, last) {
            ("", count) => number(count).map(Self::Last),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }

    /// The positions of the first and the last byte in a file of this length. `None` if the file
    /// has none of the bytes.
    #[must_use]
    pub fn within(self, length: u64) -> Option<(u64, u64)> {
        let end = length.checked_sub(1)?;
        let (first, last) = match self {
            Self::From { first, last } => (first, last.unwrap_or(u64::MAX)),
            Self::Last(0) => return None,
            Self::Last(count) => (length.saturating_sub(count), u64::MAX),
        };
        (first <= end).then(|| (first, last.min(end)))
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From { first, last: Some(last) } => write!(formatter, "bytes={first}-{last}"),
            Self::From { first, last: None } => write!(formatter, "bytes={first}-"),
            Self::Last(count) => write!(formatter, "bytes=-{count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_written_as_it_was_read() {
        for text in ["bytes=0-0", "bytes=2-5", "bytes=7-", "bytes=-3"] {
            assert_eq!(
                ByteRange::parse(text).map(|range| range.to_string()).as_deref(),
                Some(text)
            );
        }
    }
}
