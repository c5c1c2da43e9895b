//! The state machine of one job on a file, from its turn to its end: `step(input) → effect`. Pure;
//! `file_runner` does the I/O.
//!
//! ```text
//! upload:          enter ─► commit ─► receive ─► commit intent ─► move ─► record ─► end
//! delete, folder:  enter ─► look ──────────────► commit intent ─► call ───────────► end
//!                            ▲ host away             ▲ send again   │ lost
//!                            └──┘                    └── look ◄── settle ──► end
//! ```
//! - An upload that fails, is cancelled or was cut by a restart discards its part file before it
//!   ends. So nothing incomplete ever has the name of the target, and nothing is left.
//! - A lost call is resolved by `lost_call`. After a restart, a call with a committed intent counts
//!   as lost.
//! - A refusal proves only that its own sending did not run. If an earlier sending was lost, the
//!   job looks before it ends.

mod lost_call;
mod protocol;
#[cfg(test)]
mod random_histories;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use self::lost_call::Resolution;
pub use self::protocol::{FileCallResult, FileEffect, FileInput};
use super::deadline_clocks;
use super::state_machine::{Blocker, Interrupt};
use crate::domain::artifact::Sha256Sum;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::file_job::{FileCall, FileEvidence, FileIntent, FileResult, Received};
use crate::domain::job::{Job, JobRequest, JobResult, JobState, JobStep, JobStepState, StepName};
use crate::service::host_failure::HostFailure;

/// The pause before a job tries to reach the host again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The state machine of one job on a file.
#[derive(Clone, Debug)]
pub struct FileMachine {
    job: Job,
    /// How long a job waits before it looks what became of a lost call.
    settle: Duration,
    state: State,
    /// The reason why the job is blocked, and since when.
    blocker: Option<(Blocker, Timestamp)>,
    overdue: bool,
    grace_over: bool,
}

/// What the job is doing while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Entering,
    Saving(AfterSave),
    /// The job looks to decide its call. No call is under way.
    LookingBefore,
    Receiving,
    Calling,
    /// The host is away, and no call is under way.
    Blocked,
    /// The call was lost. The job waits for the host.
    AwaitingHost,
    /// The call was lost. The job waits until the host has settled.
    Settling,
    /// The call was lost. The job looks what became of it.
    LookingAfterLoss,
    /// The call was refused, and an earlier sending was lost.
    LookingAfterRefusal(HostFailure),
    /// The end of the upload is decided. Its part file is being removed.
    Discarding(End),
    Recording,
    Ended,
}

/// The continuation of a job after a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
enum AfterSave {
    Receive,
    Call,
    Discard(Box<End>),
    Publish,
}

/// How a job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Succeeded { changed: bool },
    Failed(Failure),
    Cancelled,
    Unknown(Failure),
}

impl End {
    /// The end with this failure.
    fn from_failure(failure: Failure) -> Self {
        match failure.kind {
            FailureKind::OutcomeUnknown => Self::Unknown(failure),
            FailureKind::JobCancelled => Self::Cancelled,
            _ => Self::Failed(failure),
        }
    }
}

impl FileMachine {
    /// The state machine of a job that has its turn, or that ran when otter stopped, and its first
    /// effect.
    ///
    /// # Parameters
    /// - `settle`: how long the job waits before it looks what became of a lost call.
    #[must_use]
    pub fn new(job: Job, settle: Duration, now: Timestamp) -> (Self, FileEffect) {
        let state = State::Entering;
        let mut machine =
            Self { job, settle, state, blocker: None, overdue: false, grace_over: false };
        let intent = machine.job.file_intent.as_ref();
        let effect = if let Some(end) = intent.and_then(|intent| intent.end.clone()) {
            machine.discard(End::from_failure(end))
        } else if intent.is_some() {
            machine.await_host_after_loss(Duration::ZERO)
        } else if machine.has_transfer() {
            let detail = "otter stopped before the upload was complete. Nothing is left of it; \
                          send the file again.";
            let failure = machine.failure(FailureKind::ShuttingDown, detail);
            machine.discard(machine.early_end().unwrap_or(End::Failed(failure)))
        } else {
            machine.set_phase("waiting for other jobs on the path", now);
            FileEffect::Enter
        };
        (machine, effect)
    }

    /// The job in the form in which the next commit stores it.
    #[must_use]
    pub const fn job(&self) -> &Job {
        &self.job
    }

    /// The reason why the job is blocked, and since when. `None` if it is not blocked.
    #[must_use]
    pub const fn blocker(&self) -> Option<&(Blocker, Timestamp)> {
        self.blocker.as_ref()
    }

    /// Whether a call of the job was lost and is not resolved yet.
    #[must_use]
    pub const fn is_settling(&self) -> bool {
        matches!(self.state, State::AwaitingHost | State::Settling | State::LookingAfterLoss)
    }

    /// Moves the deadline after a jump of the wall clock. Does not change a job that has ended.
    pub fn shift_deadline(&mut self, by: SignedDuration, now: Timestamp) {
        if !self.job.state.is_end() {
            deadline_clocks::shift_deadline(&mut self.job, by, now);
        }
    }

    /// Takes the result of the last effect, and returns the next effect.
    pub fn step(&mut self, input: FileInput, now: Timestamp) -> FileEffect {
        let state = std::mem::replace(&mut self.state, State::Ended);
        match (state, input) {
            (State::Entering, FileInput::Done) => self.begin(now),
            (State::Blocked, FileInput::Done) => {
                self.blocker = None;
                self.begin_again(now)
            }
            (State::Saving(after), FileInput::Done) => self.on_saved(after, now),
            (State::LookingBefore, FileInput::Looked(seen)) => self.on_looked_before(seen, now),
            (State::Receiving, FileInput::Received(received)) => self.on_received(received, now),
            (State::Calling, FileInput::Called(called)) => self.on_called(called, now),
            (State::AwaitingHost, FileInput::Done) => {
                self.blocker = None;
                self.set_phase("letting the host settle", now);
                self.state = State::Settling;
                FileEffect::Pause(self.settle)
            }
            (State::Settling, FileInput::Done) => {
                self.state = State::LookingAfterLoss;
                FileEffect::Look
            }
            (State::LookingAfterLoss, FileInput::Looked(seen)) => {
                self.on_looked_after_loss(seen, now)
            }
            (State::LookingAfterRefusal(refusal), FileInput::Looked(seen)) => {
                self.on_looked_after_refusal(&refusal, seen, now)
            }
            (State::Discarding(end), FileInput::Done) => self.close(end, now),
            (State::Recording, FileInput::Done) => {
                self.close(End::Succeeded { changed: true }, now)
            }
            (state, _) => {
                // An input that does not answer the pending effect changes nothing, and the effect
                // is repeated.
                self.state = state;
                self.pending_effect()
            }
        }
    }

    /// Takes an interrupt that arrives while an effect is under way. If an effect is returned, it
    /// takes the place of the one that is under way.
    pub fn interrupt(&mut self, interrupt: &Interrupt, now: Timestamp) -> Option<FileEffect> {
        if self.job.state.is_end() {
            return None;
        }
        match interrupt {
            Interrupt::Cancel(by) => {
                self.job.request_cancel(by.clone(), now);
                self.job.updated_at = now;
            }
            Interrupt::Deadline { .. } => self.overdue = true,
            Interrupt::GraceOver => self.grace_over = true,
            Interrupt::QuestionUnanswered(_) => return None,
        }
        match self.state {
            State::Entering | State::LookingBefore | State::Blocked | State::Receiving => {
                let end = self.early_end()?;
                Some(self.end(end, now))
            }
            State::Calling
            | State::AwaitingHost
            | State::Settling
            | State::LookingAfterLoss
            | State::LookingAfterRefusal(_)
                if self.grace_over =>
            {
                let detail = "The deadline passed before it was known whether the host did it.";
                Some(self.end_unknown(detail, now))
            }
            _ => None,
        }
    }

    /// Begins the work of a job that may have its path.
    fn begin(&mut self, now: Timestamp) -> FileEffect {
        if let Some(end) = self.early_end() {
            return self.end(end, now);
        }
        match self.job.request {
            JobRequest::UploadFile(_) => {
                self.set_phase("receiving the file", now);
                self.start_step(StepName::Transfer, now);
                self.save(AfterSave::Receive)
            }
            _ => self.look_before(now),
        }
    }

    /// Goes on after the host was away. No call is under way.
    fn begin_again(&mut self, now: Timestamp) -> FileEffect {
        if let Some(end) = self.early_end() {
            return self.end(end, now);
        }
        if let Some(FileIntent { call: call @ FileCall::MovePart { .. }, .. }) =
            self.job.file_intent
        {
            self.state = State::Calling;
            return FileEffect::Call(call);
        }
        self.job.file_intent = None;
        self.look_before(now)
    }

    fn look_before(&mut self, now: Timestamp) -> FileEffect {
        self.set_phase("looking at the path", now);
        self.state = State::LookingBefore;
        FileEffect::Look
    }

    fn on_saved(&mut self, after: AfterSave, now: Timestamp) -> FileEffect {
        let next = match after {
            AfterSave::Publish => {
                self.state = State::Ended;
                return FileEffect::Finish;
            }
            AfterSave::Discard(end) => return self.discard(*end),
            AfterSave::Receive => State::Receiving,
            AfterSave::Call => State::Calling,
        };
        if let Some(end) = self.early_end() {
            return self.end(end, now);
        }
        self.state = next;
        self.pending_effect()
    }

    fn on_looked_before(
        &mut self,
        seen: Result<FileEvidence, HostFailure>,
        now: Timestamp,
    ) -> FileEffect {
        let before = match seen {
            Ok(seen) => seen,
            Err(failure) => return self.on_proven_undone(failure, now),
        };
        let path = self.path();
        match (&self.job.request, &before.target) {
            (JobRequest::CreateFolder, Some(there)) if there.is_folder => {
                self.end(End::Succeeded { changed: false }, now)
            }
            (JobRequest::CreateFolder, Some(_)) => {
                let detail = format!("There is a file at {path}.");
                self.fail(FailureKind::FileExists, &detail, now)
            }
            (JobRequest::CreateFolder, None) => self.intend(FileCall::CreateFolder, before, now),
            (_, None) => {
                let detail = format!("There is nothing at {path}.");
                self.fail(FailureKind::NotFound, &detail, now)
            }
            (_, Some(there)) if there.is_folder && !there.is_empty => {
                let detail = format!("The folder {path} has contents; delete them first.");
                self.fail(FailureKind::FolderNotEmpty, &detail, now)
            }
            (_, Some(_)) => self.intend(FileCall::Delete, before, now),
        }
    }

    fn on_received(&mut self, received: Result<Received, Failure>, now: Timestamp) -> FileEffect {
        let JobRequest::UploadFile(upload) = self.job.request else {
            return self.look_before(now);
        };
        match received {
            Ok(received) if received.unchanged => {
                let detail = "an earlier upload put the same file there";
                self.finish_step(JobStepState::Skipped, Some(detail), now);
                let sent = Some((received.bytes, received.sha256));
                self.close_with(End::Succeeded { changed: false }, sent, now)
            }
            Ok(received) => {
                self.finish_step(JobStepState::Succeeded, None, now);
                let call = FileCall::MovePart { replace: upload.replace };
                self.intend_with(call, FileEvidence::default(), Some(received), now)
            }
            // The part file is removed already, or remembered.
            Err(failure) => self.close(End::Failed(failure.with_job(self.job.id)), now),
        }
    }

    fn on_called(&mut self, called: FileCallResult, now: Timestamp) -> FileEffect {
        match called {
            FileCallResult::Done => self.call_succeeded(now),
            FileCallResult::Refused(failure) if failure.is_outage() => {
                let earlier_was_lost = self.was_sent_before();
                self.blocker = Some((Blocker::HostAway(failure.message.clone()), now));
                if earlier_was_lost {
                    if let Some(intent) = &mut self.job.file_intent {
                        intent.asked -= 1;
                    }
                    return self.await_host_after_loss(RETRY_PAUSE);
                }
                self.on_proven_undone(failure, now)
            }
            FileCallResult::Refused(failure) if self.was_sent_before() => {
                self.state = State::LookingAfterRefusal(failure);
                FileEffect::Look
            }
            FileCallResult::Refused(failure) => self.on_proven_undone(failure, now),
            FileCallResult::Lost(failure) => {
                self.set_phase("the answer of the host was lost: finding out what happened", now);
                self.blocker = Some((Blocker::HostAway(failure.message), now));
                self.await_host_after_loss(Duration::ZERO)
            }
        }
    }

    fn on_looked_after_loss(
        &mut self,
        seen: Result<FileEvidence, HostFailure>,
        now: Timestamp,
    ) -> FileEffect {
        let seen = match seen {
            Ok(seen) => seen,
            Err(failure) if failure.is_outage() => {
                self.blocker = Some((Blocker::HostAway(failure.message), now));
                return self.await_host_after_loss(RETRY_PAUSE);
            }
            Err(failure) => {
                let detail = format!(
                    "The answer of the host was lost, and the path cannot be read: {}",
                    failure.message
                );
                return self.end_unknown(&detail, now);
            }
        };
        let Some(intent) = &mut self.job.file_intent else { return self.look_before(now) };
        match lost_call::resolve(intent, &seen) {
            Resolution::Succeeded => self.call_succeeded(now),
            Resolution::SendAgain => {
                intent.asked += 1;
                if let Some(end) = self.early_end() {
                    return self.end(end, now);
                }
                self.set_phase("asking the host again", now);
                self.save(AfterSave::Call)
            }
            Resolution::Unknown(why) => {
                let detail = format!(
                    "The answer of the host was lost, and it cannot be known whether the call \
                     ran: {why}."
                );
                self.end_unknown(&detail, now)
            }
        }
    }

    fn on_looked_after_refusal(
        &mut self,
        refusal: &HostFailure,
        seen: Result<FileEvidence, HostFailure>,
        now: Timestamp,
    ) -> FileEffect {
        let intent = self.job.file_intent.as_ref();
        let resolution = seen
            .ok()
            .zip(intent)
            // The limit of sendings does not matter here, because nothing is sent again.
            .map(|(seen, intent)| {
                lost_call::resolve(&FileIntent { asked: 1, ..intent.clone() }, &seen)
            });
        match resolution {
            Some(Resolution::Succeeded) => self.call_succeeded(now),
            Some(Resolution::SendAgain) => {
                self.end(End::Failed(refusal.to_failure().with_job(self.job.id)), now)
            }
            Some(Resolution::Unknown(_)) | None => {
                let detail = format!(
                    "The answer to the call was lost, and the host refused it the next time: {}",
                    refusal.message
                );
                self.end_unknown(&detail, now)
            }
        }
    }

    /// Decides how the job goes on after a failure that proves that nothing was done.
    fn on_proven_undone(&mut self, failure: HostFailure, now: Timestamp) -> FileEffect {
        if !failure.is_outage() {
            return self.end(End::Failed(failure.to_failure().with_job(self.job.id)), now);
        }
        if let Some(end) = self.early_end() {
            return self.end(end, now);
        }
        self.blocker = Some((Blocker::HostAway(failure.message), now));
        self.state = State::Blocked;
        FileEffect::AwaitHost(RETRY_PAUSE)
    }

    fn call_succeeded(&mut self, now: Timestamp) -> FileEffect {
        self.blocker = None;
        self.finish_step(JobStepState::Succeeded, None, now);
        match self.job.file_intent.as_ref().and_then(|intent| intent.received) {
            Some(received) => {
                self.state = State::Recording;
                FileEffect::Record(received)
            }
            None => self.close(End::Succeeded { changed: true }, now),
        }
    }

    fn intend(&mut self, call: FileCall, before: FileEvidence, now: Timestamp) -> FileEffect {
        self.intend_with(call, before, None, now)
    }

    fn intend_with(
        &mut self,
        call: FileCall,
        before: FileEvidence,
        received: Option<Received>,
        now: Timestamp,
    ) -> FileEffect {
        self.set_phase("asking the host", now);
        let name = match call {
            FileCall::MovePart { .. } => FileCall::MovePart { replace: false },
            call => call,
        };
        self.start_step(StepName::FileCall(name), now);
        self.job.file_intent = Some(FileIntent { call, before, received, asked: 1, end: None });
        self.save(AfterSave::Call)
    }

    fn await_host_after_loss(&mut self, pause: Duration) -> FileEffect {
        self.state = State::AwaitingHost;
        FileEffect::AwaitHost(pause)
    }

    /// The end of a job that does nothing more, because a caller cancelled it or its deadline
    /// passed.
    fn early_end(&self) -> Option<End> {
        if self.job.cancel_requested_at.is_some() {
            return Some(End::Cancelled);
        }
        self.overdue.then(|| {
            let detail = match &self.blocker {
                Some((Blocker::HostAway(reason), _)) => format!(
                    "The host could not be reached until the deadline. It last said: {reason}"
                ),
                _ => "The deadline passed before the job was done.".to_owned(),
            };
            let failure = self.failure(FailureKind::DeadlineExceeded, &detail);
            End::Failed(match &self.blocker {
                Some(_) => failure.caused_by(FailureKind::HostUnreachable),
                None => failure,
            })
        })
    }

    fn fail(&mut self, kind: FailureKind, detail: &str, now: Timestamp) -> FileEffect {
        let failure = self.failure(kind, detail);
        self.end(End::Failed(failure), now)
    }

    fn end_unknown(&mut self, detail: &str, now: Timestamp) -> FileEffect {
        let failure = self.failure(FailureKind::OutcomeUnknown, detail);
        self.end(End::Unknown(failure), now)
    }

    /// Ends the job. An upload that may have a part file removes it first. If the intent of its
    /// move is committed, the end is committed before: without the part file, the target would
    /// seem to be what was sent.
    fn end(&mut self, end: End, now: Timestamp) -> FileEffect {
        if !self.has_transfer() {
            return self.close(end, now);
        }
        let failure = match &end {
            End::Succeeded { .. } => return self.close(end, now),
            End::Failed(failure) | End::Unknown(failure) => failure.clone(),
            End::Cancelled => self.cancelled_failure(),
        };
        match &mut self.job.file_intent {
            Some(intent) => {
                intent.end = Some(failure);
                self.save(AfterSave::Discard(Box::new(end)))
            }
            None => self.discard(end),
        }
    }

    fn discard(&mut self, end: End) -> FileEffect {
        self.state = State::Discarding(end);
        FileEffect::Discard
    }

    fn close(&mut self, end: End, now: Timestamp) -> FileEffect {
        let received = self.job.file_intent.as_ref().and_then(|intent| intent.received);
        let sent = received.map(|received| (received.bytes, received.sha256));
        self.close_with(end, sent, now)
    }

    fn close_with(
        &mut self,
        end: End,
        sent: Option<(u64, Sha256Sum)>,
        now: Timestamp,
    ) -> FileEffect {
        self.blocker = None;
        let (state, step, error) = match end {
            End::Succeeded { changed } => {
                self.job.result = Some(JobResult {
                    changed,
                    snapshot: None,
                    power_state: None,
                    ip_address: None,
                    file: Some(FileResult { path: self.path(), sent }),
                });
                (JobState::Succeeded, JobStepState::Succeeded, None)
            }
            End::Failed(failure) => (JobState::Failed, JobStepState::Failed, Some(failure)),
            End::Cancelled => {
                (JobState::Cancelled, JobStepState::Failed, Some(self.cancelled_failure()))
            }
            End::Unknown(failure) => (JobState::Unknown, JobStepState::Unknown, Some(failure)),
        };
        self.finish_step(step, None, now);
        self.set_phase(state.as_str(), now);
        self.job.state = state;
        self.job.finished_at = Some(now);
        self.job.file_intent = None;
        self.job.error = error;
        self.save(AfterSave::Publish)
    }

    fn start_step(&mut self, name: StepName, now: Timestamp) {
        let is_open =
            |step: &&mut JobStep| step.name == name && step.state == JobStepState::Running;
        if let Some(step) = self.job.steps.iter_mut().find(is_open) {
            step.started_at = Some(now);
            return;
        }
        self.job.steps.push(JobStep {
            name,
            state: JobStepState::Running,
            started_at: Some(now),
            finished_at: None,
            detail: None,
            seen: None,
        });
    }

    fn finish_step(&mut self, state: JobStepState, detail: Option<&str>, now: Timestamp) {
        for step in self.job.steps.iter_mut().filter(|step| step.state == JobStepState::Running) {
            step.state = state;
            step.finished_at = Some(now);
            step.detail = detail.map(str::to_owned);
        }
    }

    fn save(&mut self, after: AfterSave) -> FileEffect {
        self.state = State::Saving(after);
        FileEffect::Save
    }

    fn has_transfer(&self) -> bool {
        self.job.steps.iter().any(|step| step.name == StepName::Transfer)
    }

    fn was_sent_before(&self) -> bool {
        self.job.file_intent.as_ref().is_some_and(|intent| intent.asked > 1)
    }

    /// The path of the target with the name of its datastore.
    fn path(&self) -> String {
        match self.job.target.file() {
            Some(target) => target.text(),
            None => self.job.target_name.clone(),
        }
    }

    fn cancelled_failure(&self) -> Failure {
        self.failure(FailureKind::JobCancelled, "The job was cancelled as requested.")
    }

    fn failure(&self, kind: FailureKind, detail: &str) -> Failure {
        Failure::new(kind, detail).with_job(self.job.id)
    }

    fn set_phase(&mut self, phase: &str, now: Timestamp) {
        phase.clone_into(&mut self.job.phase);
        self.job.updated_at = now;
    }

    /// The effect whose result a job in this state waits for.
    fn pending_effect(&self) -> FileEffect {
        let intent = self.job.file_intent.as_ref();
        match &self.state {
            State::Entering => FileEffect::Enter,
            State::Saving(_) => FileEffect::Save,
            State::LookingBefore | State::LookingAfterLoss | State::LookingAfterRefusal(_) => {
                FileEffect::Look
            }
            State::Receiving => match self.job.request {
                JobRequest::UploadFile(upload) => FileEffect::Receive(upload),
                _ => FileEffect::Look,
            },
            State::Calling => {
                intent.map_or(FileEffect::Look, |intent| FileEffect::Call(intent.call))
            }
            State::Blocked | State::AwaitingHost => FileEffect::AwaitHost(RETRY_PAUSE),
            State::Settling => FileEffect::Pause(self.settle),
            State::Discarding(_) => FileEffect::Discard,
            State::Recording => match intent.and_then(|intent| intent.received) {
                Some(received) => FileEffect::Record(received),
                None => FileEffect::Look,
            },
            State::Ended => FileEffect::Finish,
        }
    }
}
