//! `GET /v1/machines/{machine}/screen/text`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::LookHeaders;
use super::wait::ONCE_LIMIT;
use crate::api::extract::{NoParameters, Parsed, Query, Segment};
use crate::api::lease_authorization::read_authorization;
use crate::api::long_poll::{WaitEnd, wait};
use crate::api::openapi_parts::{MachinePath, Problems};
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::screen::{Region, ScreenSize};
use crate::service::callers::Caller;
use crate::service::screens::text_match::{ReadText, Word};

/// The part of the screen.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ScreenTextQuery {
    /// The part to read, as `x,y,width,height`. Default: the whole screen.
    #[param(value_type = Option<String>, example = "0,0,640,480")]
    region: Option<Parsed<Region>>,
}

/// The text of a screen.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScreenText {
    /// The lines from top to bottom, joined by a line feed.
    #[schema(example = "Qubes OS\nuser\nLog In")]
    pub text: String,
    /// The words in the same order.
    pub words: Vec<ScreenWord>,
    /// The width of the screen in pixels.
    #[schema(example = 800)]
    pub width: u16,
    /// The height of the screen in pixels.
    #[schema(example = 600)]
    pub height: u16,
    /// When the screen last changed.
    pub changed_at: Timestamp,
}

/// A word, and where it is on the screen.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScreenWord {
    /// The word as it was recognized.
    #[schema(example = "Qubes")]
    pub text: String,
    /// How sure the recognition is, in percent.
    #[schema(example = 96)]
    pub confidence: u8,
    /// Pixels from the left.
    #[schema(example = 300)]
    pub x: u16,
    /// Pixels from the top.
    #[schema(example = 120)]
    pub y: u16,
    /// The width in pixels.
    #[schema(example = 90)]
    pub width: u16,
    /// The height in pixels.
    #[schema(example = 24)]
    pub height: u16,
}

/// Read the text of the screen
///
/// Recognizes the text of a picture that the host confirmed after this call. The same pixels are
/// read only once. Text recognition makes mistakes: compare with `POST …/screen/wait`, which knows
/// the usual ones.
#[utoipa::path(
    get,
    path = "/v1/machines/{machine}/screen/text",
    operation_id = "get_screen_text",
    tag = "screens",
    params(MachinePath, ScreenTextQuery, LookHeaders),
    responses(
        (status = 200, description = "The text, and each word with its place", body = ScreenText),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "forbidden",
        "machine-leased", "invalid-power-state", "machine-gone", "inventory-loading",
        "host-unreachable", "host-login-refused", "console-unavailable", "too-many-consoles",
        "not-supported", "too-many-waits", "wait-timeout", "shutting-down"
    ]))))]
pub async fn get_screen_text(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Segment(reference): Segment,
    Query(query, NoParameters {}): Query<ScreenTextQuery>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let requester = read_authorization(&api, &caller, &headers)?;
    let view = api.services().machines.resolve(&caller.scope, &reference)?;
    let machine = &view.machine;
    api.services().screens.may_look(&requester, machine)?;
    let region = query.region.map(Parsed::value);
    let with_machine = |failure: Failure| failure.with_machine(&machine.id, &machine.name);
    let read = api.services().screen_waits.read_text(machine, region);
    let (frame, text) = match wait(&api, ONCE_LIMIT, read).await? {
        WaitEnd::Done(read) => read?,
        WaitEnd::TimeUp => {
            let detail = "The text of the screen was not read in time; try again.";
            return Err(with_machine(Failure::new(FailureKind::WaitTimeout, detail)).into());
        }
        WaitEnd::ShuttingDown => {
            let detail = "otter is shutting down; try again when it is back.";
            return Err(with_machine(Failure::new(FailureKind::ShuttingDown, detail)).into());
        }
    };
    let text = ScreenText::from_read(&text, region, frame.size, frame.changed_at);
    Ok(respond::object(&api, &version, &text))
}

impl ScreenText {
    fn from_read(
        read: &ReadText,
        region: Option<Region>,
        size: ScreenSize,
        changed_at: Timestamp,
    ) -> Self {
        let (left, top) = region.map_or((0, 0), |region| (region.x, region.y));
        let on_screen = |word: &Word| ScreenWord {
            text: word.text.clone(),
            confidence: word.confidence,
            x: word.region.x.saturating_add(left),
            y: word.region.y.saturating_add(top),
            width: word.region.width,
            height: word.region.height,
        };
        Self {
            text: read.text().to_owned(),
            words: read.words().iter().map(on_screen).collect(),
            width: size.width,
            height: size.height,
            changed_at,
        }
    }
}
