//! Authorization of calls by role. Each route is registered with the access that it requires. The
//! OpenAPI document shows this access, and [`Guard`] checks it before the routes.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use axum::routing::MethodRouter;
use futures_util::{FutureExt, StreamExt};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};
use serde_json::json;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, OpenApi};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::ApiState;
use super::openapi_parts::{ALL_OPERATIONS, AUTHENTICATED};
use super::websocket;
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::origin::RequestOrigin;
use crate::service::callers::{Caller, Callers, Credential};
use crate::service::screens::Screens;
use crate::service::screens::console_tokens::ConsoleGrant;

/// The access that a route requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No token. This is the access of health checks, the OpenAPI document and the web pages.
    Open,
    /// A token with this role or a higher one.
    AtLeast(Role),
    /// As [`Access::AtLeast`]. The handler itself ends the call when the token becomes invalid,
    /// because its answer must say what the call has done.
    Watching(Role),
    /// As [`Access::AtLeast`], or a console token, which the client offers as the subprotocol of a
    /// WebSocket: a browser cannot send a token with one.
    Console(Role),
    /// As [`Access::AtLeast`]. The body of the request is a file of any type.
    Upload(Role),
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

    /// Adds operations for callers with the role `least` or a higher one. This is not the only
    /// check for a runner: it may change only machines that it leases, which the job service
    /// checks.
    pub fn role(self, least: Role, operations: UtoipaMethodRouter<ApiState>) -> Self {
        self.operations(Access::AtLeast(least), operations)
    }

    /// As [`Routes::role`], for operations whose handlers themselves end the call when the token of
    /// the caller becomes invalid.
    pub fn watching(self, least: Role, operations: UtoipaMethodRouter<ApiState>) -> Self {
        self.operations(Access::Watching(least), operations)
    }

    /// Adds `WebSocket` operations for callers with this role or a higher one, or with a console
    /// token.
    pub fn console(self, least: Role, operations: UtoipaMethodRouter<ApiState>) -> Self {
        self.operations(Access::Console(least), operations)
    }

    /// Adds operations that take a file of any type, for callers with this role or a higher one.
    pub fn upload(self, least: Role, operations: UtoipaMethodRouter<ApiState>) -> Self {
        self.operations(Access::Upload(least), operations)
    }

    /// Adds operations that require no token.
    pub fn open(self, operations: UtoipaMethodRouter<ApiState>) -> Self {
        self.operations(Access::Open, operations)
    }

    /// Adds a GET route that the OpenAPI document does not list. The route requires the role
    /// `least` or a higher one, or no token if `least` is `None`.
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

    /// Adds all routes of another set to this set.
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
        Access::AtLeast(role)
        | Access::Watching(role)
        | Access::Console(role)
        | Access::Upload(role) => {
            extensions.insert("x-otter-role".to_owned(), json!(role.as_str()));
            added.extend(AUTHENTICATED);
            // The security scheme is optional in the document, because no token is required while
            // no token exists.
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

/// Identifies callers, and checks the access that operations require.
#[derive(Clone)]
pub struct Guard {
    callers: Arc<Callers>,
    /// For [`Access::Console`].
    screens: Option<Arc<Screens>>,
}

/// The caller of an operation that requires a role.
pub struct Identified {
    pub caller: Caller,
    pub credential: Credential,
    /// The lowest role that may call the operation.
    pub least: Role,
    /// Whether the handler itself ends the call when the token becomes invalid.
    pub is_watching: bool,
    /// Only of operations with [`Access::Console`].
    pub console: Option<ConsoleAccess>,
}

/// How the caller of a WebSocket was identified. Its handler finds it in the extensions of the
/// request.
#[derive(Clone, Debug)]
pub struct ConsoleAccess {
    pub credential: Credential,
    /// What the console token stands for. `None` if the caller sent its own token.
    pub grant: Option<ConsoleGrant>,
}

impl Guard {
    #[must_use]
    pub fn new(callers: Arc<Callers>) -> Self {
        Self { callers, screens: None }
    }

    /// Accepts the console tokens of these screens.
    #[must_use]
    pub fn with_screens(self, screens: Arc<Screens>) -> Self {
        Self { screens: Some(screens), ..self }
    }

    /// Whether callers need tokens.
    #[must_use]
    pub fn requires_tokens(&self) -> bool {
        self.callers.need_tokens()
    }

    /// Identifies the caller. `None` if the operation requires no token.
    ///
    /// # Errors
    /// `unauthenticated`, `invalid-request` if a WebSocket offers two console tokens.
    pub fn identify(
        &self,
        access: Access,
        headers: &HeaderMap,
        origin: RequestOrigin,
    ) -> Result<Option<Identified>, Failure> {
        let (least, grant) = match access {
            Access::Open => return Ok(None),
            Access::AtLeast(least) | Access::Watching(least) | Access::Upload(least) => {
                (least, None)
            }
            Access::Console(least) => (least, self.redeem(headers)?),
        };
        let (caller, credential) = if let Some(grant) = &grant {
            (grant.requester.caller.clone(), grant.credential)
        } else {
            let identified = self.callers.identify(bearer_token(headers)?)?;
            (identified.caller, identified.credential)
        };
        let console = matches!(access, Access::Console(_));
        let console = console.then_some(ConsoleAccess { credential, grant });
        let is_watching = matches!(access, Access::Watching(_));
        let caller = Caller { origin, ..caller };
        Ok(Some(Identified { caller, credential, least, is_watching, console }))
    }

    /// Uses up the console token of a WebSocket. `None` if it offers none.
    fn redeem(&self, headers: &HeaderMap) -> Result<Option<ConsoleGrant>, Failure> {
        let Some(token) = websocket::console_token(headers)? else { return Ok(None) };
        let Some(screens) = &self.screens else { return Ok(None) };
        let grant = screens.viewers().tokens().redeem(token)?;
        // The token of the caller may have been revoked since then.
        if self.callers.until_refused(grant.credential).now_or_never().is_some() {
            let detail = "The token of the caller who asked for this console token was revoked or \
                          rotated, or has expired.";
            return Err(Failure::new(FailureKind::Unauthenticated, detail));
        }
        Ok(Some(grant))
    }

    /// Checks the caller's request limit and role.
    ///
    /// # Errors
    /// `too-many-requests`, `forbidden`.
    pub fn allow(&self, caller: &Caller, least: Role) -> Result<(), Failure> {
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

    /// Runs a call only as long as the token of its caller is valid. If the token is revoked or
    /// expires, a call that waits is refused, and a stream ends.
    ///
    /// # Errors
    /// `unauthenticated`.
    pub async fn run(
        &self,
        credential: Credential,
        call: impl Future<Output = Response>,
    ) -> Result<Response, Failure> {
        tokio::select! {
            biased;
            response = call => Ok(self.end_stream(credential, response)),
            () = self.callers.until_refused(credential) => {
                let detail = "The token was revoked, rotated or has expired while the call waited. \
                              A job that the call started continues.";
                Err(Failure::new(FailureKind::Unauthenticated, detail))
            }
        }
    }

    /// Ends a body of unknown length, such as a stream of events, when the token becomes invalid.
    fn end_stream(&self, credential: Credential, response: Response) -> Response {
        if response.body().size_hint().exact().is_some() {
            return response;
        }
        let callers = Arc::clone(&self.callers);
        let end = Box::pin(async move { callers.until_refused(credential).await });
        response.map(|body| Body::from_stream(body.into_data_stream().take_until(end)))
    }
}

/// The caller that [`Guard::identify`] identified.
///
/// # Errors
/// `internal` if the request did not pass the guard.
pub fn read_caller(extensions: &http::Extensions) -> Result<Caller, Failure> {
    extensions
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| Failure::new(FailureKind::Internal, "a request did not pass the guard"))
}

/// What identifies the caller of a request, for later checks whether its token is still valid.
///
/// # Errors
/// `unauthenticated`.
pub fn read_credential(api: &ApiState, headers: &HeaderMap) -> Result<Credential, Failure> {
    Ok(api.services().callers.identify(bearer_token(headers)?)?.credential)
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
