//! `GET /v1/machines/{machine}/snapshots` and `GET /v1/machines/{machine}/snapshots/{snapshot}`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::wire::{Snapshot, SnapshotList};
use crate::api::extract::{NoParameters, Query, Segment, Segments};
use crate::api::openapi_parts::{MachinePath, Problems, READ_MACHINE, SnapshotPath};
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::service::callers::Caller;

/// List the snapshots of a machine
///
/// Returns the whole tree, parents first. otter reads it from memory.
#[utoipa::path(
    get,
    path = "/v1/machines/{machine}/snapshots",
    operation_id = "list_snapshots",
    tag = "snapshots",
    params(MachinePath),
    responses(
        (status = 200, description = "The whole tree, parents first", body = SnapshotList),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(READ_MACHINE))))]
pub async fn list_snapshots(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(reference): Segment,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let view = api.services().machines.resolve(&caller.scope, &reference)?;
    Ok(respond::list(&api, &version, &Snapshot::all(&view), None))
}

/// Get a snapshot
///
/// otter reads the snapshot from memory, without a call to the host.
#[utoipa::path(
    get,
    path = "/v1/machines/{machine}/snapshots/{snapshot}",
    operation_id = "get_snapshot",
    tag = "snapshots",
    params(
        MachinePath,
        SnapshotPath
    ),
    responses(
        (status = 200, description = "The snapshot", body = Snapshot),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(READ_MACHINE))))]
pub async fn get_snapshot(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segments(reference, snapshot): Segments,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let view = api.services().machines.resolve(&caller.scope, &reference)?;
    let snapshot = api.services().machines.snapshot(&view, &snapshot)?;
    Ok(respond::object(&api, &version, &Snapshot::from_view(&view, snapshot)))
}
