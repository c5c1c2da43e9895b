//! `/v1/machines`: machines and their snapshots, looked at and changed.

mod answer;
mod find;
mod get;
mod kill;
mod list;
mod power;
mod properties;
mod quarantine;
mod revert;
mod snapshot_create;
mod snapshot_remove;
mod snapshot_rename;
mod snapshots;
mod wait;
pub mod wire;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::extract::Params;
use super::jobs::is_any_kept;
use crate::domain::failure::Failure;
use crate::domain::ids::MachineId;
use crate::domain::machine_reference::MachineReference;
use crate::domain::power::PowerState;
use crate::service::callers::Caller;
use crate::service::machines::MachineFilter;
use crate::storage::{JobFilter, LeaseFilter};

/// The routes of this folder.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list::list_machines))
        .routes(routes!(find::find_machine))
        .routes(routes!(kill::kill_machine))
        .routes(routes!(get::get_machine))
        .routes(routes!(wait::wait_for_machine))
        .routes(routes!(power::power_machine))
        .routes(routes!(properties::get_properties))
        .routes(routes!(revert::revert_machine))
        .routes(routes!(answer::answer_machine))
        .routes(routes!(quarantine::quarantine_machine, quarantine::clear_quarantine))
        .routes(routes!(
            snapshots::list_snapshots,
            snapshot_create::create_snapshot,
            snapshot_remove::remove_all_snapshots
        ))
        .routes(routes!(
            snapshots::get_snapshot,
            snapshot_rename::rename_snapshot,
            snapshot_remove::remove_snapshot
        ))
        .routes(routes!(revert::revert_to_snapshot))
}

/// Reads the filters that lists and finds share.
fn filter(api: &Api, caller: &Caller, params: &Params) -> Result<MachineFilter, Failure> {
    let pool = params.filled("pool")?;
    if let Some(pool) = pool {
        api.services().machines.require_pool(&caller.scope, pool)?;
    }
    Ok(MachineFilter {
        name: params.filled("name")?.map(str::to_owned),
        mac: params.mac("mac")?,
        power_state: params.choice("power_state", &["on", "off", "suspended"], PowerState::parse)?,
        free: params.boolean("free")?,
        template: params.boolean("template")?,
        pool: pool.map(str::to_owned),
    })
}

/// Reads the filter `machine` of jobs, leases and events. A machine that is gone is still known by its id while jobs or
/// leases of it are kept.
///
/// # Errors
/// `not-found`, `ambiguous-name`, `inventory-loading`, `invalid-request` for an empty or broken reference.
pub async fn named_machine(
    api: &Api,
    caller: &Caller,
    params: &Params,
) -> Result<Option<MachineId>, Failure> {
    let Some(reference) = params.filled("machine")? else { return Ok(None) };
    match api.services().machines.resolve(&caller.scope, reference) {
        Ok(view) => Ok(Some(view.record.machine.id.clone())),
        Err(failure) => {
            let Ok(MachineReference::Id(id)) = reference.parse() else { return Err(failure) };
            if is_kept(api, caller, &id).await? { Ok(Some(id)) } else { Err(failure) }
        }
    }
}

/// Whether a job or a lease of a machine is kept.
async fn is_kept(api: &Api, caller: &Caller, id: &MachineId) -> Result<bool, Failure> {
    let machine = Some(id.clone());
    if is_any_kept(api, caller, &JobFilter { machine: machine.clone(), ..JobFilter::default() }).await? {
        return Ok(true);
    }
    let of_lease = LeaseFilter { machine, ..LeaseFilter::default() };
    Ok(!api.services().leases.list(caller, &of_lease, None, 1).await?.is_empty())
}
