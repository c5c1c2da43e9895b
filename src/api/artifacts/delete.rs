//! `DELETE /v1/artifacts/{artifact}`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::wire::Artifact;
use super::{ArtifactPath, named_artifact, unknown_artifact};
use crate::api::extract::{NoParameters, Query, Segment};
use crate::api::openapi_parts::Problems;
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::service::callers::Caller;

/// Delete an artifact
///
/// The caller that requested the lease of the artifact, and operators, can delete it. Its name is
/// then free again.
#[utoipa::path(delete, path = "/v1/artifacts/{artifact}", operation_id = "delete_artifact",
    tag = "artifacts",
    params(ArtifactPath),
    responses(
        (status = 200, description = "The artifact, which no longer exists", body = Artifact),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "storage-unavailable", "shutting-down"
    ]))))]
pub async fn delete_artifact(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(text): Segment,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let artifact = named_artifact(&api, &caller, &text).await?;
    if !api.services().artifacts.delete(&caller, &artifact).await? {
        return Err(unknown_artifact(&text).into());
    }
    Ok(respond::object(&api, &version, &Artifact::from_domain(&artifact)))
}
