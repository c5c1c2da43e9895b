//! `/v1/jobs`: list, read, wait for and cancel jobs.

mod cancel;
mod get;
mod list;
mod reader;
mod wait;
pub mod wire;

use axum::response::Response;
use utoipa_axum::routes;

pub use self::reader::JobReader;
use super::roles::Routes;
use super::{ApiState, respond};
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::JobId;
use crate::domain::job::Job;
use crate::service::callers::Caller;
use crate::service::event_stream::Version;
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

/// Parses the id of a job in a path.
///
/// # Errors
/// `invalid-request` if the text is empty, `not-found` if the text is not the id of a job.
fn job_id(text: &str) -> Result<JobId, Failure> {
    if text.is_empty() {
        return Err(empty_name("job"));
    }
    text.parse().map_err(|_| unknown_job(text))
}

/// Returns the job if it is visible to the caller.
///
/// # Errors
/// `not-found` if the job does not exist, or if its machine is not in the caller's scope.
pub fn require_visible(
    api: &ApiState,
    caller: &Caller,
    view: Option<JobView>,
    text: &str,
) -> Result<JobView, Failure> {
    let visibility = api.services().machines.visibility();
    view.filter(|view| visibility.shows_job(caller, &view.job)).ok_or_else(|| unknown_job(text))
}

/// A response with a job. All readers of an ended job share its text, unless only some of them may
/// see what the screen showed.
///
/// # Errors
/// The errors of the store.
pub async fn job_response(
    api: &ApiState,
    version: &Version,
    reader: &JobReader,
    view: &JobView,
) -> Result<Response, Failure> {
    match view.ended.as_ref().filter(|_| !view.job.has_seen_screen()) {
        None => Ok(respond::object(api, version, &reader.show(api, view).await?)),
        Some(ended) => {
            let encode = || respond::encode(&wire::Job::from_view(view, false));
            Ok(respond::encoded(api, version, ended.encoded(encode)))
        }
    }
}

/// Checks the job in a filter of events or of the audit.
///
/// # Errors
/// `not-found` if the job is not visible to the caller; the errors of the store.
pub async fn named_job(
    api: &ApiState,
    caller: &Caller,
    id: Option<JobId>,
) -> Result<Option<JobId>, Failure> {
    let Some(id) = id else { return Ok(None) };
    require_visible(api, caller, api.services().jobs.get(id).await?, &id.to_string())?;
    Ok(Some(id))
}

/// Whether the store has a job that matches the filter and is visible to the caller.
///
/// # Errors
/// The errors of the store.
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
    let detail = format!(
        "The job {} does not exist. otter deletes ended jobs after a while. List jobs: GET \
                 /v1/jobs",
        shorten(text)
    );
    Failure::new(FailureKind::NotFound, detail)
}
