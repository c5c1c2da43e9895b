//! `PATCH /v1/machines/{machine}/snapshots/{snapshot}`

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::snapshot_create::{check_description, check_name};
use super::wire::Snapshot;
use crate::api::documented::{
    MINDS_QUESTION, MachinePath, Problems, START, SnapshotPath, StartHeaders,
};
use crate::api::extract::{Segments, failure_in_body};
use crate::api::problem::ApiError;
use crate::api::starting::{Start, StartQuery};
use crate::api::waiting::Place;
use crate::api::{Api, respond};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{MachineId, SnapshotId};
use crate::domain::job::JobRequest;
use crate::service::event_stream::Version;
use crate::service::jobs::JobView;

/// What to call a snapshot: one of the two at least.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameSnapshotRequest {
    /// At most 80 characters, none of them invisible, and no white space around; left out, it
    /// stays.
    #[schema(nullable = false, example = "kickstart", min_length = 1, max_length = 80)]
    name: Option<String>,
    /// At most 8,192 characters; left out, it stays.
    #[schema(nullable = false, max_length = 8192)]
    description: Option<String>,
}

/// Rename or re-describe a snapshot
///
/// Runs as a job, which queues like any, and is waited for: `wait`, or as long as calls may block.
/// If the time is up the job goes on.
#[utoipa::path(patch, path = "/v1/machines/{machine}/snapshots/{snapshot}", operation_id = "rename_snapshot", tag = "snapshots",
    params(
        MachinePath,
        SnapshotPath,
        StartHeaders,
        StartQuery
    ),
    request_body = RenameSnapshotRequest,
    responses(
        (status = 200, description = "The snapshot as it is called now", body = Snapshot),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([START, MINDS_QUESTION].concat()))))]
pub async fn rename_snapshot(
    State(api): State<Api>,
    Segments(reference, wanted): Segments,
    Start { starting, body, .. }: Start<RenameSnapshotRequest>,
) -> Result<Response, ApiError> {
    let RenameSnapshotRequest { name, description } = body;
    if name.is_none() && description.is_none() {
        let detail = "Give a name, a description, or both.".to_owned();
        return Err(failure_in_body("", "missing", detail).into());
    }
    name.as_deref().map_or(Ok(()), check_name)?;
    description.as_deref().map_or(Ok(()), check_description)?;
    let place = Place::take(&api)?;
    let started = starting.begin(&api, |starting| {
        let machine = starting.resolve(&api, &reference)?;
        let snapshot = api.services().machines.snapshot(&machine, &wanted)?;
        let path = machine.machine.snapshots.path(snapshot);
        let snapshot = snapshot.id.clone();
        let request = JobRequest::RenameSnapshot { snapshot, path, name, description };
        Ok((machine, request))
    });
    let started = started.await?;
    Ok(starting.show(&api, started, place, |version, job| show(&api, version, job)).await?)
}

fn show(api: &Api, version: &Version, job: &JobView) -> Result<Response, Failure> {
    let JobRequest::RenameSnapshot { snapshot, path, .. } = &job.job.request else {
        return Err(Failure::new(FailureKind::Internal, "a rename started a job of another kind"));
    };
    let machine = job.job.machine_id();
    machine.and_then(|machine| look(api, version, machine, snapshot)).ok_or_else(|| {
        let detail = format!("The snapshot {path} was renamed, and is no longer on the machine.");
        Failure::new(FailureKind::NotFound, detail).with_job(job.job.id)
    })
}

fn look(
    api: &Api,
    version: &Version,
    machine: &MachineId,
    snapshot: &SnapshotId,
) -> Option<Response> {
    let view = api.services().machines.get(machine)?;
    let snapshot = view.machine.snapshots.get(snapshot)?;
    Some(respond::object(api, version, &Snapshot::one(&view, snapshot)))
}
