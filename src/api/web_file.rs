//! A file that otter serves to browsers from its own program: its type, its bytes and its entity
//! tag.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
    REFERRER_POLICY,
};

use super::content_coding::Coding;
use super::entity_tag::{EntityTag, digest};

/// A file of the program. Its bytes do not change while otter runs.
#[derive(Debug)]
pub struct WebFile {
    content_type: &'static str,
    bytes: Bytes,
    tag: EntityTag,
}

impl WebFile {
    /// The file with this name. The ending of the name determines the type.
    #[must_use]
    pub fn new(name: &str, bytes: Cow<'static, [u8]>) -> Self {
        let bytes = match bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        };
        let tag = EntityTag::strong(&digest([&*bytes]));
        Self { content_type: content_type(name), bytes, tag }
    }

    /// A response with the file. Browsers ask each time whether they still have the current one,
    /// so that a page never has parts of two versions of otter.
    ///
    /// # Parameters
    /// - `policy`: the content security policy.
    #[must_use]
    pub fn respond(&self, policy: &'static str) -> Response {
        let mut response = Response::new(Body::from(self.bytes.clone()));
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value| {
            headers.insert(name, HeaderValue::from_static(value));
        };
        set(CONTENT_TYPE, self.content_type);
        set(CACHE_CONTROL, "no-cache");
        set(CONTENT_SECURITY_POLICY, policy);
        set(REFERRER_POLICY, "no-referrer");
        headers.insert(ETAG, self.tag.of(Coding::Identity).clone());
        response
    }
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_has_the_type_the_policy_and_the_tag_of_its_bytes() {
        let respond = |name: &str, bytes: &'static [u8]| {
            WebFile::new(name, Cow::Borrowed(bytes)).respond("default-src 'none'")
        };
        let first = respond("a.js", b"1");
        let header = |response: &Response, name: HeaderName| response.headers()[name].clone();
        assert_eq!(header(&first, CONTENT_TYPE), "text/javascript; charset=utf-8");
        assert_eq!(header(&first, CONTENT_SECURITY_POLICY), "default-src 'none'");
        assert_eq!(header(&first, CACHE_CONTROL), "no-cache");
        assert_eq!(header(&first, REFERRER_POLICY), "no-referrer");
        let tag = header(&first, ETAG);
        assert!(tag.to_str().unwrap().starts_with('"'), "{tag:?} is strong");
        assert_eq!(tag, header(&respond("b.css", b"1"), ETAG));
        assert_ne!(tag, header(&respond("a.js", b"2"), ETAG));
        assert_eq!(header(&respond("none", b""), CONTENT_TYPE), "application/octet-stream");
    }
}
