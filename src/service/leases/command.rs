//! A step of the table as it waits for the desk, and which input of the table it is.

use std::time::Duration;

use super::lease_table::{LeaseInput, MachineKey};
use crate::domain::access::TokenLimits;
use crate::domain::failure::Failure;
use crate::domain::ids::{JobId, LeaseId, MachineId};
use crate::domain::lease::{EndReason, Lease, LeaseState, Quarantine};
use crate::storage::IdempotencyKey;

/// A step, as it waits.
#[derive(Clone, Debug)]
pub enum LeaseCommand {
    Request { lease: Box<Lease>, key: Option<IdempotencyKey>, limits: TokenLimits },
    RecordPoll(LeaseId),
    Renew(LeaseId, Option<Duration>),
    End { id: LeaseId, reason: EndReason, by: String, detail: Option<String> },
    JobStarted(LeaseId, LeaseState, JobId),
    PrepareFinished(LeaseId, Result<(), Failure>),
    ReleaseFinished(LeaseId, Result<(), Failure>),
    RecordOverride { id: LeaseId, by: String, reason: String },
    QuarantineMachine(MachineKey, Quarantine, MachineId),
    ClearQuarantine(MachineKey, MachineId),
}

impl LeaseCommand {
    /// The step as the table takes it, where it needs to know no machines.
    pub fn input(&self) -> LeaseInput<'static> {
        match self {
            Self::Request { .. } | Self::RecordPoll(_) => LeaseInput::TimePassed,
            Self::Renew(id, ttl) => LeaseInput::Renew(*id, *ttl),
            Self::End { id, reason, by, detail } => {
                LeaseInput::End { id: *id, reason: *reason, by: by.clone(), detail: detail.clone() }
            }
            Self::JobStarted(id, state, job) => LeaseInput::JobStarted(*id, *state, *job),
            Self::PrepareFinished(id, outcome) => LeaseInput::PrepareFinished(*id, outcome.clone()),
            Self::ReleaseFinished(id, outcome) => LeaseInput::ReleaseFinished(*id, outcome.clone()),
            Self::RecordOverride { id, by, reason } => {
                LeaseInput::RecordOverride { id: *id, by: by.clone(), reason: reason.clone() }
            }
            Self::QuarantineMachine(machine, quarantine, _) => {
                LeaseInput::QuarantineMachine(machine.clone(), quarantine.clone())
            }
            Self::ClearQuarantine(machine, _) => LeaseInput::ClearQuarantine(machine.clone()),
        }
    }

    /// Whether there may be something to grant once it was taken.
    pub const fn may_free_a_machine(&self) -> bool {
        match self {
            Self::End { .. }
            | Self::PrepareFinished(..)
            | Self::ReleaseFinished(..)
            | Self::ClearQuarantine(..) => true,
            Self::Request { .. }
            | Self::RecordPoll(_)
            | Self::Renew(..)
            | Self::JobStarted(..)
            | Self::RecordOverride { .. }
            | Self::QuarantineMachine(..) => false,
        }
    }
}
