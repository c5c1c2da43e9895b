//! Conditional requests (RFC 9110, section 13): answers 304 if the client already has the entity
//! tag.

use axum::body::Body;
use axum::response::Response;
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::entity_tag::is_named;

/// The tags in the `If-None-Match` of a read. `None` if the request is not conditional.
#[must_use]
pub fn client_tags(method: &Method, headers: &HeaderMap) -> Option<HeaderValue> {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    headers.get(IF_NONE_MATCH).filter(|_| is_read).cloned()
}

/// Answers 304 in place of a response whose tag the client has. Makes the tag of a compressed
/// response weak.
#[must_use]
pub fn answer(client_tags: Option<&HeaderValue>, mut response: Response) -> Response {
    let is_compressed = response.headers().contains_key(CONTENT_ENCODING);
    if client_tags.is_none() && !is_compressed {
        return response;
    }
    let Some(tag) = response.headers().get(ETAG) else { return response };
    let is_known = is_named(client_tags, tag);
    let Ok(tag) = tag.to_str() else { return response };
    let weak = (is_compressed && !tag.starts_with("W/")).then(|| format!("W/{tag}"));
    if let Some(weak) = weak.and_then(|weak| HeaderValue::try_from(weak).ok()) {
        response.headers_mut().insert(ETAG, weak);
    }
    // A condition comes before a range: the client has the bytes of every part.
    let has_object = matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    if is_known && has_object {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        for describes_body in [CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING, CONTENT_RANGE] {
            response.headers_mut().remove(describes_body);
        }
        *response.body_mut() = Body::empty();
    }
    response
}
