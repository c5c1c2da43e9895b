//! Decides which machines, jobs, leases and pools a caller sees, by a comparison of the scope of
//! its token with the machines of the host.

use std::sync::Arc;

use super::callers::Caller;
use super::inventory::Inventory;
use super::live_settings::LiveSettings;
use crate::domain::datastore::Datastore;
use crate::domain::event::Placement;
use crate::domain::job::Job;
use crate::domain::lease::Lease;
use crate::domain::machine::{Machine, MachineIdentity};
use crate::domain::machine_reference::MachineKeys;
use crate::domain::scope::Scope;

/// Compares scopes with the machines of the host.
pub struct Visibility {
    inventory: Arc<Inventory>,
    settings: LiveSettings,
}

impl Visibility {
    /// Compares scopes with the machines of this inventory. The settings say in which pools the
    /// machines are.
    #[must_use]
    pub const fn new(inventory: Arc<Inventory>, settings: LiveSettings) -> Self {
        Self { inventory, settings }
    }

    /// Whether a machine is in a scope at present.
    #[must_use]
    pub fn has_machine(&self, scope: &Scope, machine: &Machine) -> bool {
        !scope.is_restricted()
            || scope.contains(&machine.name, &self.settings.load().pools.for_machine(machine))
    }

    /// Whether a machine was in a scope while it had this placement (its name, pools and
    /// datastores).
    #[must_use]
    pub fn had_machine(&self, scope: &Scope, placement: &Placement) -> bool {
        let Placement { keys, annotated_pools, datastores: _ } = placement;
        let pools = &self.settings.load().pools;
        scope.contains(&keys.name, &pools.for_keys(keys, annotated_pools.clone()))
    }

    /// The machines of a scope, in the order of their names.
    #[must_use]
    pub fn machines(&self, scope: &Scope) -> Vec<Arc<Machine>> {
        let contents = self.inventory.contents();
        let all = contents.machines.iter();
        all.filter(|machine| self.has_machine(scope, machine)).cloned().collect()
    }

    /// Whether a caller sees a job. A caller sees a job if it sees the job's machine. Only a caller
    /// without a restricted scope sees a job that has no machine.
    #[must_use]
    pub fn shows_job(&self, caller: &Caller, job: &Job) -> bool {
        match job.target.machine() {
            Some(machine) => self.has_known_machine(&caller.scope, machine, &job.target_name, None),
            None => !caller.scope.is_restricted(),
        }
    }

    /// Whether a caller sees a lease. After the grant, a caller sees a lease if it sees the lease's
    /// machine. Before the grant, a caller sees only the leases that it requested.
    #[must_use]
    pub fn shows_lease(&self, caller: &Caller, lease: &Lease) -> bool {
        if !caller.scope.is_restricted() {
            return true;
        }
        match (&lease.machine, &lease.machine_name) {
            (Some(machine), Some(name)) => {
                self.has_known_machine(&caller.scope, machine, name, lease.pool.as_deref())
            }
            _ => *lease.requested_by == *caller.name,
        }
    }

    /// Whether a pool has a machine in a scope.
    #[must_use]
    pub fn has_pool(&self, scope: &Scope, pool: &str) -> bool {
        let pools = &self.settings.load().pools;
        let is_of_pool =
            |machine: &Arc<Machine>| pools.for_machine(machine).iter().any(|name| name == pool);
        !scope.is_restricted() || self.machines(scope).iter().any(is_of_pool)
    }

    /// The number of machines of a scope that have files on a datastore.
    #[must_use]
    pub fn machine_count(&self, scope: &Scope, datastore: &Datastore) -> u32 {
        if !scope.is_restricted() {
            return datastore.machine_count;
        }
        let has_files = |machine: &&Arc<Machine>| machine.datastores.contains(&datastore.id);
        let machines = self.machines(scope);
        u32::try_from(machines.iter().filter(has_files).count()).unwrap_or(u32::MAX)
    }

    /// Whether a scope contains a machine, also if the machine is no longer on the host. If it is
    /// gone, or its id now belongs to another machine, its last known name and pool decide.
    #[must_use]
    pub fn has_known_machine(
        &self,
        scope: &Scope,
        machine: &MachineIdentity,
        last_name: &str,
        last_pool: Option<&str>,
    ) -> bool {
        if !scope.is_restricted() {
            return true;
        }
        let contents = self.inventory.contents();
        let known = contents.machine(&machine.id);
        if let Some(known) = known.filter(|known| machine.agrees_with(&known.identity())) {
            return self.has_machine(scope, known);
        }
        let last_pool = last_pool.map(str::to_owned).into_iter().collect();
        let keys = MachineKeys::from_identity(machine, last_name);
        let pools = &self.settings.load().pools;
        scope.contains(last_name, &pools.for_keys(&keys, last_pool))
    }
}
