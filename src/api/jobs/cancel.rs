//! `POST /v1/jobs/{job}/cancel`

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::wire::Job;
use super::{JobReader, job_id, require_visible};
use crate::api::extract::{JsonBody, NoFields, NoParameters, Query, Segment};
use crate::api::openapi_parts::{JobPath, Problems};
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};

/// Ask to cancel a job
///
/// A queued job ends at once. For a running job, otter asks the host to cancel the job's task if
/// the host allows that; the job can still succeed. An ended job does not change. The request may
/// be repeated.
#[utoipa::path(post, path = "/v1/jobs/{job}/cancel", operation_id = "cancel_job", tag = "jobs",
    params(JobPath),
    responses(
        (status = 200, description = "The job, which had already ended", body = Job),
        (status = 202, description = "The job, whose cancellation is requested", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "request-timeout", "payload-too-large",
        "unsupported-media-type"
    ]))))]
pub async fn cancel_job(
    State(api): State<ApiState>,
    reader: JobReader,
    Segment(text): Segment,
    _: Query<NoParameters>,
    _: JsonBody<NoFields>,
) -> Result<Response, ApiError> {
    let (id, caller) = (job_id(&text)?, &reader.caller);
    let version = api.services().event_stream.version();
    let jobs = &api.services().jobs;
    let before = require_visible(&api, caller, jobs.get(id).await?, &text)?;
    caller.may_cancel(&before.job.requested_by)?;
    if before.job.state.is_end() {
        return Ok(respond::object(&api, &version, &reader.show(&api, &before).await?));
    }
    let view = require_visible(&api, caller, jobs.cancel(id, caller.actor()).await?, &text)?;
    let mut response = respond::object(&api, &version, &reader.show(&api, &view).await?);
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}
