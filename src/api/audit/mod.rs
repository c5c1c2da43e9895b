//! `GET /v1/audit`, and which answers of the other operations are audited as refusals.

mod list;
pub mod refusals;
mod wire;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;

/// The routes of this folder.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list::list_audit))
}
