//! `GET /v1/machines/{machine}/screen/rfb`

use std::future::ready;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::extract::{InvalidValue, Parameter, Parsed, Query, Segment, failure_at};
use crate::api::lease_authorization::read_authorization;
use crate::api::openapi_parts::{MachinePath, Problems};
use crate::api::problem::ApiError;
use crate::api::roles::ConsoleAccess;
use crate::api::{ApiState, websocket};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::machine::Machine;
use crate::service::callers::Caller;
use crate::service::jobs::authorization::Requester;
use crate::service::screens::ViewerMode;
use crate::service::screens::console_tokens::{Console, ConsoleKind};
use crate::service::screens::viewer_session::{FromViewer, ToViewer};
use crate::service::screens::viewers::{Viewer, ViewerRequest};

/// The modes of a viewer.
const MODES: [ViewerMode; 2] = [ViewerMode::View, ViewerMode::Drive];

/// The mode of the viewer.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ViewerQuery {
    /// `view` (default), or `drive`: what the client sends reaches the machine.
    #[param(value_type = Option<String>)]
    mode: Option<Parsed<ViewerMode>>,
    /// Only with `mode=drive`: whether to take over from another client that drives.
    #[param(value_type = Option<bool>)]
    force: Option<Parsed<bool>>,
}

/// The headers of a viewer.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents the headers")]
pub struct ViewerHeaders {
    /// `<id>.<secret>` of the lease on the machine.
    #[param(rename = "Otter-Lease", value_type = String, required = false)]
    otter_lease: Option<String>,
    /// The reason why an operator drives a machine that another caller leases, 1 to 512 characters.
    /// otter records it in the audit.
    #[param(rename = "Otter-Override", value_type = String, required = false)]
    otter_override: Option<String>,
}

/// Watch or drive a screen
///
/// A WebSocket with the subprotocol `binary` that speaks RFB 3.8 (VNC, RFC 6143) without a
/// password, for noVNC and other VNC viewers. All viewers of a machine share one connection to the
/// host. While the machine shows nothing, for example while it is off, the viewer shows “no
/// signal”. A browser also offers the subprotocol `otter.token.<token>` with a console token.
///
/// One viewer at a time drives. The keys that it holds are released when it ends. When a right
/// ends, the WebSocket is closed with a code: 4401 the token is not valid any more, 4403 the caller
/// may not look or drive any more, or the machine is gone, 4409 another viewer took over, 4423 the
/// lease ended, 4503 otter stops. A message of more than 256 KiB ends it with 1009. A machine has
/// at most `screens.max_viewers` viewers.
#[utoipa::path(
    get,
    path = "/v1/machines/{machine}/screen/rfb",
    operation_id = "open_screen_viewer",
    tag = "screens",
    params(MachinePath, ViewerQuery, ViewerHeaders),
    responses(
        (status = 101, description = "The WebSocket is open"),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "inventory-loading",
        "upgrade-required", "machine-leased", "lease-ended", "lease-not-active", "self-protection",
        "console-busy", "too-many-consoles", "not-supported", "shutting-down"
    ]))))]
pub async fn open_screen_viewer(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Extension(access): Extension<ConsoleAccess>,
    Segment(reference): Segment,
    headers: HeaderMap,
    Query(query, _): Query<ViewerQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let screens = &api.services().screens;
    let view = api.services().machines.resolve(&caller.scope, &reference)?;
    let kind = ConsoleKind::Screen;
    let request = viewer_request(&api, caller, access, &headers, &query, &view.machine, kind)?;
    // First, so that a plain GET shows why a browser's WebSocket would be refused.
    screens.check_viewer(&request, &view.machine)?;
    let instead = "For one picture: GET /v1/machines/{machine}/screen.png.";
    let upgrade = websocket::check(upgrade, &headers, instead)?;
    let overrides = &api.services().overrides;
    let viewer = screens.open_viewer(request, &view.machine, overrides)?;
    let state = api.clone();
    Ok(upgrade.on_upgrade(move |socket| async move {
        let served = serve(state.clone(), socket, viewer);
        state.services().screens.viewers().spawn(served);
    }))
}

/// What the caller asks for: by its console token, or by its headers and the query.
///
/// # Parameters
/// - `kind`: the console that the path names.
///
/// # Errors
/// `invalid-request`, and those of the console token or of `Otter-Lease` and `Otter-Override`.
pub fn viewer_request(
    api: &ApiState,
    caller: Caller,
    access: ConsoleAccess,
    headers: &HeaderMap,
    query: &ViewerQuery,
    machine: &Machine,
    kind: ConsoleKind,
) -> Result<ViewerRequest, Failure> {
    let (mode, force) = (query.mode.map(Parsed::value), query.force.map(Parsed::value));
    let ConsoleAccess { credential, grant } = access;
    let Some(grant) = grant else {
        let requester = read_authorization(api, &caller, headers)?;
        let (mode, force) = (mode.unwrap_or(ViewerMode::View), force.unwrap_or_default());
        if force && mode == ViewerMode::View {
            let detail = "force is only for mode=drive.".to_owned();
            return Err(failure_at(FailureKind::InvalidRequest, "force", "not-with-this", detail));
        }
        return Ok(ViewerRequest { requester, credential, mode, force });
    };
    let fence = api.services().screens.fence_of(machine);
    grant.check(machine, kind, mode, force, fence)?;
    let Console { mode, force, .. } = grant.console;
    // The caller as it was identified now, with the address of this request.
    let requester = Requester { caller, ..grant.requester };
    Ok(ViewerRequest { requester, credential, mode, force })
}

/// Serves a viewer on its WebSocket, and closes it with the code of its end.
async fn serve(api: ApiState, socket: WebSocket, viewer: Viewer) {
    let (sink, mut stream) = socket.split();
    let mut outgoing = sink.with(|message| ready(Ok::<_, axum::Error>(to_message(message))));
    // Ends with the connection.
    let messages = (&mut stream).map(from_message);
    let mut incoming = messages.take_while(|message| ready(message.is_some())).filter_map(ready);
    let end = viewer.serve(&mut incoming, &mut outgoing, api.stop()).await;
    tracing::debug!(end = end.as_str(), "a viewer of a screen ended");
    let close = websocket::close_code(&end).map(|code| (code, end.reason()));
    websocket::close(outgoing.into_inner(), stream, close, api.clock()).await;
}

/// What a WebSocket received. `None` at the end of the connection.
pub fn from_message(received: Result<Message, axum::Error>) -> Option<FromViewer> {
    match received {
        Ok(Message::Binary(bytes)) => Some(FromViewer::Bytes(bytes)),
        Ok(Message::Text(_)) => Some(FromViewer::Text),
        Ok(Message::Ping(_) | Message::Pong(_)) => Some(FromViewer::Alive),
        Ok(Message::Close(_)) => None,
        Err(error) => websocket::is_too_large(error).then_some(FromViewer::TooLarge),
    }
}

fn to_message(message: ToViewer) -> Message {
    match message {
        ToViewer::Bytes(bytes) => Message::Binary(bytes),
        ToViewer::Ping => Message::Ping(Bytes::new()),
    }
}

impl Parameter for ViewerMode {
    fn from_text(text: &str) -> Result<Self, InvalidValue> {
        let known = MODES.into_iter().find(|mode| mode.as_str() == text);
        known.ok_or_else(|| InvalidValue::not_one_of(text, &MODES.map(ViewerMode::as_str)))
    }
}
