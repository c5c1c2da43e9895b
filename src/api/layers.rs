//! The layers around all routes: request ids, request checks, CORS, isolation of panics, problems,
//! authentication, conditional requests, compression, metrics and logs.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, NotForContentType, Predicate};

use super::access_log;
use super::audit::refusals;
use super::base_path::RefusedPrefix;
use super::client_address::{Peer, client_address};
use super::cors;
use super::problem::{FailedResponse, respond};
use super::request_checks::RequestChecks;
use super::respond::set;
use super::roles::{self, Guard};
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::origin::{RequestId, RequestOrigin};
use crate::domain::trusted_proxy::TrustedProxy;
use crate::fail_points::fail_point;
use crate::service::audit::Audit;
use crate::service::callers::Caller;
use crate::telemetry::metrics::Metrics;

/// The id of a request, in responses and in the log.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The state that the layers use.
#[derive(Clone)]
pub struct LayerContext {
    pub clock: Clock,
    pub guard: Guard,
    pub metrics: Metrics,
    pub audit: Arc<Audit>,
    /// The proxies whose `X-Forwarded-For` otter trusts.
    pub trusted_proxies: Arc<[TrustedProxy]>,
    pub checks: RequestChecks,
    /// Whether otter writes an access log line for each request.
    pub access_log: bool,
}

/// Adds all layers to a router. The first one in the code is the innermost.
pub fn apply(router: Router, context: LayerContext) -> Router {
    // A compressor delays events. The default predicate already excludes server-sent events.
    let compressible =
        DefaultPredicate::new().and(NotForContentType::const_new(super::events::NDJSON));
    router
        .layer(CompressionLayer::new().gzip(true).zstd(true).compress_when(compressible))
        .layer(from_fn(answer_conditional))
        .layer(from_fn_with_state(context.guard.clone(), roles::guard))
        .layer(from_fn_with_state(context, handle_request))
}

/// The outermost layer: gives the request its id, checks it, catches panics, converts failures to
/// problems, and writes logs and metrics.
async fn handle_request(
    State(context): State<LayerContext>,
    mut request: Request,
    next: Next,
) -> Response {
    let request_id = RequestId::new(context.clock.uuid());
    let id = request_id.to_string();
    let peer = request.extensions().get::<Peer>().copied();
    let address = client_address(peer, request.headers(), &context.trusted_proxies);
    let origin = RequestOrigin { address, request_id: Some(request_id) };
    request.extensions_mut().insert(origin);
    let audited = refusals::AuditedRequest::new(origin, request.headers());
    let started = context.clock.elapsed();
    let method = request.method().clone();
    let operation = operation(&method, request.extensions().get::<MatchedPath>());
    let path: String = request.uri().path().chars().take(200).collect();
    let page = context.checks.cors.listed_origin(request.headers());
    let preflight = page.as_ref().and_then(|_| cors::preflight(&method, request.headers()));
    let checked = match request.extensions_mut().remove() {
        Some(RefusedPrefix(failure)) => Err(failure),
        None => context.checks.check(&request, context.guard.requires_tokens()),
    };
    let answered = match (checked, preflight) {
        (Err(failure), _) => Err(failure),
        (Ok(()), Some(preflight)) => Ok(preflight),
        (Ok(()), None) => {
            AssertUnwindSafe(run(request, next)).catch_unwind().await.map_err(|_| {
                // The panic hook has logged the message and the place of the panic.
                tracing::error!(request_id = id, %method, path, "the request panicked");
                Failure::new(FailureKind::Internal, "a handler panicked")
            })
        }
    };
    let mut response = match answered {
        Err(failure) => {
            audited.audit(&context.audit, &operation, None, &failure);
            respond(&failure, &id)
        }
        Ok(response) => match response.extensions().get::<FailedResponse>().cloned() {
            Some(FailedResponse(failure)) => {
                audited.audit(&context.audit, &operation, response.extensions().get(), &failure);
                problem(&failure, &id, &response)
            }
            None => response,
        },
    };
    set(&mut response, X_REQUEST_ID, &id);
    set(&mut response, X_CONTENT_TYPE_OPTIONS, "nosniff");
    context.checks.cors.set_headers(page, &mut response);
    let took = context.clock.elapsed().saturating_sub(started);
    context.metrics.record_request(operation, response.status().as_u16(), took);
    log(&method, &path, &response, took, &id);
    if context.access_log {
        let caller = response.extensions().get::<Caller>();
        access_log::write(&origin, caller, &method, &path, response.status(), took);
    }
    response
}

async fn run(request: Request, next: Next) -> Response {
    fail_point!("request");
    next.run(request).await
}

/// The name of the operation in metrics. It uses the pattern of the route, because the number of
/// different paths is unlimited.
fn operation(method: &Method, route: Option<&MatchedPath>) -> Cow<'static, str> {
    const METHODS: [Method; 7] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    match route {
        None => "unknown".into(),
        Some(route) if METHODS.contains(method) => format!("{method} {}", route.as_str()).into(),
        Some(route) => format!("OTHER {}", route.as_str()).into(),
    }
}

fn problem(failure: &Failure, id: &str, original: &Response) -> Response {
    if failure.kind == FailureKind::Internal {
        tracing::error!(request_id = id, detail = failure.detail, "the request failed");
    }
    let mut response = respond(failure, id);
    if let Some(caller) = original.extensions().get::<Caller>() {
        response.extensions_mut().insert(caller.clone());
    }
    for (name, value) in original.headers() {
        if name != CONTENT_LENGTH && name != CONTENT_TYPE && !response.headers().contains_key(name)
        {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

fn log(method: &Method, path: &str, response: &Response, took: Duration, id: &str) {
    let status = response.status().as_u16();
    let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    // A wait that timed out is normal for clients that wait repeatedly.
    if response.status().is_server_error() && response.status() != StatusCode::GATEWAY_TIMEOUT {
        tracing::warn!(%method, path, status, milliseconds, request_id = id, "request");
    } else {
        tracing::debug!(%method, path, status, milliseconds, request_id = id, "request");
    }
}

/// Conditional requests (RFC 9110): answers 304 if the client already has the entity tag, and makes
/// the tag of a compressed response weak.
async fn answer_conditional(request: Request, next: Next) -> Response {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let client_tags = request.headers().get(IF_NONE_MATCH).cloned();
    let mut response = next.run(request).await;
    let Some(tag) =
        response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned)
    else {
        return response;
    };
    if response.headers().contains_key(CONTENT_ENCODING) && !tag.starts_with("W/") {
        set(&mut response, ETAG, &format!("W/{tag}"));
    }
    let matches = client_tags
        .and_then(|client_tags| {
            client_tags.to_str().map(|client_tags| has_tag(client_tags, &tag)).ok()
        })
        .unwrap_or(false);
    if is_read && matches && response.status() == StatusCode::OK {
        let headers: HeaderMap = response
            .headers()
            .iter()
            .filter(|(name, _)| !describes_body(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    response
}

fn describes_body(name: &HeaderName) -> bool {
    *name == CONTENT_LENGTH || *name == CONTENT_TYPE || *name == CONTENT_ENCODING
}

/// Whether `If-None-Match` contains a tag, by weak comparison (RFC 9110).
fn has_tag(client_tags: &str, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    client_tags.trim() == "*" || client_tags.split(',').any(|one| opaque(one) == opaque(tag))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::body::Body;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;
    use crate::api::cors::Cors;
    use crate::api::roles::AccessTable;
    use crate::domain::web_origin::Scheme;
    use crate::service::callers::Callers;
    use crate::storage::Storage;
    use crate::store::Store;

    /// A buffer of log lines.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_panic_becomes_a_500_that_shows_only_its_request_id() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log =
            tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        let _log = tracing::subscriber::set_default(log);
        let routes = Router::new()
            .route("/panic", get(async || -> &'static str { panic!("hunter2") }))
            .route("/fine", get(async || "fine"));
        let metrics = Metrics::default();
        let clock = Clock::system();
        let storage: Arc<dyn Storage> = Arc::new(Store::in_memory().await.unwrap());
        let callers = Callers::load(Arc::clone(&storage), clock.clone()).await.unwrap();
        let guard = Guard::new(Arc::new(callers), AccessTable::default());
        let audit = Arc::new(Audit::new(storage, clock.clone()));
        let context = LayerContext {
            clock,
            guard,
            metrics: metrics.clone(),
            audit,
            trusted_proxies: Arc::default(),
            checks: RequestChecks { scheme: Scheme::Http, cors: Cors::default() },
            access_log: false,
        };
        let routes = apply(routes, context);
        let get_path = async |path: &str| {
            let request =
                Request::get(path).header("host", "localhost").body(Body::empty()).unwrap();
            let (head, body) = routes.clone().oneshot(request).await.unwrap().into_parts();
            (head, body.collect().await.unwrap().to_bytes())
        };
        let (head, body) = get_path("/panic").await;
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (head.status.as_u16(), &problem["code"]),
            (500, &"internal".into()),
            "{problem}"
        );
        assert_eq!(head.headers["content-type"], "application/problem+json");
        let id = head.headers["x-request-id"].to_str().unwrap();
        assert_eq!(problem["request_id"], id);
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("panic"), "{text}");
        let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(log.lines().any(|line| line.contains("ERROR") && line.contains(id)), "{log}");
        assert!(metrics.text().unwrap().contains("operation=\"GET /panic\",status=\"5xx\""));
        assert_eq!(get_path("/fine").await.1, "fine", "the server continues");
    }

    #[test]
    fn tags_are_compared_weakly() {
        assert!(has_tag("\"a\"", "W/\"a\""));
        assert!(has_tag("W/\"x\", W/\"a\"", "\"a\""));
        assert!(has_tag("*", "\"a\""));
        assert!(!has_tag("\"b\"", "\"a\""));
    }
}
