//! `GET /v1/jobs`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use utoipa::IntoParams;

use super::wire::{Job, JobList};
use crate::api::documented::Problems;
use crate::api::extract::Query;
use crate::api::leases::named_lease;
use crate::api::machines::named_machine;
use crate::api::paging::Cursors;
use crate::api::problem::ApiError;
use crate::api::{Api, respond};
use crate::domain;
use crate::domain::job::{JobKind, JobState};
use crate::service::callers::Caller;
use crate::storage::JobFilter;

/// How many jobs a page has where nothing is said.
const PAGE: u32 = 100;

/// Which jobs are wanted.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the parameters and names them for the strict reader")]
pub struct JobsQuery {
    /// States, comma-separated: `queued,running`.
    #[param(value_type = String, required = false)]
    state: Option<String>,
    /// A machine's id, `name:…`, `uuid:…` or `mac:…`.
    #[param(value_type = String, required = false)]
    machine: Option<String>,
    /// Kinds, comma-separated: `machine.power_on,snapshot.revert`.
    #[param(value_type = String, required = false)]
    kind: Option<String>,
    /// Who asked.
    #[param(value_type = String, required = false)]
    requested_by: Option<String>,
    /// What was sent as `Otter-Reference`.
    #[param(value_type = String, required = false)]
    reference: Option<String>,
    /// The lease that they belong to.
    #[param(value_type = String, required = false)]
    lease: Option<String>,
    /// How many, 1 to 1,000; 100 where nothing is said.
    #[param(value_type = u32, required = false, minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// The `next` of an earlier answer to a call with the same filters.
    #[param(value_type = String, required = false)]
    cursor: Option<String>,
}

/// List jobs
///
/// Newest first, by pages. otter keeps ended jobs for 30 days, and the last 10,000 for longer.
#[utoipa::path(get, path = "/v1/jobs", operation_id = "list_jobs", tag = "jobs", params(JobsQuery),
    responses(
        (status = 200, description = "A page of jobs", body = JobList),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter", "invalid-cursor", "not-found", "ambiguous-name", "inventory-loading"]))))]
pub async fn list_jobs(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Query<JobsQuery>,
) -> Result<Response, ApiError> {
    let params = query.params;
    let states: Vec<&str> = JobState::ALL.iter().map(|state| state.as_str()).collect();
    let kinds: Vec<&str> = JobKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let machine = named_machine(&api, &caller, &params).await?;
    let lease = named_lease(&api, &caller, &params).await?;
    let filter = JobFilter {
        states: params.set("state", &states, JobState::parse)?,
        machine,
        kinds: params.set("kind", &kinds, JobKind::parse)?,
        requested_by: params.text("requested_by").map(str::to_owned),
        reference: params.text("reference").map(str::to_owned),
        lease,
    };
    let limit = params.limit()?.unwrap_or(PAGE);
    let cursors = Cursors::new("jobs", &params);
    let version = api.services().feed.version();
    let visibility = api.services().machines.visibility();
    let is_visible = |job: &domain::job::Job| visibility.shows_job(&caller, job);
    let visible = caller.scope.is_restricted().then_some(&is_visible as _);
    let page = api.services().jobs.list(&filter, cursors.point()?, limit, visible).await?;
    let items: Vec<Job> = page.items.iter().map(Job::of).collect();
    Ok(respond::list(&api, &version, &items, page.next.map(|next| cursors.behind(&next))))
}
