//! `PATCH /v1/machines/{machine}/snapshots/{snapshot}`

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::snapshot_create::{check_description, check_name};
use super::wire::Snapshot;
use crate::api::extract::{Segments, failure_in_body};
use crate::api::long_poll::WaitPermit;
use crate::api::openapi_parts::{
    BLOCKED_BY_QUESTION, MachinePath, Problems, START, SnapshotPath, StartHeaders,
};
use crate::api::problem::ApiError;
use crate::api::start_job::{StartQuery, StartRequest};
use crate::api::{ApiState, respond};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{MachineId, SnapshotId};
use crate::domain::job::JobRequest;
use crate::service::event_stream::Version;
use crate::service::jobs::JobView;

/// The new name of a snapshot, its new description, or both.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameSnapshotRequest {
    /// The new name of the snapshot, at most 80 characters, without invisible characters and
    /// surrounding white space. Default: the name stays unchanged.
    #[schema(nullable = false, example = "kickstart", min_length = 1, max_length = 80)]
    name: Option<String>,
    /// The new description of the snapshot, at most 8,192 characters. Default: the description
    /// stays unchanged.
    #[schema(nullable = false, max_length = 8192)]
    description: Option<String>,
}

/// Change the name or description of a snapshot
///
/// Starts a job, which is queued like other jobs, and waits for the end of the job, at most for
/// `wait` (default: `http.max_wait`). If this time is over first, the job continues.
#[utoipa::path(
    patch,
    path = "/v1/machines/{machine}/snapshots/{snapshot}",
    operation_id = "rename_snapshot",
    tag = "snapshots",
    params(
        MachinePath,
        SnapshotPath,
        StartHeaders,
        StartQuery
    ),
    request_body = RenameSnapshotRequest,
    responses(
        (status = 200, description = "The changed snapshot", body = Snapshot),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([START, BLOCKED_BY_QUESTION].concat()))))]
pub async fn rename_snapshot(
    State(api): State<ApiState>,
    Segments(reference, snapshot): Segments,
    StartRequest { start, body, .. }: StartRequest<RenameSnapshotRequest>,
) -> Result<Response, ApiError> {
    let RenameSnapshotRequest { name, description } = body;
    if name.is_none() && description.is_none() {
        let detail = "Set name, description or both.".to_owned();
        return Err(failure_in_body("", "missing", detail).into());
    }
    name.as_deref().map_or(Ok(()), check_name)?;
    description.as_deref().map_or(Ok(()), check_description)?;
    let permit = WaitPermit::acquire(&api)?;
    let started = start.start_job(&api, |start| {
        let machine = start.resolve(&api, &reference)?;
        let snapshot = api.services().machines.snapshot(&machine, &snapshot)?;
        let path = machine.machine.snapshots.path(snapshot);
        let snapshot = snapshot.id.clone();
        let request = JobRequest::RenameSnapshot { snapshot, path, name, description };
        Ok((machine, request))
    });
    let started = started.await?;
    Ok(start
        .answer_with(&api, started, permit, |version, job| renamed_response(&api, version, job))
        .await?)
}

fn renamed_response(api: &ApiState, version: &Version, job: &JobView) -> Result<Response, Failure> {
    let JobRequest::RenameSnapshot { snapshot, path, .. } = &job.job.request else {
        return Err(Failure::new(FailureKind::Internal, "a rename started a job of another kind"));
    };
    let machine = job.job.machine_id();
    machine.and_then(|machine| snapshot_response(api, version, machine, snapshot)).ok_or_else(
        || {
            let detail =
                format!("The snapshot {path} was renamed, but the machine no longer has it.");
            Failure::new(FailureKind::NotFound, detail).with_job(job.job.id)
        },
    )
}

fn snapshot_response(
    api: &ApiState,
    version: &Version,
    machine: &MachineId,
    snapshot: &SnapshotId,
) -> Option<Response> {
    let view = api.services().machines.get(machine)?;
    let snapshot = view.machine.snapshots.get(snapshot)?;
    Some(respond::object(api, version, &Snapshot::from_view(&view, snapshot)))
}
