//! What one step of the leases commits, what is kept of machines, and which leases a list has.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::keys::IdempotencyKey;
use crate::domain::audit::AuditRecord;
use crate::domain::ids::{LeaseId, MachineId};
use crate::domain::lease::{Lease, LeaseState, Quarantine};

/// Everything that one step of the leases changed.
#[derive(Clone, Debug, Default)]
pub struct LeaseTransaction {
    /// No two of them are of one lease.
    pub leases: Vec<ChangedLease>,
    /// By the key of who each is.
    pub machines: BTreeMap<String, StoredMachine>,
    /// The keys of the machines of which nothing is kept any more.
    pub deleted_machines: Vec<String>,
    /// Every later grant gets a higher fence than this.
    pub fence_floor: u64,
    /// The key of the call that asked for this lease.
    pub key: Option<(IdempotencyKey, LeaseId)>,
    /// The audit facts of the step.
    pub audit: Vec<AuditRecord>,
}

/// What a lease has become.
#[derive(Clone, Debug)]
pub struct ChangedLease {
    pub lease: Arc<Lease>,
    /// The key of the machine that the lease keeps from all others.
    pub held: Option<String>,
}

impl ChangedLease {
    /// A lease that keeps this machine from others if its state holds one.
    #[must_use]
    pub fn new(lease: impl Into<Arc<Lease>>, machine: Option<String>) -> Self {
        let lease = lease.into();
        let held = machine.filter(|_| lease.state.holds_machine());
        Self { lease, held }
    }
}

/// What is kept of a machine, by the key of who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredMachine {
    pub fence: u64,
    pub last_lease_end: Option<Timestamp>,
    pub quarantine: Option<Quarantine>,
    /// Since when the machine is absent from the host; `None` while it is there.
    pub absent_since: Option<Timestamp>,
}

/// Which leases to list; what is empty or `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseFilter {
    pub states: Vec<LeaseState>,
    pub machine: Option<MachineId>,
    pub pool: Option<String>,
    pub holder: Option<String>,
    pub reference: Option<String>,
}
