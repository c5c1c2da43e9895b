//! `GET /v1/machines`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::MachinesQuery;
use super::wire::{Machine, MachineList};
use crate::api::ApiState;
use crate::api::openapi_parts::Problems;
use crate::api::paging::{self, PageQuery, PagedQuery, SortKey};
use crate::api::problem::ApiError;
use crate::api::respond;
use crate::service::callers::Caller;
use crate::service::machines::MachineView;

/// List machines
///
/// Sorted by name, read from memory. Default `limit`: all machines.
#[utoipa::path(
    get,
    path = "/v1/machines",
    operation_id = "list_machines",
    tag = "machines",
    params(MachinesQuery, PageQuery),
    responses(
        (status = 200, description = "A page of machines, sorted by name", body = MachineList),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "invalid-cursor", "inventory-loading"
    ]))))]
pub async fn list_machines(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    PagedQuery { filter, limit, cursors }: PagedQuery<MachinesQuery>,
) -> Result<Response, ApiError> {
    let filter = filter.filter(&api, &caller)?;
    let version = api.services().event_stream.version();
    let machines = api.services().machines.list(&caller.scope, &filter)?;
    let key =
        |view: &MachineView| SortKey(view.machine.name.to_lowercase(), view.machine.id.to_string());
    let page = paging::page(&cursors, machines, key, limit)?;
    let items: Vec<Machine> = page.items.iter().map(Machine::from_view).collect();
    Ok(respond::list(&api, &version, &items, page.next))
}
