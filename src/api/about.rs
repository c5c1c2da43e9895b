//! `GET /v1/about`, `/healthz` and `/readyz`: what this otter is and how it is.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::extract::{NoParameters, Parsed, Query};
use super::openapi_parts::Problems;
use super::problem::ApiError;
use super::roles::Routes;
use super::{ApiState, respond};
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::hypervisor::{HostProduct, SessionState, SessionStatus};
use crate::service::callers::Caller;
use crate::service::patterns::UnmatchedPattern;

/// What this build can do.
const FEATURES: &[&str] = &[
    "machines",
    "snapshots",
    "datastores",
    "jobs",
    "cancel",
    "events",
    "waits",
    "idempotency",
    "questions",
    "properties",
    "leases",
    "pools",
    "quarantine",
    "tokens",
    "audit",
];

/// The routes of this file.
pub fn routes() -> Routes {
    Routes::default()
        .role(Role::Viewer, routes!(about))
        .open(routes!(healthz))
        .open(routes!(readyz))
}

/// What this otter is, and how it stands with its host.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct About {
    /// otter's own version.
    #[schema(example = "0.1.0")]
    pub version: String,
    /// What this build can do.
    pub features: Vec<String>,
    /// What the host says that it is; null before it was first reached.
    #[schema(required)]
    pub host: Option<AboutHost>,
    pub session: AboutSession,
    pub inventory: AboutInventory,
    /// The id of the machine that otter itself runs in, where that is on this host. It is
    /// protected.
    #[schema(required)]
    pub self_machine: Option<String>,
    /// How callers are told apart: `none` where otter serves this machine alone and everybody is an
    /// admin.
    #[schema(extensions(("x-extensible-enum" = json!(["none", "token"]))))]
    pub authentication: String,
    /// Who makes this call.
    pub caller: AboutCaller,
    /// Whether the host's certificate is checked.
    pub tls_verified: bool,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// The caller, as jobs, leases and the audit name it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AboutCaller {
    /// The token's name; `anonymous` if otter has no tokens.
    #[schema(example = "ci")]
    pub name: String,
    /// What the token may do.
    #[schema(extensions(("x-extensible-enum" = json!(["viewer", "runner", "operator", "admin"]))))]
    pub role: String,
}

/// What the host says that it is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AboutHost {
    /// Its full name, build included.
    #[schema(example = "VMware ESXi 7.0.3 build-19193900")]
    pub product: String,
    #[schema(example = "7.0.3")]
    pub version: String,
    pub build: String,
    /// `HostAgent` for a lone ESX, `VirtualCenter` for a vCenter.
    pub api_type: String,
    #[schema(example = "7.0.3.0")]
    pub api_version: String,
}

/// The one session with the host.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AboutSession {
    #[schema(extensions(("x-extensible-enum" = json!(["connecting", "connected", "away", "login_refused"]))))]
    pub state: String,
    /// Since when.
    pub since: Timestamp,
    /// How often otter has logged in since it started.
    pub logins: u64,
    /// Why there is none.
    #[schema(required)]
    pub reason: Option<String>,
}

/// The inventory in memory.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AboutInventory {
    pub loaded: bool,
    /// The point in the stream of changes.
    pub version: String,
    /// Seconds since the host last told of a change.
    #[schema(required)]
    pub age_seconds: Option<u64>,
    pub machine_count: u32,
    pub datastore_count: u32,
}

/// Whether it is well.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`; what is not well is a problem.
    #[schema(example = "ok")]
    pub status: String,
}

/// How ready is ready.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ReadyQuery {
    /// Also ask for a live session with the host.
    #[param(value_type = Option<bool>)]
    host: Option<Parsed<bool>>,
}

/// About this otter
///
/// Its version, what it can do, how it stands with the host, and who calls.
#[utoipa::path(get, path = "/v1/about", operation_id = "get_about", tag = "about",
    responses(
        (status = 200, description = "What this otter is", body = About),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter"]))))]
pub async fn about(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let services = api.services();
    let version = services.event_stream.version();
    let session = services.inventory.session();
    let contents = services.inventory.contents();
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let age = contents.updated_at.map(|at| api.clock().now().duration_since(at));
    let mut warnings = Vec::new();
    if !api.settings().tls_verified {
        warnings.push("The host's certificate is not checked: anybody on the way can read the password. Set esx.verify.".to_owned());
    }
    if api.settings().is_unencrypted {
        warnings.push(
            "Tokens and answers travel in the clear: set http.tls_certificate and http.tls_key."
                .to_owned(),
        );
    }
    warnings.extend(services.storage.refusal().map(|failure| failure.detail));
    if !caller.scope.is_restricted() {
        // The patterns can name machines that do not exist for a restricted caller.
        warnings.extend(services.patterns.unmatched().iter().map(UnmatchedPattern::warning));
    }
    let about = About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        features: FEATURES.iter().map(|feature| (*feature).to_owned()).collect(),
        host: session.product.as_ref().map(AboutHost::from_product),
        session: AboutSession::from_status(&session),
        inventory: AboutInventory {
            loaded: contents.loaded,
            version: version.to_string(),
            age_seconds: age.map(|age| u64::try_from(age.as_secs()).unwrap_or(0)),
            machine_count: count(services.machines.visibility().machines(&caller.scope).len()),
            datastore_count: count(contents.datastores.len()),
        },
        self_machine: services.machines.self_machine(&caller.scope).map(|id| id.to_string()),
        authentication: if services.callers.need_tokens() { "token" } else { "none" }.to_owned(),
        caller: AboutCaller {
            name: caller.name.to_string(),
            role: caller.role.as_str().to_owned(),
        },
        tls_verified: api.settings().tls_verified,
        warnings,
    };
    Ok(respond::object(&api, &version, &about))
}

/// Whether otter is alive
///
/// 200 while the daemon answers at all, whatever the host does.
#[utoipa::path(get, path = "/healthz", operation_id = "get_health", tag = "about",
    responses(
        (status = 200, description = "It is alive", body = Health),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter"]))))]
pub async fn healthz(
    State(api): State<ApiState>,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    Ok(ok(&api))
}

/// Whether otter is ready
///
/// 200 once the inventory was loaded: reads work from then on, whatever the host does. 503 while
/// the store cannot write, since no job or lease is accepted then. With `host=true` also the
/// session must be up. The problem says what is wrong.
#[utoipa::path(get, path = "/readyz", operation_id = "get_readiness", tag = "about", params(ReadyQuery),
    responses(
        (status = 200, description = "It is ready", body = Health),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter", "inventory-loading", "storage-unavailable", "host-unreachable", "host-login-refused"]))))]
pub async fn readyz(
    State(api): State<ApiState>,
    Query(query, _): Query<ReadyQuery>,
) -> Result<Response, ApiError> {
    let host = query.host.is_some_and(Parsed::value);
    if let Some(failure) = api.services().storage.refusal() {
        return Err(failure.into());
    }
    let session = api.services().inventory.session().state;
    if host {
        let failure = match &session {
            SessionState::Connected => None,
            SessionState::Connecting => Some(Failure::new(
                FailureKind::HostUnreachable,
                "The host has not been reached yet.",
            )),
            SessionState::Away { reason } => {
                Some(Failure::new(FailureKind::HostUnreachable, reason.clone()))
            }
            SessionState::LoginRefused { reason } => {
                Some(Failure::new(FailureKind::HostLoginRefused, reason.clone()))
            }
        };
        if let Some(failure) = failure {
            return Err(failure.into());
        }
    }
    api.services().machines.contents()?;
    if session == SessionState::Connecting {
        // No machine is granted before the session is up: a caller could be refused one that is
        // free.
        let detail =
            "The host has just been read, and its session is not up yet; try again in a moment.";
        return Err(Failure::new(FailureKind::InventoryLoading, detail).into());
    }
    Ok(ok(&api))
}

fn ok(api: &ApiState) -> Response {
    respond::object(
        api,
        &api.services().event_stream.version(),
        &Health { status: "ok".to_owned() },
    )
}

impl AboutSession {
    /// The session as callers see it.
    #[must_use]
    pub fn from_status(status: &SessionStatus) -> Self {
        // What the host is stands beside it.
        let SessionStatus { state, since, logins, product: _ } = status;
        Self {
            state: state_word(state).to_owned(),
            since: *since,
            logins: *logins,
            reason: reason(state).map(str::to_owned),
        }
    }
}

impl AboutHost {
    fn from_product(product: &HostProduct) -> Self {
        let HostProduct { full_name, version, build, api_type, api_version } = product;
        Self {
            product: full_name.clone(),
            version: version.clone(),
            build: build.clone(),
            api_type: api_type.clone(),
            api_version: api_version.clone(),
        }
    }
}

const fn state_word(state: &SessionState) -> &'static str {
    match state {
        SessionState::Connecting => "connecting",
        SessionState::Connected => "connected",
        SessionState::Away { .. } => "away",
        SessionState::LoginRefused { .. } => "login_refused",
    }
}

fn reason(state: &SessionState) -> Option<&str> {
    match state {
        SessionState::Connecting | SessionState::Connected => None,
        SessionState::Away { reason } | SessionState::LoginRefused { reason } => Some(reason),
    }
}
