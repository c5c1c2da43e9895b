//! `POST /v1/machines/{machine}/revert` and `POST /v1/machines/{machine}/snapshots/{snapshot}/revert`

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, Method, Uri};
use serde::Deserialize;
use utoipa::ToSchema;

use super::power::StartQuery;
use crate::api::Api;
use crate::api::extract::{Body, Query, Segment, Segments, failure_in_body};
use crate::api::jobs::wire::Job;
use crate::api::problem::{ApiError, Problem};
use crate::api::starting::{Call, Starting};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::job::JobRequest;
use crate::service::machines::MachineView;

/// Where to revert to.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevertRequest {
    /// The snapshot's id, else exact name, else path `a/b/c`; the current one where nothing is said.
    #[schema(nullable = false, example = "base/updated/kickstart")]
    snapshot: Option<String>,
    /// True: on afterwards. False: off afterwards. Left out: as ESX does.
    #[schema(nullable = false)]
    power_on: Option<bool>,
}

/// What is to be after a revert to the snapshot of the path.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevertToSnapshotRequest {
    /// True: on afterwards. False: off afterwards. Left out: as ESX does.
    #[schema(nullable = false)]
    power_on: Option<bool>,
}

/// Revert a machine
///
/// Starts a job that puts the machine back to a snapshot. The snapshot is bound now, whatever is renamed later.
#[utoipa::path(post, path = "/v1/machines/{machine}/revert", operation_id = "revert_machine", tag = "snapshots",
    params(
        ("machine" = String, Path, description = "A machine's id, `name:<exact>`, `uuid:<instance, then BIOS>` or `mac:<…>`"),
        ("Idempotency-Key" = String, Header, description = "At most 255 characters: a repeat with the same key and request gets the first one's job, and starts no second."),
        ("Otter-Reference" = String, Header, description = "At most 512 characters, kept with the job: a CI job's address, say."),
        ("Prefer" = String, Header, description = "`wait=30` (RFC 7240): the soft form of `wait`; 202 with the job when the time is up."),
        StartQuery
    ),
    request_body = RevertRequest,
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
pub async fn revert_machine(
    State(api): State<Api>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Segment(reference): Segment,
    query: Query<StartQuery>,
    body: Body<RevertRequest>,
) -> Result<Response, ApiError> {
    let call =
        Call { method: &method, uri: &uri, headers: &headers, params: &query.params, body: &body.bytes };
    let starting = Starting::read(&api, &call)?;
    let RevertRequest { snapshot, power_on } = body.value;
    if snapshot.as_deref() == Some("") {
        let detail = "The snapshot is empty; leave it out to mean the current one.".to_owned();
        return Err(failure_in_body("/snapshot", "empty", detail).into());
    }
    if let Some(replay) = starting.replay(&api).await? {
        return Ok(replay);
    }
    let machine = api.services().machines.resolve(&reference)?;
    let request = bind(&api, &machine, snapshot.as_deref(), power_on)?;
    Ok(starting.start(&api, &machine, request).await?)
}

/// Revert a machine to the snapshot of the path
///
/// As `POST /v1/machines/{machine}/revert`.
#[utoipa::path(post, path = "/v1/machines/{machine}/snapshots/{snapshot}/revert", operation_id = "revert_to_snapshot", tag = "snapshots",
    params(
        ("machine" = String, Path, description = "A machine's id, `name:<exact>`, `uuid:<instance, then BIOS>` or `mac:<…>`"),
        ("snapshot" = String, Path, description = "Its id, else exact name, else path `a/b/c`, percent-encoded once more in the address"),
        ("Idempotency-Key" = String, Header, description = "At most 255 characters: a repeat with the same key and request gets the first one's job, and starts no second."),
        ("Otter-Reference" = String, Header, description = "At most 512 characters, kept with the job: a CI job's address, say."),
        ("Prefer" = String, Header, description = "`wait=30` (RFC 7240): the soft form of `wait`; 202 with the job when the time is up."),
        StartQuery
    ),
    request_body = RevertToSnapshotRequest,
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
pub async fn revert_to_snapshot(
    State(api): State<Api>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Segments(reference, snapshot): Segments,
    query: Query<StartQuery>,
    body: Body<RevertToSnapshotRequest>,
) -> Result<Response, ApiError> {
    let call =
        Call { method: &method, uri: &uri, headers: &headers, params: &query.params, body: &body.bytes };
    let starting = Starting::read(&api, &call)?;
    if let Some(replay) = starting.replay(&api).await? {
        return Ok(replay);
    }
    let machine = api.services().machines.resolve(&reference)?;
    let request = bind(&api, &machine, Some(&snapshot), body.value.power_on)?;
    Ok(starting.start(&api, &machine, request).await?)
}

fn bind(
    api: &Api,
    view: &MachineView,
    wanted: Option<&str>,
    power_on: Option<bool>,
) -> Result<JobRequest, Failure> {
    let machine = &view.record.machine;
    let snapshots = &machine.snapshots;
    let snapshot = match wanted {
        Some(wanted) => api.services().machines.snapshot(view, wanted)?,
        None => snapshots.current.as_ref().and_then(|id| snapshots.get(id)).ok_or_else(|| {
            let detail = format!("{} has no current snapshot to revert to.", machine.name);
            Failure::new(FailureKind::NotFound, detail).of_machine(&machine.id, &machine.name)
        })?,
    };
    Ok(JobRequest::Revert { snapshot: snapshot.id.clone(), path: snapshots.path(snapshot), power_on })
}
