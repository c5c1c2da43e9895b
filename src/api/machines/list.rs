//! `GET /v1/machines`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::MachinesQuery;
use super::rendered::RenderedMachine;
use super::wire::MachineList;
use crate::api::ApiState;
use crate::api::openapi_parts::Problems;
use crate::api::paging::{self, PageQuery, PagedQuery, SortKey};
use crate::api::problem::ApiError;
use crate::api::respond::{ReadHeaders, SharedBody};
use crate::service::callers::Caller;

/// List machines
///
/// Sorted by name. otter reads the machines from memory. Default of `limit`: all machines.
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
    request: ReadHeaders,
    PagedQuery { filter, limit, cursors }: PagedQuery<MachinesQuery>,
) -> Result<Response, ApiError> {
    let filter = filter.filter(&api, &caller)?;
    let version = api.services().event_stream.version();
    let machines = &api.services().machines;
    let sources = machines.sources()?;
    let list = api.rendered_machines().list(machines, &sources);
    if cursors.select_all() && limit.is_none() && !caller.scope.is_restricted() {
        return Ok(list.body.respond_list(&api, &version, &request).await);
    }
    let found = machines.search(&sources, &caller.scope, &filter).into_iter();
    let items: Vec<&RenderedMachine> = found
        .filter_map(|machine| list.get(&sources, machine))
        .filter(|rendered| filter.matches_freedom(&rendered.view))
        .collect();
    let page = paging::page(&cursors, items, |rendered| sort_key(rendered), limit)?;
    let items = page.items.iter().map(|rendered| (&rendered.json, &rendered.digest));
    let body = SharedBody::list(items, page.next.as_deref());
    Ok(body.respond_list(&api, &version, &request).await)
}

fn sort_key(rendered: &RenderedMachine) -> SortKey {
    let machine = &rendered.view.machine;
    SortKey(machine.name.to_lowercase(), machine.id.to_string())
}
