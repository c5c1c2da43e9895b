//! Authorization of jobs: the requester of a job with its role, its lease or its override, and the
//! check whether the requester may change the machine.

use crate::domain::access::{Authority, Role};
use crate::domain::failure::Failure;
use crate::domain::ids::LeaseId;
use crate::domain::job::Job;
use crate::domain::lease::LeaseState;
use crate::domain::machine::{Machine, MachineIdentity};
use crate::domain::network::Network;
use crate::service::callers::Caller;

/// The requester of a job, with its lease or its override.
#[derive(Clone, Debug)]
pub struct Requester {
    pub caller: Caller,
    pub credential: LeaseCredential,
    /// The reason that an operator gave in `Otter-Override`. otter records it if the job needs the
    /// override.
    pub override_reason: Option<String>,
}

/// The lease that a requester presents to show that it may change a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseCredential {
    Absent,
    /// A caller's lease, whose secret was checked.
    Lease(LeaseId),
    /// otter prepares or releases the machine of this lease. The job is authorized only while the
    /// lease is in this state.
    Internal(LeaseId, LeaseState),
    /// otter releases a machine that this lease held before. The job is authorized only while that
    /// release is recorded for the machine and no lease holds it.
    Recovery(LeaseId),
    /// otter answers a question by a rule of the configuration. The job belongs to the lease of the
    /// machine, if there is one.
    Rule,
}

/// The reason for which a job may change its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// No lease holds the machine.
    Unleased,
    /// The job belongs to this lease.
    Lease(LeaseId),
    /// An operator overrides this lease, which holds the machine. The job does not belong to the
    /// lease.
    Override(LeaseId),
}

/// Decides whether a job may change its machine. The decision is made after the job has got its
/// place in the queue, so that a lease that is granted at the same time finds the job.
pub trait JobAuthorizer: Send + Sync {
    /// Authorizes a job on a machine.
    ///
    /// # Errors
    /// `machine-leased`, `lease-ended`, `lease-not-active`, `forbidden`.
    fn authorize(&self, machine: &Machine, requester: &Requester)
    -> Result<Authorization, Failure>;

    /// The network in which the address of the machine must be according to the lease that holds
    /// the machine. `None` if any address is acceptable.
    fn cidr(&self, _machine: &MachineIdentity) -> Option<Network> {
        None
    }

    /// Checks whether a job whose turn has come may still start. A job that was authorized by its
    /// lease must not run between the end of the lease and the release of the machine, nor after
    /// this release.
    ///
    /// # Errors
    /// `job-cancelled` if the lease of the job has ended.
    fn may_start(&self, job: &Job) -> Result<(), Failure>;
}

impl Authorization {
    /// The lease to which the job belongs.
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
    /// The requester otter itself, which prepares or releases the machine of a lease. The lease
    /// must be in the given state.
    #[must_use]
    pub fn from_otter(lease: LeaseId, state: LeaseState) -> Self {
        Self {
            caller: Caller::new("otter", Role::Admin),
            credential: LeaseCredential::Internal(lease, state),
            override_reason: None,
        }
    }

    /// The requester otter itself, which releases a machine that this lease held before.
    #[must_use]
    pub fn for_recovery(lease: LeaseId) -> Self {
        Self {
            caller: Caller::new("otter", Role::Admin),
            credential: LeaseCredential::Recovery(lease),
            override_reason: None,
        }
    }

    /// The requester otter itself, which answers a question by a rule of the configuration.
    #[must_use]
    pub fn for_rule() -> Self {
        Self {
            caller: Caller::new("otter", Role::Admin),
            credential: LeaseCredential::Rule,
            override_reason: None,
        }
    }

    /// Whether an operator overrides the protection of a machine or a snapshot.
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

    /// Whether otter itself requests the job. Such a job may start while the host is unreachable or
    /// the machine waits for an answer.
    #[must_use]
    pub const fn is_internal(&self) -> bool {
        matches!(
            self.credential,
            LeaseCredential::Internal(..) | LeaseCredential::Recovery(_) | LeaseCredential::Rule
        )
    }
}
