//! Changes of leases that are committed together, the stored state of machines, and the filter for
//! lists of leases.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::keys::IdempotencyKey;
use crate::domain::audit::AuditRecord;
use crate::domain::ids::{LeaseId, MachineId};
use crate::domain::lease::{Lease, LeaseState, Quarantine, Recovery};

/// The changes of one transition of the lease table. The storage commits all of them or none.
#[derive(Clone, Debug, Default)]
pub struct LeaseTransaction {
    /// The leases that changed. Each lease occurs at most once.
    pub leases: Vec<ChangedLease>,
    /// The new stored state of machines, by their [`MachineIdentity::key`].
    ///
    /// [`MachineIdentity::key`]: crate::domain::machine::MachineIdentity::key
    pub machines: BTreeMap<String, StoredMachine>,
    /// The keys of the machines whose stored state is deleted.
    pub deleted_machines: Vec<String>,
    /// The number to which the fence floor is raised, if it is lower. Every later grant gets a
    /// fence above the floor.
    pub fence_floor: u64,
    /// The idempotency key of the call that requested a lease, together with that lease.
    pub key: Option<(IdempotencyKey, LeaseId)>,
    /// The audit records of the transition.
    pub audit: Vec<AuditRecord>,
}

/// The new state of one lease.
#[derive(Clone, Debug)]
pub struct ChangedLease {
    pub lease: Arc<Lease>,
    /// The key of the machine that the lease holds. The storage refuses to let another lease hold
    /// the same machine.
    pub held: Option<String>,
}

impl ChangedLease {
    /// Makes the change for the new state of a lease. It records `machine` as held only if a lease
    /// in its state holds a machine.
    #[must_use]
    pub fn new(lease: impl Into<Arc<Lease>>, machine: Option<String>) -> Self {
        let lease = lease.into();
        let held = machine.filter(|_| lease.state.holds_machine());
        Self { lease, held }
    }
}

/// The state of a machine that otter stores. It remains after the leases of the machine have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredMachine {
    /// The fence of the machine's last grant.
    pub fence: u64,
    /// The time at which the machine's last lease ended.
    pub last_lease_end: Option<Timestamp>,
    /// The quarantine of the machine. `None` if the machine is not quarantined.
    pub quarantine: Option<Quarantine>,
    /// The time since which the host lacks the machine. `None` if the host has the machine.
    pub absent_since: Option<Timestamp>,
    /// The recovery of the machine: a release that must still be done although no lease holds the
    /// machine.
    pub recovery: Option<Recovery>,
}

/// Selects leases. A lease must match every field. A field that is an empty list or `None` matches
/// every lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseFilter {
    pub states: Vec<LeaseState>,
    pub machine: Option<MachineId>,
    pub pool: Option<String>,
    pub holder: Option<String>,
    pub reference: Option<String>,
}
