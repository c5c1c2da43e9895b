//! `GET /v1/audit`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use super::wire::{AuditEntry, AuditList};
use crate::api::extract::{Parsed, values};
use crate::api::jobs::named_job;
use crate::api::leases::named_lease;
use crate::api::openapi_parts::Problems;
use crate::api::paging::{PageQuery, PagedQuery};
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::domain::audit::{AuditAction, AuditOutcome};
use crate::domain::failure::Failure;
use crate::domain::ids::{JobId, LeaseId, MachineId};
use crate::domain::machine_reference::MachineReference;
use crate::domain::scope::Scope;
use crate::service::callers::Caller;
use crate::storage::AuditFilter;

/// The default number of entries of a page.
const PAGE: u32 = 100;

/// The query parameters that filter the audit. An entry must match all of them.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Actions, comma-separated: `job.ended,lease.ended`.
    #[param(value_type = Option<String>)]
    action: Option<Parsed<Vec<AuditAction>>>,
    /// The name of a token, `anonymous`, `otter`, `otter token` or `otter store`.
    #[param(value_type = Option<String>)]
    actor: Option<Parsed<String>>,
    /// A machine: its id, `name:…`, `uuid:…` or `mac:…`.
    #[param(value_type = Option<String>)]
    machine: Option<Parsed<String>>,
    /// The id of a lease.
    #[param(value_type = Option<String>)]
    lease: Option<Parsed<LeaseId>>,
    /// The id of a job.
    #[param(value_type = Option<String>)]
    job: Option<Parsed<JobId>>,
    /// The `Otter-Reference` of the request.
    #[param(value_type = Option<String>)]
    reference: Option<Parsed<String>>,
    /// Outcomes, comma-separated: `failed,unknown`.
    #[param(value_type = Option<String>)]
    outcome: Option<Parsed<Vec<AuditOutcome>>>,
    /// Only entries at or after this time, as RFC 3339: `2026-03-01T12:00:00Z`.
    #[param(value_type = Option<String>)]
    since: Option<Parsed<Timestamp>>,
    /// Only entries before this time, as RFC 3339.
    #[param(value_type = Option<String>)]
    until: Option<Parsed<Timestamp>>,
}

/// Read the audit
///
/// The record of who did what, newest first: jobs, leases, quarantines, overrides, tokens, reloads
/// and refused calls. Default `limit`: 100. otter keeps entries as long as `audit.retention_days`
/// and `audit.max_bytes` allow. The audit has no secrets.
#[utoipa::path(
    get,
    path = "/v1/audit",
    operation_id = "list_audit",
    tag = "audit",
    params(AuditQuery, PageQuery),
    responses(
        (status = 200, description = "A page of the audit", body = AuditList),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "invalid-cursor", "not-found", "ambiguous-name",
        "inventory-loading"
    ]))))]
pub async fn list_audit(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    PagedQuery { filter: query, limit, cursors }: PagedQuery<AuditQuery>,
) -> Result<Response, ApiError> {
    let (filter, limit) = (read_filter(&api, &caller, query).await?, limit.unwrap_or(PAGE));
    let version = api.services().event_stream.version();
    let page = api.services().audit.list(&filter, cursors.position()?, limit).await?;
    let items: Vec<AuditEntry> = page.items.iter().map(AuditEntry::from_stored).collect();
    let next = page.next.map(|next| cursors.after(&next));
    Ok(respond::list(&api, &version, &items, next.as_deref()))
}

async fn read_filter(
    api: &ApiState,
    caller: &Caller,
    query: AuditQuery,
) -> Result<AuditFilter, Failure> {
    let AuditQuery { action, actor, machine, lease, job, reference, since, until, outcome } = query;
    let machine = match machine {
        Some(Parsed(reference)) => Some(named_machine(api, &reference).await?),
        None => None,
    };
    let (lease, job) = (lease.map(Parsed::value), job.map(Parsed::value));
    if let Err(failure) = named_lease(api, caller, lease).await {
        require_entries(api, AuditFilter { lease, ..AuditFilter::default() }, failure).await?;
    }
    if let Err(failure) = named_job(api, caller, job).await {
        require_entries(api, AuditFilter { job, ..AuditFilter::default() }, failure).await?;
    }
    Ok(AuditFilter {
        actions: values(action),
        outcomes: values(outcome),
        actor: actor.map(Parsed::value),
        machine,
        lease,
        job,
        reference: reference.map(Parsed::value),
        since: since.map(Parsed::value),
        until: until.map(Parsed::value),
    })
}

/// Resolves the machine in the filter: a machine of the host, or the id of a removed machine that
/// the audit still has.
async fn named_machine(api: &ApiState, reference: &str) -> Result<MachineId, Failure> {
    // The lookup needs no scope, because only admins read the audit, and the scope of an admin is
    // never restricted.
    let failure = match api.services().machines.resolve(&Scope::All, reference) {
        Ok(view) => return Ok(view.machine.id.clone()),
        Err(failure) => failure,
    };
    let Ok(MachineReference::Id(id)) = reference.parse() else { return Err(failure) };
    let of_machine = AuditFilter { machine: Some(id.clone()), ..AuditFilter::default() };
    require_entries(api, of_machine, failure).await.map(|()| id)
}

/// Returns the failure `missing` if no audit entry matches the filter.
async fn require_entries(
    api: &ApiState,
    filter: AuditFilter,
    missing: Failure,
) -> Result<(), Failure> {
    let entries = api.services().audit.list(&filter, None, 1).await?;
    if entries.items.is_empty() { Err(missing) } else { Ok(()) }
}
