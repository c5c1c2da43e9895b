//! `PUT /v1/leases/{lease}/artifacts/{name}`

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::header::LOCATION;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use utoipa::IntoParams;

use super::wire::{Artifact, ArtifactBytes};
use crate::api::extract::{NoParameters, Query, Segments, content_length, failure_at, header};
use crate::api::leases::{LeaseHeader, lease_id, unknown_lease};
use crate::api::openapi_parts::Problems;
use crate::api::problem::ApiError;
use crate::api::{ApiState, lease_authorization, respond};
use crate::domain::artifact::{ArtifactName, ArtifactSource, ContentType};
use crate::domain::audit::between;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::LeaseId;
use crate::domain::lease::{Lease, LeaseState};
use crate::service::artifacts::{NewArtifact, Stored, Upload};
use crate::service::callers::Caller;
use crate::service::machines::shorten;

/// How long after its end a lease takes artifacts, so that a run can store the results of its end.
const AFTER_END: Duration = Duration::from_hours(1);

/// The lease and the name in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the segments")]
pub struct PutPath {
    /// The id of the lease.
    lease: String,
    /// The name of the artifact: 1 to 128 of the characters `A-Z a-z 0-9 . _ -`, of which the first
    /// is no dot. Names that start with `screen`, names that end in `.cast`, and the logs of serial
    /// ports, such as `ttyS0.log`, are for otter's own artifacts.
    name: String,
}

/// Store an artifact
///
/// Stores the body as a file of the lease, until an hour after the end of the lease. The body must
/// have as many bytes as `Content-Length` announces; otherwise nothing is stored. A repeat with the
/// same bytes returns the artifact. otter keeps the `Content-Type` if it is one that browsers do
/// not run, and otherwise serves the bytes as `application/octet-stream`. `http.body_limit` does
/// not apply; `artifacts.max_bytes` and `artifacts.max_total` do.
#[utoipa::path(put, path = "/v1/leases/{lease}/artifacts/{name}", operation_id = "put_artifact",
    tag = "artifacts",
    params(PutPath, LeaseHeader),
    request_body(content = ArtifactBytes, content_type = "application/octet-stream",
        description = "The bytes, of any type"),
    responses(
        (status = 200, description = "The lease has this artifact, with the same bytes",
            body = Artifact),
        (status = 201, description = "The artifact was stored", body = Artifact),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "request-timeout", "artifact-exists",
        "length-required", "payload-too-large", "machine-leased", "lease-ended",
        "lease-not-active", "storage-unavailable", "shutting-down", "insufficient-resources"
    ]))))]
pub async fn put_artifact(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segments(lease, name): Segments,
    headers: HeaderMap,
    _: Query<NoParameters>,
    body: Body,
) -> Result<Response, ApiError> {
    let id = lease_id(&lease)?;
    let name = ArtifactName::of_caller(&name).map_err(|error| {
        let detail = format!("The name {} {error}.", shorten(&name));
        failure_at(FailureKind::InvalidRequest, "name", "not-a-name", detail)
    })?;
    let version = api.services().event_stream.version();
    let view = api.services().leases.get_for(&caller, id).await?;
    let lease = view.ok_or_else(|| unknown_lease(&lease))?.lease;
    check_secret(&api, &caller, &headers, id)?;
    let content_type = header(&headers, "content-type")?;
    let content_type = content_type.map_or(ContentType::Bytes, ContentType::of);
    let announced = content_length(&headers)?;
    check_takes_artifacts(&api, &lease)?;
    let (source, actor) = (ArtifactSource::Caller, caller.actor());
    let new = NewArtifact { name, lease: Arc::clone(&lease), content_type, source, actor };
    let artifacts = &api.services().artifacts;
    let mut upload = artifacts.begin(new, announced).await?;
    receive(&api, &mut upload, body).await?;
    let (status, artifact) = match upload.finish(artifacts).await? {
        Stored::New(artifact) => (StatusCode::CREATED, artifact),
        Stored::Existing(artifact) => (StatusCode::OK, artifact),
    };
    let shown = Artifact::from_domain(&artifact);
    let mut response = respond::object(&api, &version, &shown);
    *response.status_mut() = status;
    if status == StatusCode::CREATED
        && let Some(path) = shown.links.get("self")
    {
        respond::set(&mut response, LOCATION, path);
    }
    Ok(response)
}

/// Checks that a caller sent the secret of the lease. An operator needs it too, because an artifact
/// says what a run has found.
///
/// # Errors
/// `machine-leased` if the secret is wrong or belongs to another lease; `forbidden` without a
/// secret.
fn check_secret(
    api: &ApiState,
    caller: &Caller,
    headers: &HeaderMap,
    id: LeaseId,
) -> Result<(), Failure> {
    match lease_authorization::read_lease(api, headers)? {
        Some(sent) if sent == id => Ok(()),
        Some(sent) => {
            let detail = format!("Otter-Lease belongs to the lease {sent}, not to {id}.");
            Err(Failure::new(FailureKind::MachineLeased, detail).with_lease(id))
        }
        None => {
            let detail = format!(
                "{} sent no Otter-Lease; an artifact needs the secret of its lease.",
                caller.name
            );
            Err(Failure::new(FailureKind::Forbidden, detail).with_lease(id))
        }
    }
}

/// # Errors
/// `lease-not-active` if the lease has no machine yet; `lease-ended` if it ended too long ago.
fn check_takes_artifacts(api: &ApiState, lease: &Lease) -> Result<(), Failure> {
    match lease.state {
        LeaseState::Queued | LeaseState::Preparing => Err(lease.not_active_failure()),
        LeaseState::Active | LeaseState::Releasing => Ok(()),
        _ => {
            let ended_at = lease.ended_at.unwrap_or(lease.measured_at);
            if between(ended_at, api.clock().now()) <= AFTER_END {
                return Ok(());
            }
            let detail = format!(
                "The lease {} ended at {ended_at}; it took artifacts for an hour. Nothing was \
                 stored.",
                lease.id
            );
            Err(Failure::new(FailureKind::LeaseEnded, detail).with_lease(lease.id))
        }
    }
}

/// Passes the body to the upload. Each part of it must arrive in time, and the whole body may take
/// any time.
///
/// # Errors
/// `request-timeout`, `invalid-request` if the connection breaks, and the errors of
/// [`Upload::write`].
async fn receive(api: &ApiState, upload: &mut Upload, mut body: Body) -> Result<(), Failure> {
    let stall_limit = api.settings().body_timeout;
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            () = api.clock().sleep(stall_limit) => {
                let detail = format!(
                    "No byte of the body arrived for {stall_limit:?}. Nothing was stored."
                );
                return Err(Failure::new(FailureKind::RequestTimeout, detail));
            }
        };
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame.map_err(|_| {
            let detail = "The connection broke before the whole body arrived. Nothing was stored.";
            Failure::new(FailureKind::InvalidRequest, detail)
        })?;
        if let Ok(bytes) = frame.into_data() {
            upload.write(&bytes).await?;
        }
    }
}
