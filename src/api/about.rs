//! `GET /v1/about`, `/healthz` and `/readyz`: the identity and the health of this otter.

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
use crate::service::leases::RunningMachines;
use crate::service::patterns::PatternWarning;

/// The names of the features that this version of otter has. `GET /v1/about` lists them.
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
    "screens",
    "screen-input",
    "screen-waits",
    "serial",
    "artifacts",
    "files",
    "media",
];

/// The routes of this file.
pub fn routes() -> Routes {
    Routes::default()
        .role(Role::Viewer, routes!(about))
        .open(routes!(healthz))
        .open(routes!(readyz))
}

/// This otter, its host, and the connection to the host.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct About {
    /// The version of otter.
    #[schema(example = "0.1.0")]
    pub version: String,
    /// The names of the features that this version of otter has.
    pub features: Vec<String>,
    /// The product of the host. Null until otter reaches the host for the first time.
    #[schema(required)]
    pub host: Option<AboutHost>,
    pub session: AboutSession,
    pub inventory: AboutInventory,
    /// The id of the machine in which otter itself runs. otter refuses to change this machine.
    /// otter recognises it by its name in `esx.machine_name`, its hardware addresses and its BIOS
    /// UUID. Null if the host has no such machine that the caller can see.
    #[schema(required)]
    pub self_machine: Option<String>,
    /// How callers authenticate: `token`, or `none` if no token exists. With `none`, otter accepts
    /// only calls from the machine on which it runs, and every caller is an admin.
    #[schema(extensions(("x-extensible-enum" = json!(["none", "token"]))))]
    pub authentication: String,
    /// The caller of this request.
    pub caller: AboutCaller,
    /// Whether otter verifies the host's certificate.
    pub tls_verified: bool,
    /// Warnings about the configuration and the state of otter.
    pub warnings: Vec<String>,
}

/// The caller, with the name that jobs, leases and the audit use.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AboutCaller {
    /// The name of the token; `anonymous` if no token exists.
    #[schema(example = "ci")]
    pub name: String,
    /// The role of the token; `admin` if no token exists.
    #[schema(extensions(("x-extensible-enum" = json!(["viewer", "runner", "operator", "admin"]))))]
    pub role: String,
}

/// The product of the host, as the host reports it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AboutHost {
    /// The full name of the product, with its build.
    #[schema(example = "VMware ESXi 7.0.3 build-19193900")]
    pub product: String,
    #[schema(example = "7.0.3")]
    pub version: String,
    pub build: String,
    /// `HostAgent` for an ESX host, `VirtualCenter` for a vCenter.
    pub api_type: String,
    #[schema(example = "7.0.3.0")]
    pub api_version: String,
    /// The largest number of machines of the host that may run at the same time, from the
    /// configuration. Null if there is no such limit, or if the token of the caller is restricted.
    #[schema(required)]
    pub max_running: Option<u32>,
    /// The number of machines of the host that run or are leased. Null if the token of the caller
    /// is restricted.
    #[schema(required)]
    pub running_count: Option<u32>,
    /// The largest total memory of the machines of the host that may run at the same time, from the
    /// configuration. Null if there is no such limit, or if the token of the caller is restricted.
    #[schema(required)]
    pub max_memory_bytes: Option<u64>,
    /// The total memory of the machines of the host that run or are leased. Null if the token of
    /// the caller is restricted.
    #[schema(required)]
    pub running_memory_bytes: Option<u64>,
}

/// The session with the host.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AboutSession {
    #[schema(extensions(("x-extensible-enum" = json!([
        "connecting", "connected", "away", "login_refused"
    ]))))]
    pub state: String,
    /// When the session entered this state.
    pub since: Timestamp,
    /// The number of successful logins to the host since otter started.
    pub logins: u64,
    /// Why otter has no session with the host. Null while otter is connected or connects for the
    /// first time.
    #[schema(required)]
    pub reason: Option<String>,
}

/// otter's copy of the machines and datastores in memory.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AboutInventory {
    pub loaded: bool,
    /// The current version of otter's state, for `since` of `/v1/events`.
    pub version: String,
    /// The number of seconds since the host last reported a change. Null before the first change.
    #[schema(required)]
    pub age_seconds: Option<u64>,
    pub machine_count: u32,
    pub datastore_count: u32,
}

/// The health of otter.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`. If otter is not healthy, the response is a problem.
    #[schema(example = "ok")]
    pub status: String,
}

/// The query of `/readyz`: the level of readiness to check.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ReadyQuery {
    /// Whether otter counts as ready only if it also has a session with the host. Default: false.
    #[param(value_type = Option<bool>)]
    host: Option<Parsed<bool>>,
}

/// About this otter
///
/// The version and features of otter, its connection to the host, and the caller of this request.
#[utoipa::path(get, path = "/v1/about", operation_id = "get_about", tag = "about",
    responses(
        (status = 200, description = "This otter and its host", body = About),
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
        warnings.push(
            "otter does not verify the host's certificate: an attacker on the network \
                       can read the password. Set esx.verify."
                .to_owned(),
        );
    }
    if api.settings().is_unencrypted {
        warnings.push(
            "Tokens and responses are not encrypted: set http.tls_certificate and http.tls_key."
                .to_owned(),
        );
    }
    warnings.extend(services.storage.refusal().map(|failure| failure.detail));
    if !caller.scope.is_restricted() {
        // The warnings quote patterns of the configuration, and a pattern can name machines that a
        // restricted caller may not see.
        warnings.extend(services.patterns.warnings().iter().map(PatternWarning::text));
    }
    let about = About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        features: FEATURES.iter().map(|feature| (*feature).to_owned()).collect(),
        host: session.product.as_ref().map(|product| {
            AboutHost::from_product(product, services.leases.running_on_host(&caller))
        }),
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
/// Returns 200 while the daemon runs, whatever the state of the host is.
#[utoipa::path(get, path = "/healthz", operation_id = "get_health", tag = "about",
    responses(
        (status = 200, description = "otter is alive", body = Health),
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
/// Returns 200 once otter has loaded the inventory for the first time: from then on reads work,
/// whatever the state of the host is. Returns 503 while the store cannot write, because otter then
/// accepts no job or lease. With `host=true`, otter must also have a session with the host. If
/// otter is not ready, the problem has the reason.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "get_readiness",
    tag = "about",
    params(ReadyQuery),
    responses(
        (status = 200, description = "otter is ready", body = Health),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "inventory-loading", "storage-unavailable",
        "host-unreachable", "host-login-refused"
    ]))))]
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
                "otter has not reached the host yet.",
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
        // otter is not ready yet: it grants no machine before it has a session with the host, so it
        // would refuse a lease although a machine is free.
        let detail = "otter has loaded the inventory, but has no session with the host yet; try \
                      again in a moment.";
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
    /// The session on the wire.
    #[must_use]
    pub fn from_status(status: &SessionStatus) -> Self {
        // `AboutHost` shows the product, so the session does not.
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
    fn from_product(product: &HostProduct, running: Option<RunningMachines>) -> Self {
        let HostProduct { full_name, version, build, api_type, api_version } = product;
        let RunningMachines { limits, usage } = running.unwrap_or_default();
        Self {
            product: full_name.clone(),
            version: version.clone(),
            build: build.clone(),
            api_type: api_type.clone(),
            api_version: api_version.clone(),
            max_running: limits.max_running,
            running_count: running.map(|_| u32::try_from(usage.machines).unwrap_or(u32::MAX)),
            max_memory_bytes: limits.max_memory_bytes,
            running_memory_bytes: running.map(|_| usage.memory_bytes),
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
