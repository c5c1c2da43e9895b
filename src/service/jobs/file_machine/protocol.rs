//! The effects and inputs of a [`FileMachine`](super::FileMachine).

use std::time::Duration;

use crate::domain::failure::Failure;
use crate::domain::file_job::{FileCall, FileEvidence, Received, UploadRequest};
use crate::service::host_failure::HostFailure;

/// The next action of the job, which the runner performs. Each variant names the input with which
/// the runner answers the effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileEffect {
    /// Wait until no other job that runs excludes this one. Answer: [`FileInput::Done`].
    Enter,
    /// Commit the job to disk. Answer: [`FileInput::Done`].
    Save,
    /// Read what the host has. Answer: [`FileInput::Looked`].
    Look,
    /// Write the body of the upload into its part file. Answer: [`FileInput::Received`].
    Receive(UploadRequest),
    /// Make the call. Answer: [`FileInput::Called`].
    Call(FileCall),
    /// Wait for this time, then until the host is connected. Answer: [`FileInput::Done`].
    AwaitHost(Duration),
    /// Wait for this time. Answer: [`FileInput::Done`].
    Pause(Duration),
    /// Remove the part file, now or at the next session. Answer: [`FileInput::Done`].
    Discard,
    /// Record what the upload put at its target. Answer: [`FileInput::Done`].
    Record(Received),
    /// Publish the committed end of the job. This is the last effect of a job.
    Finish,
}

/// The result of the last effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileInput {
    Done,
    Looked(Result<FileEvidence, HostFailure>),
    Received(Result<Received, Failure>),
    Called(FileCallResult),
}

/// The result of a call on a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileCallResult {
    Done,
    /// It is proven that the call did nothing.
    Refused(HostFailure),
    /// The call may have run.
    Lost(HostFailure),
}
