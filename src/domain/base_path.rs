//! The path under which clients reach otter behind a reverse proxy.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The first segments of otter's own paths. A base path that begins with one of these segments
/// would be ambiguous, so it is refused.
const OWN_SEGMENTS: [&str; 9] = [
    "v1",
    "page",
    "docs",
    "problems",
    "openapi.json",
    "openapi-3.0.json",
    "metrics",
    "healthz",
    "readyz",
];

/// The path under which clients reach otter, for example `/otter` or `/`. Clones share the text in
/// memory.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BasePath(Arc<str>);

/// Why a text is not a base path. The message says what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBasePath {
    #[error(
        "write a path of letters, digits, \"-\", \"_\", \".\" and \"~\" that begins with a slash, \
         such as \"/otter\""
    )]
    Malformed,
    #[error("/{0} is a path of otter itself; choose another, such as \"/otter\"")]
    Own(&'static str),
}

impl BasePath {
    /// The text that clients put before otter's own paths. Empty if the base path is `/`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0
    }

    /// Whether the base path is `/`, so that otter's own paths begin at the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Turns the path of a request into otter's own path, by removing the prefix. A path without
    /// the prefix stays as it is, because a proxy may already have removed the prefix. A path may
    /// have the prefix twice, because some clients append a link that has the prefix to an address
    /// that has it too.
    #[must_use]
    pub fn strip<'a>(&self, path: &'a str) -> &'a str {
        let mut rest = path;
        while let Some(shorter) = rest.strip_prefix(self.prefix()).filter(|_| !self.is_root())
            && (shorter.is_empty() || shorter.starts_with('/'))
        {
            rest = shorter;
        }
        if rest.is_empty() { "/" } else { rest }
    }
}

impl FromStr for BasePath {
    type Err = InvalidBasePath;

    /// Parses a base path. A slash at its end is ignored, and the empty text means `/`.
    fn from_str(text: &str) -> Result<Self, InvalidBasePath> {
        let prefix = text.strip_suffix('/').unwrap_or(text);
        if prefix.is_empty() {
            return Ok(Self::default());
        }
        let segments = prefix.strip_prefix('/').ok_or(InvalidBasePath::Malformed)?;
        for segment in segments.split('/') {
            let is_plain = segment.bytes().all(|byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')
            });
            if matches!(segment, "" | "." | "..") || !is_plain {
                return Err(InvalidBasePath::Malformed);
            }
        }
        let first = segments.split('/').next();
        match OWN_SEGMENTS.into_iter().find(|own| Some(*own) == first) {
            Some(own) => Err(InvalidBasePath::Own(own)),
            None => Ok(Self(prefix.into())),
        }
    }
}

impl fmt::Display for BasePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.is_root() { "/" } else { self.prefix() })
    }
}

impl fmt::Debug for BasePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BasePath({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_plain_and_not_otters_own() {
        for (text, shown) in [
            ("/otter", "/otter"),
            ("/otter/", "/otter"),
            ("/lab/otter-1.x", "/lab/otter-1.x"),
            ("/", "/"),
            ("", "/"),
            ("/v1x", "/v1x"),
        ] {
            assert_eq!(text.parse::<BasePath>().unwrap().to_string(), shown, "{text}");
        }
        for text in [
            "otter",
            "//otter",
            "/otter//x",
            "/otter?x",
            "/ot ter",
            "/..",
            "/a/./b",
            "//",
            "/%6ftter",
            "/a,/b",
            "https://lab/otter",
        ] {
            assert_eq!(text.parse::<BasePath>(), Err(InvalidBasePath::Malformed), "{text}");
        }
        for text in ["/v1", "/page", "/docs/x", "/healthz", "/problems"] {
            assert!(matches!(text.parse::<BasePath>(), Err(InvalidBasePath::Own(_))), "{text}");
        }
    }

    #[test]
    fn a_request_may_have_the_prefix_or_not() {
        let otter: BasePath = "/otter".parse().unwrap();
        for (path, own) in [
            ("/otter/v1/machines", "/v1/machines"),
            ("/v1/machines", "/v1/machines"),
            ("/otter/otter/v1/jobs", "/v1/jobs"),
            ("/otter", "/"),
            ("/otter/", "/"),
            ("/otters/v1", "/otters/v1"),
            ("/v1/otter", "/v1/otter"),
            ("/", "/"),
        ] {
            assert_eq!(otter.strip(path), own, "{path}");
        }
        assert_eq!(BasePath::default().strip("/v1/machines"), "/v1/machines");
        assert_eq!(BasePath::default().strip("/"), "/");
    }
}
