//! `/v1/machines`: reads and operations of machines and their snapshots.

mod answer;
pub mod boot;
mod cdrom;
mod consolidate;
mod find;
mod get;
pub mod iso;
mod kill;
mod list;
mod power;
mod properties;
mod quarantine;
pub mod rendered;
mod revert;
mod snapshot_create;
mod snapshot_remove;
mod snapshot_rename;
mod snapshots;
mod wait;
pub mod wire;

use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::ApiState;
use super::extract::Parsed;
use super::jobs::is_any_kept;
use super::roles::Routes;
use crate::domain::access::Role;
use crate::domain::failure::Failure;
use crate::domain::ids::MachineId;
use crate::domain::mac::MacAddress;
use crate::domain::machine_reference::MachineReference;
use crate::domain::power::PowerState;
use crate::service::callers::Caller;
use crate::service::machines::MachineFilter;
use crate::storage::{JobFilter, LeaseFilter};

/// The routes of this folder.
pub fn routes() -> Routes {
    Routes::default()
        .role(Role::Viewer, routes!(list::list_machines))
        .role(Role::Viewer, routes!(find::find_machine))
        .role(Role::Runner, routes!(kill::kill_machine))
        .role(Role::Viewer, routes!(get::get_machine))
        .role(Role::Viewer, routes!(wait::wait_for_machine))
        .role(Role::Runner, routes!(power::power_machine))
        // Properties can contain secrets of the guest, so viewers must not read them.
        .role(Role::Operator, routes!(properties::get_properties))
        .role(Role::Runner, routes!(revert::revert_machine))
        .role(Role::Runner, routes!(answer::answer_machine))
        .role(Role::Runner, routes!(consolidate::consolidate_machine))
        .role(Role::Runner, routes!(cdrom::insert_iso, cdrom::eject_iso))
        .role(Role::Runner, routes!(boot::set_boot))
        .role(Role::Operator, routes!(quarantine::quarantine_machine, quarantine::clear_quarantine))
        .role(Role::Viewer, routes!(snapshots::list_snapshots))
        .role(
            Role::Runner,
            routes!(snapshot_create::create_snapshot, snapshot_remove::remove_all_snapshots),
        )
        .role(Role::Viewer, routes!(snapshots::get_snapshot))
        .role(
            Role::Runner,
            routes!(snapshot_rename::rename_snapshot, snapshot_remove::remove_snapshot),
        )
        .role(Role::Runner, routes!(revert::revert_to_snapshot))
}

/// The query parameters that filter machines. A machine must match all of them.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MachinesQuery {
    /// A text that the name of the machine must contain. Upper and lower case do not matter.
    #[param(value_type = Option<String>)]
    name: Option<Parsed<String>>,
    /// The MAC address of one of the machine's network cards, in any common notation.
    #[param(value_type = Option<String>)]
    mac: Option<Parsed<MacAddress>>,
    /// The power state of the machine: `on`, `off` or `suspended`.
    #[param(value_type = Option<String>)]
    power_state: Option<Parsed<PowerState>>,
    /// Only machines that can be leased now (`true`), or only machines that cannot (`false`).
    #[param(value_type = Option<bool>)]
    free: Option<Parsed<bool>>,
    /// Only templates (`true`), or only other machines (`false`).
    #[param(value_type = Option<bool>)]
    template: Option<Parsed<bool>>,
    /// The name of a pool. Only machines in this pool match.
    #[param(value_type = Option<String>)]
    pool: Option<Parsed<String>>,
}

impl MachinesQuery {
    /// Converts the parameters to a filter.
    ///
    /// # Errors
    /// `not-found` if the pool does not exist.
    fn filter(self, api: &ApiState, caller: &Caller) -> Result<MachineFilter, Failure> {
        let Self { name, mac, power_state, free, template, pool } = self;
        if let Some(Parsed(pool)) = &pool {
            api.services().machines.require_pool(&caller.scope, pool)?;
        }
        Ok(MachineFilter {
            name: name.map(Parsed::value),
            mac: mac.map(Parsed::value),
            power_state: power_state.map(Parsed::value),
            free: free.map(Parsed::value),
            template: template.map(Parsed::value),
            pool: pool.map(Parsed::value),
        })
    }
}

/// Resolves the machine in a filter of jobs, leases or events. Accepts the id of a removed machine
/// while the store has jobs or leases of it.
///
/// # Errors
/// `not-found`, `ambiguous-name`, `inventory-loading`; `invalid-request` if the reference is
/// malformed.
pub async fn named_machine(
    api: &ApiState,
    caller: &Caller,
    reference: Option<Parsed<String>>,
) -> Result<Option<MachineId>, Failure> {
    let Some(Parsed(reference)) = reference else { return Ok(None) };
    match api.services().machines.resolve(&caller.scope, &reference) {
        Ok(view) => Ok(Some(view.machine.id.clone())),
        Err(failure) => {
            let Ok(MachineReference::Id(id)) = reference.parse() else { return Err(failure) };
            if is_kept(api, caller, &id).await? { Ok(Some(id)) } else { Err(failure) }
        }
    }
}

/// Whether the store has a job or a lease of a machine.
async fn is_kept(api: &ApiState, caller: &Caller, id: &MachineId) -> Result<bool, Failure> {
    let machine = Some(id.clone());
    if is_any_kept(api, caller, &JobFilter { machine: machine.clone(), ..JobFilter::default() })
        .await?
    {
        return Ok(true);
    }
    let of_lease = LeaseFilter { machine, ..LeaseFilter::default() };
    Ok(!api.services().leases.list(caller, &of_lease, None, 1).await?.is_empty())
}
