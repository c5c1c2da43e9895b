//! The commands of the lease actor, and their inputs to the lease table.

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
    /// Does nothing. Once it is handled, the changes that were committed before are published.
    AwaitPublication,
    /// The holder or an operator renews a lease. `None` means its original duration.
    Renew(LeaseId, Option<Duration>),
    /// A lease ends for this reason.
    End { id: LeaseId, reason: EndReason, by: String, detail: Option<String> },
    /// The use of a machine failed: its lease is kept or ends.
    EndFailed { id: LeaseId, reason: EndReason, by: String, detail: Option<String> },
    /// The job of a preparation or a release was started. The state of the lease says which of the
    /// two.
    JobStarted(LeaseId, LeaseState, JobId),
    /// The preparation has ended.
    PrepareFinished(LeaseId, Result<(), Failure>),
    /// The release has ended.
    ReleaseFinished(LeaseId, Result<(), Failure>),
    /// The release of a machine that no lease holds has ended.
    RecoveryFinished(RecoveryAttempt, Result<(), Failure>),
    /// An operator changed the machine of this lease.
    RecordOverride { id: LeaseId, by: String, reason: String },
    /// A rule of the configuration answers a question of the machine of this lease.
    RecordAnswer { id: LeaseId, what: String },
    /// An operator quarantines a machine, or changes the reason.
    QuarantineMachine(MachineKey, Quarantine, MachineId),
    /// An operator lifts the quarantine of a machine.
    ClearQuarantine(MachineKey, MachineId),
    /// An operator lifts the quarantines of these machines that otter set by itself.
    ClearAutomaticQuarantines(Vec<MachineKey>),
}

impl LeaseCommand {
    /// The input to the lease table. The actor handles `Request` and `AwaitPublication` without
    /// this input.
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
            Self::QuarantineMachine(machine, quarantine, _) => {
                LeaseInput::QuarantineMachine(machine.clone(), quarantine.clone())
            }
            Self::ClearQuarantine(machine, _) => LeaseInput::ClearQuarantine(machine.clone()),
            Self::ClearAutomaticQuarantines(machines) => {
                LeaseInput::ClearAutomaticQuarantines(machines)
            }
        }
    }

    /// The lease that the command requests without an idempotency key. `None` for every other
    /// command.
    pub fn unkeyed_request(&self) -> Option<LeaseId> {
        match self {
            Self::Request { lease, key: None, .. } => Some(lease.id),
            _ => None,
        }
    }

    /// Whether a machine may be free for a queued lease after this command.
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
            | Self::QuarantineMachine(..) => false,
        }
    }
}
