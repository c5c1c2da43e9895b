//! An error of the host as a plain value, and the failure that callers see for it.

use crate::domain::failure::{Failure, FailureKind, Fault};
use crate::domain::ids::TaskId;
use crate::hypervisor::{HostError, HostErrorKind};

/// An error of the host without its cause. otter makes decisions by it, and reports it to the
/// caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFailure {
    pub kind: HostErrorKind,
    pub message: String,
    pub fault: Option<Fault>,
    pub blocking_task: Option<TaskId>,
    /// Whether the host may have carried out the call, as in [`HostError::outcome_uncertain`].
    pub outcome_uncertain: bool,
}

impl From<&HostError> for HostFailure {
    fn from(error: &HostError) -> Self {
        Self {
            kind: error.kind,
            message: error.message.clone(),
            fault: error.fault.clone(),
            blocking_task: error.blocking_task.clone(),
            outcome_uncertain: error.outcome_uncertain,
        }
    }
}

impl HostFailure {
    /// The failure if the host cannot read the configuration of a machine, and thus does not report
    /// which machine has the managed object id. The failure is over when the datastore of the
    /// machine is available again.
    #[must_use]
    pub fn unconfirmed_identity() -> Self {
        Self {
            kind: HostErrorKind::Unreachable,
            message: "The host cannot read the configuration of the machine, so otter cannot \
                      confirm which machine it is; its datastore may be inaccessible."
                .to_owned(),
            fault: None,
            blocking_task: None,
            outcome_uncertain: false,
        }
    }

    /// Whether the cause is an outage: at the moment the host cannot be reached, or does not accept
    /// the login.
    #[must_use]
    pub const fn is_outage(&self) -> bool {
        matches!(
            self.kind,
            HostErrorKind::Unreachable
                | HostErrorKind::NotAuthenticated
                | HostErrorKind::LoginRefused
                | HostErrorKind::Protocol
        )
    }

    /// The failure that the caller sees, with the host's own message.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        Failure::new(self.failure_kind(), self.message.clone()).with_fault(self.fault.clone())
    }

    /// The kind of the failure that the caller sees.
    #[must_use]
    pub const fn failure_kind(&self) -> FailureKind {
        match self.kind {
            HostErrorKind::Unreachable | HostErrorKind::NotAuthenticated => {
                FailureKind::HostUnreachable
            }
            HostErrorKind::LoginRefused => FailureKind::HostLoginRefused,
            HostErrorKind::Protocol => FailureKind::HostProtocol,
            HostErrorKind::NotFound => FailureKind::NotFound,
            HostErrorKind::FileExists => FailureKind::FileExists,
            HostErrorKind::FileInUse => FailureKind::FileInUse,
            HostErrorKind::InvalidPowerState => FailureKind::InvalidPowerState,
            HostErrorKind::Busy => FailureKind::MachineBusy,
            HostErrorKind::InvalidProperty => FailureKind::InvalidRequest,
            HostErrorKind::InsufficientResources => FailureKind::InsufficientResources,
            HostErrorKind::Forbidden => FailureKind::ForbiddenByHost,
            HostErrorKind::LicenseRestricted => FailureKind::LicenseRestricted,
            HostErrorKind::ToolsUnavailable => FailureKind::ToolsUnavailable,
            HostErrorKind::ScreenLimitReached => FailureKind::ConsoleUnavailable,
            HostErrorKind::NotSupported => FailureKind::NotSupported,
            HostErrorKind::Cancelled | HostErrorKind::InvalidState | HostErrorKind::Rejected => {
                FailureKind::HostRejected
            }
        }
    }
}
