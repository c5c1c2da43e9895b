//! By what right a job is asked for, and who says whether that is enough.

use crate::domain::access::{Authority, Role};
use crate::domain::failure::Failure;
use crate::domain::ids::LeaseId;
use crate::domain::lease::LeaseState;
use crate::domain::machine::Machine;
use crate::service::callers::Caller;

/// By what right a job is asked for.
#[derive(Clone, Debug)]
pub struct Requester {
    pub caller: Caller,
    pub credential: LeaseCredential,
    /// The reason that an operator gave in `Otter-Override`. It is recorded if it is needed.
    pub override_reason: Option<String>,
}

/// By which lease a caller asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseCredential {
    Absent,
    /// A lease, with its secret.
    Lease(LeaseId),
    /// otter itself, for the lease that it prepares or releases, while the lease is so.
    Internal(LeaseId, LeaseState),
}

/// By what a job was let through to its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// No lease holds the machine.
    Unleased,
    /// The job belongs to this lease.
    Lease(LeaseId),
    /// An operator overrides this lease. The job does not belong to it.
    Override(LeaseId),
}

/// Says whether a job may be accepted. Asked once the job has its place in the queue: from then on
/// a grant sees it.
pub trait JobAuthorizer: Send + Sync {
    /// Lets a job through to its machine.
    ///
    /// # Errors
    /// `machine-leased`, `lease-ended`, `forbidden`.
    fn authorize(&self, machine: &Machine, requester: &Requester)
    -> Result<Authorization, Failure>;
}

impl Authorization {
    /// The lease that the job belongs to.
    #[must_use]
    pub const fn lease(self) -> Option<LeaseId> {
        match self {
            Self::Lease(lease) => Some(lease),
            Self::Unleased | Self::Override(_) => None,
        }
    }

    /// The lease that holds the machine.
    #[must_use]
    pub const fn holder(self) -> Option<LeaseId> {
        match self {
            Self::Lease(lease) | Self::Override(lease) => Some(lease),
            Self::Unleased => None,
        }
    }
}

impl Requester {
    /// otter's own, for a lease that is so.
    #[must_use]
    pub fn from_otter(lease: LeaseId, state: LeaseState) -> Self {
        Self {
            caller: Caller::new("otter", Role::Admin),
            credential: LeaseCredential::Internal(lease, state),
            override_reason: None,
        }
    }

    /// Whether an operator overrides what protects a machine or a snapshot.
    #[must_use]
    pub fn is_override(&self) -> bool {
        self.caller.role >= Role::Operator && self.override_reason.is_some()
    }

    /// What the job may do to snapshots.
    #[must_use]
    pub fn authority(&self) -> Authority {
        if self.is_internal() {
            Authority::System
        } else if self.is_override() {
            Authority::Override
        } else if self.caller.role >= Role::Operator {
            Authority::Operator
        } else {
            Authority::Runner
        }
    }

    /// Whether otter itself asks, which neither an outage nor a question keeps from asking.
    #[must_use]
    pub const fn is_internal(&self) -> bool {
        matches!(self.credential, LeaseCredential::Internal(..))
    }
}
