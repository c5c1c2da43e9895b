//! `GET /v1/jobs/{job}/wait`

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::wire::Job;
use super::{JobReader, job_id, require_visible};
use crate::api::ApiState;
use crate::api::extract::{Query, Segment};
use crate::api::long_poll::{WaitEnd, WaitMode, WaitQuery, wait};
use crate::api::openapi_parts::{JobPath, Problems};
use crate::api::problem::ApiError;
use crate::api::start_job::{outcome, unfinished_job};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::JobId;

/// Wait for the outcome of a job
///
/// Returns 200 with the job if it succeeded, else the problem of the job with the status of that
/// problem. Returns 504 `wait-timeout` if the time is up first: the job has not ended, so wait
/// again.
#[utoipa::path(get, path = "/v1/jobs/{job}/wait", operation_id = "wait_for_job", tag = "jobs",
    params(JobPath, WaitQuery),
    responses(
        (status = 200, description = "The job, which succeeded", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "wait-timeout", "shutting-down",
        "too-many-waits", "job-cancelled", "outcome-unknown", "invalid-power-state", "machine-busy",
        "machine-gone", "question-pending", "tools-unavailable", "host-rejected",
        "forbidden-by-host", "license-restricted", "not-supported", "host-unreachable",
        "deadline-exceeded", "insufficient-resources"
    ]))))]
pub async fn wait_for_job(
    State(api): State<ApiState>,
    reader: JobReader,
    Segment(text): Segment,
    Query(query, _): Query<WaitQuery>,
) -> Result<Response, ApiError> {
    let id = job_id(&text)?;
    let time = query.time(&api);
    // Turn a failure into a response before the headers of the wait are added, so that a problem
    // shows the wait time too.
    let mut response = outcome_within(&api, &reader, id, time)
        .await
        .unwrap_or_else(|failure| ApiError(failure).into_response());
    WaitMode::Outcome(time).set_headers(&mut response);
    Ok(response)
}

async fn outcome_within(
    api: &ApiState,
    reader: &JobReader,
    id: JobId,
    time: Duration,
) -> Result<Response, Failure> {
    let version = api.services().event_stream.version();
    let (jobs, text, caller) = (&api.services().jobs, id.to_string(), &reader.caller);
    if caller.scope.is_restricted() {
        // Check this before the wait, because the response time must not reveal whether a job
        // exists that the caller may not see.
        require_visible(api, caller, jobs.get(id).await?, &text)?;
    }
    let kind = match wait(api, time, jobs.ended(id)).await? {
        WaitEnd::Done(ended) => {
            let view = require_visible(api, caller, ended?, &text)?;
            if view.job.state.is_end() {
                return outcome(api, &version, reader, &view).await;
            }
            FailureKind::ShuttingDown
        }
        WaitEnd::TimeUp => FailureKind::WaitTimeout,
        WaitEnd::ShuttingDown => FailureKind::ShuttingDown,
    };
    let view = require_visible(api, caller, jobs.get(id).await?, &text)?;
    // The job can have ended although the wait timed out: the time can be up before the wait reads
    // the job for the first time.
    if view.job.state.is_end() {
        outcome(api, &version, reader, &view).await
    } else {
        Err(unfinished_job(kind, id, &view))
    }
}
