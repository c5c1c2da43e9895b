//! What a test decides about each request: how long it takes, and what goes wrong with it.
//!
//! ```text
//! request ──► before_request ──► the host acts ──► after_request ──► answer
//! change  ──► before_update ──► tells_now, object by object ──► one set of facts
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
    /// One of the reads that evidence is made of.
    Examine(&'a MachineId),
    ConfirmGuest(&'a MachineId),
    Properties(&'a MachineId),
}

/// What happens to a request instead of the answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Interruption {
    /// The connection breaks.
    Cut,
    /// The answer cannot be read.
    Unreadable,
    /// The host answers with this fault.
    Fault(Fault),
}

/// The decisions of a test. By default nothing takes time and nothing goes wrong.
///
/// A hook that waits does so by the clock of the host, or until the test lets it go on.
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

    /// Whether a changed object is part of the next set of updates. If not, a later set brings it,
    /// for a host promises no order. A barrier brings everything.
    fn is_in_next_update(&self, _object: &Moref) -> bool {
        true
    }
}

/// Nothing takes time, and nothing goes wrong.
pub struct NoHooks;

impl Hooks for NoHooks {}
