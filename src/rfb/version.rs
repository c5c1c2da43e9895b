//! The version of the protocol, which both sides send first.

use super::constants::{VERSION_3_8, VERSION_BYTES};
use super::error::RfbError;

/// Reads the version at the beginning of the bytes, major and minor. `None` if more bytes must
/// arrive.
///
/// # Errors
/// [`RfbError::NoVersion`]
pub fn parse_version(bytes: &[u8]) -> Result<Option<(u16, u16)>, RfbError> {
    let Some(version) = bytes.first_chunk::<VERSION_BYTES>() else { return Ok(None) };
    let fits = |(byte, example): (&u8, &u8)| {
        if example.is_ascii_digit() { byte.is_ascii_digit() } else { byte == example }
    };
    if !version.iter().zip(VERSION_3_8).all(fits) {
        return Err(RfbError::NoVersion { begin: version.escape_ascii().to_string() });
    }
    let [_, _, _, _, major @ .., _, m0, m1, m2, _] = *version;
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
    fn other_bytes_are_refused_and_shown() {
        for bytes in [&b"HTTP/1.1 400"[..], b"RFB 003.008\r\n", b"RFB 3.8\n\x01\x01\0\0", &[0; 12]]
        {
            let error = parse_version(bytes).unwrap_err();
            assert!(matches!(error, RfbError::NoVersion { .. }), "{error}");
        }
        let error = parse_version(b"\x01\x02otherrr bytes").unwrap_err();
        assert!(error.to_string().contains(r"`\x01\x02otherrr by`"), "{error}");
    }
}
