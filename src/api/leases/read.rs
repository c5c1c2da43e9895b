//! `GET /v1/leases`, `GET /v1/leases/{lease}` and `GET /v1/pools`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::wire::{Lease, LeaseList, Pool, PoolList};
use super::{LeasePath, lease_id, unknown_lease};
use crate::api::extract::{NoParameters, Parsed, Query, Segment, values};
use crate::api::machines::named_machine;
use crate::api::openapi_parts::Problems;
use crate::api::paging::{PageQuery, PagedQuery};
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::domain::failure::Failure;
use crate::domain::ids::LeaseId;
use crate::domain::lease::LeaseState;
use crate::service::callers::Caller;
use crate::storage::LeaseFilter;

/// The default page size.
const PAGE: u32 = 100;

/// The query parameters that filter the list of leases. A lease must match all of them.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LeasesQuery {
    /// One or more states, separated by commas: `queued,active`.
    #[param(value_type = Option<String>)]
    state: Option<Parsed<Vec<LeaseState>>>,
    /// The machine of the lease: an id, `name:…`, `uuid:…` or `mac:…`.
    #[param(value_type = Option<String>)]
    machine: Option<Parsed<String>>,
    /// The `pool` of the lease.
    #[param(value_type = Option<String>)]
    pool: Option<Parsed<String>>,
    /// The exact `holder` of the lease.
    #[param(value_type = Option<String>)]
    holder: Option<Parsed<String>>,
    /// The exact `Otter-Reference` of the request for the lease.
    #[param(value_type = Option<String>)]
    reference: Option<Parsed<String>>,
}

/// List leases
///
/// Open and ended leases, newest first, in pages of 100 unless `limit` is set.
#[utoipa::path(get, path = "/v1/leases", operation_id = "list_leases", tag = "leases",
    params(LeasesQuery, PageQuery),
    responses(
        (status = 200, description = "A page of leases", body = LeaseList),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "invalid-cursor", "not-found", "ambiguous-name",
        "inventory-loading"
    ]))))]
pub async fn list_leases(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    PagedQuery { filter, limit, cursors }: PagedQuery<LeasesQuery>,
) -> Result<Response, ApiError> {
    let LeasesQuery { state, machine, pool, holder, reference } = filter;
    let machine = named_machine(&api, &caller, machine).await?;
    if let Some(Parsed(pool)) = &pool {
        require_pool(&api, &caller, pool).await?;
    }
    let filter = LeaseFilter {
        states: values(state),
        machine,
        pool: pool.map(Parsed::value),
        holder: holder.map(Parsed::value),
        reference: reference.map(Parsed::value),
    };
    let limit = limit.unwrap_or(PAGE);
    let after: Option<LeaseId> = cursors.position()?;
    let version = api.services().event_stream.version();
    // One lease more than the limit is read. If there is one, there is a next page.
    let mut views = api.services().leases.list(&caller, &filter, after, limit + 1).await?;
    let more = views.len() > limit as usize;
    views.truncate(limit as usize);
    let next = views.last().filter(|_| more).map(|view| cursors.after(&view.lease.id));
    let items: Vec<Lease> = views.iter().map(|view| Lease::from_view(view, None)).collect();
    Ok(respond::list(&api, &version, &items, next.as_deref()))
}

/// Rejects a pool that does not exist, unless the store has leases of it.
///
/// # Errors
/// `invalid-request`. Fails if the store cannot be read.
async fn require_pool(api: &ApiState, caller: &Caller, pool: &str) -> Result<(), Failure> {
    let Err(failure) = api.services().machines.require_pool(&caller.scope, pool) else {
        return Ok(());
    };
    let of_pool = LeaseFilter { pool: Some(pool.to_owned()), ..LeaseFilter::default() };
    if api.services().leases.list(caller, &of_pool, None, 1).await?.is_empty() {
        Err(failure)
    } else {
        Ok(())
    }
}

/// Get a lease
///
/// Reading a queued lease counts as a poll, so otter does not end it as abandoned.
#[utoipa::path(get, path = "/v1/leases/{lease}", operation_id = "get_lease", tag = "leases",
    params(LeasePath),
    responses(
        (status = 200, description = "The lease", body = Lease),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found"
    ]))))]
pub async fn get_lease(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(text): Segment,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let id = lease_id(&text)?;
    let version = api.services().event_stream.version();
    let view =
        api.services().leases.get_for(&caller, id).await?.ok_or_else(|| unknown_lease(&text))?;
    Ok(respond::object(&api, &version, &Lease::from_view(&view, None)))
}

/// List pools
///
/// A pool is a group of machines. The configuration or a line `otter.pool: <name>` in a machine's
/// annotation puts a machine into a pool.
#[utoipa::path(get, path = "/v1/pools", operation_id = "list_pools", tag = "leases",
    responses(
        (status = 200, description = "Every pool", body = PoolList),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "inventory-loading"
    ]))))]
pub async fn list_pools(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let pools: Vec<Pool> =
        api.services().leases.pools(&caller)?.iter().map(Pool::from_view).collect();
    Ok(respond::list(&api, &version, &pools, None))
}
