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
use crate::domain::failure::Failure;
use crate::domain::machine::PowerState;
use crate::service::machines::MachineFilter;

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
fn filter(params: &Params) -> Result<MachineFilter, Failure> {
    Ok(MachineFilter {
        name: params.filled("name")?.map(str::to_owned),
        mac: params.mac("mac")?,
        power_state: params.choice("power_state", &["on", "off", "suspended"], PowerState::parse)?,
        free: params.boolean("free")?,
        template: params.boolean("template")?,
        pool: params.filled("pool")?.map(str::to_owned),
    })
}
