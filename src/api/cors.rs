//! CORS, as the Fetch standard defines it: headers of responses tell a browser which pages of other
//! servers may call otter and read its responses. These are the pages whose origins the
//! configuration lists.
//!
//! A page authenticates with a token in `Authorization`, so credentials of the browser (cookies,
//! client certificates) are never allowed.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::domain::web_origin::WebOrigin;

const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";

/// The request headers that otter reads, except those that every page may send.
const REQUEST_HEADERS: &str = "Authorization, Content-Type, Idempotency-Key, If-None-Match, \
                               If-Range, Last-Event-ID, Otter-Content-SHA256, Otter-Lease, \
                               Otter-Override, Otter-Reference, Prefer, Range";

/// The response headers of otter, except those that every page may read.
const RESPONSE_HEADERS: &str = "Accept-Ranges, Allow, Content-Disposition, Content-Encoding, \
                                Content-Range, Date, ETag, Idempotent-Replayed, Location, \
                                Otter-Lease-Expires, Otter-Matches, Otter-Screen-Changed, \
                                Otter-Serial-First, Otter-Serial-Next, Otter-Stale, Otter-Version, \
                                Otter-Wait, Preference-Applied, Retry-After, WWW-Authenticate, \
                                X-Request-Id";

/// The number of seconds for which a browser may cache a preflight. otter checks each request
/// again.
const MAX_AGE: &str = "600";

/// The origins of other servers whose pages may call otter.
#[derive(Clone, Default)]
pub struct Cors {
    allowed_origins: Arc<[WebOrigin]>,
}

/// The header `Origin` of a request, if the configuration lists this origin.
#[derive(Clone)]
pub struct ListedOrigin(HeaderValue);

impl Cors {
    #[must_use]
    pub fn new(allowed_origins: &[WebOrigin]) -> Self {
        Self { allowed_origins: allowed_origins.into() }
    }

    /// Whether pages of this origin may call otter.
    #[must_use]
    pub fn lists(&self, origin: &WebOrigin) -> bool {
        self.allowed_origins.contains(origin)
    }

    /// The origin of a request, if it is listed.
    #[must_use]
    pub fn listed_origin(&self, headers: &HeaderMap) -> Option<ListedOrigin> {
        let mut values = headers.get_all(ORIGIN).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let origin: WebOrigin = value.to_str().ok()?.parse().ok()?;
        self.lists(&origin).then(|| ListedOrigin(value.clone()))
    }

    /// Adds the CORS headers to a response. If the request has a listed origin, they allow the page
    /// of this origin to read the response. Always adds `Vary: origin`, because the response
    /// depends on the origin.
    pub fn set_headers(&self, origin: Option<ListedOrigin>, response: &mut Response) {
        if self.allowed_origins.is_empty() {
            return;
        }
        let headers = response.headers_mut();
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Some(ListedOrigin(origin)) = origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers
                .insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_HEADERS));
        }
    }
}

/// The response to a preflight: the question that a browser sends before a request that no HTML
/// form could send. `None` if the request is not a preflight. The response depends on no route and
/// no token, because otter checks the later request itself.
#[must_use]
pub fn preflight(method: &Method, headers: &HeaderMap) -> Option<Response> {
    if *method != Method::OPTIONS || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let allowed = [
        (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
        (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ];
    Some((StatusCode::NO_CONTENT, allowed).into_response())
}
