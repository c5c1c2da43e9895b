//! `GET /v1/machines/{machine}`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::wire::Machine;
use crate::api::ApiState;
use crate::api::extract::{NoParameters, Query, Segment};
use crate::api::openapi_parts::{MachinePath, Problems, READ_MACHINE};
use crate::api::problem::ApiError;
use crate::api::respond::ReadHeaders;
use crate::service::callers::Caller;

/// Get a machine
///
/// otter reads the machine from memory, without a call to the host.
#[utoipa::path(get, path = "/v1/machines/{machine}", operation_id = "get_machine", tag = "machines",
    params(MachinePath),
    responses(
        (status = 200, description = "The machine", body = Machine),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(READ_MACHINE))))]
pub async fn get_machine(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(reference): Segment,
    request: ReadHeaders,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let machines = &api.services().machines;
    let sources = machines.sources()?;
    let machine = machines.find(&sources, &caller.scope, &reference)?;
    let rendered = api.rendered_machines().machine(machines, &sources, machine);
    Ok(rendered.body.respond(&api, &version, &request).await)
}
