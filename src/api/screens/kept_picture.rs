//! `GET /v1/screen-pictures/{picture}`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::header::{CACHE_CONTROL, ETAG};
use utoipa::IntoParams;

use super::picture::png_response;
use crate::api::entity_tag::digest;
use crate::api::extract::{NoParameters, Query, Segment, failure_at};
use crate::api::openapi_parts::Problems;
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::domain::failure::FailureKind;
use crate::domain::ids::ScreenPictureId;
use crate::service::callers::Caller;
use crate::service::machines::shorten;

/// The picture in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the segment")]
pub struct PicturePath {
    /// The id of the picture, from `links.screen` of a problem.
    picture: String,
}

/// Get the last picture of a wait
///
/// The picture that a wait for a screen saw last before its time was up, as PNG. otter keeps it in
/// memory for an hour, and at most 64 MiB of such pictures. Only the caller that waited, the caller
/// of the lease, and operators find it.
#[utoipa::path(
    get,
    path = "/v1/screen-pictures/{picture}",
    operation_id = "get_kept_picture",
    tag = "screens",
    params(PicturePath),
    responses(
        (status = 200, description = "The picture", content_type = "image/png",
            body = super::Png),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found"
    ]))))]
pub async fn get_kept_picture(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(picture): Segment,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let id: ScreenPictureId = picture.parse().map_err(|_| {
        let detail = format!("The picture {} is not an id, which is a UUID.", shorten(&picture));
        failure_at(FailureKind::InvalidRequest, "picture", "not-an-id", detail)
    })?;
    let version = api.services().event_stream.version();
    let png = api.services().screen_waits.pictures().get(&caller, id)?;
    let tag = digest([&*png]);
    let mut response = png_response(&api, &version, png, &tag);
    respond::set(&mut response, CACHE_CONTROL, "no-store");
    // A picture never changes.
    respond::set(&mut response, ETAG, &format!("\"{id}\""));
    Ok(response)
}
