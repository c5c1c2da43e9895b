//! An artifact: a file that belongs to a lease. otter stores some itself, such as the last picture
//! of a screen, and the holder of the lease stores others.

use std::fmt;

use jiff::Timestamp;

use super::ids::{ArtifactId, LeaseId};
use super::machine::MachineIdentity;

/// An artifact without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    pub id: ArtifactId,
    pub name: ArtifactName,
    pub lease: LeaseId,
    /// The machine that the lease held when the artifact was stored, or last. `None` if the lease
    /// never held a machine.
    pub machine: Option<MachineIdentity>,
    pub machine_name: Option<String>,
    /// The pool of the lease.
    pub pool: Option<String>,
    pub reference: Option<String>,
    /// The name of the caller that requested the lease.
    pub requested_by: String,
    pub content_type: ContentType,
    pub bytes: u64,
    pub sha256: Sha256Sum,
    pub created_at: Timestamp,
    pub source: ArtifactSource,
}

/// The SHA-256 of the bytes of an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sha256Sum(pub [u8; 32]);

/// Who stored an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactSource {
    /// otter itself.
    Otter,
    /// The holder of the lease.
    Caller,
}

/// The name of an artifact, which is unique in its lease. It is a safe name for a file on every
/// computer: 1 to 128 of the characters `A-Z a-z 0-9 . _ -`, of which the first is no dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArtifactName(String);

/// The error for a text that is no [`ArtifactName`]. The text of the error is the rest of a
/// sentence whose subject is the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidArtifactName {
    #[error("has {0} characters; it must have 1 to {max}", max = ArtifactName::MAX_LENGTH)]
    Length(usize),
    #[error("may only have letters and digits of ASCII, and the characters . _ -")]
    Character,
    #[error("must not start with a dot")]
    LeadingDot,
    #[error(
        "is otter's own: names that start with screen, names that end in .cast, and the logs of \
         serial ports, such as ttyS0.log, are names of recordings"
    )]
    Reserved,
}

/// The type of an artifact's bytes. otter serves only types that a browser does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    Png,
    Apng,
    Text,
    Json,
    /// A recording of a terminal (asciicast v2).
    Asciicast,
    /// Any other type.
    Bytes,
}

impl ArtifactName {
    /// The largest number of characters in a name.
    pub const MAX_LENGTH: usize = 128;

    /// Parses a name that otter itself may use.
    ///
    /// # Errors
    /// [`InvalidArtifactName`], except `Reserved`
    pub fn parse(text: &str) -> Result<Self, InvalidArtifactName> {
        let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let length = text.chars().count();
        if !(1..=Self::MAX_LENGTH).contains(&length) {
            return Err(InvalidArtifactName::Length(length));
        }
        if !text.bytes().all(is_safe) {
            return Err(InvalidArtifactName::Character);
        }
        if text.starts_with('.') {
            return Err(InvalidArtifactName::LeadingDot);
        }
        Ok(Self(text.to_owned()))
    }

    /// Parses a name that a caller may use. The names of otter's own artifacts are reserved, in
    /// lower and in upper case.
    ///
    /// # Errors
    /// [`InvalidArtifactName`]
    pub fn of_caller(text: &str) -> Result<Self, InvalidArtifactName> {
        let name = Self::parse(text)?;
        let lower = text.to_ascii_lowercase();
        let is_port_log = (lower.starts_with("ttys") || lower.starts_with("serial-"))
            && lower.strip_suffix(".log").is_some();
        let is_cast = lower.strip_suffix(".cast").is_some();
        if lower.starts_with("screen") || is_cast || is_port_log {
            return Err(InvalidArtifactName::Reserved);
        }
        Ok(name)
    }

    /// The name of the recording of a screen.
    #[must_use]
    pub fn screen_recording() -> Self {
        Self("screen.apng".to_owned())
    }

    /// The name of the picture that a screen showed last.
    #[must_use]
    pub fn last_picture() -> Self {
        Self("screen-last.png".to_owned())
    }

    /// The name of the text that a screen showed last.
    #[must_use]
    pub fn last_text() -> Self {
        Self("screen-last.txt".to_owned())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ArtifactName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl ArtifactSource {
    /// Both sources, for the OpenAPI document.
    pub const ALL: [Self; 2] = [Self::Otter, Self::Caller];

    /// The word for this source in the HTTP API and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Otter => "otter",
            Self::Caller => "caller",
        }
    }

    /// Parses the word of a source. `None` if the word names no source.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.as_str() == word)
    }
}

impl ContentType {
    /// Every type.
    pub const ALL: [Self; 6] =
        [Self::Png, Self::Apng, Self::Text, Self::Json, Self::Asciicast, Self::Bytes];

    /// The media type.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Apng => "image/apng",
            Self::Text => "text/plain",
            Self::Json => "application/json",
            Self::Asciicast => "application/x-asciicast",
            Self::Bytes => "application/octet-stream",
        }
    }

    /// The type for a media type that a caller sent. Its parameters do not matter. Every type that
    /// otter does not serve is [`ContentType::Bytes`].
    #[must_use]
    pub fn of(media_type: &str) -> Self {
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        Self::ALL
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(essence))
            .unwrap_or(Self::Bytes)
    }
}

impl Sha256Sum {
    /// Parses 64 hexadecimal digits. `None` if the text is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut sum = [0; 32];
        hex::decode_to_slice(text, &mut sum).ok()?;
        Some(Self(sum))
    }
}

/// Writes 64 hexadecimal digits.
impl fmt::Display for Sha256Sum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_safe_name_of_a_file() {
        let longest = "a".repeat(128);
        for name in ["a", "junit.xml", "A-b_c.9", &longest, "-x"] {
            assert_eq!(ArtifactName::of_caller(name).unwrap().as_str(), name);
        }
        assert_eq!(ArtifactName::parse(""), Err(InvalidArtifactName::Length(0)));
        let long = "é".repeat(300);
        assert_eq!(ArtifactName::parse(&long), Err(InvalidArtifactName::Length(300)));
        for name in ["a/b", "a\\b", "a b", "ü", "a\0", "a\n", "a%2fb"] {
            assert_eq!(ArtifactName::parse(name), Err(InvalidArtifactName::Character), "{name}");
        }
        for name in [".", "..", ".bashrc"] {
            assert_eq!(ArtifactName::parse(name), Err(InvalidArtifactName::LeadingDot), "{name}");
        }
    }

    #[test]
    fn the_names_of_recordings_are_reserved() {
        for name in ["screen.apng", "SCREEN-last.png", "screenshot.png", "run.cast", "x.CAST"] {
            assert!(ArtifactName::parse(name).is_ok(), "{name}");
            assert_eq!(ArtifactName::of_caller(name), Err(InvalidArtifactName::Reserved), "{name}");
        }
        for own in [
            ArtifactName::screen_recording(),
            ArtifactName::last_picture(),
            ArtifactName::last_text(),
        ] {
            assert_eq!(ArtifactName::parse(own.as_str()), Ok(own.clone()));
            assert_eq!(ArtifactName::of_caller(own.as_str()), Err(InvalidArtifactName::Reserved));
        }
        for name in ["ttyS0.log", "ttys12.LOG", "serial-9000.log"] {
            assert_eq!(ArtifactName::of_caller(name), Err(InvalidArtifactName::Reserved), "{name}");
        }
        for name in ["my-screen.png", "cast", "cast.txt", "boot.log", "ttyS0.txt", "serial.log"] {
            assert!(ArtifactName::of_caller(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_type_that_a_browser_would_run_is_bytes() {
        for known in ContentType::ALL {
            assert_eq!(ContentType::of(known.as_str()), known);
        }
        assert_eq!(ContentType::of("Text/Plain; charset=utf-8"), ContentType::Text);
        for media_type in ["text/html", "image/svg+xml", "text/javascript", "", "text/plain2", ";"]
        {
            assert_eq!(ContentType::of(media_type), ContentType::Bytes, "{media_type}");
        }
        for source in ArtifactSource::ALL {
            assert_eq!(ArtifactSource::parse(source.as_str()), Some(source));
        }
        assert_eq!(Sha256Sum([0xa5; 32]).to_string(), "a5".repeat(32));
        assert_eq!(Sha256Sum::parse(&"A5".repeat(32)), Some(Sha256Sum([0xa5; 32])));
        for other in ["", "a5", &"a5".repeat(33), &"zz".repeat(32)] {
            assert_eq!(Sha256Sum::parse(other), None, "{other}");
        }
    }
}
