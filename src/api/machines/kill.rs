//! `POST /v1/machines/kill`

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::ApiState;
use crate::api::extract::failure_in_body;
use crate::api::jobs::wire::Job;
use crate::api::openapi_parts::{Problems, START, StartHeaders};
use crate::api::problem::ApiError;
use crate::api::start_job::{StartQuery, StartRequest};
use crate::domain::job::JobRequest;

/// The machine to kill.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KillRequest {
    /// The exact name of the machine.
    #[schema(example = "sd-dev-1")]
    name: String,
}

/// Kill a machine
///
/// Powers the machine off at once: before all queued jobs, and despite a pending question. otter
/// does not wait for the running job, but requests its cancellation. 409 `ambiguous-name` if
/// several machines have this name.
#[utoipa::path(post, path = "/v1/machines/kill", operation_id = "kill_machine", tag = "machines",
    params(
        StartHeaders,
        StartQuery
    ),
    request_body = KillRequest,
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The accepted job", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(START))))]
pub async fn kill_machine(
    State(api): State<ApiState>,
    StartRequest { start, body, .. }: StartRequest<KillRequest>,
) -> Result<Response, ApiError> {
    if body.name.is_empty() {
        return Err(failure_in_body(
            "/name",
            "empty",
            "The name is empty; write the exact name of the machine.".to_owned(),
        )
        .into());
    }
    let started = start.run(&api, |start| {
        let machine = api.services().machines.resolve_name(&start.caller().scope, &body.name)?;
        Ok((machine, JobRequest::Kill))
    });
    Ok(started.await?)
}
