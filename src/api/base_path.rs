//! Finds the base path of each request: the path at which a reverse proxy has put otter. Removes
//! the base path from the URI before the routes see the request. All links begin with the base
//! path.

use std::sync::Arc;

use axum::extract::Request;
use http::uri::PathAndQuery;
use http::{HeaderName, Uri};

use super::client_address::{Peer, is_trusted_peer};
use super::extract::failure_at;
use crate::domain::base_path::BasePath;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::trusted_proxy::TrustedProxy;
use crate::service::machines::shorten;

/// The header in which a proxy names the path under which clients reach otter. The proxy may or may
/// not remove this path from the requests.
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// The sources of the base path: the path under which a client reaches otter.
pub struct BasePathSettings {
    /// The setting `http.base_path`. Unless it is `/`, it is the base path of every request.
    pub configured: BasePath,
    /// The proxies whose header `X-Forwarded-Prefix` gives the base path if `http.base_path` is
    /// `/`.
    pub trusted_proxies: Arc<[TrustedProxy]>,
}

impl BasePathSettings {
    /// The path under which the client of a request reaches otter.
    ///
    /// # Errors
    /// `invalid-request` if a trusted proxy sends a malformed path.
    pub fn of_request(&self, request: &Request) -> Result<BasePath, Failure> {
        if !self.configured.is_root() || self.trusted_proxies.is_empty() {
            return Ok(self.configured.clone());
        }
        let peer = request.extensions().get::<Peer>().copied();
        let headers = request.headers();
        let reported = headers.get(X_FORWARDED_PREFIX);
        let Some(given) = reported.filter(|_| is_trusted_peer(peer, &self.trusted_proxies)) else {
            return Ok(BasePath::default());
        };
        let text = String::from_utf8_lossy(given.as_bytes());
        let is_single = headers.get_all(X_FORWARDED_PREFIX).iter().count() == 1;
        match text.trim().parse() {
            Ok(base) if is_single => Ok(base),
            result => {
                let why = result
                    .err()
                    .map_or_else(|| "it is repeated".to_owned(), |error| error.to_string());
                let detail = format!(
                    "The proxy sent the header X-Forwarded-Prefix with {}: {why}. Correct the \
                     configuration of the proxy, or set http.base_path.",
                    shorten(&text)
                );
                Err(failure_at(
                    FailureKind::InvalidRequest,
                    "x-forwarded-prefix",
                    "malformed",
                    detail,
                ))
            }
        }
    }
}

/// Removes the base path from the URI of a request.
pub fn remove(base: &BasePath, request: &mut Request) {
    if let Some(own) = without(base, request.uri()) {
        *request.uri_mut() = own;
    }
}

/// The URI of a request without the base path. `None` if the URI does not begin with the base path.
fn without(base: &BasePath, uri: &Uri) -> Option<Uri> {
    let own = base.strip(uri.path());
    if own == uri.path() {
        return None;
    }
    let mut parts = uri.clone().into_parts();
    let path = match uri.query() {
        Some(query) => format!("{own}?{query}").parse::<PathAndQuery>(),
        None => own.parse(),
    };
    parts.path_and_query = Some(path.ok()?);
    Uri::from_parts(parts).ok()
}
