//! One call of input: what it sends, and what it needs for it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::DropGuard;

use super::Screens;
use super::conditions::ScreenConditions;
use super::input_lane::InputLanes;
use super::input_record::InputRecords;
use super::wait::ScreenWaits;
use crate::clock::Clock;
use crate::domain::failure::Failure;
use crate::domain::input::{InputList, SentInput};
use crate::domain::machine::Machine;
use crate::service::call_ends::CallEnds;
use crate::service::callers::{Callers, Credential};
use crate::service::idempotency::KeyClaim;
use crate::service::inventory::Inventory;
use crate::service::jobs::authorization::Requester;
use crate::service::overrides::Overrides;
use crate::service::recordings::pauses::RecordingPauses;
use crate::storage::IdempotencyKey;
use crate::supervisor::Supervisor;

/// What calls of input need.
pub struct InputCallsParts {
    pub screens: Arc<Screens>,
    pub waits: Arc<ScreenWaits>,
    pub inventory: Arc<Inventory>,
    pub callers: Arc<Callers>,
    pub overrides: Arc<Overrides>,
    pub records: Arc<InputRecords>,
    pub lanes: InputLanes,
    /// Pauses the recordings of a machine while a secret is typed into it.
    pub pauses: RecordingPauses,
    pub supervisor: Supervisor,
    pub clock: Clock,
}

/// Who makes a call, and its key.
pub struct InputTerms {
    pub requester: Requester,
    /// What identified the caller. The call ends with it.
    pub credential: Credential,
    /// The value of `Otter-Reference`.
    pub reference: Option<String>,
    pub key: Option<IdempotencyKey>,
    /// The longest time of the whole call.
    pub limit: Duration,
}

/// A call whose key is claimed.
pub enum BegunInput {
    New(NewInput),
    /// The call repeats an earlier one, whose answer this is.
    Repeat(Result<InputDone, Failure>),
}

/// A call that repeats no earlier one. It ends when it is dropped.
pub struct NewInput {
    pub(super) requester: Requester,
    pub(super) reference: Option<String>,
    pub(super) claim: Option<KeyClaim>,
    pub(super) ends: CallEnds,
    pub(super) hang_up: DropGuard,
}

/// What a call sends, and for whom.
pub(super) struct InputCall {
    pub requester: Requester,
    pub reference: Option<String>,
    pub machine: Arc<Machine>,
    pub list: InputList<Until>,
}

/// The condition of an `until`.
#[derive(Debug)]
pub struct Until {
    pub conditions: Arc<ScreenConditions>,
    /// The longest wait.
    pub wait: Duration,
}

/// The end of a call that sent all its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputDone {
    pub sent: SentInput,
    pub finished_at: Timestamp,
}
