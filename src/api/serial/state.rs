//! `GET /v1/machines/{machine}/serial`

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::extract::{NoParameters, Query, Segment};
use crate::api::lease_authorization::read_authorization;
use crate::api::openapi_parts::{MachinePath, Problems};
use crate::api::problem::ApiError;
use crate::api::screens::LookHeaders;
use crate::api::{ApiState, links, respond};
use crate::domain::machine::Machine;
use crate::domain::serial::Gap;
use crate::service::callers::Caller;
use crate::service::screens::DriverInfo;
use crate::service::serial::{Bounds, PortState};

/// The serial ports of a machine.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SerialPorts {
    /// The id of the machine.
    pub machine: String,
    /// In the order of the machine's configuration.
    pub ports: Vec<SerialPortState>,
    /// `self` and `machine`.
    pub links: BTreeMap<String, String>,
}

/// A serial port, and what otter keeps of its output.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SerialPortState {
    #[schema(example = 9000)]
    pub key: i32,
    #[schema(example = "Serial port 1")]
    pub label: String,
    /// The name of the port in a Linux guest. Null if the label has no number.
    #[schema(required, example = "ttyS0")]
    pub linux_device: Option<String>,
    /// `open`: otter is connected. `closed`: not now, for example because no one uses the port or
    /// because the machine is off. `unavailable`: otter cannot connect.
    #[schema(extensions(("x-extensible-enum" = json!(["open", "closed", "unavailable"]))))]
    pub access: String,
    /// Why otter is not connected, in a sentence. Null while it is.
    #[schema(required)]
    pub access_reason: Option<String>,
    /// The offset of the first byte that otter keeps.
    #[schema(example = 0)]
    pub first_offset: u64,
    /// The offset of the next byte that the port outputs.
    #[schema(example = 4096)]
    pub next_offset: u64,
    /// Where bytes may be missing, the oldest first. At most 64.
    pub gaps: Vec<SerialGap>,
    /// The call or the stream that writes. Null if none does.
    #[schema(required)]
    pub writer: Option<SerialWriter>,
    /// `log`, `wait`, `input` and `stream`.
    pub links: BTreeMap<String, String>,
}

/// A place in the output of a serial port where bytes may be missing.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SerialGap {
    /// The offset of the first byte after the gap.
    #[schema(example = 4096)]
    pub offset: u64,
    /// How many offsets before it no byte has. Zero unless otter died.
    #[schema(example = 0)]
    pub skipped: u64,
    /// When the gap ended.
    pub at: Timestamp,
    /// `reconnect`: the connection was lost. `closed`: no one used the port. `restart`: otter was
    /// restarted. `crash`: otter died. `overflow`: the bytes were too many for the disk.
    #[schema(extensions(("x-extensible-enum" = json!([
        "reconnect", "closed", "restart", "crash", "overflow"
    ]))))]
    pub reason: String,
}

/// The call or the stream that writes to a serial port.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SerialWriter {
    /// The name of its caller.
    pub caller: String,
    /// The lease by which it writes. Null for an operator without a lease.
    #[schema(required)]
    pub lease: Option<String>,
    pub since: Timestamp,
}

/// List the serial ports of a machine
///
/// Connects to none of them.
#[utoipa::path(
    get,
    path = "/v1/machines/{machine}/serial",
    operation_id = "get_serial_ports",
    tag = "serial",
    params(MachinePath, LookHeaders),
    responses(
        (status = 200, description = "The serial ports", body = SerialPorts),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "inventory-loading",
        "machine-leased", "not-supported"
    ]))))]
pub async fn get_serial_ports(
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
    let states = api.services().serial.states(&view.machine).await?;
    Ok(respond::object(&api, &version, &SerialPorts::from_states(&view.machine, states)))
}

impl SerialPorts {
    fn from_states(machine: &Machine, states: Vec<PortState>) -> Self {
        let of_machine = links::machine(&machine.id);
        let ports = format!("{of_machine}/serial");
        let port = |state| SerialPortState::from_state(&ports, state);
        Self {
            machine: machine.id.to_string(),
            ports: states.into_iter().map(port).collect(),
            links: BTreeMap::from([
                ("self".to_owned(), ports.clone()),
                ("machine".to_owned(), of_machine),
            ]),
        }
    }
}

impl SerialPortState {
    fn from_state(ports: &str, state: PortState) -> Self {
        let PortState { port, access, reason, bounds, gaps, writer } = state;
        let Bounds { first, next } = bounds;
        let path = format!("{ports}/{}", port.key);
        let links = ["log", "wait", "input", "stream"];
        Self {
            key: port.key,
            label: port.label,
            linux_device: port.linux_device,
            access: access.as_str().to_owned(),
            access_reason: reason,
            first_offset: first,
            next_offset: next,
            gaps: gaps.iter().map(SerialGap::from_gap).collect(),
            writer: writer.map(SerialWriter::from_info),
            links: links.map(|name| (name.to_owned(), format!("{path}/{name}"))).into(),
        }
    }
}

impl SerialGap {
    fn from_gap(gap: &Gap) -> Self {
        let Gap { offset, skipped, at, reason } = *gap;
        Self { offset, skipped, at, reason: reason.as_str().to_owned() }
    }
}

impl SerialWriter {
    fn from_info(writer: DriverInfo) -> Self {
        let DriverInfo { caller, lease, since } = writer;
        Self { caller, lease: lease.map(|lease| lease.to_string()), since }
    }
}
