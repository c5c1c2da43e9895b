//! `/v1/jobs`: jobs listed, looked at, waited for and cancelled.

mod cancel;
mod get;
mod list;
mod wait;
pub mod wire;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::JobId;
use crate::service::machines::{empty, shorten};

/// The routes of this folder.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list::list_jobs))
        .routes(routes!(get::get_job))
        .routes(routes!(wait::wait_for_job))
        .routes(routes!(cancel::cancel_job))
}

/// Reads the id of a job out of a path.
fn job_id(text: &str) -> Result<JobId, Failure> {
    if text.is_empty() {
        return Err(empty("job"));
    }
    text.parse().map_err(|_| unknown_job(text))
}

fn unknown_job(text: &str) -> Failure {
    let detail = format!("There is no job {}. Ended jobs are kept for a while: GET /v1/jobs", shorten(text));
    Failure::new(FailureKind::NotFound, detail)
}
