//! The rules for the snapshots of one machine: what the configuration protects, and which snapshots
//! belong to the lease of a job.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::domain::access::Authority;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::job::Job;
use crate::domain::machine::Machine;
use crate::domain::pool::Pools;
use crate::domain::snapshot_rules::{SnapshotChange, SnapshotRules, SnapshotTree};
use crate::storage::{Storage, StorageError};

/// What the configuration says of snapshots.
#[derive(Clone, Debug, Default)]
pub struct SnapshotSettings {
    /// `snapshots.protected`: patterns of names and of paths.
    pub protected: Vec<String>,
    /// `snapshots.runners_may_remove`
    pub runners_may_remove: bool,
}

/// The use-cases around the protection of snapshots.
pub struct SnapshotProtection {
    settings: SnapshotSettings,
    pools: Arc<Pools>,
    storage: Arc<dyn Storage>,
}

impl SnapshotProtection {
    #[must_use]
    pub const fn new(
        settings: SnapshotSettings,
        pools: Arc<Pools>,
        storage: Arc<dyn Storage>,
    ) -> Self {
        Self { settings, pools, storage }
    }

    /// The rules that hold for a job. `machine` is the machine as the inventory shows it; if it is
    /// not there, the patterns of every pool count. The store is read only for the job of a runner.
    ///
    /// # Errors
    /// The store's.
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
        Ok(SnapshotRules {
            protected: self.patterns(machine),
            runners_may_remove: self.settings.runners_may_remove,
            made_under_lease: made,
        })
    }

    fn patterns(&self, machine: Option<&Machine>) -> Vec<String> {
        let pools = self.pools.0.iter();
        let pool_patterns: Vec<String> = match machine {
            Some(machine) => {
                let names = self.pools.for_machine(machine);
                let own = pools.filter(|(name, _)| names.contains(name));
                own.flat_map(|(_, pool)| pool.protected_snapshots.clone()).collect()
            }
            None => pools.flat_map(|(_, pool)| pool.protected_snapshots.clone()).collect(),
        };
        self.settings.protected.iter().cloned().chain(pool_patterns).collect()
    }
}

/// Whether a job may change a tree of snapshots as it asks for.
///
/// # Errors
/// `forbidden`, which names the first snapshot that stands in its way.
pub fn check(job: &Job, rules: &SnapshotRules, tree: &SnapshotTree) -> Result<(), Failure> {
    let Some(change) = SnapshotChange::from_request(&job.request) else { return Ok(()) };
    rules.check(job.authority, change, tree).map_err(|refusal| {
        let detail = refusal.detail(change, job.authority, &job.target_name, job.lease);
        job.add_machine_to(Failure::new(FailureKind::Forbidden, detail))
    })
}

/// The recorded text of a job's override, if the job would be refused without it.
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
