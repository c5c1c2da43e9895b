//! `DELETE /v1/leases/{lease}`

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;

use super::renew::authorize;
use super::wait::wait_until;
use super::wire::Lease;
use super::{LeasePath, lease_id, unknown_lease};
use crate::api::extract::{
    InvalidValue, Parameter, Parsed, Query, Segment, check_printable_parameter, failure_at,
};
use crate::api::long_poll::WaitMode;
use crate::api::openapi_parts::Problems;
use crate::api::problem::ApiError;
use crate::api::{ApiState, lease_authorization, respond};
use crate::domain::failure::FailureKind;
use crate::domain::lease::{EndReason, LeaseState};
use crate::service::callers::Caller;

/// The query parameters of a request to end a lease.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EndQuery {
    /// The longest time that the call waits until the lease has ended and otter has released the
    /// machine: `30s`, `10m`. Default: the call does not wait.
    #[param(value_type = Option<String>)]
    wait: Option<Parsed<Duration>>,
    /// Why the caller ends the lease, as a text for the holder, at most 512 characters. The lease
    /// shows it as `end.detail`. If the request also has the header `Otter-Override`, this
    /// parameter counts.
    #[param(value_type = Option<String>)]
    reason: Option<Parsed<String>>,
    /// Whether the use of the machine succeeded: `succeeded` or `failed`. With `failed`, an active
    /// lease that has `keep_on_failure` does not end: it stays active for the duration in
    /// `keep_on_failure`, so that people can examine the machine. If a later call sends `failed`
    /// too, this duration does not start again. Default: `succeeded`.
    #[param(value_type = Option<String>)]
    outcome: Option<Parsed<Outcome>>,
}

/// Whether the use of a machine succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Succeeded,
    Failed,
}

impl Parameter for Outcome {
    fn from_text(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "succeeded" => Ok(Self::Succeeded),
            "failed" => Ok(Self::Failed),
            _ => Err(InvalidValue::new("not-one-of", text, "write succeeded or failed")),
        }
    }
}

/// The headers of a request to end a lease.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents the headers")]
pub struct EndHeaders {
    /// `<id>.<secret>` of the lease, from the response of `POST /v1/leases`.
    #[param(rename = "Otter-Lease", value_type = String, required = false)]
    otter_lease: Option<String>,
    /// Why an operator ends the lease, 1 to 512 characters. The lease shows it as `end.detail`,
    /// unless the query parameter `reason` is set.
    #[param(rename = "Otter-Override", value_type = String, required = false)]
    otter_override: Option<String>,
}

/// The largest number of characters of a reason.
const MAX_REASON: usize = 512;

/// Give a machine back
///
/// With the header `Otter-Lease`, the holder ends the lease. Without this header, an operator
/// revokes the lease. otter then releases the machine, which is free once the release has
/// succeeded. If the lease has already ended, the call returns it unchanged. With `outcome=failed`,
/// an active lease that has `keep_on_failure` does not end yet: otter keeps the machine for people
/// until the lease expires, or until a call without `outcome=failed`.
#[utoipa::path(delete, path = "/v1/leases/{lease}", operation_id = "end_lease", tag = "leases",
    params(LeasePath, EndQuery, EndHeaders),
    responses(
        (status = 200, description = "The lease, which is `releasing`, has ended or is kept",
            body = Lease),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "machine-leased", "wait-timeout",
        "storage-unavailable", "shutting-down", "too-many-waits"
    ]))))]
pub async fn end_lease(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(text): Segment,
    Query(EndQuery { wait, reason, outcome }, _): Query<EndQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = lease_id(&text)?;
    let reason = reason.map(Parsed::value);
    if reason.as_ref().is_some_and(|reason| reason.chars().count() > MAX_REASON) {
        let detail = format!("reason is longer than {MAX_REASON} characters.");
        return Err(
            failure_at(FailureKind::InvalidRequest, "reason", "out-of-range", detail).into()
        );
    }
    reason.as_deref().map_or(Ok(()), |reason| check_printable_parameter("reason", reason))?;
    let wait = wait.map(|Parsed(wait)| wait.min(api.settings().max_wait));
    let override_reason = lease_authorization::read_override_reason(&caller, &headers)?;
    let is_holder = authorize(&api, &caller, &headers, id)?;
    let version = api.services().event_stream.version();
    if api.services().leases.get_for(&caller, id).await?.is_none() {
        return Err(unknown_lease(&text).into());
    }
    let end = if is_holder { EndReason::Released } else { EndReason::Revoked };
    let failed = outcome.map(Parsed::value) == Some(Outcome::Failed);
    let detail = reason.or(override_reason);
    let view = api.services().leases.end(&caller, id, end, failed, detail).await?;
    // Do not wait for the end of a lease that is kept because its use failed: it does not end
    // during the wait.
    let is_kept = failed && view.lease.state == LeaseState::Active;
    let Some(time) = wait.filter(|_| !is_kept) else {
        return Ok(respond::object(&api, &version, &Lease::from_view(&view, None)));
    };
    let mut response = match wait_until(&api, &caller, id, time, LeaseState::is_end).await {
        Ok(view) => respond::object(&api, &version, &Lease::from_view(&view, None)),
        Err(failure) => ApiError(failure).into_response(),
    };
    WaitMode::Outcome(time).set_headers(&mut response);
    Ok(response)
}
