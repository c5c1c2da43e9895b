//! The commands of the lease actor, and the input to the lease table that follows from each
//! command.

use std::time::Duration;

use super::lease_table::{LeaseInput, MachineKey, RecoveryAttempt};
use crate::domain::access::TokenLimits;
use crate::domain::failure::Failure;
use crate::domain::ids::{JobId, LeaseId, MachineId};
use crate::domain::lease::{EndReason, Lease, LeaseState, Quarantine};
use crate::storage::IdempotencyKey;

/// A command for the lease actor.
#[derive(Clone, Debug)]
pub enum LeaseCommand {
    /// A caller requests this lease.
    Request { lease: Box<Lease>, key: Option<IdempotencyKey>, limits: TokenLimits },
    /// Does nothing. When the actor has handled this command, all changes that were committed
    /// before it are published.
    AwaitPublication,
    /// The holder or an operator renews a lease, for this duration. `None` means the original
    /// duration of the lease.
    Renew(LeaseId, Option<Duration>),
    /// A lease ends for this reason.
    End { id: LeaseId, reason: EndReason, by: String, detail: Option<String> },
    /// The use of a machine failed. Its lease is kept if its request asks for that, and ends for
    /// this reason otherwise.
    EndFailed { id: LeaseId, reason: EndReason, by: String, detail: Option<String> },
    /// A job was started that prepares or releases the machine of this lease. The state says which
    /// of the two it does.
    JobStarted(LeaseId, LeaseState, JobId),
    /// The preparation of this lease's machine has ended.
    PrepareFinished(LeaseId, Result<(), Failure>),
    /// The release of this lease's machine has ended.
    ReleaseFinished(LeaseId, Result<(), Failure>),
    /// The release of a machine that no lease holds has ended.
    RecoveryFinished(RecoveryAttempt, Result<(), Failure>),
    /// An operator changed the machine of this lease.
    RecordOverride { id: LeaseId, by: String, reason: String },
    /// A rule of the configuration answers a question of the machine of this lease.
    RecordAnswer { id: LeaseId, what: String },
    /// Something happened with the recording of this lease.
    RecordRecording { id: LeaseId, what: String, is_warning: bool },
    /// An operator quarantines a machine, or changes the reason of its quarantine.
    QuarantineMachine(MachineKey, Quarantine, MachineId),
    /// An operator lifts the quarantine of a machine.
    ClearQuarantine(MachineKey, MachineId),
    /// An operator lifts the quarantines of these machines, but only those that otter set by
    /// itself.
    ClearAutomaticQuarantines(Vec<MachineKey>),
}

impl LeaseCommand {
    /// The input to the lease table that follows from the command. The actor does not call this
    /// method for `Request` and `AwaitPublication`.
    pub fn input(&self) -> LeaseInput<'_> {
        match self {
            Self::Request { .. } | Self::AwaitPublication => LeaseInput::TimePassed,
            Self::Renew(id, ttl) => LeaseInput::Renew(*id, *ttl),
            Self::End { id, reason, by, detail } => {
                LeaseInput::End { id: *id, reason: *reason, by: by.clone(), detail: detail.clone() }
            }
            Self::EndFailed { id, reason, by, detail } => LeaseInput::EndFailed {
                id: *id,
                reason: *reason,
                by: by.clone(),
                detail: detail.clone(),
            },
            Self::JobStarted(id, state, job) => LeaseInput::JobStarted(*id, *state, *job),
            Self::PrepareFinished(id, outcome) => LeaseInput::PrepareFinished(*id, outcome.clone()),
            Self::ReleaseFinished(id, outcome) => LeaseInput::ReleaseFinished(*id, outcome.clone()),
            Self::RecoveryFinished(attempt, outcome) => {
                LeaseInput::RecoveryFinished(attempt.clone(), outcome.clone())
            }
            Self::RecordOverride { id, by, reason } => {
                LeaseInput::RecordOverride { id: *id, by: by.clone(), reason: reason.clone() }
            }
            Self::RecordAnswer { id, what } => {
                LeaseInput::RecordAnswer { id: *id, what: what.clone() }
            }
            Self::RecordRecording { id, what, is_warning } => {
                LeaseInput::RecordRecording { id: *id, what: what.clone(), is_warning: *is_warning }
            }
            Self::QuarantineMachine(machine, quarantine, _) => {
                LeaseInput::QuarantineMachine(machine.clone(), quarantine.clone())
            }
            Self::ClearQuarantine(machine, _) => LeaseInput::ClearQuarantine(machine.clone()),
            Self::ClearAutomaticQuarantines(machines) => {
                LeaseInput::ClearAutomaticQuarantines(machines)
            }
        }
    }

    /// The id of the lease that the command requests, if the request has no idempotency key. `None`
    /// for every other command.
    pub fn unkeyed_request(&self) -> Option<LeaseId> {
        match self {
            Self::Request { lease, key: None, .. } => Some(lease.id),
            _ => None,
        }
    }

    /// Whether this command may make a machine free for a queued lease.
    pub const fn may_free_a_machine(&self) -> bool {
        match self {
            Self::End { .. }
            | Self::EndFailed { .. }
            | Self::PrepareFinished(..)
            | Self::ReleaseFinished(..)
            | Self::RecoveryFinished(..)
            | Self::ClearQuarantine(..)
            | Self::ClearAutomaticQuarantines(_) => true,
            Self::Request { .. }
            | Self::AwaitPublication
            | Self::Renew(..)
            | Self::JobStarted(..)
            | Self::RecordOverride { .. }
            | Self::RecordAnswer { .. }
            | Self::RecordRecording { .. }
            | Self::QuarantineMachine(..) => false,
        }
    }
}
