//! One call of input: what it sends, and what it needs for it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Screens;
use super::conditions::ScreenConditions;
use super::input_lane::InputLanes;
use super::input_record::InputRecords;
use super::wait::ScreenWaits;
use crate::clock::Clock;
use crate::domain::input::{InputList, SentInput};
use crate::domain::machine::Machine;
use crate::service::audit::Audit;
use crate::service::inventory::Inventory;
use crate::service::jobs::authorization::Requester;
use crate::service::leases::Leases;
use crate::service::recordings::pauses::RecordingPauses;
use crate::storage::IdempotencyKey;
use crate::supervisor::Supervisor;

/// What calls of input need.
pub struct InputCallsParts {
    pub screens: Arc<Screens>,
    pub waits: Arc<ScreenWaits>,
    pub inventory: Arc<Inventory>,
    pub leases: Leases,
    pub records: Arc<InputRecords>,
    pub lanes: InputLanes,
    /// Pauses the recordings of a machine while a secret is typed into it.
    pub pauses: RecordingPauses,
    pub audit: Arc<Audit>,
    pub supervisor: Supervisor,
    pub clock: Clock,
}

/// One call.
pub struct InputCall {
    pub machine: Arc<Machine>,
    pub requester: Requester,
    /// The value of `Otter-Reference`.
    pub reference: Option<String>,
    pub list: InputList<Until>,
    pub key: Option<IdempotencyKey>,
    /// The longest time of the whole call.
    pub limit: Duration,
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
    /// Whether an earlier call with the same key sent it.
    pub replayed: bool,
}
