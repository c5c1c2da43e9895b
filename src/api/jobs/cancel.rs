//! `POST /v1/jobs/{job}/cancel`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::wire::Job;
use super::{job_id, require_visible};
use crate::api::extract::{JsonBody, NoFields, NoParameters, Query, Segment};
use crate::api::openapi_parts::{JobPath, Problems};
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::service::callers::Caller;

/// Ask to cancel a job
///
/// A request, which may be repeated. A job that waits is cancelled at once; of one that runs the
/// host is asked to cancel the task where it allows that, and the job may still succeed. One that
/// has ended stays as it is.
#[utoipa::path(post, path = "/v1/jobs/{job}/cancel", operation_id = "cancel_job", tag = "jobs",
    params(JobPath),
    responses(
        (status = 200, description = "The job had ended before", body = Job),
        (status = 202, description = "The job, which was asked to cancel", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter", "not-found", "request-timeout",
        "payload-too-large", "unsupported-media-type"]))))]
pub async fn cancel_job(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(text): Segment,
    _: Query<NoParameters>,
    _: JsonBody<NoFields>,
) -> Result<Response, ApiError> {
    let id = job_id(&text)?;
    let version = api.services().event_stream.version();
    let jobs = &api.services().jobs;
    let before = require_visible(&api, &caller, jobs.get(id).await?, &text)?;
    caller.may_cancel(&before.job.requested_by)?;
    if before.job.state.is_end() {
        return Ok(respond::object(&api, &version, &Job::from_view(&before)));
    }
    let view = require_visible(&api, &caller, jobs.cancel(id, caller.actor()).await?, &text)?;
    let mut response = respond::object(&api, &version, &Job::from_view(&view));
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}
