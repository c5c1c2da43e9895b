//! `POST /v1/machines/{machine}/power`

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::Api;
use crate::api::documented::{MachinePath, Problems, START, StartHeaders, StartQuery};
use crate::api::extract::{Segment, failure_in_body};
use crate::api::jobs::wire::Job;
use crate::api::problem::ApiError;
use crate::api::starting::Start;
use crate::domain::job::JobRequest;
use crate::service::machines::shorten;

/// What to do with the power.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PowerRequest {
    /// `on`, `off` or `reset`; the last two are hard, like pulling the plug.
    #[schema(example = "on")]
    action: String,
}

/// Power a machine on or off, or reset it
///
/// Starts a job. A machine that is in the wanted state already makes it succeed with `result.changed` false.
#[utoipa::path(post, path = "/v1/machines/{machine}/power", operation_id = "power_machine", tag = "machines",
    params(
        MachinePath,
        StartHeaders,
        StartQuery
    ),
    request_body = PowerRequest,
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The job was accepted and goes on", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(START))))]
pub async fn power_machine(
    State(api): State<Api>,
    Segment(reference): Segment,
    Start { starting, body }: Start<PowerRequest>,
) -> Result<Response, ApiError> {
    let request = match body.action.as_str() {
        "on" => JobRequest::PowerOn,
        "off" => JobRequest::PowerOff,
        "reset" => JobRequest::Reset,
        other => {
            let detail = format!("action is {}; one of on, off, reset is wanted.", shorten(other));
            return Err(failure_in_body("/action", "not-one-of", detail).into());
        }
    };
    if let Some(replay) = starting.replay(&api).await? {
        return Ok(replay);
    }
    let machine = api.services().machines.resolve(&reference)?;
    Ok(starting.start(&api, &machine, request).await?)
}
