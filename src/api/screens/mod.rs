//! `/v1/machines/{machine}/screen`: pictures, text, waits, input and viewers of screens, and
//! console tokens.

mod console_tokens;
mod input;
mod input_check;
mod input_request;
mod kept_picture;
mod picture;
mod rfb;
mod state;
mod text;
pub mod wait;
mod wait_request;

pub use self::input::InputHeaders;
pub use self::rfb::{ViewerHeaders, ViewerQuery, from_message, viewer_request};
pub use self::wait_request::checked;

use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::extract::failure_at;
use super::roles::Routes;
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::screen::{Region, ScreenSize};

/// The routes of this folder.
pub fn routes() -> Routes {
    Routes::default()
        .role(Role::Viewer, routes!(state::get_screen))
        .role(Role::Viewer, routes!(picture::get_screen_picture))
        .role(Role::Viewer, routes!(picture::get_snapshot_picture))
        .role(Role::Viewer, routes!(text::get_screen_text))
        .role(Role::Viewer, routes!(wait::wait_for_screen))
        .role(Role::Viewer, routes!(kept_picture::get_kept_picture))
        .watching(Role::Runner, routes!(input::send_screen_input))
        .console(Role::Viewer, routes!(rfb::open_screen_viewer))
        .role(Role::Viewer, routes!(console_tokens::create_console_token))
}

/// A picture as PNG.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "documents the answer")]
pub struct Png(Vec<u8>);

/// The headers of requests that look at a screen or read a serial port.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents the headers")]
pub struct LookHeaders {
    /// `<id>.<secret>` of the lease on the machine, if the caller's token did not create the lease.
    #[param(rename = "Otter-Lease", value_type = String, required = false)]
    otter_lease: Option<String>,
}

/// Refuses a region that is not completely on the screen.
///
/// # Errors
/// `invalid-request` with the parameter `region`.
pub fn check_region(region: Region, size: ScreenSize) -> Result<(), Failure> {
    if region.is_within(size) {
        return Ok(());
    }
    let detail =
        format!("The region {region} does not fit on the screen, which has {size} pixels.");
    Err(failure_at(FailureKind::InvalidRequest, "region", "out-of-range", detail))
}
