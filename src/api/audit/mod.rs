//! `GET /v1/audit`, and the audit of refused calls.

mod list;
pub mod refusals;
mod wire;

use utoipa_axum::routes;

use super::roles::Routes;
use crate::domain::access::Role;

/// The routes of this folder.
pub fn routes() -> Routes {
    Routes::default().role(Role::Admin, routes!(list::list_audit))
}
