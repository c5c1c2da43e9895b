//! Authorization of calls by role. Each route is registered with the access that it requires. The
//! OpenAPI document shows this access, and a layer in front of the routes checks it.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use futures_util::StreamExt;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, OpenApi};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::ApiState;
use super::openapi_parts::{ALL_OPERATIONS, AUTHENTICATED};
use super::problem::ApiError;
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::service::callers::{Caller, Callers};

/// The access that a route requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No token: health, the document and the pages.
    Open,
    /// A token with this role or a higher one.
    AtLeast(Role),
}

/// The name of the security scheme in the OpenAPI document.
const SECURITY_SCHEME: &str = "token";

/// The access that each method of each path requires.
pub type AccessTable = HashMap<String, Vec<(Method, Access)>>;

/// Routes with the access that each requires.
#[derive(Default)]
pub struct Routes {
    router: OpenApiRouter<ApiState>,
    access: AccessTable,
}

impl Routes {
    /// An empty set of routes. The operations are added to `document`.
    pub fn with_document(mut document: OpenApi) -> Self {
        let description = "A token that `otter token create` made: `Authorization: Bearer \
                           otter_…`. Not required while no token exists.";
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(description))
            .build();
        let components = document.components.get_or_insert_with(Components::new);
        components.add_security_scheme(SECURITY_SCHEME, SecurityScheme::Http(scheme));
        Self { router: OpenApiRouter::with_openapi(document), access: AccessTable::new() }
    }

    /// Adds operations for callers with this role or a higher one. A runner may change only
    /// machines that it leases, which the job service checks.
    pub fn role(self, least: Role, operations: UtoipaMethodRouter<ApiState>) -> Self {
        self.operations(Access::AtLeast(least), operations)
    }

    /// Adds operations that require no token.
    pub fn open(self, operations: UtoipaMethodRouter<ApiState>) -> Self {
        self.operations(Access::Open, operations)
    }

    /// Adds a GET route that the OpenAPI document does not list. It requires this role or a higher
    /// one, or no token if `None`.
    pub fn undocumented(
        mut self,
        least: Option<Role>,
        path: &str,
        get: MethodRouter<ApiState>,
    ) -> Self {
        self.access
            .entry(path.to_owned())
            .or_default()
            .push((Method::GET, least.map_or(Access::Open, Access::AtLeast)));
        self.router = self.router.route(path, get);
        self
    }

    /// Adds all routes of another set.
    pub fn merge(mut self, Self { router, access }: Self) -> Self {
        self.router = self.router.merge(router);
        self.access.extend(access);
        self
    }

    /// The router, the access that its routes require, and the document of its operations.
    pub fn into_parts(self) -> (axum::Router<ApiState>, AccessTable, OpenApi) {
        let (router, document) = self.router.split_for_parts();
        (router, self.access, document)
    }

    fn operations(
        mut self,
        access: Access,
        (schemas, mut paths, methods): UtoipaMethodRouter<ApiState>,
    ) -> Self {
        for (path, item) in &mut paths.paths {
            let table = self.access.entry(path.clone()).or_default();
            for (method, operation) in operations_of(item) {
                document_access(operation, access);
                table.push((method, access));
            }
        }
        self.router = self.router.routes((schemas, paths, methods));
        self
    }
}

fn operations_of(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let PathItem { get, put, post, patch, delete, .. } = item;
    let methods = [
        (Method::GET, get),
        (Method::PUT, put),
        (Method::POST, post),
        (Method::PATCH, patch),
        (Method::DELETE, delete),
    ];
    methods.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Adds the required access and the problems of authentication to an operation of the document.
fn document_access(operation: &mut Operation, access: Access) {
    let extensions = operation.extensions.get_or_insert_default();
    let mut added = ALL_OPERATIONS.to_vec();
    operation.security = Some(match access {
        Access::Open => Vec::new(),
        Access::AtLeast(role) => {
            extensions.insert("x-otter-role".to_owned(), json!(role.as_str()));
            added.extend(AUTHENTICATED);
            // Optional, because a token is not required while no token exists.
            let token = SecurityRequirement::new(SECURITY_SCHEME, [""; 0]);
            vec![token, SecurityRequirement::default()]
        }
    });
    if let Some(codes) =
        extensions.get_mut("x-otter-problems").and_then(|codes| codes.as_array_mut())
    {
        added.retain(|code| !codes.iter().any(|listed| listed == code));
        codes.extend(added.into_iter().map(Into::into));
    }
}

/// Checks the access that each route requires.
#[derive(Clone)]
pub struct Guard {
    callers: Arc<Callers>,
    access: Arc<AccessTable>,
}

impl Guard {
    #[must_use]
    pub fn new(callers: Arc<Callers>, access: AccessTable) -> Self {
        Self { callers, access: Arc::new(access) }
    }

    /// Whether callers need tokens.
    #[must_use]
    pub fn requires_tokens(&self) -> bool {
        self.callers.need_tokens()
    }

    fn access(&self, method: &Method, route: Option<&MatchedPath>) -> Access {
        let methods =
            route.and_then(|route| self.access.get(route.as_str())).map_or(&[][..], Vec::as_slice);
        let access_for = |method: &Method| {
            methods.iter().find(|(known, _)| known == method).map(|(_, access)| *access)
        };
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        // A 404 or 405 requires a token too, because it shows which paths exist.
        access_for(method).unwrap_or_else(|| match access_for(&Method::GET) {
            Some(Access::Open) => Access::Open,
            _ => Access::AtLeast(Role::Viewer),
        })
    }

    /// Identifies the caller. `None` if the call requires no token.
    ///
    /// # Errors
    /// `unauthenticated`.
    fn identify(&self, request: &Request) -> Result<Option<Identified>, Failure> {
        let access = self.access(request.method(), request.extensions().get());
        let Access::AtLeast(least) = access else { return Ok(None) };
        let token = bearer_token(request.headers())?;
        let caller = self.callers.identify(token)?;
        let origin = request.extensions().get().copied().unwrap_or_default();
        let token = token.map(SecretString::from);
        Ok(Some(Identified { caller: Caller { origin, ..caller }, least, token }))
    }

    /// Checks the caller's request limit and role.
    ///
    /// # Errors
    /// `too-many-requests`, `forbidden`.
    fn allow(&self, caller: &Caller, least: Role) -> Result<(), Failure> {
        self.callers.count_request(caller)?;
        if caller.role >= least {
            return Ok(());
        }
        let detail = format!(
            "{} is {}, and this operation requires {}: create a token with that role by otter \
             token create.",
            caller.name,
            caller.role.with_article(),
            least.with_article()
        );
        Err(Failure::new(FailureKind::Forbidden, detail))
    }

    /// Waits until the token of a call becomes invalid.
    async fn until_refused(callers: Arc<Callers>, token: Option<SecretString>) {
        callers.until_refused(token.as_ref().map(ExposeSecret::expose_secret)).await;
    }
}

struct Identified {
    caller: Caller,
    /// The lowest role that may make the call.
    least: Role,
    token: Option<SecretString>,
}

/// Middleware that passes a request on if its caller may make it. Adds the caller to the extensions
/// of the request, for handlers, and of the response, for outer layers. If the token is revoked or
/// expires, a waiting call is refused and a stream ends.
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
            response = next.run(request) => end_body_with(response, until_refused()),
            () = until_refused() => {
                let detail = "The token was revoked, rotated or has expired while the call waited. \
                              A job that the call started continues.";
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

/// Ends a body of unknown length, such as a stream of events, when `end` completes.
fn end_body_with(response: Response, end: impl Future<Output = ()> + Send + 'static) -> Response {
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(end))))
}

/// The caller that [`guard`] identified.
///
/// # Errors
/// `internal` if the request did not pass the guard.
pub fn read_caller(extensions: &http::Extensions) -> Result<Caller, Failure> {
    extensions
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| Failure::new(FailureKind::Internal, "a request did not pass the guard"))
}

/// Reads the bearer token (RFC 6750, section 2.1). `None` if there is no `Authorization`.
///
/// # Errors
/// `unauthenticated` if the header is repeated or is not a bearer token.
fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = given.next() else { return Ok(None) };
    let malformed = |detail: &str| Failure::new(FailureKind::Unauthenticated, detail);
    if given.next().is_some() {
        return Err(malformed("The header Authorization is repeated; send it once."));
    }
    let detail =
        "The header Authorization must be Bearer and a token: Authorization: Bearer otter_…";
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .ok_or_else(|| malformed(detail))?;
    if scheme.eq_ignore_ascii_case("bearer") {
        Ok(Some(token.trim()))
    } else {
        Err(malformed(detail))
    }
}
