//! Hooks that inject planned faults into the next calls that change a machine, in order.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use otter::simulator::Fault;

use super::hooks::{Hooks, Interruption, Request};

/// A fault of one call.
#[derive(Clone, Debug, PartialEq)]
pub enum CallFault {
    /// The connection breaks before the host acts.
    CutBefore,
    /// The host acts, and then the connection breaks.
    CutAfter,
    /// The host acts, and its answer is unreadable.
    UnreadableAfter,
    /// The host answers with this fault, and does not act.
    Fault(Fault),
    /// The host acts, but answers with this fault.
    FaultAfter(Fault),
}

/// The faults of the next calls.
#[derive(Default)]
pub struct PlannedFaults {
    next: Mutex<VecDeque<CallFault>>,
}

impl PlannedFaults {
    /// Plans a fault for the next call that has none yet.
    pub fn push(&self, fault: CallFault) {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).push_back(fault);
    }

    /// Takes the next fault if it happens at this point: before the host acts, or after.
    fn take(&self, request: Request<'_>, is_before: bool) -> Result<(), Interruption> {
        if !matches!(request, Request::Call(..)) {
            return Ok(());
        }
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |fault: &CallFault| {
            is_before == matches!(fault, CallFault::CutBefore | CallFault::Fault(_))
        };
        if !next.front().is_some_and(is_due) {
            return Ok(());
        }
        match next.pop_front() {
            None => Ok(()),
            Some(CallFault::CutBefore | CallFault::CutAfter) => Err(Interruption::Cut),
            Some(CallFault::UnreadableAfter) => Err(Interruption::Unreadable),
            Some(CallFault::Fault(fault) | CallFault::FaultAfter(fault)) => {
                Err(Interruption::Fault(fault))
            }
        }
    }
}

#[async_trait]
impl Hooks for PlannedFaults {
    async fn before_request(&self, request: Request<'_>) -> Result<(), Interruption> {
        self.take(request, true)
    }

    async fn after_request(&self, request: Request<'_>) -> Result<(), Interruption> {
        self.take(request, false)
    }
}
