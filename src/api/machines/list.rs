//! `GET /v1/machines`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use utoipa::IntoParams;

use super::filter;
use super::wire::{Machine, MachineList};
use crate::api::Api;
use crate::api::documented::Problems;
use crate::api::extract::Query;
use crate::api::paging::{self, Cursors, Key};
use crate::api::problem::ApiError;
use crate::api::respond;
use crate::service::callers::Caller;
use crate::service::machines::MachineView;

/// Which machines are wanted; all that is said must fit.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the parameters and names them for the strict reader")]
pub struct MachinesQuery {
    /// Contained in the name, whatever the case.
    #[param(value_type = String, required = false)]
    name: Option<String>,
    /// The address of one of its network cards, in any usual spelling.
    #[param(value_type = String, required = false)]
    mac: Option<String>,
    /// `on`, `off` or `suspended`.
    #[param(value_type = String, required = false)]
    power_state: Option<String>,
    /// Only those that are free, or only those that are not.
    #[param(value_type = bool, required = false)]
    free: Option<bool>,
    /// Only templates, or only others.
    #[param(value_type = bool, required = false)]
    template: Option<bool>,
    /// Only those in this pool.
    #[param(value_type = String, required = false)]
    pool: Option<String>,
    /// How many, 1 to 1,000; all where nothing is said.
    #[param(value_type = u32, required = false, minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// The `next` of an earlier answer to a call with the same filters.
    #[param(value_type = String, required = false)]
    cursor: Option<String>,
}

/// List machines
///
/// From memory: the host is not asked. All of them unless `limit` is given, by name.
#[utoipa::path(get, path = "/v1/machines", operation_id = "list_machines", tag = "machines", params(MachinesQuery),
    responses(
        (status = 200, description = "Machines in the order of their names", body = MachineList),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter", "invalid-cursor", "inventory-loading"]))))]
pub async fn list_machines(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Query<MachinesQuery>,
) -> Result<Response, ApiError> {
    let params = query.params;
    let (filter, limit) = (filter(&api, &caller, &params)?, params.limit()?);
    let version = api.services().feed.version();
    let machines = api.services().machines.list(&caller.scope, &filter)?;
    let key =
        |view: &MachineView| Key(view.record.sort_name().to_owned(), view.record.machine.id.to_string());
    let page = paging::page(&Cursors::new("machines", &params), machines, key, limit)?;
    let items: Vec<Machine> = page.items.iter().map(Machine::of).collect();
    Ok(respond::list(&api, &version, &items, page.next))
}
