//! `DELETE /v1/machines/{machine}/snapshots?all=true` and `DELETE
//! /v1/machines/{machine}/snapshots/{snapshot}`

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::Api;
use crate::api::documented::{
    MINDS_QUESTION, MachinePath, Problems, START, SnapshotPath, StartHeaders,
};
use crate::api::extract::{NoFields, Parsed, Segment, Segments, failure_at};
use crate::api::jobs::wire::Job;
use crate::api::problem::ApiError;
use crate::api::starting::{Start, StartQuery};
use crate::domain::failure::FailureKind;
use crate::domain::job::JobRequest;

/// Says it twice.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RemoveAllQuery {
    /// Must be `true`: nobody is to remove all of them by a forgotten id.
    #[param(value_type = bool)]
    all: Option<Parsed<bool>>,
}

/// How much to remove.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RemoveQuery {
    /// Whether what is below it goes too; else it moves up.
    #[param(value_type = Option<bool>)]
    children: Option<Parsed<bool>>,
}

/// Remove all snapshots of a machine
///
/// Starts a job; the machine stays as it is now.
#[utoipa::path(delete, path = "/v1/machines/{machine}/snapshots", operation_id = "remove_all_snapshots", tag = "snapshots",
    params(
        MachinePath,
        RemoveAllQuery,
        StartHeaders,
        StartQuery
    ),
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The job was accepted and goes on", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([START, MINDS_QUESTION].concat()))))]
pub async fn remove_all_snapshots(
    State(api): State<Api>,
    Segment(reference): Segment,
    Start { starting, query: RemoveAllQuery { all }, .. }: Start<NoFields, RemoveAllQuery>,
) -> Result<Response, ApiError> {
    if !all.is_some_and(Parsed::value) {
        let detail =
            "This removes every snapshot of the machine; say all=true if that is meant.".to_owned();
        return Err(failure_at(FailureKind::InvalidRequest, "all", "missing", detail).into());
    }
    let request = JobRequest::RemoveAllSnapshots;
    Ok(starting.start(&api, |starting| Ok((starting.resolve(&api, &reference)?, request))).await?)
}

/// Remove a snapshot
///
/// Starts a job; the machine stays as it is now. What is below the snapshot moves up, or goes too
/// with `children`.
#[utoipa::path(delete, path = "/v1/machines/{machine}/snapshots/{snapshot}", operation_id = "remove_snapshot", tag = "snapshots",
    params(
        MachinePath,
        SnapshotPath,
        RemoveQuery,
        StartHeaders,
        StartQuery
    ),
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The job was accepted and goes on", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([START, MINDS_QUESTION].concat()))))]
pub async fn remove_snapshot(
    State(api): State<Api>,
    Segments(reference, wanted): Segments,
    Start { starting, query: RemoveQuery { children }, .. }: Start<NoFields, RemoveQuery>,
) -> Result<Response, ApiError> {
    let children = children.is_some_and(Parsed::value);
    let started = starting.start(&api, |starting| {
        let machine = starting.resolve(&api, &reference)?;
        let snapshot = api.services().machines.snapshot(&machine, &wanted)?;
        let path = machine.machine.snapshots.path(snapshot);
        let request = JobRequest::RemoveSnapshot { snapshot: snapshot.id.clone(), path, children };
        Ok((machine, request))
    });
    Ok(started.await?)
}
