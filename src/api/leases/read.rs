//! `GET /v1/leases`, `GET /v1/leases/{lease}` and `GET /v1/pools`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use utoipa::IntoParams;

use super::wire::{Lease, LeaseList, Pool, PoolList};
use super::{LeasePath, lease_id, unknown_lease};
use crate::api::documented::Problems;
use crate::api::extract::{NoParameters, Query, Segment};
use crate::api::machines::named_machine;
use crate::api::paging::Cursors;
use crate::api::problem::ApiError;
use crate::api::{Api, respond};
use crate::domain::failure::Failure;
use crate::domain::ids::LeaseId;
use crate::domain::lease::LeaseState;
use crate::service::callers::Caller;
use crate::storage::LeaseFilter;

/// How many leases a page has where nothing is said.
const PAGE: u32 = 100;

/// Which leases are wanted.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the parameters and names them for the strict reader")]
pub struct LeasesQuery {
    /// States, comma-separated: `queued,active`.
    #[param(value_type = String, required = false)]
    state: Option<String>,
    /// A machine's id, `name:…`, `uuid:…` or `mac:…`.
    #[param(value_type = String, required = false)]
    machine: Option<String>,
    /// The pool that its machine is from.
    #[param(value_type = String, required = false)]
    pool: Option<String>,
    /// Who or what holds it, to the letter.
    #[param(value_type = String, required = false)]
    holder: Option<String>,
    /// What was sent as `Otter-Reference`.
    #[param(value_type = String, required = false)]
    reference: Option<String>,
    /// How many, 1 to 1,000; 100 where nothing is said.
    #[param(value_type = u32, required = false, minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// The `next` of an earlier answer to a call with the same filters.
    #[param(value_type = String, required = false)]
    cursor: Option<String>,
}

/// List leases
///
/// Newest first, by pages, those that ended too.
#[utoipa::path(get, path = "/v1/leases", operation_id = "list_leases", tag = "leases", params(LeasesQuery),
    responses(
        (status = 200, description = "A page of leases", body = LeaseList),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter", "invalid-cursor", "not-found", "ambiguous-name", "inventory-loading"]))))]
pub async fn list_leases(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Query<LeasesQuery>,
) -> Result<Response, ApiError> {
    let params = query.params;
    let states: Vec<&str> = LeaseState::ALL.iter().map(|state| state.as_str()).collect();
    let machine = named_machine(&api, &caller, &params).await?;
    let pool = params.filled("pool")?.map(str::to_owned);
    if let Some(pool) = &pool {
        require_pool(&api, &caller, pool).await?;
    }
    let filter = LeaseFilter {
        states: params.set("state", &states, LeaseState::parse)?,
        machine,
        pool,
        holder: params.filled("holder")?.map(str::to_owned),
        reference: params.filled("reference")?.map(str::to_owned),
    };
    let limit = params.limit()?.unwrap_or(PAGE);
    let cursors = Cursors::new("leases", &params);
    let after: Option<LeaseId> = cursors.point()?;
    let version = api.services().feed.version();
    // One more than asked for tells whether there is a next page.
    let mut views = api.services().leases.list(&caller, &filter, after, limit + 1).await?;
    let more = views.len() > limit as usize;
    views.truncate(limit as usize);
    let next = views.last().filter(|_| more).map(|view| cursors.behind(&view.lease.id));
    let items: Vec<Lease> = views.iter().map(|view| Lease::of(view, None)).collect();
    Ok(respond::list(&api, &version, &items, next))
}

/// Refuses a pool that does not exist, unless leases of it are still kept.
async fn require_pool(api: &Api, caller: &Caller, pool: &str) -> Result<(), Failure> {
    let Err(failure) = api.services().machines.require_pool(&caller.scope, pool) else { return Ok(()) };
    let of_pool = LeaseFilter { pool: Some(pool.to_owned()), ..LeaseFilter::default() };
    if api.services().leases.list(caller, &of_pool, None, 1).await?.is_empty() {
        Err(failure)
    } else {
        Ok(())
    }
}

/// Get a lease
///
/// Asking about one that waits keeps it from being dropped as abandoned.
#[utoipa::path(get, path = "/v1/leases/{lease}", operation_id = "get_lease", tag = "leases", params(LeasePath),
    responses(
        (status = 200, description = "The lease", body = Lease),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter", "not-found"]))))]
pub async fn get_lease(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Segment(text): Segment,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let id = lease_id(&text)?;
    let version = api.services().feed.version();
    let view = api.services().leases.get_for(&caller, id).await?.ok_or_else(|| unknown_lease(&text))?;
    Ok(respond::object(&api, &version, &Lease::of(&view, None)))
}

/// List pools
///
/// Machines that belong together, by the configuration or by a line `otter.pool: <name>` in a machine's annotation.
#[utoipa::path(get, path = "/v1/pools", operation_id = "list_pools", tag = "leases",
    responses(
        (status = 200, description = "Every pool", body = PoolList),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter", "inventory-loading"]))))]
pub async fn list_pools(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let version = api.services().feed.version();
    let pools: Vec<Pool> = api.services().leases.pools(&caller)?.iter().map(Pool::of).collect();
    Ok(respond::list(&api, &version, &pools, None))
}
