//! `GET /v1/machines`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::MachinesQuery;
use super::wire::{Machine, MachineList};
use crate::api::Api;
use crate::api::documented::Problems;
use crate::api::paging::{self, Key, PageQuery, Paged};
use crate::api::problem::ApiError;
use crate::api::respond;
use crate::service::callers::Caller;
use crate::service::machines::MachineView;

/// List machines
///
/// From memory: the host is not asked. All of them unless `limit` is given, by name.
#[utoipa::path(get, path = "/v1/machines", operation_id = "list_machines", tag = "machines", params(MachinesQuery, PageQuery),
    responses(
        (status = 200, description = "Machines in the order of their names", body = MachineList),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter", "invalid-cursor", "inventory-loading"]))))]
pub async fn list_machines(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Paged { filter, limit, cursors }: Paged<MachinesQuery>,
) -> Result<Response, ApiError> {
    let filter = filter.filter(&api, &caller)?;
    let version = api.services().event_stream.version();
    let machines = api.services().machines.list(&caller.scope, &filter)?;
    let key =
        |view: &MachineView| Key(view.machine.name.to_lowercase(), view.machine.id.to_string());
    let page = paging::page(&cursors, machines, key, limit)?;
    let items: Vec<Machine> = page.items.iter().map(Machine::of).collect();
    Ok(respond::list(&api, &version, &items, page.next))
}
