//! `GET /v1/artifacts` and `GET /v1/artifacts/{artifact}`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::wire::{Artifact, ArtifactList};
use super::{ArtifactPath, named_artifact};
use crate::api::extract::{NoParameters, Parsed, Query, Segment};
use crate::api::leases::named_lease;
use crate::api::machines::named_machine;
use crate::api::openapi_parts::Problems;
use crate::api::paging::{PageQuery, PagedQuery};
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::domain::ids::{ArtifactId, LeaseId};
use crate::service::callers::Caller;
use crate::storage::ArtifactFilter;

/// The default page size.
const PAGE: u32 = 100;

/// The query parameters that filter the list of artifacts. An artifact must match all of them.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ArtifactsQuery {
    /// The id of the lease.
    #[param(value_type = Option<String>)]
    lease: Option<Parsed<LeaseId>>,
    /// The exact `Otter-Reference` of the request for the lease.
    #[param(value_type = Option<String>)]
    reference: Option<Parsed<String>>,
    /// The machine of the lease: an id, `name:…`, `uuid:…` or `mac:…`.
    #[param(value_type = Option<String>)]
    machine: Option<Parsed<String>>,
}

/// List artifacts
///
/// The artifacts of the leases that the caller requested, and for operators those of all leases
/// whose machine they see; newest first, in pages of 100 unless `limit` is set. otter keeps an
/// artifact for `artifacts.retention_days` (default: 14 days), and longer while its lease has not
/// ended. If all artifacts together reach `artifacts.max_total`, the oldest make room.
#[utoipa::path(get, path = "/v1/artifacts", operation_id = "list_artifacts", tag = "artifacts",
    params(ArtifactsQuery, PageQuery),
    responses(
        (status = 200, description = "A page of artifacts", body = ArtifactList),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "invalid-cursor", "not-found", "ambiguous-name",
        "inventory-loading"
    ]))))]
pub async fn list_artifacts(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    PagedQuery { filter, limit, cursors }: PagedQuery<ArtifactsQuery>,
) -> Result<Response, ApiError> {
    let ArtifactsQuery { lease, reference, machine } = filter;
    let filter = ArtifactFilter {
        machine: named_machine(&api, &caller, machine).await?,
        lease: named_lease(&api, &caller, lease.map(Parsed::value)).await?,
        reference: reference.map(Parsed::value),
        requested_by: None,
    };
    let limit = limit.unwrap_or(PAGE);
    let after: Option<ArtifactId> = cursors.position()?;
    let version = api.services().event_stream.version();
    // One artifact more than the limit is read. If there is one, there is a next page.
    let mut found = api.services().artifacts.list(&caller, &filter, after, limit + 1).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = found.last().filter(|_| more).map(|last| cursors.after(&last.id));
    let items: Vec<Artifact> = found.iter().map(Artifact::from_domain).collect();
    Ok(respond::list(&api, &version, &items, next.as_deref()))
}

/// Get an artifact
///
/// What otter knows of the file. Its bytes are at `links.content`.
#[utoipa::path(get, path = "/v1/artifacts/{artifact}", operation_id = "get_artifact",
    tag = "artifacts",
    params(ArtifactPath),
    responses(
        (status = 200, description = "The artifact", body = Artifact),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found"
    ]))))]
pub async fn get_artifact(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(text): Segment,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let artifact = named_artifact(&api, &caller, &text).await?;
    Ok(respond::object(&api, &version, &Artifact::from_domain(&artifact)))
}
