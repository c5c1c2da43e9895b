//! The protection of snapshots: decides which snapshots of a machine a job may change. The rules
//! come from the configuration and from the lease of the job.

use std::collections::BTreeSet;
use std::sync::Arc;

pub use super::live_settings::SnapshotSettings;
use super::live_settings::{LiveSettings, ReloadableSettings};
use crate::domain::access::Authority;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::job::Job;
use crate::domain::machine::Machine;
use crate::domain::snapshot_rules::{SnapshotChange, SnapshotRules, SnapshotTree};
use crate::storage::{Storage, StorageError};

/// Finds the rules for changes of snapshots that apply to a job.
pub struct SnapshotProtection {
    settings: LiveSettings,
    storage: Arc<dyn Storage>,
}

impl SnapshotProtection {
    #[must_use]
    pub const fn new(settings: LiveSettings, storage: Arc<dyn Storage>) -> Self {
        Self { settings, storage }
    }

    /// The rules for changes of snapshots by a job. The storage is read only if a runner requested
    /// the job.
    ///
    /// # Parameters
    /// - `machine`: the job's machine in the inventory. If it is `None`, the patterns of every pool
    ///   apply.
    ///
    /// # Errors
    /// Fails if the storage cannot be read.
    pub async fn rules(
        &self,
        job: &Job,
        machine: Option<&Machine>,
    ) -> Result<SnapshotRules, StorageError> {
        if SnapshotChange::from_request(&job.request).is_none() {
            return Ok(SnapshotRules::default());
        }
        let made = match (job.target.machine(), job.lease) {
            (Some(machine), Some(lease)) if job.authority == Authority::Runner => {
                self.storage.snapshots_made_under(machine, lease).await?
            }
            _ => BTreeSet::new(),
        };
        let settings = self.settings.load();
        Ok(SnapshotRules {
            protected: patterns(&settings, machine),
            runners_may_remove: settings.snapshots.runners_may_remove,
            made_under_lease: made,
        })
    }
}

fn patterns(settings: &ReloadableSettings, machine: Option<&Machine>) -> Vec<String> {
    let pools = settings.pools.0.iter();
    let pool_patterns: Vec<String> = match machine {
        Some(machine) => {
            let names = settings.pools.for_machine(machine);
            let own = pools.filter(|(name, _)| names.contains(name));
            own.flat_map(|(_, pool)| pool.protected_snapshots.clone()).collect()
        }
        None => pools.flat_map(|(_, pool)| pool.protected_snapshots.clone()).collect(),
    };
    settings.snapshots.protected.iter().cloned().chain(pool_patterns).collect()
}

/// Checks that a job may change the snapshots of its machine.
///
/// # Errors
/// `forbidden`. The failure names the first snapshot that the job must not change.
pub fn check(job: &Job, rules: &SnapshotRules, tree: &SnapshotTree) -> Result<(), Failure> {
    let Some(change) = SnapshotChange::from_request(&job.request) else { return Ok(()) };
    rules.check(job.authority, change, tree).map_err(|refusal| {
        let detail = refusal.detail(change, job.authority, &job.target_name, job.lease);
        job.add_machine_to(Failure::new(FailureKind::Forbidden, detail))
    })
}

/// The warning in a job that says that the job needed an override. `None` if the job needs no
/// override.
#[must_use]
pub fn override_warning(
    job: &Job,
    rules: &SnapshotRules,
    tree: &SnapshotTree,
    reason: &str,
) -> Option<String> {
    let change = SnapshotChange::from_request(&job.request)
        .filter(|_| job.authority == Authority::Override)?;
    let refusal = rules.check(Authority::Operator, change, tree).err()?;
    let (by, path) = (&job.requested_by, &refusal.path);
    Some(format!("{by} overrode the protection of the snapshot {path}: {reason}"))
}
