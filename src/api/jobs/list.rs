//! `GET /v1/jobs`

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::JobReader;
use super::wire::JobList;
use crate::api::extract::{Parsed, values};
use crate::api::leases::named_lease;
use crate::api::machines::named_machine;
use crate::api::openapi_parts::Problems;
use crate::api::paging::{PageQuery, PagedQuery};
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::domain;
use crate::domain::ids::LeaseId;
use crate::domain::job::{JobKind, JobState};
use crate::storage::JobFilter;

/// The default number of jobs of a page.
const PAGE: u32 = 100;

/// The query parameters that filter the list of jobs. A job must match all of them.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct JobsQuery {
    /// States, comma-separated: `queued,running`.
    #[param(value_type = Option<String>)]
    state: Option<Parsed<Vec<JobState>>>,
    /// A machine: its id, `name:…`, `uuid:…` or `mac:…`.
    #[param(value_type = Option<String>)]
    machine: Option<Parsed<String>>,
    /// Kinds, comma-separated: `machine.power_on,snapshot.revert`.
    #[param(value_type = Option<String>)]
    kind: Option<Parsed<Vec<JobKind>>>,
    /// The name of the caller who started the job.
    requested_by: Option<String>,
    /// The `Otter-Reference` of the request that started the job.
    reference: Option<String>,
    /// The id of the lease to which the job belongs.
    #[param(value_type = Option<String>)]
    lease: Option<Parsed<LeaseId>>,
}

/// List jobs
///
/// Newest first. Default `limit`: 100. otter keeps an ended job for `jobs.retention_days` (default:
/// 30 days). It keeps the newest 10,000 at any age, and never more than 1,000,000.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    operation_id = "list_jobs",
    tag = "jobs",
    params(JobsQuery, PageQuery),
    responses(
        (status = 200, description = "A page of jobs", body = JobList),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "invalid-cursor", "not-found", "ambiguous-name",
        "inventory-loading"
    ]))))]
pub async fn list_jobs(
    State(api): State<ApiState>,
    reader: JobReader,
    PagedQuery { filter, limit, cursors }: PagedQuery<JobsQuery>,
) -> Result<Response, ApiError> {
    let JobsQuery { state, machine, kind, requested_by, reference, lease } = filter;
    let caller = &reader.caller;
    let machine = named_machine(&api, caller, machine).await?;
    let lease = named_lease(&api, caller, lease.map(Parsed::value)).await?;
    let filter = JobFilter {
        states: values(state),
        machine,
        kinds: values(kind),
        requested_by,
        reference,
        lease,
    };
    let limit = limit.unwrap_or(PAGE);
    let version = api.services().event_stream.version();
    let visibility = api.services().machines.visibility();
    let is_visible = |job: &domain::job::Job| visibility.shows_job(caller, job);
    let visible = caller.scope.is_restricted().then_some(&is_visible as _);
    let page = api.services().jobs.list(&filter, cursors.position()?, limit, visible).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for view in &page.items {
        items.push(reader.show(&api, view).await?);
    }
    let next = page.next.map(|next| cursors.after(&next));
    Ok(respond::list(&api, &version, &items, next.as_deref()))
}
