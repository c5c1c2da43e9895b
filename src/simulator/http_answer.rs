//! The answers of the host over HTTP, and the session cookie of a request.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Full};

/// The type of each file on a datastore.
pub const FILE_TYPE: &str = "application/octet-stream";
/// The name of the session cookie.
pub const COOKIE_NAME: &str = "vmware_soap_session";

/// The error that makes the server close the connection without sending another byte.
#[derive(Debug, thiserror::Error)]
#[error("a planned disruption closed the connection")]
pub struct ConnectionCut;

/// The body of an answer.
pub type Body = http_body_util::combinators::BoxBody<Bytes, ConnectionCut>;

/// An answer with this body.
pub fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never: Infallible| match never {});
    let mut response = Response::new(BodyExt::boxed(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Refuses a request that is no call. A client without a session is asked to log in.
pub fn refuse(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = respond(status, "text/plain", text);
    if status == StatusCode::UNAUTHORIZED {
        let basic = HeaderValue::from_static("Basic realm=\"VMware ESX\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, basic);
    }
    response
}

/// The value of the session cookie of a request, without its quotes. `None` if the request has no
/// session cookie.
pub fn session_cookie(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE_NAME)
        .map(|(_, value)| value.trim().trim_matches('"').to_owned())
}
