//! By what right a job is asked for, and who says whether that is enough.

use crate::domain::access::Role;
use crate::domain::failure::Failure;
use crate::domain::lease::{LeaseId, LeaseState};
use crate::domain::machine::Machine;
use crate::domain::origin::RequestOrigin;
use crate::service::callers::Caller;

/// By what right a job is asked for.
#[derive(Clone, Debug)]
pub struct Right {
    pub caller: Caller,
    pub pass: Pass,
}

/// What a caller shows beside its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pass {
    Nothing,
    /// A lease, with its secret.
    Lease(LeaseId),
    /// An operator's own word, which is recorded.
    Override(String),
    /// otter itself, for the lease that it prepares or releases, while the lease is so.
    Own(LeaseId, LeaseState),
}

/// Says whether a job may be accepted. Asked once the job has its place in the queue: from then on a grant sees it.
pub trait Gate: Send + Sync {
    /// The lease that the job then belongs to, if it does.
    ///
    /// # Errors
    /// `machine-leased`, `lease-ended`, `forbidden`.
    fn admit(&self, machine: &Machine, right: &Right) -> Result<Option<LeaseId>, Failure>;
}

impl Right {
    /// otter's own, for a lease that is so.
    #[must_use]
    pub fn own(lease: LeaseId, state: LeaseState) -> Self {
        let (name, origin) = ("otter".into(), RequestOrigin::default());
        Self { caller: Caller { name, role: Role::Admin, origin }, pass: Pass::Own(lease, state) }
    }

    /// Whether otter itself asks, which neither an outage nor a question keeps from asking.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        matches!(self.pass, Pass::Own(..))
    }
}
