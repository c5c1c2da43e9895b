//! `DELETE /v1/pools/{pool}/quarantine`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use utoipa::IntoParams;

use crate::api::extract::{NoParameters, Query, Segment};
use crate::api::machines::wire::{Machine, MachineList};
use crate::api::openapi_parts::Problems;
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::service::callers::Caller;
use crate::service::machines::empty_name;

/// The path parameter that names a pool.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the segment")]
pub struct PoolPath {
    /// The name of the pool. If a proxy refuses `%2F`, write `%252F`.
    pool: String,
}

/// Clear the quarantines of a pool
///
/// Clears the quarantines that otter set by itself, because a preparation or a release had failed.
/// A quarantine that a person set stays. The response has the machines whose quarantine was
/// cleared, sorted by name.
#[utoipa::path(
    delete,
    path = "/v1/pools/{pool}/quarantine",
    operation_id = "clear_pool_quarantine",
    tag = "leases",
    params(PoolPath),
    responses(
        (
            status = 200,
            description = "The machines whose quarantine was cleared",
            body = MachineList
        ),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "inventory-loading",
        "storage-unavailable", "shutting-down"
    ]))))]
pub async fn clear_pool_quarantine(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(pool): Segment,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    if pool.is_empty() {
        return Err(empty_name("pool").into());
    }
    let cleared = api.services().leases.clear_automatic_quarantines(&caller, &pool).await?;
    let version = api.services().event_stream.version();
    let machines = &api.services().machines;
    // The host may have removed a machine since its quarantine was cleared. The list leaves this
    // machine out.
    let views = cleared.iter().filter_map(|id| machines.get_in(&caller.scope, id));
    let items: Vec<Machine> = views.map(|view| Machine::from_view(&view)).collect();
    Ok(respond::list(&api, &version, &items, None))
}
