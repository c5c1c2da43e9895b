//! `DELETE /v1/machines/{machine}/snapshots?all=true` and `DELETE
//! /v1/machines/{machine}/snapshots/{snapshot}`

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::ApiState;
use crate::api::extract::{NoFields, Parsed, Segment, Segments, failure_at};
use crate::api::jobs::wire::Job;
use crate::api::openapi_parts::{
    BLOCKED_BY_QUESTION, MachinePath, Problems, START, SnapshotPath, StartHeaders,
};
use crate::api::problem::ApiError;
use crate::api::start_job::{StartQuery, StartRequest};
use crate::domain::failure::FailureKind;
use crate::domain::job::JobRequest;

/// The query parameter that confirms the removal of all snapshots.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RemoveAllQuery {
    /// Must be `true`, so that a client that omits the id of a snapshot by mistake does not remove
    /// all snapshots.
    #[param(value_type = bool)]
    all: Option<Parsed<bool>>,
}

/// The query parameter that says whether the children of the snapshot are removed too.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RemoveQuery {
    /// Whether the job also removes all snapshots below the snapshot. Default: false. The children
    /// of the removed snapshot then become children of its parent.
    #[param(value_type = Option<bool>)]
    children: Option<Parsed<bool>>,
}

/// Remove all snapshots of a machine
///
/// Starts a job. The current state of the machine does not change.
#[utoipa::path(
    delete,
    path = "/v1/machines/{machine}/snapshots",
    operation_id = "remove_all_snapshots",
    tag = "snapshots",
    params(
        MachinePath,
        RemoveAllQuery,
        StartHeaders,
        StartQuery
    ),
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The accepted job", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([START, BLOCKED_BY_QUESTION].concat()))))]
pub async fn remove_all_snapshots(
    State(api): State<ApiState>,
    Segment(reference): Segment,
    StartRequest { start, query: RemoveAllQuery { all }, .. }: StartRequest<
        NoFields,
        RemoveAllQuery,
    >,
) -> Result<Response, ApiError> {
    if !all.is_some_and(Parsed::value) {
        let detail =
            "This removes all snapshots of the machine; set all=true to confirm.".to_owned();
        return Err(failure_at(FailureKind::InvalidRequest, "all", "missing", detail).into());
    }
    let request = JobRequest::RemoveAllSnapshots;
    Ok(start.run(&api, |start| Ok((start.resolve(&api, &reference)?, request))).await?)
}

/// Remove a snapshot
///
/// Starts a job. The current state of the machine does not change. The children of the snapshot
/// become children of its parent, or are removed too with `children=true`.
#[utoipa::path(
    delete,
    path = "/v1/machines/{machine}/snapshots/{snapshot}",
    operation_id = "remove_snapshot",
    tag = "snapshots",
    params(
        MachinePath,
        SnapshotPath,
        RemoveQuery,
        StartHeaders,
        StartQuery
    ),
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The accepted job", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([START, BLOCKED_BY_QUESTION].concat()))))]
pub async fn remove_snapshot(
    State(api): State<ApiState>,
    Segments(reference, snapshot): Segments,
    StartRequest { start, query: RemoveQuery { children }, .. }: StartRequest<
        NoFields,
        RemoveQuery,
    >,
) -> Result<Response, ApiError> {
    let children = children.is_some_and(Parsed::value);
    let started = start.run(&api, |start| {
        let machine = start.resolve(&api, &reference)?;
        let snapshot = api.services().machines.snapshot(&machine, &snapshot)?;
        let path = machine.machine.snapshots.path(snapshot);
        let request = JobRequest::RemoveSnapshot { snapshot: snapshot.id.clone(), path, children };
        Ok((machine, request))
    });
    Ok(started.await?)
}
