//! The body of a call that sends input. `input_check` checks it.

use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;

use super::wait_request::ConditionRequest;
use crate::api::extract::{bounded_list, duration_text, some_bounded_list, some_duration_text};
use crate::domain::input::{MAX_EVENTS, Point};
use crate::service::wait_conditions::MAX_CONDITIONS;

/// Keys, texts and movements of the pointer for a machine.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputRequest {
    /// 1 to 1,000 events. Together they have at most 16 KiB of text, 4 images and 64 regular
    /// expressions.
    #[schema(min_items = 1, max_items = 1000)]
    #[serde(deserialize_with = "bounded_list::<_, _, MAX_EVENTS>")]
    pub events: Vec<InputEventRequest>,
    /// The time between two keys: `5ms` to `2s`. Default: 40 ms, and 100 ms while the screen is a
    /// text screen of 720×400, because boot loaders drop fast keys.
    #[schema(nullable = false, example = "40ms")]
    #[serde(default, deserialize_with = "some_duration_text")]
    pub interval: Option<String>,
    /// The keyboard layout of the guest, for `text`: `us` or `de`. Default: `us`.
    #[schema(nullable = false, example = "us",
        extensions(("x-extensible-enum" = json!(["us", "de"]))))]
    pub layout: Option<String>,
    /// Whether the texts are secret: no error shows a part of one. otter never writes a text to its
    /// log, its store, its metrics or the audit in any case. What the guest then shows on its
    /// screen is not masked: pictures, texts of the screen, and `seen` of a problem show it. But
    /// recordings of the machine leave it out until 2 s after the call.
    #[serde(default)]
    pub secret: bool,
}

/// One event. Exactly one field is set.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InputEvent)]
pub struct InputEventRequest {
    /// Types a text. A line feed is Enter, a tab is Tab.
    #[schema(nullable = false, value_type = Option<String>, example = "user\n")]
    pub text: Option<SecretString>,
    /// Presses keys, one after the other: names of keys, with hyphens between those that are
    /// pressed together.
    #[schema(nullable = false, example = json!(["ctrl-alt-delete", "enter"]))]
    pub keys: Option<Vec<String>>,
    /// Presses a key and holds it until `release` or the end of the call.
    #[schema(nullable = false, example = "shift")]
    pub hold: Option<String>,
    /// Releases a key that `hold` holds.
    #[schema(nullable = false, example = "shift")]
    pub release: Option<String>,
    /// Waits for this time: `500ms`, `2s`.
    #[schema(nullable = false, example = "500ms")]
    #[serde(default, deserialize_with = "some_duration_text")]
    pub pause: Option<String>,
    /// Moves the pointer.
    #[schema(nullable = false)]
    #[serde(rename = "move")]
    pub move_to: Option<PointRequest>,
    /// Clicks with a button of the pointer.
    #[schema(nullable = false)]
    pub click: Option<ClickRequest>,
    /// Moves the pointer with the left button held.
    #[schema(nullable = false)]
    pub drag: Option<DragRequest>,
    /// Turns the wheel of the pointer.
    #[schema(nullable = false)]
    pub scroll: Option<ScrollRequest>,
    /// Waits for what the screen shows, before the next event.
    #[schema(nullable = false)]
    pub until: Option<UntilRequest>,
}

/// A point of the screen, from its upper left corner, in pixels.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InputPoint)]
pub struct PointRequest {
    /// Pixels from the left.
    #[schema(example = 640)]
    pub x: u16,
    /// Pixels from the top.
    #[schema(example = 512)]
    pub y: u16,
}

/// A click. Either `x` and `y` are set, or `last_match`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InputClick)]
pub struct ClickRequest {
    /// Pixels from the left.
    #[schema(nullable = false, example = 640)]
    pub x: Option<u16>,
    /// Pixels from the top.
    #[schema(nullable = false, example = 512)]
    pub y: Option<u16>,
    /// `left`, `middle` or `right`. Default: `left`.
    #[schema(nullable = false, example = "left",
        extensions(("x-extensible-enum" = json!(["left", "middle", "right"]))))]
    pub button: Option<String>,
    /// How often, 1 to 5: 2 is a double click. Default: 1.
    #[schema(nullable = false, minimum = 1, maximum = 5, example = 1)]
    pub count: Option<u8>,
    /// Clicks on the centre of what the last `until` of this call found.
    #[serde(default)]
    pub last_match: bool,
    /// With `last_match`: pixels to the right of that centre.
    #[schema(nullable = false, example = 0)]
    pub dx: Option<i32>,
    /// With `last_match`: pixels below that centre.
    #[schema(nullable = false, example = 0)]
    pub dy: Option<i32>,
}

/// A movement of the pointer with the left button held.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InputDrag)]
pub struct DragRequest {
    /// Where the button is pressed: pixels from the left.
    #[schema(example = 100)]
    pub x: u16,
    /// Where the button is pressed: pixels from the top.
    #[schema(example = 100)]
    pub y: u16,
    /// Where the button is released: pixels from the left.
    #[schema(example = 300)]
    pub to_x: u16,
    /// Where the button is released: pixels from the top.
    #[schema(example = 100)]
    pub to_y: u16,
}

/// A turn of the wheel.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InputScroll)]
pub struct ScrollRequest {
    /// Pixels from the left.
    #[schema(example = 640)]
    pub x: u16,
    /// Pixels from the top.
    #[schema(example = 512)]
    pub y: u16,
    /// The steps of the wheel, -100 to 100: down, or up if it is negative.
    #[schema(minimum = -100, maximum = 100, example = 3)]
    pub amount: i16,
}

/// A wait for what the screen shows. At least one of `any` and `still` is set. If it does not come
/// true in time, the call ends: before the first key with `wait-timeout`, after it with
/// `input-interrupted`. Both have `seen` and `links.screen`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InputUntil)]
pub struct UntilRequest {
    /// Waits until one of these conditions holds, as `POST …/screen/wait` does.
    #[schema(nullable = false)]
    #[serde(default, deserialize_with = "some_bounded_list::<_, _, MAX_CONDITIONS>")]
    pub any: Option<Vec<ConditionRequest>>,
    /// Waits until the screen does not change for this time.
    #[schema(nullable = false, example = "2s")]
    #[serde(default, deserialize_with = "some_duration_text")]
    pub still: Option<String>,
    /// The longest wait.
    #[schema(example = "30s")]
    #[serde(deserialize_with = "duration_text")]
    pub wait: String,
}

impl InputRequest {
    /// Whether its check takes much time and memory.
    pub fn is_costly(&self) -> bool {
        let conditions = self.events.iter().filter_map(|event| event.until.as_ref()?.any.as_ref());
        conditions.flatten().any(ConditionRequest::is_costly)
    }
}

impl PointRequest {
    /// The point on the screen.
    pub const fn point(self) -> Point {
        let Self { x, y } = self;
        Point { x, y }
    }
}
