//! `GET /v1/machines/find`

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::HeaderName;
use serde::Deserialize;
use utoipa::IntoParams;

use super::MachinesQuery;
use super::wire::Machine;
use crate::api::extract::{Parsed, Query};
use crate::api::openapi_parts::{Problems, READ_MACHINE};
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::domain::failure::{Failure, FailureKind};
use crate::service::callers::Caller;
use crate::service::machines::ambiguous;

const OTTER_MATCHES: HeaderName = HeaderName::from_static("otter-matches");

/// Whether several may fit.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UniqueQuery {
    /// Several that fit are a 409. True where nothing is said and `mac` is given: copied machines
    /// share addresses.
    #[param(value_type = Option<bool>)]
    unique: Option<Parsed<bool>>,
}

/// Find a machine
///
/// The first in the order of lists; `Otter-Matches` says how many fit. It only looks: to take a
/// free machine that nobody else gets, use a lease.
#[utoipa::path(get, path = "/v1/machines/find", operation_id = "find_machine", tag = "machines", params(MachinesQuery, UniqueQuery),
    responses(
        (status = 200, description = "The first machine that fits", body = Machine,
            headers(("Otter-Matches" = u32, description = "How many fit"))),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(READ_MACHINE))))]
pub async fn find_machine(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Query(wanted, UniqueQuery { unique }): Query<MachinesQuery, UniqueQuery>,
) -> Result<Response, ApiError> {
    let filter = wanted.filter(&api, &caller)?;
    let unique = unique.map_or(filter.mac.is_some(), Parsed::value);
    let version = api.services().event_stream.version();
    let machines = api.services().machines.list(&caller.scope, &filter)?;
    let Some(first) = machines.first() else {
        return Err(Failure::new(
            FailureKind::NotFound,
            "No machine fits. List them: GET /v1/machines",
        )
        .into());
    };
    if unique && machines.len() > 1 {
        let several: Vec<_> = machines.iter().map(|view| Arc::clone(&view.machine)).collect();
        let mac = filter.mac.map(|mac| mac.to_string());
        let wanted = mac.or(filter.name).unwrap_or_else(|| "the same".to_owned());
        return Err(ambiguous(&wanted, &several).into());
    }
    let mut response = respond::object(&api, &version, &Machine::from_view(first));
    respond::set(&mut response, OTTER_MATCHES, &machines.len().to_string());
    Ok(response)
}
