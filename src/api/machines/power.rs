//! `POST /v1/machines/{machine}/power`

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::ApiState;
use crate::api::extract::{Segment, failure_in_body, some_duration_text};
use crate::api::jobs::wire::Job;
use crate::api::openapi_parts::{BLOCKED_BY_QUESTION, MachinePath, Problems, START, StartHeaders};
use crate::api::problem::ApiError;
use crate::api::start_job::{StartQuery, StartRequest};
use crate::domain::duration;
use crate::domain::failure::Failure;
use crate::domain::job::JobRequest;
use crate::service::machines::shorten;

/// The change of a machine's power state.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PowerRequest {
    /// The change: `on` or `suspend`; `off` or `reset`, which do not involve the guest; `shutdown`
    /// or `reboot`, which the guest does by itself and which need VMware Tools.
    #[schema(example = "on", extensions(("x-extensible-enum" = json!(ACTIONS))))]
    action: String,
    /// The time after which otter powers the machine off if the guest has not shut down, such as
    /// `90s`. Only with `shutdown`. If VMware Tools do not run, otter powers the machine off at
    /// once.
    #[schema(nullable = false, example = "90s")]
    #[serde(default, deserialize_with = "some_duration_text")]
    force_after: Option<String>,
}

const ACTIONS: [&str; 6] = ["on", "off", "reset", "suspend", "shutdown", "reboot"];

/// Change the power of a machine
///
/// Starts a job. If the machine already has the requested state, the job succeeds with
/// `result.changed` false. A shutdown ends when the machine is off, a reboot when VMware Tools have
/// stopped and run again.
#[utoipa::path(
    post,
    path = "/v1/machines/{machine}/power",
    operation_id = "power_machine",
    tag = "machines",
    params(
        MachinePath,
        StartHeaders,
        StartQuery
    ),
    request_body = PowerRequest,
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The accepted job", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([START, BLOCKED_BY_QUESTION].concat()))))]
pub async fn power_machine(
    State(api): State<ApiState>,
    Segment(reference): Segment,
    StartRequest { start, body, .. }: StartRequest<PowerRequest>,
) -> Result<Response, ApiError> {
    let PowerRequest { action, force_after } = body;
    let force_after = force_after.as_deref().map(read_force_after).transpose()?;
    if force_after.is_some() && action != "shutdown" {
        let detail = "force_after is only for the action shutdown.".to_owned();
        return Err(failure_in_body("/force_after", "not-applicable", detail).into());
    }
    let request = match action.as_str() {
        "on" => JobRequest::PowerOn,
        "off" => JobRequest::PowerOff,
        "reset" => JobRequest::Reset,
        "suspend" => JobRequest::Suspend,
        "shutdown" => JobRequest::Shutdown { force_after },
        "reboot" => JobRequest::Reboot,
        other => {
            let detail =
                format!("action is {}; write one of {}.", shorten(other), ACTIONS.join(", "));
            return Err(failure_in_body("/action", "not-one-of", detail).into());
        }
    };
    Ok(start.run(&api, |start| Ok((start.resolve(&api, &reference)?, request))).await?)
}

fn read_force_after(given: &str) -> Result<Duration, Failure> {
    duration::parse(given).map_err(|error| {
        let detail = format!("force_after is {}: {error}.", shorten(given));
        failure_in_body("/force_after", "not-a-duration", detail)
    })
}
