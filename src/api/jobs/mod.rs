//! `/v1/jobs`: jobs listed, looked at, waited for and cancelled.

mod cancel;
mod get;
mod list;
mod wait;
pub mod wire;

use utoipa_axum::routes;

use super::ApiState;
use super::roles::Routes;
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::JobId;
use crate::domain::job::Job;
use crate::service::callers::Caller;
use crate::service::jobs::JobView;
use crate::service::machines::{empty_name, shorten};
use crate::storage::JobFilter;

/// The routes of this folder.
pub fn routes() -> Routes {
    Routes::default()
        .role(Role::Viewer, routes!(list::list_jobs))
        .role(Role::Viewer, routes!(get::get_job))
        .role(Role::Viewer, routes!(wait::wait_for_job))
        .role(Role::Runner, routes!(cancel::cancel_job))
}

/// Reads the id of a job out of a path.
fn job_id(text: &str) -> Result<JobId, Failure> {
    if text.is_empty() {
        return Err(empty_name("job"));
    }
    text.parse().map_err(|_| unknown_job(text))
}

/// The job that a path names, if it exists for the caller.
///
/// # Errors
/// `not-found` if there is no such job, or its machine is not in the caller's scope.
pub fn require_visible(
    api: &ApiState,
    caller: &Caller,
    view: Option<JobView>,
    text: &str,
) -> Result<JobView, Failure> {
    let visibility = api.services().machines.visibility();
    view.filter(|view| visibility.shows_job(caller, &view.job)).ok_or_else(|| unknown_job(text))
}

/// The job that events and the audit are filtered by.
///
/// # Errors
/// `not-found` if no such job exists for the caller; the store's.
pub async fn named_job(
    api: &ApiState,
    caller: &Caller,
    id: Option<JobId>,
) -> Result<Option<JobId>, Failure> {
    let Some(id) = id else { return Ok(None) };
    require_visible(api, caller, api.services().jobs.get(id).await?, &id.to_string())?;
    Ok(Some(id))
}

/// Whether any job of a filter is kept that exists for the caller.
///
/// # Errors
/// The store's.
pub async fn is_any_kept(
    api: &ApiState,
    caller: &Caller,
    filter: &JobFilter,
) -> Result<bool, Failure> {
    let visibility = api.services().machines.visibility();
    let is_visible = |job: &Job| visibility.shows_job(caller, job);
    let visible = caller.scope.is_restricted().then_some(&is_visible as _);
    Ok(!api.services().jobs.list(filter, None, 1, visible).await?.items.is_empty())
}

fn unknown_job(text: &str) -> Failure {
    let detail =
        format!("There is no job {}. Ended jobs are kept for a while: GET /v1/jobs", shorten(text));
    Failure::new(FailureKind::NotFound, detail)
}
