//! `GET /v1/machines/{machine}/screen.png` and
//! `GET /v1/machines/{machine}/snapshots/{snapshot}/screen.png`

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::header::ETAG;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{LookHeaders, Png, check_region};
use crate::api::content_coding::Coding;
use crate::api::entity_tag::{Digest, EntityTag, digest};
use crate::api::extract::{
    InvalidValue, NoParameters, Parameter, Parsed, Query, Segment, Segments,
};
use crate::api::lease_authorization::read_authorization;
use crate::api::long_poll::WaitPermit;
use crate::api::openapi_parts::{MachinePath, Problems, SnapshotPath};
use crate::api::problem::ApiError;
use crate::api::respond::set;
use crate::api::{ApiState, respond};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::machine::Machine;
use crate::domain::power::PowerState;
use crate::domain::screen::{Region, ScreenSize};
use crate::service::callers::Caller;
use crate::service::event_stream::Version;
use crate::service::screens::encoded::{EncodedPicture, PictureRequest};
use crate::service::screens::{CONFIRM_LIMIT, Frame};

/// When a pixel of the screen last changed, as otter saw it.
pub const OTTER_SCREEN_CHANGED: HeaderName = HeaderName::from_static("otter-screen-changed");

/// The part of the screen, and how old its picture may be.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PictureQuery {
    /// The part of the screen, `x,y,width,height` in pixels. Default: the whole screen.
    #[param(value_type = Option<String>)]
    region: Option<Parsed<Region>>,
    /// The width of the picture in pixels, if it should be smaller.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 8192)]
    width: Option<Parsed<Width>>,
    /// How long ago the host may have confirmed the picture: `5s`. Default `0s`: the host confirms
    /// it after this call.
    #[param(value_type = Option<String>)]
    max_age: Option<Parsed<Duration>>,
}

/// A width in pixels.
pub struct Width(u16);

/// Get a picture of a screen
///
/// A PNG of what the machine shows. The picture is whole: every pixel was painted since the screen
/// last changed its size, the machine was started or reverted, or the connection was opened.
/// Without `max_age`, the host has confirmed it after this call. `Otter-Screen-Changed` has the
/// time of the last change, and the `ETag` stands for the pixels.
#[utoipa::path(
    get,
    path = "/v1/machines/{machine}/screen.png",
    operation_id = "get_screen_picture",
    tag = "screens",
    params(MachinePath, PictureQuery, LookHeaders),
    responses(
        (status = 200, description = "The picture", content_type = "image/png", body = Png,
            headers(("Otter-Screen-Changed" = String, description = "When the screen last \
                                                                     changed"))),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "inventory-loading",
        "machine-leased", "machine-gone", "invalid-power-state", "console-unavailable",
        "too-many-consoles", "too-many-waits", "host-unreachable", "host-login-refused",
        "not-supported", "shutting-down"
    ]))))]
pub async fn get_screen_picture(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(reference): Segment,
    headers: HeaderMap,
    Query(query, _): Query<PictureQuery>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let requester = read_authorization(&api, &caller, &headers)?;
    let view = api.services().machines.resolve(&caller.scope, &reference)?;
    let screens = &api.services().screens;
    screens.may_look(&requester, &view.machine)?;
    let PictureQuery { region, width, max_age } = query;
    let request = PictureRequest {
        region: region.map(Parsed::value),
        width: width.map(|Parsed(Width(width))| width),
    };
    let max_age = max_age.map(Parsed::value).unwrap_or_default();
    let _permit = WaitPermit::acquire(&api)?;
    let user = screens.use_screen(&view.machine)?;
    let known =
        Some(max_age).filter(|age| !age.is_zero()).and_then(|age| user.confirmed_within(age));
    let frame = match known {
        Some(frame) => frame,
        None => user.confirmed(CONFIRM_LIMIT).await?,
    };
    if let Some(region) = request.region {
        check_region(region, frame.size)?;
    }
    let EncodedPicture { png, digest } = encoded(&frame, request, &view.machine).await?;
    let mut response = png_response(&api, &version, png, &shortened(&digest));
    set(&mut response, OTTER_SCREEN_CHANGED, &frame.changed_at.to_string());
    Ok(response)
}

/// Get the picture of a snapshot
///
/// The PNG that the host made of the screen when it took the snapshot with the memory of the
/// machine. 404 for a snapshot without memory.
#[utoipa::path(
    get,
    path = "/v1/machines/{machine}/snapshots/{snapshot}/screen.png",
    operation_id = "get_snapshot_picture",
    tag = "screens",
    params(MachinePath, SnapshotPath, LookHeaders),
    responses(
        (status = 200, description = "The picture", content_type = "image/png", body = Png),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "inventory-loading",
        "machine-leased", "forbidden-by-host", "host-unreachable", "host-login-refused",
        "host-protocol", "console-unavailable", "not-supported", "too-many-waits"
    ]))))]
pub async fn get_snapshot_picture(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segments(reference, snapshot): Segments,
    headers: HeaderMap,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let requester = read_authorization(&api, &caller, &headers)?;
    let view = api.services().machines.resolve(&caller.scope, &reference)?;
    let machine = &view.machine;
    api.services().screens.may_look(&requester, machine)?;
    let snapshot = api.services().machines.snapshot(&view, &snapshot)?;
    if !matches!(snapshot.power_state, Some(PowerState::On | PowerState::Suspended)) {
        let detail = format!(
            "The snapshot {} was taken without the memory of the machine, so it has no picture.",
            snapshot.name
        );
        let failure = Failure::new(FailureKind::NotFound, detail);
        return Err(failure.with_machine(&machine.id, &machine.name).into());
    }
    let _place = api.direct_reads().enter().await?;
    let png = api.services().screens.snapshot_picture(machine, &snapshot.id).await?;
    let tag = digest([&*png]);
    Ok(png_response(&api, &version, png, &tag))
}

/// The picture of a frame, which is complete.
async fn encoded(
    frame: &Arc<Frame>,
    request: PictureRequest,
    machine: &Machine,
) -> Result<EncodedPicture, Failure> {
    let incomplete = || {
        let detail = format!("The screen of {} is being painted.", machine.name);
        Failure::new(FailureKind::ConsoleUnavailable, detail)
            .with_machine(&machine.id, &machine.name)
    };
    frame.png(request).await?.ok_or_else(incomplete)
}

/// A response with a picture, whose tag stands for what `tag` is the digest of.
pub fn png_response(api: &ApiState, version: &Version, png: Bytes, tag: &Digest) -> Response {
    let mut response = respond::text("image/png", png);
    let headers = response.headers_mut();
    headers.insert(ETAG, EntityTag::strong(tag).of(Coding::Identity).clone());
    respond::set_state_headers(api, version, &mut response);
    response
}

/// The beginning of a digest, which is enough for a tag.
fn shortened(digest: &[u8; 32]) -> Digest {
    digest.first_chunk().copied().unwrap_or_default()
}

impl Parameter for Width {
    fn from_text(text: &str) -> Result<Self, InvalidValue> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let width =
            text.parse().ok().filter(|width| digits && (1..=ScreenSize::MAX_SIDE).contains(width));
        width.map(Self).ok_or_else(|| {
            InvalidValue::new("out-of-range", text, "write a whole number from 1 to 8192")
        })
    }
}
