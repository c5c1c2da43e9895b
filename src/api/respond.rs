//! Builds responses: JSON with an entity tag and the version of the inventory, and lists with a
//! cursor. A text that many responses share is made once, and each response refers to its memory.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use hyper::body::{Frame, SizeHint};
use serde::Serialize;

use super::ApiState;
use super::content_coding::{Coding, SharedText};
use super::entity_tag::{Digest, EntityTag, digest, is_named};
use crate::service::event_stream::Version;
use crate::service::jobs::EncodedJob;

/// The header with the version of the inventory at which the response is valid.
pub const OTTER_VERSION: HeaderName = HeaderName::from_static("otter-version");
/// The header with the number of seconds since otter lost the host.
pub const OTTER_STALE: HeaderName = HeaderName::from_static("otter-stale");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The headers of a request on which a response with a [`SharedBody`] depends.
pub struct ReadHeaders {
    accept_encoding: Vec<HeaderValue>,
    if_none_match: Vec<HeaderValue>,
}

/// What all responses with the same contents have in common: the beginning of the text, and the
/// entity tag. Each response adds an end of its own.
#[derive(Debug)]
pub struct SharedBody {
    text: SharedText,
    tag: EntityTag,
}

/// A body in two parts, which are sent without a copy.
struct BodyParts([Bytes; 2]);

/// Writes the JSON of a list, up to the field with the version of the list.
struct ListWriter {
    text: Vec<u8>,
}

impl SharedBody {
    /// The body of responses with one JSON object. Its entity tag is strong.
    #[must_use]
    pub fn object(json: Bytes, digest: &Digest) -> Self {
        Self { text: SharedText::new(json), tag: EntityTag::strong(digest) }
    }

    /// The body of responses with a list of JSON objects, without its end, which has the version of
    /// the list. The entity tag is weak, because it does not depend on the version.
    ///
    /// # Parameters
    /// - `items`: each object with the digest of its text.
    /// - `next`: the cursor of the next page.
    #[must_use]
    pub fn list<'i>(
        items: impl Iterator<Item = (&'i Bytes, &'i Digest)> + Clone,
        next: Option<&str>,
    ) -> Self {
        let tag = list_tag(items.clone().map(|(_, digest)| &digest[..]), next);
        let mut list = ListWriter::new(items.clone().map(|(json, _)| json.len() + 1).sum());
        for (json, _) in items {
            list.item().extend_from_slice(json);
        }
        Self { text: SharedText::new(Bytes::from(list.finish(next))), tag }
    }

    /// A response with the object. Its status is 304 if the client already has the object.
    pub async fn respond(
        &self,
        api: &ApiState,
        version: &Version,
        request: &ReadHeaders,
    ) -> Response {
        self.respond_with_end(api, version, request, String::new).await
    }

    /// A response with the list. Its status is 304 if the client already has the list.
    pub async fn respond_list(
        &self,
        api: &ApiState,
        version: &Version,
        request: &ReadHeaders,
    ) -> Response {
        self.respond_with_end(api, version, request, || list_end(version)).await
    }

    async fn respond_with_end(
        &self,
        api: &ApiState,
        version: &Version,
        request: &ReadHeaders,
        end: impl FnOnce() -> String,
    ) -> Response {
        let accepted = Coding::for_client(&request.accept_encoding);
        // If the client accepts no coding at all, not even a body without a coding, make such a
        // body nevertheless: `CompressionLayer`, which is around all routes, then refuses the
        // request.
        let coding = accepted.unwrap_or(Coding::Identity);
        if accepted.is_some() && is_named(&request.if_none_match, self.tag.of(coding)) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            self.set_headers(api, version, coding, &mut response);
            return response;
        }
        let end = Bytes::from(end());
        let (coding, parts) = match self.text.coded(coding, end.clone()).await {
            Ok(parts) => (coding, parts),
            Err(error) => {
                tracing::warn!(%error, ?coding, "a response could not be compressed");
                (Coding::Identity, [self.text.text().clone(), end])
            }
        };
        let mut response = Response::new(Body::new(BodyParts(parts)));
        self.set_headers(api, version, coding, &mut response);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        if let Some(name) = coding.header_value() {
            headers.insert(CONTENT_ENCODING, name);
        }
        response
    }

    fn set_headers(
        &self,
        api: &ApiState,
        version: &Version,
        coding: Coding,
        response: &mut Response,
    ) {
        let headers = response.headers_mut();
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        headers.insert(ETAG, self.tag.of(coding).clone());
        set_state_headers(api, version, response);
    }
}

impl<S: Sync> FromRequestParts<S> for ReadHeaders {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let values = |name| parts.headers.get_all(name).iter().cloned().collect();
        Ok(Self { accept_encoding: values(ACCEPT_ENCODING), if_none_match: values(IF_NONE_MATCH) })
    }
}

impl hyper::body::Body for BodyParts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = self.0.iter_mut().find(|part| !part.is_empty());
        Poll::Ready(part.map(|part| Ok(Frame::data(std::mem::take(part)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|part| part.len() as u64).sum())
    }
}

impl ListWriter {
    const START: &[u8] = b"{\"items\":[";

    /// An empty list.
    ///
    /// # Parameters
    /// - `size`: the expected size of the items in bytes.
    fn new(size: usize) -> Self {
        const AROUND: usize = 256;
        let mut text = Vec::with_capacity(size + AROUND);
        text.extend_from_slice(Self::START);
        Self { text }
    }

    /// Begins an item of the list. Returns the buffer to which the caller appends the JSON of the
    /// item.
    fn item(&mut self) -> &mut Vec<u8> {
        if self.text.len() > Self::START.len() {
            self.text.push(b',');
        }
        &mut self.text
    }

    /// The JSON of all items that were written so far.
    fn items(&self) -> &[u8] {
        &self.text[Self::START.len()..]
    }

    /// The text of the list, up to the field with the version.
    fn finish(mut self, next: Option<&str>) -> Vec<u8> {
        self.text.extend_from_slice(b"],\"next\":");
        write_json(&mut self.text, &next);
        self.text.extend_from_slice(b",\"version\":\"");
        self.text
    }
}

/// A response with one object and a strong entity tag.
pub fn object<T: Serialize>(api: &ApiState, version: &Version, object: &T) -> Response {
    let body = to_json(object);
    let tag = EntityTag::strong(&digest([&*body]));
    json_response(api, version, body, &tag)
}

/// Encodes an ended job as JSON. The responses to all its readers share the result.
pub fn encode<T: Serialize>(job: &T) -> EncodedJob {
    let json = to_json(job);
    EncodedJob { digest: digest([&*json]), json: json.into() }
}

/// A response with an ended job and a strong entity tag.
pub fn encoded(api: &ApiState, version: &Version, job: &EncodedJob) -> Response {
    json_response(api, version, job.json.clone(), &EntityTag::strong(&job.digest))
}

/// A response with a page of a list. Its entity tag is weak, because it does not depend on the
/// version.
pub fn list<T: Serialize>(
    api: &ApiState,
    version: &Version,
    items: &[T],
    next: Option<&str>,
) -> Response {
    let mut list = ListWriter::new(0);
    for item in items {
        write_json(list.item(), item);
    }
    let tag = list_tag([list.items()].into_iter(), next);
    let mut text = list.finish(next);
    text.extend_from_slice(list_end(version).as_bytes());
    json_response(api, version, text, &tag)
}

/// A response with a body of another type than JSON.
pub fn text(content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = body.into().into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Sets a header. The value must be visible ASCII; otherwise nothing is set.
pub fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Adds the headers that every response with the inventory or a job has: `Otter-Version`, and
/// `Otter-Stale` if the host is away.
pub fn set_state_headers(api: &ApiState, version: &Version, response: &mut Response) {
    set(response, OTTER_VERSION, &version.to_string());
    if let Some(away) = api.services().inventory.away_for() {
        set(response, OTTER_STALE, &away.as_secs().to_string());
    }
}

/// The JSON text of an object.
pub fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut text = Vec::new();
    write_json(&mut text, value);
    text
}

fn json_response(
    api: &ApiState,
    version: &Version,
    body: impl Into<Body>,
    tag: &EntityTag,
) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(ETAG, tag.of(Coding::Identity).clone());
    set_state_headers(api, version, &mut response);
    response
}

fn write_json<T: Serialize>(text: &mut Vec<u8>, value: &T) {
    // The result can be ignored, because serialising plain structs with text keys into memory
    // cannot fail.
    let _ = serde_json::to_writer(text, value);
}

/// The end of a list: the field with the version. It follows the text of a [`ListWriter`].
fn list_end(version: &Version) -> String {
    format!("{version}\"}}")
}

fn list_tag<'i>(items: impl Iterator<Item = &'i [u8]>, next: Option<&str>) -> EntityTag {
    let next = next.map_or(&b"\n"[..], str::as_bytes);
    EntityTag::weak(&digest([&digest(items)[..], next]))
}
