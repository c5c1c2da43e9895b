//! `GET /v1/machines/{machine}`

use axum::extract::State;
use axum::response::Response;

use super::wire::Machine;
use crate::api::extract::{NoParameters, Query, Segment};
use crate::api::problem::{ApiError, Problem};
use crate::api::{Api, respond};

/// Look at a machine
///
/// From memory: the host is not asked.
#[utoipa::path(get, path = "/v1/machines/{machine}", operation_id = "get_machine", tag = "machines",
    params(("machine" = String, Path, description = "A machine's id, `name:<exact>`, `uuid:<instance, then BIOS>` or `mac:<…>`")),
    responses(
        (status = 200, description = "The machine", body = Machine),
        (status = "4XX", description = "A problem of the request", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "A problem that may go away", body = Problem, content_type = "application/problem+json"),
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "inventory-loading"]))))]
pub async fn get_machine(
    State(api): State<Api>,
    Segment(reference): Segment,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let version = api.services().feed.version();
    let view = api.services().machines.resolve(&reference)?;
    Ok(respond::object(&api, &version, &Machine::of(&view)))
}
