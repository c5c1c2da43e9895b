//! Reads the headers that authorise a call to change a machine, `Otter-Lease` and `Otter-Override`,
//! and adds `Otter-Lease-Expires` to responses.

use axum::response::Response;
use http::{HeaderMap, HeaderName};

use super::ApiState;
use super::extract::{failure_at, header};
use super::respond::set;
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::LeaseId;
use crate::service::callers::Caller;
use crate::service::jobs::authorization::{LeaseCredential, Requester};

/// The header with the lease with which a client works: the id and the secret of the lease.
const OTTER_LEASE: HeaderName = HeaderName::from_static("otter-lease");

/// The header with the time at which the lease of the request expires.
const OTTER_LEASE_EXPIRES: HeaderName = HeaderName::from_static("otter-lease-expires");

/// The largest number of characters of an override's reason.
const MAX_REASON: usize = 512;

/// Reads the authorisation of a call: the caller, the lease in `Otter-Lease`, and the reason in
/// `Otter-Override`.
///
/// # Errors
/// `invalid-request` if a header is malformed or repeated, `machine-leased` if the secret is wrong,
/// `forbidden` if the caller's role may not override.
pub fn read_authorization(
    api: &ApiState,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Requester, Failure> {
    let credential =
        read_lease(api, headers)?.map_or(LeaseCredential::Absent, LeaseCredential::Lease);
    let override_reason = read_override_reason(caller, headers)?;
    Ok(Requester { caller: caller.clone(), credential, override_reason })
}

/// Reads the reason of an override. `None` if the request has no `Otter-Override`.
///
/// # Errors
/// The errors of [`read_authorization`].
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
        let detail = format!(
            "The header Otter-Override must hold a reason of 1 to {MAX_REASON} \
                     characters."
        );
        return Err(failure_at(
            FailureKind::InvalidRequest,
            "otter-override",
            "out-of-range",
            detail,
        ));
    }
    Ok(Some(reason.to_owned()))
}

/// Reads the lease in `Otter-Lease` and checks its secret. `None` if the request has no
/// `Otter-Lease`.
///
/// # Errors
/// The errors of [`read_authorization`].
pub fn read_lease(api: &ApiState, headers: &HeaderMap) -> Result<Option<LeaseId>, Failure> {
    let Some(given) = header(headers, "otter-lease")? else { return Ok(None) };
    let malformed = || {
        let detail = "The header Otter-Lease must be <id>.<secret>, with the values that POST \
                      /v1/leases returned.";
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
    let detail = format!("The secret in Otter-Lease is not the secret of lease {id}.");
    Err(Failure::new(FailureKind::MachineLeased, detail).with_lease(id))
}

/// The lease in `Otter-Lease`, if the header is valid. Ignores a malformed header, because each
/// handler that needs the lease refuses such a header.
pub fn valid_lease(api: &ApiState, headers: &HeaderMap) -> Option<LeaseId> {
    headers.contains_key(OTTER_LEASE).then(|| read_lease(api, headers).ok().flatten()).flatten()
}

/// Adds `Otter-Lease-Expires` to the response for a request with this lease.
pub fn add_expiry(api: &ApiState, lease: Option<LeaseId>, response: &mut Response) {
    if let Some(at) = lease.and_then(|id| api.services().leases.expires_at(id)) {
        set(response, OTTER_LEASE_EXPIRES, &at.to_string());
    }
}
