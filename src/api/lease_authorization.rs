//! By what right a call changes a machine: `Otter-Lease` and `Otter-Override`.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName};

use super::ApiState;
use super::extract::{failure_at, header};
use super::respond::set;
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::LeaseId;
use crate::service::callers::Caller;
use crate::service::jobs::gate::{Pass, Right};

/// When the lease ends that the call showed.
const OTTER_LEASE_EXPIRES: HeaderName = HeaderName::from_static("otter-lease-expires");

/// The longest reason of an override.
const MAX_REASON: usize = 512;

/// The right of a caller: its role, the lease that it shows, and the reason of an override.
///
/// # Errors
/// `invalid-request` for a malformed or doubled header, `machine-leased` for a wrong secret,
/// `forbidden` for an override by who may not.
pub fn read_authorization(
    api: &ApiState,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Right, Failure> {
    let pass = read_lease(api, headers)?.map_or(Pass::Nothing, Pass::Lease);
    let override_reason = read_override_reason(caller, headers)?;
    Ok(Right { caller: caller.clone(), pass, override_reason })
}

/// The reason of an override; `None` if the call makes none.
///
/// # Errors
/// As [`read`].
pub fn read_override_reason(
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Option<String>, Failure> {
    let Some(reason) = header(headers, "otter-override")? else { return Ok(None) };
    if caller.role < Role::Operator {
        let role = caller.role.with_article();
        let detail = format!("{} is {role}; Otter-Override is for operators.", caller.name);
        return Err(Failure::new(FailureKind::Forbidden, detail));
    }
    let length = reason.chars().count();
    if reason.trim().is_empty() || length > MAX_REASON {
        let detail =
            format!("The header Otter-Override is the reason, of 1 to {MAX_REASON} characters.");
        return Err(failure_at(
            FailureKind::InvalidRequest,
            "otter-override",
            "out-of-range",
            detail,
        ));
    }
    Ok(Some(reason.to_owned()))
}

/// The lease that a call shows, its secret held against it.
///
/// # Errors
/// As [`read`].
pub fn read_lease(api: &ApiState, headers: &HeaderMap) -> Result<Option<LeaseId>, Failure> {
    let Some(given) = header(headers, "otter-lease")? else { return Ok(None) };
    let malformed = || {
        let detail =
            "The header Otter-Lease is <id>.<secret>, as the answer of POST /v1/leases gave them.";
        failure_at(FailureKind::InvalidRequest, "otter-lease", "not-a-lease", detail.to_owned())
    };
    let (id, secret) = given.split_once('.').ok_or_else(malformed)?;
    let id: LeaseId = id.parse().map_err(|_| malformed())?;
    if secret.len() != 64 || !secret.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(malformed());
    }
    if api.services().leases.is_secret_of(id, secret) {
        return Ok(Some(id));
    }
    let detail = format!("The secret is not that of the lease {id}.");
    Err(Failure::new(FailureKind::MachineLeased, detail).with_lease(id))
}

/// Says in every answer to a call that showed a lease when that ends.
pub async fn add_lease_expiry(
    State(api): State<ApiState>,
    request: Request,
    next: Next,
) -> Response {
    // What is malformed is refused by whoever needs it.
    let lease = read_lease(&api, request.headers()).ok().flatten();
    let mut response = next.run(request).await;
    if let Some(id) = lease
        && let Some(at) = api.services().leases.expires_at(id)
    {
        set(&mut response, OTTER_LEASE_EXPIRES, &at.to_string());
    }
    response
}
