//! The records of calls that send input to a machine: the key that was committed before the first
//! event, and the answer.

use jiff::Timestamp;

use crate::domain::failure::Failure;
use crate::domain::input::SentInput;

/// The answer of a call that sent input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputAnswer {
    /// The events and characters that the machine got.
    pub sent: SentInput,
    pub finished_at: Timestamp,
    /// Why the call ended before its last event. `None` if it sent everything. It never contains
    /// a text that the caller sent. The storage keeps neither what the screen showed (`seen`) nor
    /// `sent`.
    pub interruption: Option<Box<Failure>>,
    /// What a call found that then waited for the output of a serial port, as JSON. `None` for
    /// other calls.
    pub result: Option<String>,
}

/// The result of the lookup of the key of a call that sends input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredInput {
    /// Whether the call has the same body and query as the call that stored the key.
    pub fingerprint_matches: bool,
    /// `None` if the call has not ended: it runs, or otter died before its end.
    pub answer: Option<InputAnswer>,
}
