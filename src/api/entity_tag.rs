//! Entity tags (RFC 9110, section 8.8.3), and the conditional requests that name them.

use http::HeaderValue;
use sha2::{Digest as _, Sha256};

use super::content_coding::Coding;

/// The beginning of a weak tag.
const WEAK: &str = "W/";

/// The beginning of the SHA-256 digest of the content that an entity tag identifies.
pub type Digest = [u8; 12];

/// The entity tag of a response.
#[derive(Clone, Debug)]
pub struct EntityTag {
    /// The tag of the body without a coding.
    plain: HeaderValue,
    /// The tag of the body in any other coding. It is weak, because the bytes of the coded body
    /// differ.
    weak: HeaderValue,
}

/// The digest of the concatenated parts.
pub fn digest<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Digest {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    let mut digest = Digest::default();
    let len = digest.len();
    digest.copy_from_slice(&hasher.finalize()[..len]);
    digest
}

impl EntityTag {
    /// The tag of a body whose digest covers every byte.
    #[must_use]
    pub fn strong(digest: &Digest) -> Self {
        let opaque = format!("\"{}\"", hex::encode(digest));
        Self { plain: header_value(&opaque), weak: header_value(&format!("{WEAK}{opaque}")) }
    }

    /// The tag of a body whose digest does not cover some parts.
    #[must_use]
    pub fn weak(digest: &Digest) -> Self {
        let Self { plain: _, weak } = Self::strong(digest);
        Self { plain: weak.clone(), weak }
    }

    /// The tag of the body in this coding.
    #[must_use]
    pub const fn of(&self, coding: Coding) -> &HeaderValue {
        match coding {
            Coding::Identity => &self.plain,
            Coding::Gzip | Coding::Zstd => &self.weak,
        }
    }
}

/// Whether values of `If-None-Match` name a tag, by weak comparison. `*` names every tag.
pub fn is_named<'v>(values: impl IntoIterator<Item = &'v HeaderValue>, tag: &HeaderValue) -> bool {
    let Ok(tag) = tag.to_str() else { return false };
    let mut texts = values.into_iter().filter_map(|value| value.to_str().ok());
    texts.any(|tags| has_tag(tags, tag))
}

fn has_tag(client_tags: &str, tag: &str) -> bool {
    fn opaque(tag: &str) -> &str {
        tag.trim().trim_start_matches(WEAK)
    }
    client_tags.trim() == "*" || client_tags.split(',').any(|one| opaque(one) == opaque(tag))
}

fn header_value(tag: &str) -> HeaderValue {
    // A tag has only visible ASCII characters, so it is always a valid header value. If it were
    // not, the header would be empty, which names no tag.
    HeaderValue::from_str(tag).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_weakly() {
        assert!(has_tag("\"a\"", "W/\"a\""));
        assert!(has_tag("W/\"x\", W/\"a\"", "\"a\""));
        assert!(has_tag("*", "\"a\""));
        assert!(!has_tag("\"b\"", "\"a\""));
    }

    #[test]
    fn each_line_of_the_header_can_name_the_tag() {
        let values = ["\"x\"", "W/\"a\", \"c\""].map(HeaderValue::from_static);
        let names = |tag| is_named(&values, &HeaderValue::from_static(tag));
        assert!(names("\"a\"") && names("W/\"x\"") && !names("\"b\""));
        assert!(!is_named(&[], &values[0]));
    }

    #[test]
    fn the_tag_of_a_coded_body_is_weak() {
        let digest = digest([&b"ab"[..], b"c"]);
        assert_eq!(digest, super::digest([&b"abc"[..]]));
        let (strong, weak) = (EntityTag::strong(&digest), EntityTag::weak(&digest));
        assert_eq!(strong.of(Coding::Identity), "\"ba7816bf8f01cfea414140de\"");
        assert_eq!(strong.of(Coding::Gzip), "W/\"ba7816bf8f01cfea414140de\"");
        assert_eq!(weak.of(Coding::Identity), strong.of(Coding::Zstd));
    }
}
