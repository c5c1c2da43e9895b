//! Compresses the bodies of responses for clients that accept compressed bodies. A response that
//! its handler has already compressed, and a request without `Accept-Encoding`, cost next to
//! nothing.

use std::convert::Infallible;
use std::future::ready;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{ACCEPT_ENCODING, CONTENT_DISPOSITION, CONTENT_ENCODING, VARY};
use http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version};
use tower::{Layer, Service, service_fn};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, NotForContentType, Predicate};

/// The `Accept-Encoding` of a request.
pub struct AcceptedEncodings(HeaderMap);

/// The `Accept-Encoding` of a request. `None` if it has none.
#[must_use]
pub fn accepted_encodings(headers: &HeaderMap) -> Option<AcceptedEncodings> {
    headers.contains_key(ACCEPT_ENCODING).then(|| {
        let values = headers.get_all(ACCEPT_ENCODING).into_iter();
        // Copies: parts of the head of the request would keep its whole buffer while a call waits.
        let copies = values.filter_map(|value| HeaderValue::from_bytes(value.as_bytes()).ok());
        AcceptedEncodings(copies.map(|value| (ACCEPT_ENCODING, value)).collect())
    })
}

/// Compresses a response with an encoding that the client accepts, unless the handler has already
/// compressed it.
pub async fn compress(
    AcceptedEncodings(accepted): AcceptedEncodings,
    response: Response,
) -> Response {
    if response.headers().contains_key(CONTENT_ENCODING) {
        return name_varying_encoding(response);
    }
    // `CompressionLayer` can only compress the response of another service. So the existing
    // response becomes the body of a request, and the service `carried` returns this body as its
    // response.
    let carried =
        service_fn(|request: Request<Response>| ready(Ok::<_, Infallible>(request.into_body())));
    let layer = CompressionLayer::new().gzip(true).zstd(true).compress_when(is_compressible());
    let mut request = Request::new(response);
    *request.headers_mut() = accepted;
    let Ok(response) = layer.layer(carried).call(request).await;
    response.map(Body::new)
}

/// Adds `Vary: accept-encoding` if the response depends on the encodings that the client accepts.
#[must_use]
pub fn name_varying_encoding(mut response: Response) -> Response {
    let depends = response.headers().contains_key(CONTENT_ENCODING)
        || is_compressible().should_compress(&response);
    if depends && !varies_by_encoding(response.headers()) {
        response.headers_mut().append(VARY, HeaderValue::from_static("accept-encoding"));
    }
    response
}

/// Selects the responses to compress. Excludes NDJSON streams of events, because a compressor
/// delays events. The default predicate of `CompressionLayer` already excludes server-sent events.
/// Also excludes files, of which a client can ask for parts.
fn is_compressible() -> impl Predicate {
    DefaultPredicate::new().and(NotForContentType::const_new(super::events::NDJSON)).and(is_no_file)
}

fn is_no_file(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    !headers.contains_key(CONTENT_DISPOSITION)
}

fn varies_by_encoding(headers: &HeaderMap) -> bool {
    let mut names = headers
        .get_all(VARY)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"accept-encoding"))
}
