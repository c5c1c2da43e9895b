//! `POST /v1/leases/{lease}/renew`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde::Deserialize;
use utoipa::ToSchema;

use super::wire::Lease;
use super::{LeaseHeader, LeasePath, create, lease_id, unknown_lease};
use crate::api::extract::{JsonBody, NoParameters, Query, Segment, some_duration_text};
use crate::api::openapi_parts::Problems;
use crate::api::problem::ApiError;
use crate::api::{ApiState, lease_authorization, respond};
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::LeaseId;
use crate::service::callers::Caller;

/// The request to renew a lease.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// How long the lease lasts from now. Default: the `ttl` of the lease.
    #[schema(nullable = false, example = "30m")]
    #[serde(default, deserialize_with = "some_duration_text")]
    ttl: Option<String>,
}

/// Renew a lease
///
/// Sets the expiry of the lease to `ttl` from now, but not later than `max_expires_at`. A renewal
/// never shortens the lease.
#[utoipa::path(post, path = "/v1/leases/{lease}/renew", operation_id = "renew_lease",
    tag = "leases",
    params(LeasePath, LeaseHeader),
    request_body = RenewRequest,
    responses(
        (status = 200, description = "The lease, renewed", body = Lease),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "request-timeout", "payload-too-large",
        "unsupported-media-type", "machine-leased", "lease-ended", "lease-not-active",
        "storage-unavailable", "shutting-down"
    ]))))]
pub async fn renew_lease(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(text): Segment,
    headers: HeaderMap,
    _: Query<NoParameters>,
    JsonBody { value: RenewRequest { ttl }, .. }: JsonBody<RenewRequest>,
) -> Result<Response, ApiError> {
    let id = lease_id(&text)?;
    authorize(&api, &caller, &headers, id)?;
    let ttl = ttl.map(|ttl| create::parse_time("/ttl", &ttl)).transpose()?;
    let version = api.services().event_stream.version();
    if api.services().leases.get_for(&caller, id).await?.is_none() {
        return Err(unknown_lease(&text).into());
    }
    let view = api.services().leases.renew(&caller, id, ttl).await?;
    Ok(respond::object(&api, &version, &Lease::from_view(&view, None)))
}

/// Checks that a caller may renew or end a lease: with the secret of the lease, or as an operator.
/// Returns true if the caller sent the secret.
///
/// # Errors
/// `machine-leased` if the secret belongs to another lease; `forbidden` if a caller that is not an
/// operator sends no secret.
pub fn authorize(
    api: &ApiState,
    caller: &Caller,
    headers: &HeaderMap,
    id: LeaseId,
) -> Result<bool, Failure> {
    match lease_authorization::read_lease(api, headers)? {
        Some(sent) if sent == id => Ok(true),
        Some(sent) => {
            let detail = format!("Otter-Lease belongs to the lease {sent}, not to {id}.");
            Err(Failure::new(FailureKind::MachineLeased, detail).with_lease(id))
        }
        None if caller.role >= Role::Operator => Ok(false),
        None => {
            let role = caller.role.with_article();
            let detail = format!("{} is {role}; send the Otter-Lease of this lease.", caller.name);
            Err(Failure::new(FailureKind::Forbidden, detail).with_lease(id))
        }
    }
}
