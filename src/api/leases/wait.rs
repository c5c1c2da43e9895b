//! `GET /v1/leases/{lease}/wait`

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::wire::Lease;
use super::{LeasePath, lease_id, unknown_lease};
use crate::api::extract::{Query, Segment};
use crate::api::long_poll::{WaitEnd, WaitMode, WaitQuery, wait};
use crate::api::openapi_parts::Problems;
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::domain::ids::LeaseId;
use crate::domain::lease::{EndReason, LeaseState};
use crate::service::callers::Caller;
use crate::service::leases::LeaseView;

/// Wait for a lease
///
/// Returns 200 with the lease once it is active, or its problem as soon as it ends. Returns 504
/// `wait-timeout` if the time is up first: the lease is unchanged, so wait again.
#[utoipa::path(get, path = "/v1/leases/{lease}/wait", operation_id = "wait_for_lease",
    tag = "leases",
    params(LeasePath, WaitQuery),
    responses(
        (status = 200, description = "The active lease", body = Lease),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "wait-timeout", "shutting-down",
        "too-many-waits", "lease-failed", "no-free-machine"
    ]))))]
pub async fn wait_for_lease(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(text): Segment,
    Query(query, _): Query<WaitQuery>,
) -> Result<Response, ApiError> {
    let id = lease_id(&text)?;
    let time = query.time(&api);
    let version = api.services().event_stream.version();
    // The wait also ends if the lease is being released, because such a lease never becomes active.
    let is_decided = |state| matches!(state, LeaseState::Active | LeaseState::Releasing);
    let waited = wait_until(&api, &caller, id, time, is_decided).await;
    let mut response = match waited {
        Ok(view) if view.lease.state == LeaseState::Active => {
            respond::object(&api, &version, &Lease::from_view(&view, None))
        }
        Ok(view) => ApiError(failure_of_ended(&view)).into_response(),
        Err(failure) => ApiError(failure).into_response(),
    };
    WaitMode::Outcome(time).set_headers(&mut response);
    Ok(response)
}

/// Waits until a lease reaches a state that `is_reached` accepts, or ends.
///
/// # Errors
/// `wait-timeout`, `shutting-down`, `too-many-waits`, `not-found`.
pub async fn wait_until(
    api: &ApiState,
    caller: &Caller,
    id: LeaseId,
    time: std::time::Duration,
    is_reached: impl Fn(LeaseState) -> bool + Copy,
) -> Result<LeaseView, Failure> {
    let leases = &api.services().leases;
    let missing = || unknown_lease(&id.to_string());
    let (view, kind) = match wait(api, time, leases.wait_until(caller, id, is_reached)).await? {
        WaitEnd::Done(view) => {
            let view = view?.ok_or_else(missing)?;
            if is_reached(view.lease.state) || view.lease.state.is_end() {
                return Ok(view);
            }
            (view, FailureKind::ShuttingDown)
        }
        WaitEnd::TimeUp => {
            (leases.get_for(caller, id).await?.ok_or_else(missing)?, FailureKind::WaitTimeout)
        }
        WaitEnd::ShuttingDown => {
            (leases.get_for(caller, id).await?.ok_or_else(missing)?, FailureKind::ShuttingDown)
        }
    };
    let detail = format!("The lease is {}. Wait again.", view.lease.state.as_str());
    Err(Failure::new(kind, detail).with_lease(id))
}

/// The failure for a caller that waits for a lease that has ended or is being released.
fn failure_of_ended(view: &LeaseView) -> Failure {
    let lease = &view.lease;
    let end = lease.end.as_ref();
    let kind = match end.map(|end| end.reason) {
        Some(EndReason::QueueTimeout) => FailureKind::NoFreeMachine,
        _ => FailureKind::LeaseFailed,
    };
    let why = lease.error.as_ref().map(|error| format!(" {}", error.detail)).unwrap_or_default();
    let by =
        end.map(|end| format!(" ({}, by {})", end.reason.as_str(), end.by)).unwrap_or_default();
    let detail = format!("The lease is {}{by}.{why}", lease.state.as_str());
    let fault = lease.error.as_ref().and_then(|error| error.fault.clone());
    let failure = Failure::new(kind, detail).with_lease(lease.id).with_fault(fault);
    // The failure that ended the lease can have another code than the problem. Then its code goes
    // into `errors` of the problem.
    match lease.error.as_ref().filter(|error| error.kind != kind) {
        Some(error) => failure.with_error(InputError {
            pointer: None,
            parameter: None,
            code: error.kind.code().into(),
            detail: error.detail.clone(),
        }),
        None => failure,
    }
}
