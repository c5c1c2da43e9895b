//! `POST /v1/machines/{machine}/console-tokens`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::api::extract::{JsonBody, NoParameters, Query, Segment, failure_in_body};
use crate::api::lease_authorization::read_authorization;
use crate::api::openapi_parts::{MachinePath, Problems};
use crate::api::problem::ApiError;
use crate::api::roles::read_credential;
use crate::api::{ApiState, links, respond};
use crate::domain::failure::Failure;
use crate::domain::ids::MachineId;
use crate::service::callers::Caller;
use crate::service::machines::shorten;
use crate::service::screens::ViewerMode;
use crate::service::screens::viewers::ViewerRequest;
use crate::service::serial::find_port;

/// The consoles that a token opens.
const KINDS: [&str; 2] = ["screen", "serial"];

/// The modes of a console.
const MODES: [&str; 2] = ["view", "drive"];

/// The headers that authorise the console.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents the headers")]
pub struct ConsoleTokenHeaders {
    /// `<id>.<secret>` of the lease on the machine.
    #[param(rename = "Otter-Lease", value_type = String, required = false)]
    otter_lease: Option<String>,
    /// The reason why an operator drives a machine that another caller leases, 1 to 512 characters.
    /// otter records it in the audit.
    #[param(rename = "Otter-Override", value_type = String, required = false)]
    otter_override: Option<String>,
}

/// The console that the token opens.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsoleTokenRequest {
    /// `screen`, or `serial`: a serial port.
    #[schema(example = "screen", extensions(("x-extensible-enum" = json!(KINDS))))]
    kind: String,
    /// Only with `serial`, and then required: the key of the port, or its name in Linux, such as
    /// `ttyS0`.
    #[schema(nullable = false, example = "ttyS0")]
    port: Option<String>,
    /// `view` or `drive`.
    #[schema(example = "drive", extensions(("x-extensible-enum" = json!(MODES))))]
    mode: String,
    /// Only with `drive`: whether to take over from another client that drives.
    #[serde(default)]
    force: bool,
}

/// A token that opens one WebSocket.
// It has no `Debug`, because the token is a secret.
#[derive(Serialize, ToSchema)]
pub struct ConsoleToken {
    /// 64 hexadecimal digits. Offer the subprotocols `binary` and `otter.token.<token>`.
    #[schema(example = "9f2c…")]
    token: String,
    /// When it can no longer be used.
    expires_at: Timestamp,
    /// The path of the WebSocket.
    #[schema(example = "/v1/machines/16/screen/rfb?mode=drive")]
    url: String,
    /// The page that shows the console, with the token in its fragment, which a browser does not
    /// send.
    #[schema(example = "/#console=screen&machine=16&mode=drive&token=9f2c…")]
    page: String,
}

/// Create a console token
///
/// For a browser, which cannot send a token with a WebSocket. All checks of the WebSocket are made
/// now, so that the page can show why it would be refused. The token opens one WebSocket within
/// 60 s, for this caller, machine, console and mode, and not after the next grant of the machine. A
/// caller has at most 16 tokens that can still be used.
#[utoipa::path(
    post,
    path = "/v1/machines/{machine}/console-tokens",
    operation_id = "create_console_token",
    tag = "screens",
    params(MachinePath, ConsoleTokenHeaders),
    request_body = ConsoleTokenRequest,
    responses(
        (status = 201, description = "The token", body = ConsoleToken),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "inventory-loading",
        "request-timeout", "payload-too-large", "unsupported-media-type", "machine-leased",
        "lease-ended", "lease-not-active", "self-protection", "console-busy", "serial-busy",
        "too-many-consoles", "not-supported", "shutting-down"
    ]))))]
pub async fn create_console_token(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(reference): Segment,
    headers: HeaderMap,
    _: Query<NoParameters>,
    JsonBody { value, .. }: JsonBody<ConsoleTokenRequest>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let AskedConsole { port, mode, force } = read_request(&value)?;
    let machine = api.services().machines.resolve(&caller.scope, &reference)?.machine;
    let port = port.map(|port| find_port(&machine, port)).transpose()?;
    let requester = read_authorization(&api, &caller, &headers)?;
    let credential = read_credential(&api, &headers)?;
    let request = ViewerRequest { requester, credential, mode, force };
    let issued = match port {
        None => api.services().screens.issue_console_token(request, &machine)?,
        Some(port) => api.services().serial.issue_console_token(request, &machine, port)?,
    };
    let token = issued.text.expose_secret();
    let port = port.map(|port| port.key);
    let created = ConsoleToken {
        token: token.to_owned(),
        expires_at: issued.expires_at,
        url: socket_path(&machine.id, port, mode, force),
        page: page_path(&machine.id, port, mode, token),
    };
    let mut response = respond::object(&api, &version, &created);
    *response.status_mut() = StatusCode::CREATED;
    respond::set(&mut response, CACHE_CONTROL, "no-store");
    Ok(response)
}

/// The console that a request asks for.
struct AskedConsole<'r> {
    /// The name of the serial port. `None` for the screen.
    port: Option<&'r str>,
    mode: ViewerMode,
    force: bool,
}

fn read_request(request: &ConsoleTokenRequest) -> Result<AskedConsole<'_>, Failure> {
    let ConsoleTokenRequest { kind, port, mode, force } = request;
    let port = match (kind.as_str(), port.as_deref()) {
        ("screen", None) => None,
        ("serial", Some(port)) => Some(port),
        ("screen", Some(_)) => {
            let detail = "port is only for the kind serial.".to_owned();
            return Err(failure_in_body("/port", "not-applicable", detail));
        }
        ("serial", None) => {
            let detail = "port is missing; name a serial port, such as ttyS0.".to_owned();
            return Err(failure_in_body("/port", "missing", detail));
        }
        (other, _) => {
            let detail = format!("kind is {}; write {}.", shorten(other), KINDS.join(" or "));
            return Err(failure_in_body("/kind", "not-one-of", detail));
        }
    };
    let mode = match mode.as_str() {
        "view" => ViewerMode::View,
        "drive" => ViewerMode::Drive,
        other => {
            let detail = format!("mode is {}; write {}.", shorten(other), MODES.join(" or "));
            return Err(failure_in_body("/mode", "not-one-of", detail));
        }
    };
    if *force && mode == ViewerMode::View {
        let detail = "force is only for the mode drive.".to_owned();
        return Err(failure_in_body("/force", "not-applicable", detail));
    }
    Ok(AskedConsole { port, mode, force: *force })
}

fn socket_path(machine: &MachineId, port: Option<i32>, mode: ViewerMode, force: bool) -> String {
    let force = if force { "&force=true" } else { "" };
    let console = match port {
        None => "screen/rfb".to_owned(),
        Some(port) => format!("serial/{port}/stream"),
    };
    format!("{}/{console}?mode={}{force}", links::machine(machine), mode.as_str())
}

fn page_path(machine: &MachineId, port: Option<i32>, mode: ViewerMode, token: &str) -> String {
    let machine = links::encode(&machine.to_string());
    let console = match port {
        None => format!("screen&machine={machine}"),
        Some(port) => format!("serial&machine={machine}&port={port}"),
    };
    let mode = mode.as_str();
    links::path(&format!("/#console={console}&mode={mode}&token={token}"))
}
