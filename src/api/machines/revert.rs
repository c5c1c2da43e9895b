//! `POST /v1/machines/{machine}/revert` and `POST
//! /v1/machines/{machine}/snapshots/{snapshot}/revert`

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::ApiState;
use crate::api::extract::{Segment, Segments, failure_in_body};
use crate::api::jobs::wire::Job;
use crate::api::openapi_parts::{
    BLOCKED_BY_QUESTION, MachinePath, Problems, START, SnapshotPath, StartHeaders,
};
use crate::api::problem::ApiError;
use crate::api::start_job::{StartQuery, StartRequest};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::job::JobRequest;
use crate::service::machines::MachineView;

/// The snapshot to which otter reverts the machine, and the power state after the revert.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevertRequest {
    /// The snapshot: its id, else its name, else its path `a/b/c`. Default: the current snapshot.
    #[schema(nullable = false, example = "base/updated/kickstart")]
    snapshot: Option<String>,
    /// Whether the machine is on after the revert. Default: the power state of the snapshot
    /// decides.
    #[schema(nullable = false)]
    power_on: Option<bool>,
}

/// The power state of the machine after it is reverted to the snapshot in the path.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevertToSnapshotRequest {
    /// Whether the machine is on after the revert. Default: the power state of the snapshot
    /// decides.
    #[schema(nullable = false)]
    power_on: Option<bool>,
}

/// Revert a machine
///
/// Starts a job that reverts the machine to a snapshot. otter finds the snapshot before it accepts
/// the job, so that a later rename of the snapshot has no effect.
#[utoipa::path(
    post,
    path = "/v1/machines/{machine}/revert",
    operation_id = "revert_machine",
    tag = "snapshots",
    params(
        MachinePath,
        StartHeaders,
        StartQuery
    ),
    request_body = RevertRequest,
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The accepted job", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([START, BLOCKED_BY_QUESTION].concat()))))]
pub async fn revert_machine(
    State(api): State<ApiState>,
    Segment(reference): Segment,
    StartRequest { start, body, .. }: StartRequest<RevertRequest>,
) -> Result<Response, ApiError> {
    let RevertRequest { snapshot, power_on } = body;
    if snapshot.as_deref() == Some("") {
        let detail = "The snapshot is empty; omit it to revert to the current snapshot.".to_owned();
        return Err(failure_in_body("/snapshot", "empty", detail).into());
    }
    let started = start.run(&api, |start| {
        let machine = start.resolve(&api, &reference)?;
        let request = revert_request(&api, &machine, snapshot.as_deref(), power_on)?;
        Ok((machine, request))
    });
    Ok(started.await?)
}

/// Revert a machine to the snapshot in the path
///
/// Starts a job that reverts the machine, like `POST /v1/machines/{machine}/revert`. The path names
/// the snapshot, so the body does not.
#[utoipa::path(
    post,
    path = "/v1/machines/{machine}/snapshots/{snapshot}/revert",
    operation_id = "revert_to_snapshot",
    tag = "snapshots",
    params(
        MachinePath,
        SnapshotPath,
        StartHeaders,
        StartQuery
    ),
    request_body = RevertToSnapshotRequest,
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The accepted job", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([START, BLOCKED_BY_QUESTION].concat()))))]
pub async fn revert_to_snapshot(
    State(api): State<ApiState>,
    Segments(reference, snapshot): Segments,
    StartRequest { start, body, .. }: StartRequest<RevertToSnapshotRequest>,
) -> Result<Response, ApiError> {
    let started = start.run(&api, |start| {
        let machine = start.resolve(&api, &reference)?;
        let request = revert_request(&api, &machine, Some(&snapshot), body.power_on)?;
        Ok((machine, request))
    });
    Ok(started.await?)
}

fn revert_request(
    api: &ApiState,
    view: &MachineView,
    reference: Option<&str>,
    power_on: Option<bool>,
) -> Result<JobRequest, Failure> {
    let machine = &view.machine;
    let snapshots = &machine.snapshots;
    let snapshot = match reference {
        Some(reference) => api.services().machines.snapshot(view, reference)?,
        None => snapshots.current.as_ref().and_then(|id| snapshots.get(id)).ok_or_else(|| {
            let detail = format!("{} has no current snapshot.", machine.name);
            Failure::new(FailureKind::NotFound, detail).with_machine(&machine.id, &machine.name)
        })?,
    };
    Ok(JobRequest::Revert {
        snapshot: snapshot.id.clone(),
        path: snapshots.path(snapshot),
        power_on,
    })
}
