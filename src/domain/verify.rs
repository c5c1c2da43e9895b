//! The verification of a host's certificate, and the fingerprint that can be pinned.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// How otter verifies the host's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// The certificate must be valid for the host's name, by the root certificates that the
    /// operating system trusts.
    #[default]
    SystemRoots,
    /// The certificate must be valid for the host's name, by the certificates in this PEM file.
    /// These are certificates of authorities, or the host's certificate itself.
    CaFile(PathBuf),
    /// The certificate must have this SHA-256 fingerprint. Its name, dates and issuer are not
    /// checked.
    Fingerprint(Fingerprint),
    /// otter does not verify the certificate, so it accepts every server.
    Off,
}

/// The SHA-256 of a certificate in DER. It is written in upper case with colons, as openssl writes
/// it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// Why a text is not a [`Verify`] or a [`Fingerprint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("expected true, false, ca:<file> or sha256:<fingerprint>")]
    Form,
    #[error("ca: lacks the name of a PEM file")]
    NoFile,
    #[error(
        "this is a {0} fingerprint; expected the SHA-256 of the host's certificate, 64 hexadecimal \
         digits. `openssl s_client -connect <host>:443 </dev/null | openssl x509 -noout \
         -fingerprint -sha256` shows it"
    )]
    OtherDigest(&'static str),
    #[error(
        "a SHA-256 fingerprint has 64 hexadecimal digits, with or without colons; this has {0}"
    )]
    Length(usize),
    #[error("a fingerprint holds only hexadecimal digits, colons and spaces")]
    NotHexadecimal,
}

impl FromStr for Verify {
    type Err = VerifyError;

    /// Parses `true`, `false`, `ca:<file>` or `sha256:<fingerprint>`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        match (text, text.split_once(':')) {
            ("true", _) => Ok(Self::SystemRoots),
            ("false", _) => Ok(Self::Off),
            (_, Some(("ca", file))) => match file.trim() {
                "" => Err(VerifyError::NoFile),
                file => Ok(Self::CaFile(file.into())),
            },
            (_, Some(("sha256", fingerprint))) => fingerprint.parse().map(Self::Fingerprint),
            (_, Some(("sha1", _))) => Err(VerifyError::OtherDigest("SHA-1")),
            (_, Some(("sha512", _))) => Err(VerifyError::OtherDigest("SHA-512")),
            (_, Some(("md5", _))) => Err(VerifyError::OtherDigest("MD5")),
            _ => Err(VerifyError::Form),
        }
    }
}

impl FromStr for Fingerprint {
    type Err = VerifyError;

    /// Parses 64 hexadecimal digits in upper or lower case. Colons and white space are ignored.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: String = text
            .chars()
            .filter(|character| *character != ':' && !character.is_whitespace())
            .collect();
        if !digits.chars().all(|character| character.is_ascii_hexdigit()) {
            return Err(VerifyError::NotHexadecimal);
        }
        match digits.len() {
            64 => {}
            32 => return Err(VerifyError::OtherDigest("MD5")),
            40 => return Err(VerifyError::OtherDigest("SHA-1")),
            128 => return Err(VerifyError::OtherDigest("SHA-512")),
            other => return Err(VerifyError::Length(other)),
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| VerifyError::NotHexadecimal)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            write!(formatter, "{}{byte:02X}", if index == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_four_forms() {
        let digits = "ab".repeat(32);
        let pin = Ok(Verify::Fingerprint(Fingerprint([0xab; 32])));
        assert_eq!("true".parse(), Ok(Verify::SystemRoots));
        assert_eq!("false".parse(), Ok(Verify::Off));
        assert_eq!("ca:/etc/ca:1.pem".parse(), Ok(Verify::CaFile("/etc/ca:1.pem".into())));
        assert_eq!(format!("sha256:{digits}").parse(), pin);
        assert_eq!(format!("sha256: {} ", digits.to_uppercase()).parse(), pin);
        assert_eq!(format!("sha256:{}ab", "AB:".repeat(31)).parse(), pin);
    }

    #[test]
    fn invalid_texts_are_refused_with_a_reason() {
        for (text, error) in [
            (String::new(), VerifyError::Form),
            ("True".to_owned(), VerifyError::Form),
            ("yes".to_owned(), VerifyError::Form),
            ("ab".repeat(32), VerifyError::Form),
            ("ca:".to_owned(), VerifyError::NoFile),
            ("sha256:".to_owned(), VerifyError::Length(0)),
            ("sha1:ab".to_owned(), VerifyError::OtherDigest("SHA-1")),
            (format!("sha256:{}", "a".repeat(32)), VerifyError::OtherDigest("MD5")),
            (format!("sha256:{}", "a".repeat(40)), VerifyError::OtherDigest("SHA-1")),
            (format!("sha256:{}", "a".repeat(128)), VerifyError::OtherDigest("SHA-512")),
            (format!("sha256:{}", "a".repeat(63)), VerifyError::Length(63)),
            (format!("sha256:{}", "g".repeat(64)), VerifyError::NotHexadecimal),
        ] {
            assert_eq!(text.parse::<Verify>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_fingerprint_is_parsed(bytes: [u8; 32]) {
            let fingerprint = Fingerprint(bytes);
            prop_assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        }

        #[test]
        fn no_text_makes_parse_panic(text in "(sha256:)?(\\PC|[0-9a-f:]){0,70}") {
            let _ = text.parse::<Verify>();
        }
    }
}
