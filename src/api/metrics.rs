//! `GET /metrics`: otter's metrics for Prometheus.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;

use super::extract::{NoParameters, Query};
use super::problem::ApiError;
use super::roles::Routes;
use super::{ApiState, respond};
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::service::callers::Caller;
use crate::telemetry::metrics::CONTENT_TYPE;

/// The route of this file.
pub fn routes() -> Routes {
    Routes::default().undocumented(Some(Role::Viewer), "/metrics", get(metrics))
}

async fn metrics(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    if caller.scope.is_restricted() {
        let detail = format!(
            "{} is restricted to some machines, and the metrics count all machines.",
            caller.name
        );
        return Err(Failure::new(FailureKind::Forbidden, detail).into());
    }
    let waits = api.settings().max_waits.saturating_sub(api.waits().available_permits());
    api.metrics().sampled().waits.set(i64::try_from(waits).unwrap_or(i64::MAX));
    let text = api
        .metrics()
        .text()
        .map_err(|_| Failure::new(FailureKind::Internal, "the metrics cannot be encoded"))?;
    Ok(respond::text(CONTENT_TYPE, text))
}
