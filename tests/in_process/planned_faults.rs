//! Hooks that let planned things happen to the next calls that change a machine, in order.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use otter::simulator::Fault;

use super::hooks::{Hooks, Interruption, Request};

/// What happens to one call.
#[derive(Clone, Debug, PartialEq)]
pub enum CallFault {
    /// The connection breaks before the host acts.
    CutBefore,
    /// The host acts, and then the connection breaks.
    CutAfter,
    /// The host acts, and nobody can read its answer.
    UnreadableAfter,
    /// The host answers with this fault, and does not act.
    Fault(Fault),
    /// The host acts, and answers with this fault all the same.
    FaultAfter(Fault),
}

/// The plans for the next calls.
#[derive(Default)]
pub struct PlannedFaults {
    next: Mutex<VecDeque<CallFault>>,
}

impl PlannedFaults {
    /// This happens to the next call for which nothing is planned yet.
    pub fn push(&self, fault: CallFault) {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).push_back(fault);
    }

    /// Takes what comes next, if it is for this side of the act.
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
