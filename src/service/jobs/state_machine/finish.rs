//! The one end of a job: the inventory catches up, and then the end is committed. If the job did
//! not succeed, a failure gives the reason.

use jiff::Timestamp;

use super::protocol::{Blocker, Effect, ObservedMachine};
use super::{AfterSave, DeadlineState, JobStateMachine, RETRY_PAUSE, RunState};
use crate::domain::call::CallKind;
use crate::domain::duration;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::job::{JobKind, JobRequest, JobResult, JobState, JobStepState, StepName};
use crate::domain::lease::{Readiness, ReadinessKind};
use crate::domain::origin::Actor;
use crate::service::host_failure::HostFailure;
use crate::service::jobs::plan;

const NOT_ANSWERED: &str = "The machine waited for an answer until the deadline; answer its \
                            question, then start again.";

/// How a job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JobEnd {
    Succeeded,
    Failed(Failure),
    Cancelled(Failure),
    Unknown(Failure),
}

impl JobEnd {
    fn detail(&self) -> &str {
        match self {
            Self::Failed(failure) | Self::Cancelled(failure) | Self::Unknown(failure) => {
                &failure.detail
            }
            Self::Succeeded => "",
        }
    }
}

impl JobStateMachine {
    pub(super) fn end_machine_gone(&mut self, now: Timestamp) -> Effect {
        let detail = "The job's machine is no longer on the host.";
        self.end_after_call_not_run(
            JobEnd::Failed(self.new_failure(FailureKind::MachineGone, detail)),
            now,
        )
    }

    /// Ends the job because its machine is no longer on the host, so that nothing can prove whether
    /// the lost call ran.
    pub(super) fn end_machine_gone_after_loss(&mut self, now: Timestamp) -> Effect {
        self.end_unknown(
            "The answer to the call was lost, and the job's machine is no longer on the host.",
            now,
        )
    }

    /// Ends the job after the last sending of its call is proven not to have run. But an earlier
    /// sending of the call whose answer was lost may have run. For most kinds of calls, the
    /// evidence has proved that it did not. For a revert, an answer, a removal of snapshots and a
    /// consolidation, nothing proves it, and the job ends as `unknown`. The same is true of a call
    /// whose task vanished, because the task may still run.
    pub(super) fn end_after_call_not_run(&mut self, end: JobEnd, now: Timestamp) -> Effect {
        let is_unprovable = |call: CallKind| {
            matches!(
                call,
                CallKind::RevertToSnapshot
                    | CallKind::Answer
                    | CallKind::RemoveSnapshot
                    | CallKind::RemoveAllSnapshots
                    | CallKind::ConsolidateDisks
            )
        };
        let call = self.job.intent.as_ref().map(|intent| intent.call.kind());
        let Some(call) = call
            .filter(|call| (is_unprovable(*call) || self.task_vanished) && self.was_sent_before())
        else {
            return self.end(end, now);
        };
        let what = call.as_str().replace('_', " ");
        self.end_unknown(
            &format!(
                "The answer to the call ({what}) was lost, and it was not done again; it may \
                 have run. {}",
                end.detail()
            ),
            now,
        )
    }

    pub(super) fn end_unknown(&mut self, detail: &str, now: Timestamp) -> Effect {
        let failure = self.new_failure(FailureKind::OutcomeUnknown, detail);
        self.end(JobEnd::Unknown(failure), now)
    }

    /// Ends the job although its task may still run. If the job is a preparation that waited at a
    /// question, the question is the reason of its failure, and the release of its lease ends the
    /// task. Any other job ends as `unknown`.
    pub(super) fn end_while_task_runs(&mut self, detail: &str, now: Timestamp) -> Effect {
        match self.question_failure() {
            Some(failure) => self.end(JobEnd::Failed(failure), now),
            None => self.end_unknown(detail, now),
        }
    }

    /// Ends the job. If the job called the host, the inventory first catches up with the effect of
    /// the call.
    pub(super) fn end(&mut self, end: JobEnd, now: Timestamp) -> Effect {
        let end = match end {
            JobEnd::Failed(ref failure) | JobEnd::Cancelled(ref failure)
                if plan::guest_may_still_obey(&self.job) =>
            {
                let detail = format!(
                    "The guest was asked to shut down, and may still do so. {}",
                    failure.detail
                );
                let unknown = self.new_failure(FailureKind::OutcomeUnknown, &detail);
                JobEnd::Unknown(unknown.with_fault(failure.fault.clone()))
            }
            end => end,
        };
        if self.job.steps.is_empty() && end != JobEnd::Succeeded {
            return self.close(end, None, now);
        }
        if self.is_grace_over() {
            return self.on_synced(end, None, now);
        }
        self.set_phase("letting the inventory catch up", now);
        self.run_state = RunState::AwaitingInventory(Box::new(end));
        Effect::Barrier
    }

    pub(super) fn on_synced(
        &mut self,
        end: JobEnd,
        shown: Option<ObservedMachine>,
        now: Timestamp,
    ) -> Effect {
        match shown {
            Some(_) => self.close(end, shown, now),
            None if self.is_overdue() => {
                let warning = "The machine could not be read again before the deadline; it may \
                     show an older state.";
                self.job.warnings.push(warning.to_owned());
                self.close(end, None, now)
            }
            None => {
                self.run_state = RunState::AwaitingHostAtEnd(Box::new(end));
                Effect::AwaitHost(RETRY_PAUSE)
            }
        }
    }

    /// The warning of a job that left disks behind which need a consolidation. `None` for any other
    /// job.
    fn consolidation_warning(&self, state: JobState) -> Option<String> {
        let machine = self.job.target.id();
        match self.job.kind() {
            JobKind::SnapshotRemove | JobKind::SnapshotRemoveAll => Some(format!(
                "The host says that the disks of the machine need a consolidation: \
                 POST /v1/machines/{machine}/consolidate."
            )),
            JobKind::MachineConsolidate if state == JobState::Succeeded => Some(format!(
                "The consolidation succeeded, but the host says that the disks of the machine \
                 still need one. Another client may hold a disk, such as a backup: end its work, \
                 then POST /v1/machines/{machine}/consolidate."
            )),
            _ => None,
        }
    }

    pub(super) fn close(
        &mut self,
        end: JobEnd,
        shown: Option<ObservedMachine>,
        now: Timestamp,
    ) -> Effect {
        self.blocker = None;
        let (state, step, error) = match end {
            JobEnd::Succeeded => (JobState::Succeeded, JobStepState::Succeeded, None),
            JobEnd::Failed(failure) => (JobState::Failed, JobStepState::Failed, Some(failure)),
            JobEnd::Cancelled(failure) => {
                (JobState::Cancelled, JobStepState::Failed, Some(failure))
            }
            JobEnd::Unknown(failure) => (JobState::Unknown, JobStepState::Unknown, Some(failure)),
        };
        self.finish_step(step, None, now);
        let shown_needed = shown.as_ref().and_then(|shown| shown.consolidation_needed);
        if shown_needed == Some(true) {
            self.job.warnings.extend(self.consolidation_warning(state));
        }
        self.set_phase(state.as_str(), now);
        self.job.state = state;
        self.job.finished_at = Some(now);
        self.job.intent = None;
        self.job.file_intent = None;
        self.job.error = error;
        if state == JobState::Succeeded {
            let shown = shown.unwrap_or_default();
            self.job.result = Some(JobResult {
                // The job changed the machine even if no step succeeded: the guest may have shut
                // down just before the machine would have been powered off.
                changed: self.job.steps.iter().any(|step| step.state == JobStepState::Succeeded)
                    || plan::guest_may_still_obey(&self.job),
                snapshot: match &self.job.request {
                    JobRequest::Revert { snapshot, .. }
                    | JobRequest::RenameSnapshot { snapshot, .. } => Some(snapshot.clone()),
                    JobRequest::Prepare { snapshot, .. } | JobRequest::Release { snapshot, .. } => {
                        snapshot.as_ref().map(|(snapshot, _)| snapshot.clone())
                    }
                    JobRequest::CreateSnapshot { .. } => self.created_snapshot.clone(),
                    _ => None,
                },
                power_state: shown.power_state,
                ip_address: shown.ip_address,
                file: None,
            });
        }
        self.save(AfterSave::Publish)
    }

    /// Ends a job that waited in its queue and may no longer start. The job has done nothing.
    pub fn refuse_turn(&mut self, refusal: Failure, now: Timestamp) -> Effect {
        self.job.request_cancel(Actor::otter(), now);
        self.close(JobEnd::Cancelled(self.with_context(refusal)), None, now)
    }

    pub(super) fn finish_step(
        &mut self,
        state: JobStepState,
        detail: Option<&str>,
        now: Timestamp,
    ) {
        for step in self.job.steps.iter_mut().filter(|step| step.state == JobStepState::Running) {
            step.state = state;
            step.finished_at = Some(now);
            // The step of a wait for a text keeps the text that it waits for and the last one.
            let awaits_text =
                matches!(step.name, StepName::Wait(ReadinessKind::Screen | ReadinessKind::Serial));
            if detail.is_some() || !awaits_text {
                step.detail = detail.map(str::to_owned);
                step.seen = None;
            }
        }
    }

    pub(super) fn with_context(&self, failure: Failure) -> Failure {
        self.job.add_machine_to(failure).with_job(self.job.id)
    }

    pub(super) fn new_failure(&self, kind: FailureKind, detail: &str) -> Failure {
        self.with_context(Failure::new(kind, detail))
    }

    pub(super) fn cancelled_failure(&self) -> Failure {
        self.new_failure(FailureKind::JobCancelled, "The job was cancelled as requested.")
    }

    /// The failure of a job that ends before its deadline because of a question.
    fn question_failure(&self) -> Option<Failure> {
        let text = self.unanswered.as_ref()?;
        let grace = duration::format(self.rules.question_grace);
        let detail = format!(
            "The machine waited on a question for longer than leases.question_grace ({grace}), and \
             neither a caller nor a rule in [answers] answered it: {text}"
        );
        Some(self.new_failure(FailureKind::QuestionPending, &detail))
    }

    pub(super) fn deadline_failure(&self, detail: &str) -> Failure {
        if let Some(failure) = self.question_failure() {
            return failure;
        }
        if matches!(
            self.deadline,
            DeadlineState::Passed { question: true } | DeadlineState::GraceOver { question: true }
        ) {
            return self.new_failure(FailureKind::QuestionPending, NOT_ANSWERED);
        }
        self.new_failure(FailureKind::DeadlineExceeded, detail)
    }

    fn has_done_a_step(&self) -> bool {
        self.job.steps.iter().any(|step| step.state == JobStepState::Succeeded)
    }

    fn progress_text(&self) -> &'static str {
        if self.has_done_a_step() {
            "only the steps that succeeded were done"
        } else {
            "nothing was done"
        }
    }

    /// The failure of a preparation whose deadline passed while the preparation waited for
    /// `readiness`. If `readiness` is `None`, the preparation waited for the end of the pause that
    /// the caller had asked for.
    pub(super) fn not_ready_failure(&self, readiness: Option<&Readiness>) -> Failure {
        let missing = match readiness {
            Some(Readiness::On) => "the machine was on",
            Some(Readiness::Address) => "the machine had an address",
            Some(Readiness::Tools) => "the tools of the guest ran",
            Some(Readiness::Screen(text)) => {
                return self.not_seen_failure(&format!("the screen showed {:?}", text.as_str()));
            }
            Some(Readiness::Serial(text)) => {
                let (port, text) = (text.port(), text.as_str());
                return self.not_seen_failure(&format!("the serial port {port} output {text:?}"));
            }
            None => "the settle time was over",
        };
        self.deadline_failure(&format!("The deadline passed before {missing}."))
    }

    /// The failure of a preparation whose deadline passed while it waited for a text on the screen
    /// or on a serial port. The step shows the last text. Logs show the failure, so it does not.
    ///
    /// # Parameters
    /// - `missing`: what did not happen, as a clause.
    fn not_seen_failure(&self, missing: &str) -> Failure {
        let trouble = self.sight.trouble.as_ref();
        let detail = format!(
            "The deadline passed before {missing}.{}{}",
            trouble.map_or("", |_| " "),
            trouble.map_or("", String::as_str)
        );
        let failure = self.deadline_failure(&detail);
        // The machine is not at fault if its screen or port cannot be read, also if a text was read
        // before.
        if trouble.is_some() {
            Self::caused_by_host(failure, FailureKind::ConsoleUnavailable)
        } else {
            failure
        }
    }

    pub(super) fn blocked_failure(&self) -> Failure {
        if let Some(failure) = self.question_failure() {
            return failure;
        }
        let fault =
            self.last_host_failure.as_ref().and_then(|host_failure| host_failure.fault.clone());
        match self.blocker.as_ref().map(|(blocker, _)| blocker) {
            Some(Blocker::Question(_)) => {
                self.new_failure(FailureKind::QuestionPending, NOT_ANSWERED)
            }
            Some(Blocker::HostTask(task)) => self
                .new_failure(
                    FailureKind::MachineBusy,
                    &format!(
                        "Another task of the host, {task}, worked on the machine until the \
                         deadline."
                    ),
                )
                .with_fault(fault),
            Some(Blocker::Busy) => self
                .new_failure(
                    FailureKind::MachineBusy,
                    "The host said until the deadline that the machine is busy.",
                )
                .with_fault(fault),
            Some(Blocker::HostAway(reason)) => {
                let last = self.last_host_failure.as_ref().map(HostFailure::failure_kind);
                let detail = format!(
                    "The host could not be reached until the deadline, and {}. It last said: \
                     {reason}",
                    self.progress_text()
                );
                let failure = self.deadline_failure(&detail);
                Self::caused_by_host(failure, last.unwrap_or(FailureKind::HostUnreachable))
            }
            None => {
                let failure = self.deadline_failure(&format!(
                    "The deadline passed before otter could call the host; {}.",
                    self.progress_text()
                ));
                // The host is the cause only if otter or the host was down until the deadline. The
                // host is not the cause if another job or task blocked this job until the deadline,
                // or if the machine did not become ready.
                let awaits_readiness = matches!(self.run_state, RunState::AwaitingReadiness(_));
                if self.was_away && !awaits_readiness && !self.has_done_a_step() {
                    Self::caused_by_host(failure, FailureKind::HostUnreachable)
                } else {
                    failure
                }
            }
        }
    }
    /// Sets the cause of the failure, unless the question of the machine is the reason of the
    /// failure.
    fn caused_by_host(failure: Failure, cause: FailureKind) -> Failure {
        if failure.kind == FailureKind::DeadlineExceeded {
            failure.caused_by(cause)
        } else {
            failure
        }
    }
}
