//! `POST /v1/machines/{machine}/consolidate`

use axum::extract::State;
use axum::response::Response;

use crate::api::ApiState;
use crate::api::extract::{NoFields, Segment};
use crate::api::jobs::wire::Job;
use crate::api::openapi_parts::{BLOCKED_BY_QUESTION, MachinePath, Problems, START, StartHeaders};
use crate::api::problem::ApiError;
use crate::api::start_job::{StartQuery, StartRequest};
use crate::domain::job::JobRequest;

/// Consolidate the disks of a machine
///
/// Starts a job. A removal of snapshots can leave disks behind, which then slow the machine down
/// and use space. `consolidation_needed` of the machine is then true. The job merges these disks,
/// which can take hours. If no consolidation is needed, the job succeeds with `result.changed`
/// false.
#[utoipa::path(
    post,
    path = "/v1/machines/{machine}/consolidate",
    operation_id = "consolidate_machine",
    tag = "machines",
    params(
        MachinePath,
        StartHeaders,
        StartQuery
    ),
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The accepted job", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([START, BLOCKED_BY_QUESTION].concat()))))]
pub async fn consolidate_machine(
    State(api): State<ApiState>,
    Segment(reference): Segment,
    StartRequest { start, .. }: StartRequest<NoFields>,
) -> Result<Response, ApiError> {
    let started =
        start.run(&api, |start| Ok((start.resolve(&api, &reference)?, JobRequest::Consolidate)));
    Ok(started.await?)
}
