//! `GET /v1/machines/{machine}/screen`

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::LookHeaders;
use crate::api::extract::{NoParameters, Query, Segment};
use crate::api::lease_authorization::read_authorization;
use crate::api::openapi_parts::{MachinePath, Problems};
use crate::api::problem::ApiError;
use crate::api::{ApiState, links, respond};
use crate::domain::ids::LeaseId;
use crate::domain::machine::Machine;
use crate::service::callers::Caller;
use crate::service::screens;

/// The screen of a machine, and who uses it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Screen {
    /// The id of the machine.
    pub machine: String,
    /// Whether the machine has a screen now.
    pub available: bool,
    /// Why it has none, in a sentence. Null if it has one.
    #[schema(required)]
    pub unavailable_reason: Option<String>,
    /// The width in pixels when otter last saw the screen. Null if it did not see it since it
    /// opened the connection.
    #[schema(required)]
    pub width: Option<u16>,
    #[schema(required)]
    pub height: Option<u16>,
    /// When a pixel last changed. Null as for `width`.
    #[schema(required)]
    pub changed_at: Option<Timestamp>,
    /// The connection to the host. `closed` while no one looks; `fallback`: the host refuses a
    /// connection, and otter reads single pictures.
    #[schema(extensions(("x-extensible-enum" = json!([
        "closed", "opening", "open", "retrying", "fallback"
    ]))))]
    pub connection: String,
    /// The open viewers, the longest open first.
    pub viewers: Vec<ScreenViewer>,
    /// The viewer that drives. Null if no viewer does.
    #[schema(required)]
    pub driver: Option<ScreenDriver>,
    /// The id of the lease for which the screen is being recorded. Null if it is not.
    #[schema(required)]
    pub recording: Option<String>,
    /// `self`, `machine`, `picture`, `text`, `wait`, `input` and `rfb`.
    pub links: BTreeMap<String, String>,
}

/// A WebSocket that shows the screen.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ScreenViewer {
    pub id: String,
    /// The name of its caller.
    pub caller: String,
    #[schema(extensions(("x-extensible-enum" = json!(["view", "drive"]))))]
    pub mode: String,
    pub since: Timestamp,
    /// The IP address of its caller. Null for a caller on a Unix socket.
    #[schema(required)]
    pub address: Option<String>,
}

/// The viewer that drives.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ScreenDriver {
    /// The name of its caller.
    pub caller: String,
    /// The lease by which it drives. Null for an operator without a lease.
    #[schema(required)]
    pub lease: Option<String>,
    pub since: Timestamp,
}

/// Get the state of a screen
///
/// Read from memory: opens no connection to the screen.
#[utoipa::path(
    get,
    path = "/v1/machines/{machine}/screen",
    operation_id = "get_screen",
    tag = "screens",
    params(MachinePath, LookHeaders),
    responses(
        (status = 200, description = "The state of the screen", body = Screen),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "inventory-loading",
        "machine-leased"
    ]))))]
pub async fn get_screen(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(reference): Segment,
    headers: HeaderMap,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let requester = read_authorization(&api, &caller, &headers)?;
    let view = api.services().machines.resolve(&caller.scope, &reference)?;
    api.services().screens.may_look(&requester, &view.machine)?;
    let state = api.services().screens.state(&view.machine);
    let recording = api.services().leases.recording_of_screen(&view.machine);
    Ok(respond::object(&api, &version, &Screen::from_state(&view.machine, state, recording)))
}

impl Screen {
    fn from_state(
        machine: &Machine,
        state: screens::ScreenState,
        recording: Option<LeaseId>,
    ) -> Self {
        let screens::ScreenState {
            unavailable_reason,
            size,
            changed_at,
            connection,
            viewers,
            driver,
        } = state;
        let of_machine = links::machine(&machine.id);
        let screen = format!("{of_machine}/screen");
        let link = |name: &str, path: String| (name.to_owned(), path);
        Self {
            machine: machine.id.to_string(),
            available: unavailable_reason.is_none(),
            unavailable_reason,
            width: size.map(|size| size.width),
            height: size.map(|size| size.height),
            changed_at,
            connection: connection.as_str().to_owned(),
            viewers: viewers.into_iter().map(ScreenViewer::from_info).collect(),
            driver: driver.map(ScreenDriver::from_info),
            recording: recording.map(|lease| lease.to_string()),
            links: BTreeMap::from([
                link("picture", format!("{screen}.png")),
                link("text", format!("{screen}/text")),
                link("wait", format!("{screen}/wait")),
                link("input", format!("{screen}/input")),
                link("rfb", format!("{screen}/rfb")),
                link("machine", of_machine),
                link("self", screen),
            ]),
        }
    }
}

impl ScreenViewer {
    fn from_info(viewer: screens::ViewerInfo) -> Self {
        let screens::ViewerInfo { id, caller, mode, since, address } = viewer;
        Self {
            id: id.to_string(),
            caller,
            mode: mode.as_str().to_owned(),
            since,
            address: address.map(|address| address.to_string()),
        }
    }
}

impl ScreenDriver {
    fn from_info(driver: screens::DriverInfo) -> Self {
        let screens::DriverInfo { caller, lease, since } = driver;
        Self { caller, lease: lease.map(|lease| lease.to_string()), since }
    }
}
