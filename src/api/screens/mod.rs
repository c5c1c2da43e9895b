//! `/v1/machines/{machine}/screen`: pictures, text, waits, input and viewers of screens, and console
//! tokens.

mod console_tokens;
mod input;
mod input_request;
mod rfb;

use utoipa_axum::routes;

use super::roles::Routes;
use crate::domain::access::Role;

/// The routes of this folder.
pub fn routes() -> Routes {
    Routes::default()
        .role(Role::Runner, routes!(input::send_screen_input))
        .console(Role::Viewer, routes!(rfb::open_screen_viewer))
        .role(Role::Viewer, routes!(console_tokens::create_console_token))
}
