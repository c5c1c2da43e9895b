//! `/v1/leases` and `/v1/pools`.

mod clear_pool;
mod create;
mod end;
mod read;
mod renew;
mod wait;
pub mod wire;

use utoipa::IntoParams;
use utoipa_axum::routes;

use super::ApiState;
use super::jobs::is_any_kept;
use super::roles::Routes;
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::LeaseId;
use crate::service::callers::Caller;
use crate::service::machines::{empty_name, shorten};
use crate::storage::JobFilter;

/// The routes of this folder.
pub fn routes() -> Routes {
    Routes::default()
        .role(Role::Runner, routes!(create::create_lease))
        .role(Role::Viewer, routes!(read::list_leases))
        .role(Role::Viewer, routes!(read::get_lease))
        .role(Role::Runner, routes!(end::end_lease))
        .role(Role::Viewer, routes!(wait::wait_for_lease))
        .role(Role::Runner, routes!(renew::renew_lease))
        .role(Role::Viewer, routes!(read::list_pools))
        .role(Role::Operator, routes!(clear_pool::clear_pool_quarantine))
}

/// The path parameter that names a lease.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the segment")]
pub struct LeasePath {
    /// The id of the lease.
    lease: String,
}

/// The request header with the secret of the lease.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents the header")]
pub struct LeaseHeader {
    /// `<id>.<secret>` of the lease, from the response of `POST /v1/leases`.
    #[param(rename = "Otter-Lease", value_type = String, required = false)]
    otter_lease: Option<String>,
}

/// Parses the id of a lease in a path.
///
/// # Errors
/// `not-found` if the text is not the id of a lease; `invalid-request` if it is empty.
pub fn lease_id(text: &str) -> Result<LeaseId, Failure> {
    if text.is_empty() {
        return Err(empty_name("lease"));
    }
    text.parse().map_err(|_| unknown_lease(text))
}

/// Checks the lease of a filter for jobs, events or the audit. A lease that was deleted is accepted
/// while the store has jobs of it.
///
/// # Errors
/// `not-found` if the lease does not exist for the caller. Fails if the store cannot be read.
pub async fn named_lease(
    api: &ApiState,
    caller: &Caller,
    id: Option<LeaseId>,
) -> Result<Option<LeaseId>, Failure> {
    let Some(id) = id else { return Ok(None) };
    let of_lease = JobFilter { lease: Some(id), ..JobFilter::default() };
    let is_known = api.services().leases.exists_for(caller, id).await?
        || is_any_kept(api, caller, &of_lease).await?;
    if is_known { Ok(Some(id)) } else { Err(unknown_lease(&id.to_string())) }
}

/// The failure of a call that names a lease which does not exist for the caller.
pub fn unknown_lease(text: &str) -> Failure {
    let detail = format!("There is no lease {}. List them: GET /v1/leases", shorten(text));
    Failure::new(FailureKind::NotFound, detail)
}
