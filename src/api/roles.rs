//! Who may call what: the least role of each operation, in one table. The document shows it, and the layer in front
//! of the routes reads it from there, so that what is written and what is asked for cannot differ.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::problem::ApiError;
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::service::callers::{Caller, Callers};

/// What an operation asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: health, and the document.
    Open,
    /// A token of this role, or of one that may do more.
    From(Role),
}

use Access::{From, Open};
use Role::{Admin, Operator, Runner, Viewer};

/// By `operation_id`. A runner may change only machines that it holds, which the lease decides.
const OPERATIONS: &[(&str, Access)] = &[
    ("get_health", Open),
    ("get_readiness", Open),
    ("get_about", From(Viewer)),
    ("list_machines", From(Viewer)),
    ("find_machine", From(Viewer)),
    ("get_machine", From(Viewer)),
    ("wait_for_machine", From(Viewer)),
    ("power_machine", From(Runner)),
    ("kill_machine", From(Runner)),
    ("answer_machine", From(Runner)),
    ("revert_machine", From(Runner)),
    // It can show secrets of the guest.
    ("get_machine_properties", From(Operator)),
    ("list_snapshots", From(Viewer)),
    ("get_snapshot", From(Viewer)),
    ("create_snapshot", From(Runner)),
    ("rename_snapshot", From(Runner)),
    ("remove_snapshot", From(Runner)),
    ("remove_all_snapshots", From(Runner)),
    ("revert_to_snapshot", From(Runner)),
    ("list_datastores", From(Viewer)),
    ("get_datastore", From(Viewer)),
    ("list_jobs", From(Viewer)),
    ("get_job", From(Viewer)),
    ("wait_for_job", From(Viewer)),
    ("cancel_job", From(Runner)),
    ("stream_events", From(Viewer)),
    ("create_lease", From(Runner)),
    ("list_leases", From(Viewer)),
    ("get_lease", From(Viewer)),
    ("wait_for_lease", From(Viewer)),
    ("renew_lease", From(Runner)),
    ("end_lease", From(Runner)),
    ("list_pools", From(Viewer)),
    ("quarantine_machine", From(Operator)),
    ("clear_quarantine", From(Operator)),
    ("list_audit", From(Admin)),
];

/// Paths that are served beside the document's operations.
const OTHERS: &[(&str, Access)] = &[
    ("/metrics", From(Viewer)),
    ("/openapi.json", Open),
    ("/openapi-3.0.json", Open),
    ("/docs", Open),
    ("/problems", Open),
    ("/problems/{code}", Open),
];

/// The name of the way in which callers show who they are, in the document.
const SCHEME: &str = "token";

/// Writes into the document what each operation asks of its caller. One that the table lacks asks for an admin.
pub fn document(document: &mut Value) {
    document["components"]["securitySchemes"] = json!({SCHEME: {
        "type": "http",
        "scheme": "bearer",
        "description": "A token made by `otter token create`: `Authorization: Bearer otter_…`. None is asked for where otter has none."
    }});
    for (_, _, operation) in operations(document) {
        let id = operation["operationId"].as_str().unwrap_or_default();
        match OPERATIONS
            .iter()
            .find(|(known, _)| *known == id)
            .map_or(From(Role::Admin), |(_, access)| *access)
        {
            Open => operation["security"] = json!([]),
            From(role) => {
                operation["x-otter-role"] = json!(role.as_str());
                // Optional: where otter has no token it asks for none.
                operation["security"] = json!([{SCHEME: []}, {}]);
                if let Some(codes) = operation["x-otter-problems"].as_array_mut() {
                    codes.extend([json!("unauthenticated"), json!("too-many-requests")]);
                }
            }
        }
    }
}

/// What each route asks, as the document says.
#[derive(Clone)]
pub struct Guard {
    callers: Arc<Callers>,
    routes: Arc<HashMap<(String, String), Access>>,
}

impl Guard {
    /// Reads the document that [`document`] wrote into.
    #[must_use]
    pub fn new(callers: Arc<Callers>, mut document: Value) -> Self {
        let read = |operation: &Value| match operation["x-otter-role"].as_str().map(Role::parse) {
            Some(role) => From(role.unwrap_or(Role::Admin)),
            None => Open,
        };
        let routes = operations(&mut document)
            .into_iter()
            .map(|(path, method, operation)| ((path, method.to_ascii_uppercase()), read(operation)));
        let others = OTHERS.iter().map(|(path, access)| (((*path).to_owned(), "GET".to_owned()), *access));
        Self { callers, routes: Arc::new(routes.chain(others).collect()) }
    }

    /// Whether callers are told apart by tokens.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.callers.need_tokens()
    }

    fn access(&self, method: &Method, route: Option<&MatchedPath>) -> Access {
        // What is answered with 404 or 405 tells nobody what there is without a token.
        let Some(route) = route else { return From(Viewer) };
        let method = if *method == Method::HEAD { Method::GET } else { method.clone() };
        let of = |method: &str| self.routes.get(&(route.as_str().to_owned(), method.to_owned())).copied();
        of(method.as_str()).unwrap_or_else(|| match of("GET") {
            Some(Open) => Open,
            _ => From(Viewer),
        })
    }

    /// The caller, and what the call needs. `None` if anyone may make the call.
    fn identify(&self, request: &Request) -> Result<Option<Identified>, Failure> {
        let access = self.access(request.method(), request.extensions().get());
        let From(least) = access else { return Ok(None) };
        let token = token(request.headers())?;
        let caller = self.callers.identify(token)?;
        let origin = request.extensions().get().copied().unwrap_or_default();
        let token = token.map(SecretString::from);
        Ok(Some(Identified { caller: Caller { origin, ..caller }, least, token }))
    }

    /// Whether the caller may make this call now.
    ///
    /// # Errors
    /// `too-many-requests`, `forbidden`.
    fn allow(&self, caller: &Caller, least: Role) -> Result<(), Failure> {
        self.callers.count_request(caller)?;
        if caller.role >= least {
            return Ok(());
        }
        let detail = format!(
            "{} is {} and this needs {}: make a token of that role with otter token create.",
            caller.name,
            caller.role.with_article(),
            least.with_article()
        );
        Err(Failure::new(FailureKind::Forbidden, detail))
    }

    /// Waits until the token by which a call was admitted is no longer in force.
    async fn until_refused(callers: Arc<Callers>, token: Option<SecretString>) {
        callers.until_refused(token.as_ref().map(ExposeSecret::expose_secret)).await;
    }
}

struct Identified {
    caller: Caller,
    /// The least role that the call needs.
    least: Role,
    token: Option<SecretString>,
}

/// Passes a request on if its caller may make it. Handlers, and the layers outside, find the caller
/// in the extensions of the request and of the response. A call that waits is refused, and a stream
/// ends, when its token is revoked or expires.
pub async fn guard(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let Identified { caller, least, token } = match guard.identify(&request) {
        Ok(Some(identified)) => identified,
        Ok(None) => return next.run(request).await,
        Err(failure) => return refused(failure),
    };
    let mut response = if let Err(failure) = guard.allow(&caller, least) {
        ApiError(failure).into_response()
    } else {
        request.extensions_mut().insert(caller.clone());
        let until_refused = || Guard::until_refused(Arc::clone(&guard.callers), token.clone());
        tokio::select! {
            biased;
            response = next.run(request) => ended_with(response, until_refused()),
            () = until_refused() => {
                let detail = "The token was revoked, rotated or has expired while the call waited. What it \
                              started goes on.";
                refused(Failure::new(FailureKind::Unauthenticated, detail))
            }
        }
    };
    // The access log and the audit name the caller.
    response.extensions_mut().insert(caller);
    response
}

fn refused(failure: Failure) -> Response {
    let mut response = ApiError(failure).into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Ends a body of unknown length, such as a stream of events, at the latest with `end`.
fn ended_with(response: Response, end: impl Future<Output = ()> + Send + 'static) -> Response {
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(end))))
}

/// Who calls, as [`guard`] found out.
///
/// # Errors
/// `internal` where the request passed no guard.
pub fn caller_of(extensions: &http::Extensions) -> Result<Caller, Failure> {
    extensions
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| Failure::new(FailureKind::Internal, "a call that needs a caller passed no guard"))
}

/// RFC 6750, section 2.1.
fn token(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = given.next() else { return Ok(None) };
    let malformed = |detail: &str| Failure::new(FailureKind::Unauthenticated, detail);
    if given.next().is_some() {
        return Err(malformed("There are two Authorization headers; send one."));
    }
    let wanted = "The Authorization header is not Bearer and a token: Authorization: Bearer otter_…";
    let (scheme, token) =
        value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(|| malformed(wanted))?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(token.trim())) } else { Err(malformed(wanted)) }
}

pub fn operations(document: &mut Value) -> Vec<(String, String, &mut Value)> {
    const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    let mut found = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            if METHODS.contains(&method.as_str()) {
                found.push((path.clone(), method.clone(), operation));
            }
        }
    }
    found
}
