//! A step of the book as it waits for the desk, and which input of the book it is.

use std::time::Duration;

use super::book::{Input, MachineKey};
use crate::domain::access::TokenLimits;
use crate::domain::failure::Failure;
use crate::domain::ids::{JobId, LeaseId, MachineId};
use crate::domain::lease::{EndReason, Lease, LeaseState, Quarantine};
use crate::storage::IdempotencyKey;

/// A step, as it waits.
#[derive(Clone, Debug)]
pub enum Stepped {
    Ask { lease: Box<Lease>, key: Option<IdempotencyKey>, limits: TokenLimits },
    Asked(LeaseId),
    Renew(LeaseId, Option<Duration>),
    End { id: LeaseId, reason: EndReason, by: String, detail: Option<String> },
    Working(LeaseId, LeaseState, JobId),
    Prepared(LeaseId, Result<(), Failure>),
    Freed(LeaseId, Result<(), Failure>),
    Overridden { id: LeaseId, by: String, reason: String },
    SetAside(MachineKey, Quarantine, MachineId),
    Clear(MachineKey, MachineId),
}

impl Stepped {
    /// The step as the book takes it, where it needs to know no machines.
    pub fn input(&self) -> Input<'static> {
        match self {
            Self::Ask { .. } | Self::Asked(_) => Input::Tick,
            Self::Renew(id, ttl) => Input::Renew(*id, *ttl),
            Self::End { id, reason, by, detail } => {
                Input::End { id: *id, reason: *reason, by: by.clone(), detail: detail.clone() }
            }
            Self::Working(id, state, job) => Input::Working(*id, *state, *job),
            Self::Prepared(id, outcome) => Input::Prepared(*id, outcome.clone()),
            Self::Freed(id, outcome) => Input::Freed(*id, outcome.clone()),
            Self::Overridden { id, by, reason } => {
                Input::Overridden { id: *id, by: by.clone(), reason: reason.clone() }
            }
            Self::SetAside(machine, quarantine, _) => {
                Input::SetAside(machine.clone(), quarantine.clone())
            }
            Self::Clear(machine, _) => Input::Clear(machine.clone()),
        }
    }

    /// Whether there may be something to grant once it was taken.
    pub const fn may_free_a_machine(&self) -> bool {
        match self {
            Self::End { .. } | Self::Prepared(..) | Self::Freed(..) | Self::Clear(..) => true,
            Self::Ask { .. }
            | Self::Asked(_)
            | Self::Renew(..)
            | Self::Working(..)
            | Self::Overridden { .. }
            | Self::SetAside(..) => false,
        }
    }
}
