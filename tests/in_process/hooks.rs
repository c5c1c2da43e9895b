//! The hooks of a test: they delay and interrupt requests, and delay and split sets of updates.
//!
//! ```text
//! request ──► before_request ──► the host acts ──► after_request ──► answer
//! change  ──► before_update ──► is_in_next_update, for each object ──► one set of facts
//! ```

use async_trait::async_trait;
use otter::domain::call::HostCall;
use otter::domain::ids::{MachineId, TaskId};
use otter::simulator::{Fault, Moref};

/// A request on its way to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    LogIn,
    /// A call that changes the machine.
    Call(&'a MachineId, &'a HostCall),
    Cancel(&'a TaskId),
    /// One of the reads of evidence.
    Examine(&'a MachineId),
    ConfirmGuest(&'a MachineId),
    Properties(&'a MachineId),
    /// The opening of a screen.
    Screen(&'a MachineId),
}

/// What happens instead of the answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Interruption {
    /// The connection breaks.
    Cut,
    /// The answer is unreadable.
    Unreadable,
    /// The host answers with this fault.
    Fault(Fault),
}

/// The hooks. By default they delay nothing and interrupt nothing.
///
/// A hook waits by the clock of the host, or until the test lets it go on.
#[async_trait]
pub trait Hooks: Send + Sync {
    /// Runs before the host acts. After an interruption the host does not act.
    async fn before_request(&self, _request: Request<'_>) -> Result<(), Interruption> {
        Ok(())
    }

    /// Runs after the host acted. An interruption replaces the answer.
    async fn after_request(&self, _request: Request<'_>) -> Result<(), Interruption> {
        Ok(())
    }

    /// Runs before a set of updates is read from the host. A barrier does not wait for it.
    async fn before_update(&self) {}

    /// Whether a changed object is part of the next set of updates. If not, a later set contains
    /// it, because a host guarantees no order. A barrier ignores this hook.
    fn is_in_next_update(&self, _object: &Moref) -> bool {
        true
    }
}

/// Hooks that do nothing.
pub struct NoHooks;

impl Hooks for NoHooks {}
