//! Serves otter under the path at which a reverse proxy has put it: finds the path of each request,
//! removes it before the routes, and lets all links begin with it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Uri};
use tower::{ServiceExt, service_fn};

use super::client_address::{Peer, is_trusted_peer};
use super::extract::failure_at;
use super::links::{self, LinkedBody};
use crate::domain::base_path::BasePath;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::trusted_proxy::TrustedProxy;
use crate::service::machines::shorten;

/// The header in which a proxy names the path under which clients reach otter. The proxy may or may
/// not remove this path from the requests.
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// The sources of the base path: the path under which a client reaches otter.
#[derive(Clone)]
pub struct BasePathSettings {
    /// `http.base_path`. Unless it is `/`, it applies to every request.
    pub configured: BasePath,
    /// The proxies whose `X-Forwarded-Prefix` applies if `http.base_path` is `/`.
    pub trusted_proxies: Arc<[TrustedProxy]>,
}

/// An extension of a request whose `X-Forwarded-Prefix` is malformed. The layers refuse it.
#[derive(Clone)]
pub struct RefusedPrefix(pub Failure);

/// Serves a router under the base path of each request.
pub fn serve_under(router: Router, settings: BasePathSettings) -> Router {
    if settings.configured.is_root() && settings.trusted_proxies.is_empty() {
        return router;
    }
    Router::new().fallback_service(service_fn(move |request: Request| {
        serve(router.clone(), settings.clone(), request)
    }))
}

async fn serve(
    router: Router,
    settings: BasePathSettings,
    mut request: Request,
) -> Result<Response, Infallible> {
    let peer = request.extensions().get::<Peer>().copied();
    let base = settings.of_request(peer, request.headers()).unwrap_or_else(|failure| {
        request.extensions_mut().insert(RefusedPrefix(failure));
        BasePath::default()
    });
    if base.is_root() {
        return router.oneshot(request).await;
    }
    if let Some(own) = without(&base, request.uri()) {
        *request.uri_mut() = own;
    }
    let response = links::under(base.clone(), router.oneshot(request)).await?;
    Ok(response.map(|body| Body::new(LinkedBody::new(body, base))))
}

impl BasePathSettings {
    /// The path under which the client of a request reaches otter.
    ///
    /// # Errors
    /// `invalid-request` if a trusted proxy sends a malformed path.
    fn of_request(&self, peer: Option<Peer>, headers: &HeaderMap) -> Result<BasePath, Failure> {
        if !self.configured.is_root() || !is_trusted_peer(peer, &self.trusted_proxies) {
            return Ok(self.configured.clone());
        }
        let Some(given) = headers.get(X_FORWARDED_PREFIX) else { return Ok(BasePath::default()) };
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

/// The URI of a request without the base path. `None` if the URI does not begin with it.
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
