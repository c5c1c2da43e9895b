//! `GET /v1/machines/{machine}/serial/{port}/stream`

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
use serde_json::json;
use utoipa::IntoParams;

use super::PortPath;
use super::since::Since;
use crate::api::extract::{Parsed, Query, Segments};
use crate::api::openapi_parts::{MachinePath, Problems};
use crate::api::problem::ApiError;
use crate::api::roles::ConsoleAccess;
use crate::api::screens::{ViewerHeaders, ViewerQuery, from_message, viewer_request};
use crate::api::{ApiState, websocket};
use crate::service::callers::Caller;
use crate::service::screens::console_tokens::ConsoleKind;
use crate::service::serial::stream::ToStream;
use crate::service::serial::streams::SerialStream;
use crate::service::serial::{ReadFrom, find_port};

/// Where the output begins.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StreamQuery {
    /// The offset of the first byte of the output. Negative: so many bytes before the end. Default:
    /// what comes from now on.
    #[param(value_type = Option<i64>)]
    since: Option<Parsed<Since>>,
}

/// Read and write a serial port
///
/// A WebSocket with the subprotocol `binary`, for terminals. Binary messages are the bytes of the
/// port, in both directions. otter also sends text messages with JSON: first `{"offset": 4096}`,
/// the offset of the next byte, and `{"gap": {"offset": 8192, "reason": "reconnect"}}` where bytes
/// may be missing. A client that more than 1 MiB waits for jumps to the newest bytes, with a gap.
/// A browser also offers the subprotocol `otter.token.<token>` with a console token.
///
/// One client at a time writes (`mode=drive`); what others send is ignored. While the machine is
/// off, the stream is silent. When a right ends, the WebSocket is closed with a code: 4401 the
/// token is not valid any more, 4403 the caller may not read or write any more, 4409 another client
/// took over, 4423 the lease ended, 4503 otter stops. A message of more than 256 KiB ends it with
/// 1009.
#[utoipa::path(
    get,
    path = "/v1/machines/{machine}/serial/{port}/stream",
    operation_id = "open_serial_stream",
    tag = "serial",
    params(MachinePath, PortPath, ViewerQuery, StreamQuery, ViewerHeaders),
    responses(
        (status = 101, description = "The WebSocket is open"),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "inventory-loading",
        "upgrade-required", "machine-leased", "lease-ended", "lease-not-active", "self-protection",
        "serial-busy", "offset-out-of-range", "too-many-consoles", "not-supported",
        "shutting-down"
    ]))))]
pub async fn open_serial_stream(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Extension(access): Extension<ConsoleAccess>,
    Segments(reference, port): Segments,
    headers: HeaderMap,
    Query(query, StreamQuery { since }): Query<ViewerQuery, StreamQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let serial = &api.services().serial;
    let machine = api.services().machines.resolve(&caller.scope, &reference)?.machine;
    let port = find_port(&machine, &port)?;
    let kind = ConsoleKind::Serial(port.key);
    let request = viewer_request(&api, caller, access, &headers, &query, &machine, kind)?;
    // First, so that a plain GET shows why a browser's WebSocket would be refused.
    serial.check_stream(&request, &machine, port)?;
    let instead = "For the output alone: GET /v1/machines/{machine}/serial/{port}/log.";
    let upgrade = websocket::check(upgrade, &headers, instead)?;
    let since = since.map_or(ReadFrom::BeforeEnd(0), |Parsed(Since(since))| since);
    let overrides = &api.services().overrides;
    let stream = serial.open_stream(request, &machine, port, since, overrides).await?;
    let state = api.clone();
    Ok(upgrade.on_upgrade(move |socket| async move {
        let served = serve(state.clone(), socket, stream);
        state.services().serial.spawn_stream(served);
    }))
}

/// Serves a client on its WebSocket, and closes it with the code of its end.
async fn serve(api: ApiState, socket: WebSocket, client: SerialStream) {
    let (sink, mut stream) = socket.split();
    let mut outgoing = sink.with(|message| ready(Ok::<_, axum::Error>(to_message(message))));
    // Ends with the connection.
    let messages = (&mut stream).map(from_message);
    let mut incoming = messages.take_while(|message| ready(message.is_some())).filter_map(ready);
    let end = client.serve(&mut incoming, &mut outgoing, api.stop()).await;
    tracing::debug!(end = end.as_str(), "a stream of a serial port ended");
    let close = websocket::close_code(&end).map(|code| (code, end.reason()));
    websocket::close(outgoing.into_inner(), stream, close, api.clock()).await;
}

fn to_message(message: ToStream) -> Message {
    match message {
        ToStream::Start(offset) => Message::Text(json!({"offset": offset}).to_string().into()),
        ToStream::Bytes(bytes) => Message::Binary(bytes),
        ToStream::Gap { offset, reason } => {
            let gap = json!({"gap": {"offset": offset, "reason": reason.as_str()}});
            Message::Text(gap.to_string().into())
        }
        ToStream::Ping => Message::Ping(Bytes::new()),
    }
}
