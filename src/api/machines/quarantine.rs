//! `PUT` and `DELETE /v1/machines/{machine}/quarantine`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::wire::Machine;
use crate::api::extract::{
    JsonBody, NoParameters, Query, Segment, check_printable_field, failure_in_body,
};
use crate::api::openapi_parts::{MachinePath, Problems};
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::domain::ids::MachineId;
use crate::domain::machine_reference::MachineReference;
use crate::service::callers::Caller;

/// The request to quarantine a machine.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuarantineRequest {
    /// Why the machine is quarantined, as a text for people, 1 to 512 characters.
    #[schema(example = "its disk is damaged")]
    reason: String,
}

/// The largest number of characters of a reason.
const MAX_REASON: usize = 512;

/// Quarantine a machine
///
/// otter does not lease a quarantined machine until the quarantine is cleared. otter also
/// quarantines a machine by itself if its preparation or release fails.
#[utoipa::path(
    put,
    path = "/v1/machines/{machine}/quarantine",
    operation_id = "quarantine_machine",
    tag = "machines",
    params(MachinePath),
    request_body = QuarantineRequest,
    responses(
        (status = 200, description = "The machine", body = Machine),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "request-timeout",
        "payload-too-large", "unsupported-media-type", "inventory-loading", "storage-unavailable",
        "shutting-down"
    ]))))]
pub async fn quarantine_machine(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(reference): Segment,
    _: Query<NoParameters>,
    JsonBody { value: QuarantineRequest { reason }, .. }: JsonBody<QuarantineRequest>,
) -> Result<Response, ApiError> {
    if reason.trim().is_empty() || reason.chars().count() > MAX_REASON {
        let detail = format!("reason must have 1 to {MAX_REASON} characters.");
        return Err(failure_in_body("/reason", "out-of-range", detail).into());
    }
    check_printable_field("/reason", &reason)?;
    let view = api.services().machines.resolve(&caller.scope, &reference)?;
    api.services().leases.quarantine(&view.machine, reason, &caller).await?;
    machine_response(&api, &caller, &view.machine.id)
}

/// Clear the quarantine of a machine
///
/// After this call, otter may lease the machine again.
#[utoipa::path(
    delete,
    path = "/v1/machines/{machine}/quarantine",
    operation_id = "clear_quarantine",
    tag = "machines",
    params(MachinePath),
    responses(
        (status = 200, description = "The machine", body = Machine),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "inventory-loading",
        "storage-unavailable", "shutting-down"
    ]))))]
pub async fn clear_quarantine(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(reference): Segment,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let view = api.services().machines.resolve(&caller.scope, &reference)?;
    api.services().leases.clear_quarantine(&view.machine, &caller).await?;
    machine_response(&api, &caller, &view.machine.id)
}

fn machine_response(api: &ApiState, caller: &Caller, id: &MachineId) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let reference = MachineReference::Id(id.clone());
    let view = api.services().machines.resolve_reference(&caller.scope, &reference)?;
    Ok(respond::object(api, &version, &Machine::from_view(&view)))
}
