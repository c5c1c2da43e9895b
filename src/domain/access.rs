//! Authentication and authorization: the roles of callers, and the tokens that carry a role. The
//! text of a token has this form:
//!
//! ```text
//! otter_<64 hexadecimal digits: 256 random bits><8 digits: the beginning of their SHA-256>
//! ```
//! otter shows the text of a token once and stores only its digest.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// What a caller may do. Each role includes the permissions of the roles before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A viewer may read.
    Viewer,
    /// A runner may also take leases, and change the machines that it holds by a lease.
    Runner,
    /// An operator may also change any machine, revoke leases and quarantine machines.
    Operator,
    /// An admin may call every operation.
    Admin,
}

impl Role {
    /// Every role, from the fewest permissions to the most.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Runner, Self::Operator, Self::Admin];

    /// The role's word in the HTTP API and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Runner => "runner",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role's word with its article (`a` or `an`), for use in a sentence.
    #[must_use]
    pub const fn with_article(self) -> &'static str {
        match self {
            Self::Viewer => "a viewer",
            Self::Runner => "a runner",
            Self::Operator => "an operator",
            Self::Admin => "an admin",
        }
    }

    /// Parses the word of a role. `None` if the text names no role.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// On whose behalf a job changes snapshots. This decides which snapshots the job may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// A caller with a role below operator, which holds the machine by a lease.
    Runner,
    /// An operator, an admin, or any caller if otter has no tokens.
    Operator,
    /// An operator who gave a reason in the header `Otter-Override`.
    Override,
    /// otter itself, which prepares or releases a machine.
    System,
}

/// Names that otter uses for itself and for callers without a token, so that no new token can have
/// them.
const RESERVED_NAMES: [&str; 2] = ["otter", "anonymous"];

/// Whether otter uses this name for itself or for callers without a token. The comparison ignores
/// the case of ASCII letters.
#[must_use]
pub fn is_reserved_name(name: &str) -> bool {
    RESERVED_NAMES.iter().any(|reserved| name.eq_ignore_ascii_case(reserved))
}

/// The limits of one token. A limit of `None` means that otter sets no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenLimits {
    /// The maximum number of leases that have not ended. Queued leases count too.
    pub leases: Option<u32>,
    /// The maximum number of leases that wait for a machine.
    pub queued_leases: Option<u32>,
    /// The maximum number of jobs that wait behind another job of their machine.
    pub queued_jobs: Option<u32>,
    /// The maximum number of open streams of events.
    pub streams: Option<u32>,
    /// The maximum number of requests per second, of all kinds together. `None` if there is no
    /// limit.
    pub requests_per_second: Option<u32>,
}

/// Whether a caller can use a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenStatus {
    Valid,
    Expired,
    Revoked,
}

/// The complete text of a token. The text is a secret.
#[derive(Clone, Debug)]
pub struct Token(SecretString);

/// The stored form of a token: the SHA-256 of the token's text. A slow hash is not necessary,
/// because the text contains 256 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenDigest(pub [u8; 32]);

/// The error for a text that is not a token, for example because it is misspelt or cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a token of otter: its length or its checksum is wrong")]
pub struct InvalidToken;

const PREFIX: &str = "otter_";
const RANDOM: usize = 64;
const CHECKSUM: usize = 8;

impl Token {
    /// Makes a token from random bits.
    #[must_use]
    pub fn new(random: &[u8; 32]) -> Self {
        let random = hex::encode(random);
        let checksum = checksum(&random);
        Self(SecretString::from(format!("{PREFIX}{random}{checksum}")))
    }

    /// Parses the text of a token.
    ///
    /// # Errors
    /// Fails if the text is not a token. The checksum in the text detects a misspelt token without
    /// a lookup in the store.
    pub fn parse(text: &str) -> Result<Self, InvalidToken> {
        let rest = text.strip_prefix(PREFIX).ok_or(InvalidToken)?;
        let hexadecimal = rest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if rest.len() != RANDOM + CHECKSUM || !hexadecimal {
            return Err(InvalidToken);
        }
        let (random, given) = rest.split_at(RANDOM);
        if checksum(random) == given {
            Ok(Self(SecretString::from(text)))
        } else {
            Err(InvalidToken)
        }
    }

    /// The text of the token. otter shows it to the operator once.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.expose_secret()
    }

    /// The digest of the token, which the store keeps.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.0.expose_secret()).into())
    }
}

fn checksum(random: &str) -> String {
    hex::encode(&Sha256::digest(random)[..CHECKSUM / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_parsed_and_a_misspelt_token_is_refused() {
        let token = Token::new(&[0xa7; 32]);
        let text = token.text().to_owned();
        assert_eq!(text.len(), PREFIX.len() + RANDOM + CHECKSUM);
        assert_eq!(Token::parse(&text).unwrap().digest(), token.digest());
        assert_ne!(Token::new(&[0xa8; 32]).digest(), token.digest());
        let mut swapped = text.clone();
        swapped.replace_range(10..12, "00");
        let cut = &text[..text.len() - 1];
        let longer = format!("{text}0");
        let other_checksum = format!("{}00000000", &text[..text.len() - CHECKSUM]);
        for invalid in [
            "",
            "otter_",
            cut,
            &longer,
            &swapped,
            &other_checksum,
            &text.to_uppercase(),
            &text.replace("otter_", "ottér_"),
            &format!("{}é{}", &text[..20], &text[22..]),
            &format!(" {text}"),
        ] {
            assert!(Token::parse(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn debug_output_hides_the_token() {
        let token = Token::new(&[7; 32]);
        assert!(!format!("{token:?}").contains("0707"), "{token:?}");
    }

    #[test]
    fn reserved_names_are_recognised_in_any_case() {
        for reserved in ["otter", "anonymous", "Otter", "ANONYMOUS"] {
            assert!(is_reserved_name(reserved), "{reserved}");
        }
        assert!(!is_reserved_name("otter-ci") && !is_reserved_name(""));
    }

    #[test]
    fn roles_are_ordered_and_parsed() {
        assert!(Role::ALL.is_sorted());
        for role in Role::ALL {
            assert_eq!(Role::parse(&role.to_string()), Some(role));
            assert!(role.with_article().ends_with(&format!(" {role}")));
        }
        assert_eq!(Role::parse("root"), None);
    }
}
