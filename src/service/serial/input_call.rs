//! One call of input to a serial port: what it sends, what it needs for it, and what it found.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretSlice;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio_util::sync::DropGuard;

use super::Serial;
use super::conditions::{SerialConditions, SerialMatch};
use crate::domain::failure::Failure;
use crate::domain::ids::MachineId;
use crate::domain::input::SentInput;
use crate::domain::machine::{Machine, SerialPort};
use crate::service::call_ends::CallEnds;
use crate::service::callers::Callers;
use crate::service::idempotency::KeyClaim;
use crate::service::jobs::authorization::Requester;
use crate::service::overrides::Overrides;
use crate::service::recordings::pauses::RecordingPauses;
use crate::service::screens::input_record::InputRecords;

/// What calls of input need.
pub struct SerialInputsParts {
    pub serial: Arc<Serial>,
    pub callers: Arc<Callers>,
    pub overrides: Arc<Overrides>,
    pub records: Arc<InputRecords>,
    /// Pauses the recordings of a machine while a secret is sent to it.
    pub pauses: RecordingPauses,
}

/// A call whose key is claimed.
pub enum BegunSerialInput {
    New(NewSerialInput),
    /// The call repeats an earlier one, whose answer this is.
    Repeat(Result<SerialInputDone, Failure>),
}

/// A call that repeats no earlier one. It ends when it is dropped.
pub struct NewSerialInput {
    pub(super) requester: Requester,
    pub(super) reference: Option<String>,
    pub(super) claim: Option<KeyClaim>,
    pub(super) ends: CallEnds,
    pub(super) hang_up: DropGuard,
}

/// What a call sends.
pub struct SerialInput {
    pub machine: Arc<Machine>,
    pub port: SerialPort,
    /// Not empty.
    pub bytes: SecretSlice<u8>,
    /// The time between two bytes.
    pub pace: Option<Duration>,
    pub wait_for: Option<WaitFor>,
    /// Whether recordings of the machine leave the bytes out.
    pub is_secret: bool,
}

/// What a call sends, and for whom.
pub(super) struct SerialInputCall {
    pub requester: Requester,
    pub reference: Option<String>,
    pub input: SerialInput,
}

/// What a call waits for after its last byte.
#[derive(Debug)]
pub struct WaitFor {
    pub conditions: SerialConditions,
    /// The longest wait.
    pub wait: Duration,
}

/// The end of a call that sent all its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialInputDone {
    pub sent: SentInput,
    pub finished_at: Timestamp,
    pub outcome: InputOutcome,
}

/// Where a call sent its input, and what it found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputOutcome {
    #[serde(serialize_with = "write_id", deserialize_with = "read_id")]
    pub machine: MachineId,
    /// The key of the port.
    pub port: i32,
    /// The offset of the next byte of the output when the first byte of the input was sent.
    pub since: u64,
    /// `None` if the call did not wait for output.
    pub matched: Option<SerialMatch>,
}

fn write_id<S: Serializer>(id: &MachineId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn read_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MachineId, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}
