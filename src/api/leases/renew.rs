//! `POST /v1/leases/{lease}/renew`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde::Deserialize;
use utoipa::ToSchema;

use super::wire::Lease;
use super::{LeaseHeader, LeasePath, create, lease_id, unknown_lease};
use crate::api::documented::Problems;
use crate::api::extract::{Body, NoParameters, Query, Segment, some_duration_text};
use crate::api::problem::ApiError;
use crate::api::{Api, respond, right};
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::LeaseId;
use crate::service::callers::Caller;

/// For how long.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// From now on; as long as it was asked for where nothing is said.
    #[schema(nullable = false, example = "30m")]
    #[serde(default, deserialize_with = "some_duration_text")]
    ttl: Option<String>,
}

/// Renew a lease
///
/// Its time begins anew, within what all renewals together may come to (`max_expires_at`). A
/// renewal never shortens it.
#[utoipa::path(post, path = "/v1/leases/{lease}/renew", operation_id = "renew_lease", tag = "leases",
    params(LeasePath, LeaseHeader),
    request_body = RenewRequest,
    responses(
        (status = 200, description = "The lease, renewed", body = Lease),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter", "not-found", "request-timeout", "payload-too-large",
        "unsupported-media-type", "machine-leased", "lease-ended", "storage-unavailable", "shutting-down"]))))]
pub async fn renew_lease(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Segment(text): Segment,
    headers: HeaderMap,
    _: Query<NoParameters>,
    Body { value: RenewRequest { ttl }, .. }: Body<RenewRequest>,
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

/// Whether a caller shows that the lease is its own: by its secret. An operator may act on any.
/// True where it did.
///
/// # Errors
/// `machine-leased` for another lease's secret, `forbidden` for none.
pub fn authorize(
    api: &Api,
    caller: &Caller,
    headers: &HeaderMap,
    id: LeaseId,
) -> Result<bool, Failure> {
    match right::lease(api, headers)? {
        Some(shown) if shown == id => Ok(true),
        Some(shown) => {
            let detail = format!("Otter-Lease is of the lease {shown}, and this is {id}.");
            Err(Failure::new(FailureKind::MachineLeased, detail).with_lease(id))
        }
        None if caller.role >= Role::Operator => Ok(false),
        None => {
            let role = caller.role.with_article();
            let detail =
                format!("{} is {role}; show that the lease is yours: Otter-Lease.", caller.name);
            Err(Failure::new(FailureKind::Forbidden, detail).with_lease(id))
        }
    }
}
