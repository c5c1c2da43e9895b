//! `GET /v1/audit`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use utoipa::IntoParams;

use super::wire::{AuditEntry, AuditList};
use crate::api::documented::Problems;
use crate::api::extract::{Params, Query, failure_at};
use crate::api::jobs::named_job;
use crate::api::leases::named_lease;
use crate::api::paging::Cursors;
use crate::api::problem::ApiError;
use crate::api::{Api, respond};
use crate::domain::audit::{AuditAction, AuditOutcome};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::MachineId;
use crate::domain::scope::Scope;
use crate::service::callers::Caller;
use crate::service::machines::shorten;
use crate::storage::AuditFilter;

/// How many facts a page has unless the caller says.
const PAGE: u32 = 100;

/// Which facts to list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the parameters and names them for the strict reader")]
pub struct AuditQuery {
    /// Actions, comma-separated: `job.ended,lease.ended`.
    #[param(value_type = String, required = false)]
    action: Option<String>,
    /// The name of a token, `anonymous`, `otter`, `otter token`, or `otter store`.
    #[param(value_type = String, required = false)]
    actor: Option<String>,
    /// A machine's id, `name:…`, `uuid:…` or `mac:…`.
    #[param(value_type = String, required = false)]
    machine: Option<String>,
    /// A lease's id.
    #[param(value_type = String, required = false)]
    lease: Option<String>,
    /// A job's id.
    #[param(value_type = String, required = false)]
    job: Option<String>,
    /// What was sent as `Otter-Reference`.
    #[param(value_type = String, required = false)]
    reference: Option<String>,
    /// Outcomes, comma-separated: `failed,unknown`.
    #[param(value_type = String, required = false)]
    outcome: Option<String>,
    /// Facts of this time or later, as RFC 3339: `2026-03-01T12:00:00Z`.
    #[param(value_type = String, required = false)]
    since: Option<String>,
    /// Facts of before this time, as RFC 3339.
    #[param(value_type = String, required = false)]
    until: Option<String>,
    /// How many, 1 to 1,000; 100 unless you say.
    #[param(value_type = u32, required = false, minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// The `next` of an earlier answer to a call with the same filters.
    #[param(value_type = String, required = false)]
    cursor: Option<String>,
}

/// Read the audit
///
/// Who did what, newest first, by pages: jobs, leases, quarantines, overrides, tokens, settings and refused calls. Facts are kept
/// as long as `audit.retention_days` and `audit.max_bytes` allow. It holds no secrets.
#[utoipa::path(get, path = "/v1/audit", operation_id = "list_audit", tag = "audit", params(AuditQuery),
    responses(
        (status = 200, description = "A page of the audit", body = AuditList),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter", "invalid-cursor", "not-found", "ambiguous-name", "inventory-loading"]))))]
pub async fn list_audit(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Query<AuditQuery>,
) -> Result<Response, ApiError> {
    let params = query.params;
    let filter = filter(&api, &caller, &params).await?;
    let limit = params.limit()?.unwrap_or(PAGE);
    let cursors = Cursors::new("audit", &params);
    let version = api.services().feed.version();
    let page = api.services().audit.list(&filter, cursors.point()?, limit).await?;
    let items: Vec<AuditEntry> = page.items.iter().map(AuditEntry::of).collect();
    Ok(respond::list(&api, &version, &items, page.next.map(|next| cursors.behind(&next))))
}

async fn filter(api: &Api, caller: &Caller, params: &Params) -> Result<AuditFilter, Failure> {
    let actions: Vec<&str> = AuditAction::ALL.iter().map(|action| action.as_str()).collect();
    let outcomes: Vec<&str> = AuditOutcome::ALL.iter().map(|outcome| outcome.as_str()).collect();
    let machine = match params.filled("machine")? {
        Some(reference) => Some(machine(api, reference).await?),
        None => None,
    };
    let (lease, job) = (params.id("lease")?, params.id("job")?);
    if let Err(failure) = named_lease(api, caller, params).await {
        require_facts(api, AuditFilter { lease, ..AuditFilter::default() }, failure).await?;
    }
    if let Err(failure) = named_job(api, caller, params).await {
        require_facts(api, AuditFilter { job, ..AuditFilter::default() }, failure).await?;
    }
    Ok(AuditFilter {
        actions: params.set("action", &actions, AuditAction::parse)?,
        outcomes: params.set("outcome", &outcomes, AuditOutcome::parse)?,
        actor: params.filled("actor")?.map(str::to_owned),
        machine,
        lease,
        job,
        reference: params.filled("reference")?.map(str::to_owned),
        since: time(params, "since")?,
        until: time(params, "until")?,
    })
}

/// The machine that a filter names: one of the host, or the id of one that is gone and whose facts are kept.
async fn machine(api: &Api, reference: &str) -> Result<MachineId, Failure> {
    // Only admins read the audit, and an admin is never restricted.
    let failure = match api.services().machines.resolve(&Scope::All, reference) {
        Ok(view) => return Ok(view.record.machine.id.clone()),
        Err(failure) => failure,
    };
    let id = MachineId::new(reference);
    let of_machine = AuditFilter { machine: Some(id.clone()), ..AuditFilter::default() };
    require_facts(api, of_machine, failure).await.map(|()| id)
}

/// Refuses what does not exist, unless facts of it are kept.
async fn require_facts(api: &Api, of_it: AuditFilter, missing: Failure) -> Result<(), Failure> {
    let facts = api.services().audit.list(&of_it, None, 1).await?;
    if facts.items.is_empty() { Err(missing) } else { Ok(()) }
}

fn time(params: &Params, name: &str) -> Result<Option<Timestamp>, Failure> {
    let Some(text) = params.filled(name)? else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        let detail =
            format!("{name} is {}; write a time as RFC 3339, such as 2026-03-01T12:00:00Z.", shorten(text));
        failure_at(FailureKind::InvalidRequest, name, "not-a-time", detail)
    })
}
