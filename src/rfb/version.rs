//! The version of the protocol, which both sides send first.

use super::constants::{VERSION_3_8, VERSION_BYTES};
use super::error::RfbError;

/// Reads the version at the beginning of the bytes, major and minor. `None` if more bytes must
/// arrive.
///
/// # Errors
/// [`RfbError::NoVersion`] as soon as the bytes cannot become a version.
pub fn parse_version(bytes: &[u8]) -> Result<Option<(u16, u16)>, RfbError> {
    let begin = bytes.get(..VERSION_BYTES).unwrap_or(bytes);
    let fits = |(byte, example): (&u8, &u8)| {
        if example.is_ascii_digit() { byte.is_ascii_digit() } else { byte == example }
    };
    if !begin.iter().zip(VERSION_3_8).all(fits) {
        return Err(RfbError::NoVersion { begin: begin.escape_ascii().to_string() });
    }
    let Ok([_, _, _, _, major @ .., _, m0, m1, m2, _]) = <[u8; VERSION_BYTES]>::try_from(begin)
    else {
        return Ok(None);
    };
    Ok(Some((number(major), number([m0, m1, m2]))))
}

/// The number with these three digits.
fn number(digits: [u8; 3]) -> u16 {
    digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit.saturating_sub(b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_two_numbers() {
        assert_eq!(parse_version(b"RFB 003.008\n\x01\x01"), Ok(Some((3, 8))));
        assert_eq!(parse_version(b"RFB 003.889\n"), Ok(Some((3, 889))));
        for part in 0..VERSION_BYTES {
            assert_eq!(parse_version(&VERSION_3_8[..part]), Ok(None), "{part}");
        }
    }

    #[test]
    fn other_bytes_are_refused_at_once_and_shown() {
        for bytes in [&b"H"[..], b"HTTP/1.1 400", b"RFB 3.8", b"RFB 003.008\r", b"\x00\x00"] {
            let error = parse_version(bytes).unwrap_err();
            assert!(matches!(error, RfbError::NoVersion { .. }), "{error}");
        }
        assert!(parse_version(b"\x01\x02").unwrap_err().to_string().contains(r"`\x01\x02`"));
    }
}
