//! `PUT /v1/machines/{machine}/boot`

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::ApiState;
use crate::api::extract::{Segment, bounded_list, failure_in_body, some_duration_text};
use crate::api::jobs::wire::Job;
use crate::api::openapi_parts::{BLOCKED_BY_QUESTION, MachinePath, Problems, START, StartHeaders};
use crate::api::problem::ApiError;
use crate::api::start_job::{StartQuery, StartRequest};
use crate::domain::duration;
use crate::domain::failure::Failure;
use crate::domain::job::JobRequest;
use crate::domain::media::{self, BootDevice};
use crate::service::machines::shorten;

/// The longest delay before a machine boots.
const MAX_DELAY: Duration = Duration::from_mins(10);

/// What a machine boots from.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BootRequest {
    /// The devices from which the firmware tries to boot, in this order: `cdrom`, `disk`,
    /// `network`, each at most once. Devices that the machine does not have are left out. An empty
    /// list lets the firmware decide.
    #[schema(example = json!(["cdrom", "disk"]), max_items = 3)]
    #[serde(deserialize_with = "bounded_list::<_, _, 3>")]
    order: Vec<String>,
    /// How long the firmware waits before it boots, at most 10 minutes. Default: as before.
    #[schema(nullable = false, example = "5s")]
    #[serde(default, deserialize_with = "some_duration_text")]
    delay: Option<String>,
}

/// Set what a machine boots from
///
/// Starts a job. The order applies from the next start of the machine. If it is so already, the job
/// succeeds with `result.changed` false.
#[utoipa::path(
    put,
    path = "/v1/machines/{machine}/boot",
    operation_id = "set_boot",
    tag = "machines",
    params(
        MachinePath,
        StartHeaders,
        StartQuery
    ),
    request_body = BootRequest,
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The accepted job", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([START, BLOCKED_BY_QUESTION].concat()))))]
pub async fn set_boot(
    State(api): State<ApiState>,
    Segment(reference): Segment,
    StartRequest { start, body, .. }: StartRequest<BootRequest>,
) -> Result<Response, ApiError> {
    let request = parse_boot("", body)?;
    let started = start
        .run(&api, |start| Ok((start.resolve(&api, &reference)?, JobRequest::SetBoot(request))));
    Ok(started.await?)
}

/// Checks the fields of a request.
///
/// # Parameters
/// - `parent`: the JSON pointer of the object that has the fields.
///
/// # Errors
/// `invalid-request`
pub fn parse_boot(parent: &str, request: BootRequest) -> Result<media::BootRequest, Failure> {
    let BootRequest { order, delay } = request;
    let known = BootDevice::REQUESTED.iter().map(|device| device.as_str()).collect::<Vec<_>>();
    let mut devices: Vec<BootDevice> = Vec::new();
    for (index, word) in order.iter().enumerate() {
        let pointer = format!("{parent}/order/{index}");
        let field = pointer.trim_start_matches('/').replace('/', ".");
        let device = BootDevice::parse(word).filter(|device| known.contains(&device.as_str()));
        let Some(device) = device else {
            let detail =
                format!("{field} is {}; write one of {}.", shorten(word), known.join(", "));
            return Err(failure_in_body(&pointer, "not-one-of", detail));
        };
        if devices.contains(&device) {
            let detail = format!("{field} repeats {word}; write each device once.");
            return Err(failure_in_body(&pointer, "repeated", detail));
        }
        devices.push(device);
    }
    let pointer = format!("{parent}/delay");
    let delay = delay.map(|text| {
        let delay = duration::parse(&text).map_err(|error| {
            let detail = format!("The delay is {}: {error}.", shorten(&text));
            failure_in_body(&pointer, "not-a-duration", detail)
        })?;
        if delay > MAX_DELAY {
            let detail = format!(
                "The delay is {}; it may be at most {}.",
                duration::format(delay),
                duration::format(MAX_DELAY)
            );
            return Err(failure_in_body(&pointer, "out-of-range", detail));
        }
        Ok(delay)
    });
    Ok(media::BootRequest { order: devices, delay: delay.transpose()? })
}
