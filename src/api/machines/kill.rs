//! `POST /v1/machines/kill`

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, Method, Uri};
use serde::Deserialize;
use utoipa::ToSchema;

use super::power::StartQuery;
use crate::api::Api;
use crate::api::extract::{Body, Query, failure_in_body};
use crate::api::jobs::wire::Job;
use crate::api::problem::{ApiError, Problem};
use crate::api::starting::{Call, Starting};
use crate::domain::job::JobRequest;

/// Which machine to kill.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KillRequest {
    /// Its exact name.
    #[schema(example = "sd-dev-1")]
    name: String,
}

/// Kill a machine
///
/// Powers it off before all that is queued and without waiting for the job that runs, which is asked to cancel. A
/// pending question does not stop it. Several machines of that name are a 409 that lists them.
#[utoipa::path(post, path = "/v1/machines/kill", operation_id = "kill_machine", tag = "machines",
    params(
        ("Idempotency-Key" = String, Header, description = "At most 255 characters: a repeat with the same key and request gets the first one's job, and starts no second."),
        ("Otter-Reference" = String, Header, description = "At most 512 characters, kept with the job: a CI job's address, say."),
        ("Prefer" = String, Header, description = "`wait=30` (RFC 7240): the soft form of `wait`; 202 with the job when the time is up."),
        StartQuery
    ),
    request_body = KillRequest,
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The job was accepted and goes on", body = Job),
        (status = "4XX", description = "A problem of the request", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "A problem that may go away", body = Problem, content_type = "application/problem+json"),
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "self-protection", "queue-full", "payload-too-large",
        "unsupported-media-type", "request-timeout", "idempotency-mismatch", "inventory-loading", "host-unreachable", "host-login-refused", "shutting-down", "too-many-waits",
        "wait-timeout", "job-still-running", "job-cancelled", "outcome-unknown", "machine-busy", "machine-gone", "invalid-power-state", "host-rejected",
        "forbidden-by-host", "license-restricted", "not-supported", "host-protocol", "deadline-exceeded", "insufficient-resources"]))))]
pub async fn kill_machine(
    State(api): State<Api>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    query: Query<StartQuery>,
    body: Body<KillRequest>,
) -> Result<Response, ApiError> {
    let call =
        Call { method: &method, uri: &uri, headers: &headers, params: &query.params, body: &body.bytes };
    let starting = Starting::read(&api, &call)?;
    if body.value.name.is_empty() {
        return Err(failure_in_body(
            "/name",
            "empty",
            "The name is empty; name the machine exactly.".to_owned(),
        )
        .into());
    }
    if let Some(replay) = starting.replay(&api).await? {
        return Ok(replay);
    }
    let machine = api.services().machines.named(&body.value.name)?;
    Ok(starting.start(&api, &machine, JobRequest::Kill).await?)
}
