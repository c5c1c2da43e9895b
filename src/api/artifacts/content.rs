//! `GET /v1/artifacts/{artifact}/content`

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::CONTENT_RANGE;
use utoipa::IntoParams;

use super::wire::ArtifactBytes;
use super::{ArtifactPath, named_artifact, unknown_artifact};
use crate::api::ApiState;
use crate::api::attachment::{Attachment, Wanted, wanted};
use crate::api::extract::{NoParameters, Query, Segment};
use crate::api::openapi_parts::Problems;
use crate::api::problem::ApiError;
use crate::api::respond::{set, set_state_headers};
use crate::domain::failure::{Failure, FailureKind};
use crate::service::callers::Caller;

/// The headers of a request for bytes.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents the headers")]
pub struct ContentHeaders {
    /// The part that the client wants: `bytes=<first>-<last>`, `bytes=<first>-` or
    /// `bytes=-<count>`. Any other value wants the whole file.
    #[param(rename = "Range", value_type = String, required = false)]
    range: Option<String>,
    /// The `ETag` of the bytes that the client has a part of. If the file has another one, the
    /// response has the whole file.
    #[param(rename = "If-Range", value_type = String, required = false)]
    if_range: Option<String>,
}

// The responses do not list `application/json`: generated clients would parse the bytes as the JSON
// of a string.

/// Get the bytes of an artifact
///
/// The bytes as they were stored, or a part of them (`Range`), with the `content_type` of the
/// artifact, which can also be `application/json`. The `ETag` never changes. A browser stores the
/// bytes and does not show or run them.
#[utoipa::path(get, path = "/v1/artifacts/{artifact}/content",
    operation_id = "get_artifact_content", tag = "artifacts",
    params(ArtifactPath, ContentHeaders),
    responses(
        (status = 200, description = "The bytes", content(
            (ArtifactBytes = "application/octet-stream"),
            (ArtifactBytes = "image/png"),
            (ArtifactBytes = "image/apng"),
            (ArtifactBytes = "text/plain"),
            (ArtifactBytes = "application/x-asciicast")
        )),
        (status = 206, description = "A part of the bytes", content(
            (ArtifactBytes = "application/octet-stream"),
            (ArtifactBytes = "image/png"),
            (ArtifactBytes = "image/apng"),
            (ArtifactBytes = "text/plain"),
            (ArtifactBytes = "application/x-asciicast")
        )),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "offset-out-of-range"
    ]))))]
pub async fn get_artifact_content(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(text): Segment,
    _: Query<NoParameters>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let artifact = named_artifact(&api, &caller, &text).await?;
    let tag = format!("\"{}\"", artifact.sha256);
    let attachment = Attachment {
        name: artifact.name.as_str(),
        content_type: artifact.content_type,
        length: artifact.bytes,
        tag: Some(&tag),
    };
    let part = match wanted(&headers, artifact.bytes, &tag) {
        Wanted::Whole => None,
        Wanted::Part { first, last } => Some((first, last)),
        Wanted::Outside => return Ok(outside(artifact.bytes)),
    };
    let file = api.services().artifacts.open_bytes(artifact.id).await?;
    let file = file.ok_or_else(|| unknown_artifact(&text))?;
    let mut response = attachment.respond(file, part).await.map_err(|error| {
        tracing::error!(%error, id = %artifact.id, "the file of an artifact cannot be read");
        Failure::new(FailureKind::Internal, "the file of an artifact cannot be read")
    })?;
    set_state_headers(&api, &version, &mut response);
    Ok(response)
}

/// The answer to a request for a part that the file does not have.
fn outside(length: u64) -> Response {
    let detail = format!("The artifact has {length} bytes, and none of them is in the range.");
    let failure = Failure::new(FailureKind::OffsetOutOfRange, detail);
    let mut response = ApiError(failure).into_response();
    set(&mut response, CONTENT_RANGE, &format!("bytes */{length}"));
    response
}
