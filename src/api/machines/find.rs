//! `GET /v1/machines/find`

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
use crate::api::respond::ReadHeaders;
use crate::api::{ApiState, respond};
use crate::domain::failure::{Failure, FailureKind};
use crate::service::callers::Caller;
use crate::service::machines::ambiguous;

const OTTER_MATCHES: HeaderName = HeaderName::from_static("otter-matches");

/// The query parameter that says what happens if several machines match.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UniqueQuery {
    /// Whether the response is 409 if several machines match. Default: true if `mac` is set,
    /// because copies of a machine can have the same address, else false.
    #[param(value_type = Option<bool>)]
    unique: Option<Parsed<bool>>,
}

/// Find a machine
///
/// Returns the first matching machine by name. `Otter-Matches` has the number of matches. This does
/// not reserve the machine: use a lease for exclusive use.
#[utoipa::path(
    get,
    path = "/v1/machines/find",
    operation_id = "find_machine",
    tag = "machines",
    params(MachinesQuery, UniqueQuery),
    responses(
        (status = 200, description = "The first matching machine", body = Machine,
            headers(("Otter-Matches" = u32, description = "The number of matching machines"))),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(READ_MACHINE))))]
pub async fn find_machine(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    request: ReadHeaders,
    Query(query, UniqueQuery { unique }): Query<MachinesQuery, UniqueQuery>,
) -> Result<Response, ApiError> {
    let filter = query.filter(&api, &caller)?;
    let unique = unique.map_or(filter.mac.is_some(), Parsed::value);
    let version = api.services().event_stream.version();
    let (machines, rendered) = (&api.services().machines, api.rendered_machines());
    let sources = machines.sources()?;
    let mut found = machines.search(&sources, &caller.scope, &filter);
    if filter.free.is_some() {
        let list = rendered.list(machines, &sources);
        found.retain(|machine| {
            list.get(&sources, machine).is_some_and(|known| filter.matches_freedom(&known.view))
        });
    }
    let Some(first) = found.first() else {
        return Err(Failure::new(
            FailureKind::NotFound,
            "No machine matches. List machines: GET /v1/machines",
        )
        .into());
    };
    if unique && found.len() > 1 {
        let mac = filter.mac.map(|mac| mac.to_string());
        let reference = mac.or(filter.name).unwrap_or_else(|| "the same".to_owned());
        return Err(ambiguous(&reference, &found).into());
    }
    let first = rendered.machine(machines, &sources, first);
    let mut response = first.body.respond(&api, &version, &request).await;
    respond::set(&mut response, OTTER_MATCHES, &found.len().to_string());
    Ok(response)
}
