//! `GET /v1/jobs/{job}`

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::wire::Job;
use super::{JobReader, job_id, job_response, require_visible};
use crate::api::extract::{Parsed, Query, Segment};
use crate::api::long_poll::{OTTER_WAIT, WaitEnd, wait};
use crate::api::openapi_parts::{JobPath, Problems};
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};

/// The query parameter with which a read of a job waits for the job.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct JobQuery {
    /// The longest time to wait for the end of the job: `30s`, `10m`. The status is 200 in any
    /// case. Default: do not wait.
    #[param(value_type = Option<String>)]
    wait: Option<Parsed<Duration>>,
}

/// Get a job
///
/// Returns 200 with the job in any state, also if it failed. With `wait`, waits until the job ends
/// or the time is up.
#[utoipa::path(get, path = "/v1/jobs/{job}", operation_id = "get_job", tag = "jobs",
    params(JobPath, JobQuery),
    responses(
        (status = 200, description = "The job", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "too-many-waits"
    ]))))]
pub async fn get_job(
    State(api): State<ApiState>,
    reader: JobReader,
    Segment(text): Segment,
    Query(query, _): Query<JobQuery>,
) -> Result<Response, ApiError> {
    let (id, caller) = (job_id(&text)?, &reader.caller);
    let time = query.wait.map(|Parsed(time)| time.min(api.settings().max_wait));
    let jobs = &api.services().jobs;
    if caller.scope.is_restricted() {
        // Check this before the wait, because the response time must not reveal whether a job
        // exists that the caller may not see.
        require_visible(&api, caller, jobs.get(id).await?, &text)?;
    }
    let waited = match time {
        Some(time) => wait(&api, time, jobs.ended(id)).await?,
        None => WaitEnd::TimeUp,
    };
    let version = api.services().event_stream.version();
    let view = match waited {
        // Use the job that the wait returned. Otherwise thousands of calls whose waits end at the
        // same time would all read the store.
        WaitEnd::Done(ended) => ended?,
        WaitEnd::TimeUp | WaitEnd::ShuttingDown => jobs.get(id).await?,
    };
    let view = require_visible(&api, caller, view, &text)?;
    let mut response = job_response(&api, &version, &reader, &view).await?;
    if let Some(time) = time {
        respond::set(&mut response, OTTER_WAIT, &format!("{}s", time.as_secs()));
    }
    Ok(response)
}
