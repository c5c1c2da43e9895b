//! `POST /v1/machines/{machine}/power`

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, Method, Uri};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::api::Api;
use crate::api::extract::{Body, Query, Segment, failure_in_body};
use crate::api::jobs::wire::Job;
use crate::api::problem::{ApiError, Problem};
use crate::api::starting::{Call, Starting};
use crate::domain::job::JobRequest;
use crate::service::machines::shorten;

/// How to start.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the parameters and names them for the strict reader")]
pub struct StartQuery {
    /// Asks for the outcome: 200 once it succeeded, its problem where it did not, and a problem when the time is up.
    #[param(value_type = String, required = false)]
    wait: Option<String>,
    /// How long the job may take, its queueing included: `1s` to `168h`.
    #[param(value_type = String, required = false)]
    deadline: Option<String>,
}

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
        ("machine" = String, Path, description = "A machine's id, `name:<exact>`, `uuid:<instance, then BIOS>` or `mac:<…>`"),
        ("Idempotency-Key" = String, Header, description = "At most 255 characters: a repeat with the same key and request gets the first one's job, and starts no second."),
        ("Otter-Reference" = String, Header, description = "At most 512 characters, kept with the job: a CI job's address, say."),
        ("Prefer" = String, Header, description = "`wait=30` (RFC 7240): the soft form of `wait`; 202 with the job when the time is up."),
        StartQuery
    ),
    request_body = PowerRequest,
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The job was accepted and goes on", body = Job),
        (status = "4XX", description = "A problem of the request", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "A problem that may go away", body = Problem, content_type = "application/problem+json"),
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "self-protection", "question-pending", "queue-full", "payload-too-large",
        "unsupported-media-type", "request-timeout", "idempotency-mismatch", "inventory-loading", "host-unreachable", "host-login-refused", "shutting-down", "too-many-waits",
        "wait-timeout", "job-still-running", "job-cancelled", "outcome-unknown", "machine-busy", "machine-gone", "invalid-power-state", "host-rejected",
        "forbidden-by-host", "license-restricted", "not-supported", "host-protocol", "deadline-exceeded", "insufficient-resources"]))))]
pub async fn power_machine(
    State(api): State<Api>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Segment(reference): Segment,
    query: Query<StartQuery>,
    body: Body<PowerRequest>,
) -> Result<Response, ApiError> {
    let call =
        Call { method: &method, uri: &uri, headers: &headers, params: &query.params, body: &body.bytes };
    let starting = Starting::read(&api, &call)?;
    let request = match body.value.action.as_str() {
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
