//! What happens to every request around its handler: the request id, request checks, CORS,
//! authentication, isolation of panics, conditional requests, compression, problems, metrics and
//! logs.
//!
//! It is one function and not a stack of layers, because each layer would copy its state and the
//! routes for each request.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use futures_util::FutureExt;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RANGE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use tower::Service;

use super::access_log;
use super::audit::refusals;
use super::client_address::{Peer, client_address};
use super::compression::{accepted_encodings, compress, name_varying_encoding};
use super::conditional;
use super::cors::{self, ListedOrigin};
use super::operations::{Operation, Operations};
use super::problem::{FailedResponse, respond};
use super::request_checks::RequestChecks;
use super::respond::set;
use super::roles::{Access, Guard, Identified};
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::origin::{RequestId, RequestOrigin};
use crate::domain::trusted_proxy::TrustedProxy;
use crate::fail_points::fail_point;
use crate::service::audit::Audit;
use crate::service::callers::Caller;

/// The header with the id of a request. Responses and lines of the log have the same id.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The routes, and the state of the layers around them.
pub struct Layers {
    pub router: Router,
    pub operations: Operations,
    pub clock: Clock,
    pub guard: Guard,
    pub audit: Arc<Audit>,
    /// The proxies whose `X-Forwarded-For` otter trusts.
    pub trusted_proxies: Arc<[TrustedProxy]>,
    pub checks: RequestChecks,
    /// Whether otter writes an access log line for each request.
    pub access_log: bool,
}

/// In the extensions of a request whose body the client does not read, because it is a HEAD. The
/// handler of the GET can leave out what only the body needs.
#[derive(Clone, Copy, Debug)]
pub struct OnlyHead;

/// A request that has not reached its handler yet, and what is already known about it.
struct Arrived<'a> {
    /// Whether the request has a valid path prefix, under which a proxy serves otter.
    prefix_check: Result<(), Box<Failure>>,
    operation: &'a Operation,
    origin: RequestOrigin,
    page: Option<&'a ListedOrigin>,
    request: Request,
}

impl Layers {
    /// Answers a request: gives it an id, catches panics, turns failures into problems, and writes
    /// logs and metrics.
    ///
    /// # Parameters
    /// - `prefix_check`: whether the request has a valid path prefix, under which a proxy serves
    ///   otter.
    pub async fn answer(
        &self,
        prefix_check: Result<(), Box<Failure>>,
        request: Request,
    ) -> Response {
        let started = self.clock.elapsed();
        let request_id = RequestId::new(self.clock.uuid());
        let mut id = [0; RequestId::LENGTH];
        let id = &*request_id.write_to(&mut id);
        let peer = request.extensions().get::<Peer>().copied();
        let address = client_address(peer, request.headers(), &self.trusted_proxies);
        let origin = RequestOrigin { address, request_id: Some(request_id) };
        let audited = refusals::AuditedRequest::new(origin, request.headers());
        let method = request.method().clone();
        let operation = self.operations.find(&method, request.uri().path());
        // A copy: a part of the URI would keep the buffer with the whole head of the request, 8
        // KiB, as long as the call waits.
        let path = shown_path(request.uri());
        let page = self.checks.cors.listed_origin(request.headers());
        let mut caller = None;
        let arrived = Arrived { prefix_check, operation, origin, page: page.as_ref(), request };
        let run = AssertUnwindSafe(self.run(arrived, &mut caller)).catch_unwind();
        let answered = run.await.unwrap_or_else(|_| {
            // The panic hook has already logged the message and the place of the panic, so this
            // line only says which request panicked.
            tracing::error!(request_id = id, %method, path, "the request panicked");
            Err(Failure::new(FailureKind::Internal, "a handler panicked"))
        });
        let audit = |failure: &Failure| {
            let operation = operation.metrics.operation();
            audited.audit(&self.audit, operation, caller.as_ref(), failure);
        };
        let mut response = match answered {
            Err(failure) => {
                audit(&failure);
                respond(&failure, id)
            }
            Ok(response) => match response.extensions().get::<FailedResponse>() {
                Some(FailedResponse(failure)) => {
                    audit(failure);
                    problem(failure, id, &response)
                }
                None => response,
            },
        };
        if method == Method::HEAD {
            remove_body(&mut response);
        }
        set(&mut response, X_REQUEST_ID, id);
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        self.checks.cors.set_headers(page, &mut response);
        let took = self.clock.elapsed().saturating_sub(started);
        operation.metrics.record(response.status().as_u16(), took);
        log(&method, &path, &response, took, id);
        if self.access_log {
            let (caller, status) = (caller.as_ref(), response.status());
            access_log::write(&origin, caller, &method, &path, status, took);
        }
        response
    }

    /// Checks a request and passes it to its handler if its caller may make it. Handlers find the
    /// caller in the extensions of the request.
    ///
    /// # Parameters
    /// - `known_caller`: set to the caller, for the access log and the audit.
    async fn run(
        &self,
        Arrived { prefix_check, operation, origin, page, mut request }: Arrived<'_>,
        known_caller: &mut Option<Caller>,
    ) -> Result<Response, Failure> {
        prefix_check.map_err(|failure| *failure)?;
        let takes_any_type = matches!(operation.access, Access::Upload(_));
        self.checks.check(&request, self.guard.requires_tokens(), takes_any_type)?;
        if page.is_some()
            && let Some(preflight) = cors::preflight(request.method(), request.headers())
        {
            return Ok(preflight);
        }
        fail_point!("request");
        let Some(identified) = self.guard.identify(operation.access, request.headers(), origin)?
        else {
            return Ok(self.route(request).await);
        };
        let Identified { caller, credential, least, is_watching, console } = identified;
        let caller = known_caller.insert(caller);
        self.guard.allow(caller, least)?;
        request.extensions_mut().insert(caller.clone());
        if let Some(console) = console {
            request.extensions_mut().insert(console);
        }
        // Pinned here, as a future that is passed on takes its memory once more.
        let answering = pin!(self.route(request));
        if is_watching { Ok(answering.await) } else { self.guard.run(credential, answering).await }
    }

    /// Passes a request to its handler.
    async fn route(&self, mut request: Request) -> Response {
        let client_tags = conditional::client_tags(request.method(), request.headers());
        let accepted = accepted_encodings(request.headers());
        // Run the handler of GET for a HEAD, because the headers of the response to a HEAD depend
        // on the body of the response to the same GET.
        if *request.method() == Method::HEAD {
            *request.method_mut() = Method::GET;
            request.extensions_mut().insert(OnlyHead);
            // Only a GET asks for a part.
            request.headers_mut().remove(RANGE);
        }
        let Ok(response) = self.router.clone().call(request).await;
        let response = match accepted {
            None => name_varying_encoding(response),
            // The future is boxed, because the state of a compressor would make the future of every
            // request larger, and each request moves its future.
            Some(accepted) => Box::pin(compress(accepted, response)).await,
        };
        conditional::answer(client_tags.as_ref(), response)
    }
}

/// Removes the body of the response to a HEAD. Its `Content-Length` is kept or added.
fn remove_body(response: &mut Response) {
    let length = response.body().size_hint().exact();
    let headers = response.headers_mut();
    if let Some(length) = length.filter(|_| !headers.contains_key(CONTENT_LENGTH)) {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = Body::empty();
}

fn problem(failure: &Failure, id: &str, original: &Response) -> Response {
    if failure.kind == FailureKind::Internal {
        tracing::error!(request_id = id, detail = failure.detail, "the request failed");
    }
    let mut response = respond(failure, id);
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
    // A 504 is not logged as a warning: a wait that timed out is normal for clients that wait
    // repeatedly.
    if response.status().is_server_error() && response.status() != StatusCode::GATEWAY_TIMEOUT {
        tracing::warn!(%method, path, status, milliseconds, request_id = id, "request");
    } else {
        tracing::debug!(%method, path, status, milliseconds, request_id = id, "request");
    }
}

/// The beginning of a path, for the log.
fn shown_path(uri: &Uri) -> String {
    let path = uri.path();
    let end = path.char_indices().nth(200).map_or(path.len(), |(end, _)| end);
    path[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::routing::get;
    use http_body_util::BodyExt;

    use super::*;
    use crate::api::cors::Cors;
    use crate::api::roles::AccessTable;
    use crate::domain::web_origin::Scheme;
    use crate::service::callers::Callers;
    use crate::storage::Storage;
    use crate::store::Store;
    use crate::telemetry::metrics::Metrics;

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
        let access = |path: &str| (path.to_owned(), vec![(Method::GET, Access::Open)]);
        let table = AccessTable::from(["/panic", "/fine"].map(access));
        let layers = Layers {
            router: routes,
            operations: Operations::new(&table, &metrics).unwrap(),
            guard: Guard::new(Arc::new(callers)),
            audit: Arc::new(Audit::new(storage, clock.clone())),
            clock,
            trusted_proxies: Arc::default(),
            checks: RequestChecks { scheme: Scheme::Http, cors: Cors::default() },
            access_log: false,
        };
        let get_path = async |path: &str| {
            let request =
                Request::get(path).header("host", "localhost").body(Body::empty()).unwrap();
            let (head, body) = layers.answer(Ok(()), request).await.into_parts();
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
}
