//! Changes of leases that are committed together, the stored state of machines, and the filter of
//! lists of leases.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::keys::IdempotencyKey;
use crate::domain::audit::AuditRecord;
use crate::domain::ids::{LeaseId, MachineId};
use crate::domain::lease::{Lease, LeaseState, Quarantine, Recovery};

/// The changes of one transition of the leases. The storage commits all of them or none.
#[derive(Clone, Debug, Default)]
pub struct LeaseTransaction {
    /// At most one entry for each lease.
    pub leases: Vec<ChangedLease>,
    /// The new stored data of machines (fence, quarantine, last lease end, absence), by
    /// [`MachineIdentity::key`].
    ///
    /// [`MachineIdentity::key`]: crate::domain::machine::MachineIdentity::key
    pub machines: BTreeMap<String, StoredMachine>,
    /// The keys of the machines whose stored state is deleted.
    pub deleted_machines: Vec<String>,
    /// Raises the fence floor to at least this value: every later grant gets a higher fence.
    pub fence_floor: u64,
    /// The idempotency key of the call that requested a lease, and that lease.
    pub key: Option<(IdempotencyKey, LeaseId)>,
    /// The audit records of the transition.
    pub audit: Vec<AuditRecord>,
}

/// The new state of a lease.
#[derive(Clone, Debug)]
pub struct ChangedLease {
    pub lease: Arc<Lease>,
    /// The key of the machine that the lease holds. No other lease can hold the same machine.
    pub held: Option<String>,
}

impl ChangedLease {
    /// The new state of a lease. The lease holds `machine` only if a lease in its state holds a
    /// machine.
    #[must_use]
    pub fn new(lease: impl Into<Arc<Lease>>, machine: Option<String>) -> Self {
        let lease = lease.into();
        let held = machine.filter(|_| lease.state.holds_machine());
        Self { lease, held }
    }
}

/// The stored state of a machine. It outlives the leases of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredMachine {
    /// The fence of the machine's last grant.
    pub fence: u64,
    /// The time at which the machine's last lease ended.
    pub last_lease_end: Option<Timestamp>,
    /// `None` if the machine is not quarantined.
    pub quarantine: Option<Quarantine>,
    /// The time since which the machine is absent from the host. `None` if it is present.
    pub absent_since: Option<Timestamp>,
    /// The release that is still to come although no lease holds the machine.
    pub recovery: Option<Recovery>,
}

/// Selects leases. An empty list or `None` matches every lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseFilter {
    pub states: Vec<LeaseState>,
    pub machine: Option<MachineId>,
    pub pool: Option<String>,
    pub holder: Option<String>,
    pub reference: Option<String>,
}
