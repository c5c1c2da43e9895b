//! The calls of a job: the decision before each call, the answer of the host, and the end of the
//! call's task.

use jiff::Timestamp;

use super::protocol::{Blocker, CallResult, Effect, ExamineResult, OtherJobs, TaskEnd};
use super::{AfterSave, JobEnd, JobStateMachine, RETRY_PAUSE, RunState};
use crate::domain::call::{CallKind, Evidence, HostCall};
use crate::domain::failure::{Failure, SeenScreen};
use crate::domain::job::{Intent, JobKind, JobStep, JobStepState, StepName};
use crate::domain::lease::Readiness;
use crate::domain::power::PowerState;
use crate::domain::snapshot_rules::SnapshotTree;
use crate::hypervisor::{Accepted, HostErrorKind};
use crate::service::host_failure::HostFailure;
use crate::service::jobs::lost_call::{self, Resolution};
use crate::service::jobs::plan::{self, Plan};
use crate::service::jobs::text_watch::TextSight;
use crate::service::snapshots;

/// The text in a skipped step that says why the step was skipped.
const ALREADY: &str = "the machine was in this state already";

impl JobStateMachine {
    pub(super) fn read_before_call(&mut self) -> Effect {
        self.examine(RunState::ReadingBeforeCall)
    }

    pub(super) fn on_examined_before_call(
        &mut self,
        seen: ExamineResult,
        now: Timestamp,
    ) -> Effect {
        let (evidence, others) = match seen {
            Ok(seen) => seen,
            Err(host_failure) => return self.on_unreadable(host_failure, now),
        };
        if !evidence.identity.is_known() {
            return self.on_unreadable(HostFailure::unconfirmed_identity(), now);
        }
        if !self.job.target.is_machine(&evidence.identity) {
            return self.end_machine_gone(now);
        }
        self.was_away &= self.is_overdue();
        let plan = plan::next(&self.job, &evidence);
        // A kill waits neither for a running task nor for an answer, because it ends both. But if
        // the machine is off while a task runs, the kill waits for the task, which may be about to
        // power the machine on. If the machine waits for an answer, the task cannot power the
        // machine on, and the kill does not wait for it.
        let waits_for_others = !self.job.kind().ignores_blockers();
        let killing = self.job.kind() == JobKind::MachineKill;
        let not_off_yet = killing && plan == Plan::Done && evidence.question.is_none();
        let blocking_task = evidence
            .recent_tasks
            .iter()
            .find(|task| task.running && (waits_for_others || not_off_yet));
        // The machine is off, but the kill is not done if another job is about to power the machine
        // on.
        let about_to_be_on = not_off_yet && others.may_power_on;
        if plan == Plan::Done
            && !about_to_be_on
            && !self.job.steps.is_empty()
            && (waits_for_others || blocking_task.is_none())
        {
            // The request of the job is fulfilled, so it does not matter whether the job was
            // cancelled or its deadline has passed. A step that has not finished was not needed.
            self.finish_step(JobStepState::Skipped, Some(ALREADY), now);
            return self.end(JobEnd::Succeeded, now);
        }
        let must_go_on = matches!(&plan, Plan::Call(call) if self.must_finish(call));
        if self.job.cancel_requested_at.is_some() && !must_go_on {
            return self.end(JobEnd::Cancelled(self.cancelled_failure()), now);
        }
        // The release of a machine that is on does not wait for the answer to a question: it powers
        // the machine off without its guest, which ends the question.
        let ends_question = self.job.kind() == JobKind::LeaseRelease
            && (plan == Plan::Done || evidence.power_state == Some(PowerState::On));
        if waits_for_others
            && !ends_question
            && let Some(question) = evidence.question.clone()
        {
            let effect = Effect::AwaitAnswer(question.clone());
            return self.block(Blocker::Question(question), effect, now);
        }
        if let Some(task) = blocking_task {
            let task = task.id.clone();
            return self.block(Blocker::HostTask(task.clone()), Effect::AwaitTask(task), now);
        }
        if about_to_be_on {
            return self.block(Blocker::Busy, Effect::Pause(RETRY_PAUSE), now);
        }
        if self.is_overdue() && !must_go_on {
            return self.end(JobEnd::Failed(self.blocked_failure()), now);
        }
        match plan {
            Plan::Call(call) => match self.snapshot_rules_refusal(&evidence, &others) {
                Some(refusal) => self.end(JobEnd::Failed(self.with_context(refusal)), now),
                None => self.save_intent(call, evidence, now),
            },
            Plan::Await(readiness) => self.await_ready(readiness, now),
            Plan::Settle(time) => {
                self.set_phase("letting the machine come to rest", now);
                self.start_step(StepName::Settle, now);
                self.run_state = RunState::AwaitingReadiness(None);
                Effect::Pause(time)
            }
            Plan::Done => self.end(JobEnd::Succeeded, now),
            Plan::Fail(failure) => self.end(JobEnd::Failed(self.with_context(failure)), now),
        }
    }

    /// Whether this call must be sent although the job was cancelled or its deadline has passed:
    /// the job powered a suspended machine on only to power it off, and must not leave the machine
    /// on.
    pub(super) fn must_finish(&self, call: &HostCall) -> bool {
        let powers_off = matches!(self.job.kind(), JobKind::MachineKill | JobKind::LeaseRelease);
        let powered_on = StepName::Call(CallKind::PowerOn);
        powers_off
            && *call == HostCall::PowerOff
            && !self.is_grace_over()
            && self
                .job
                .steps
                .iter()
                .any(|step| step.name == powered_on && step.state == JobStepState::Succeeded)
    }

    /// Whether the current call must be sent (see [`Self::must_finish`]), so that its task must not
    /// be cancelled.
    pub(super) fn must_finish_current_call(&self) -> bool {
        self.job.intent.as_ref().is_some_and(|intent| self.must_finish(&intent.call))
    }

    /// The failure if the job may not change the machine's snapshots as they are now. The snapshots
    /// may have changed since the job was accepted, so the call may affect other snapshots than it
    /// would have affected then.
    pub(super) fn snapshot_rules_refusal(
        &self,
        evidence: &Evidence,
        others: &OtherJobs,
    ) -> Option<Failure> {
        let tree = SnapshotTree::from_evidence(evidence);
        snapshots::check(&self.job, &others.snapshot_rules, &tree).err()
    }

    pub(super) fn save_intent(
        &mut self,
        call: HostCall,
        before: Evidence,
        now: Timestamp,
    ) -> Effect {
        let kind = call.kind();
        self.set_phase(&format!("{}: asking the host", kind.as_str().replace('_', " ")), now);
        self.job.host_task = None;
        self.after_loss = false;
        self.task_vanished = false;
        self.job.intent = Some(Intent { call, before: before.without_texts(), asked: 1 });
        self.start_step(StepName::Call(kind), now);
        self.save(AfterSave::Call)
    }

    fn await_ready(&mut self, readiness: Readiness, now: Timestamp) -> Effect {
        self.set_phase(&format!("waiting for {readiness}"), now);
        self.start_step(StepName::Wait(readiness.kind()), now);
        self.run_state = RunState::AwaitingReadiness(Some(readiness.clone()));
        self.sight = TextSight::default();
        self.describe_text_step(now);
        Effect::AwaitReady(readiness)
    }

    /// Writes the text that the job waits for on the screen or on a serial port, and the last text
    /// that it saw there, into its running step.
    pub(super) fn describe_text_step(&mut self, now: Timestamp) {
        let RunState::AwaitingReadiness(Some(readiness)) = &self.run_state else { return };
        let (text, place) = match readiness {
            Readiness::Screen(text) => (text.as_str(), "the screen".to_owned()),
            Readiness::Serial(text) => (text.as_str(), format!("the serial port {}", text.port())),
            Readiness::On | Readiness::Address | Readiness::Tools => return,
        };
        let TextSight { text: seen, trouble } = &self.sight;
        let waits = format!("waits for {text:?} on {place}");
        let trouble = trouble.as_ref().map(|trouble| format!("; {trouble}")).unwrap_or_default();
        let cut =
            |seen: &str| -> String { seen.chars().take(SeenScreen::MAX_CHARACTERS).collect() };
        let running = |step: &&mut JobStep| step.state == JobStepState::Running;
        if let Some(step) = self.job.steps.iter_mut().find(running) {
            step.detail = Some(waits + &trouble);
            step.seen = seen.as_deref().map(cut);
            self.job.updated_at = now;
        }
    }

    pub(super) fn on_ready(&mut self, ready: bool, now: Timestamp) -> Effect {
        if !ready {
            // The machine is off, or it is no longer on the host. Read the machine to decide what
            // to do.
            return self.read_before_call();
        }
        self.finish_step(JobStepState::Succeeded, None, now);
        self.save(AfterSave::ReadMachine)
    }

    /// Starts a step of the job. If a step for the same call is still running, because the call was
    /// proven not to have run, restarts this step.
    fn start_step(&mut self, name: StepName, now: Timestamp) {
        let running =
            |step: &&mut JobStep| step.name == name && step.state == JobStepState::Running;
        if let Some(step) = self.job.steps.iter_mut().find(running) {
            step.started_at = Some(now);
        } else {
            // End the step of an earlier call that is still running, because that call did not run.
            // That call is no longer needed, or the job makes it again later.
            let detail = "The state of the machine changed before this call ran.";
            self.finish_step(JobStepState::Skipped, Some(detail), now);
            self.job.steps.push(JobStep {
                name,
                state: JobStepState::Running,
                started_at: Some(now),
                finished_at: None,
                detail: None,
                seen: None,
            });
        }
    }

    pub(super) fn on_called(&mut self, called: CallResult, now: Timestamp) -> Effect {
        match called {
            CallResult::Accepted(Accepted::Task(task)) => {
                // A task that vanished before no longer matters: it has ended, because only one
                // task runs on a machine at a time, and it did not change the machine.
                self.task_vanished = false;
                self.job.host_task = Some(task.clone());
                self.set_phase("waiting for the host's task", now);
                self.save(AfterSave::FollowTask(task))
            }
            CallResult::Accepted(Accepted::Done) if self.is_guest_call() => {
                self.set_phase("waiting for the guest", now);
                self.watch_guest(None, now)
            }
            CallResult::Accepted(Accepted::Done) => self.call_succeeded(now),
            CallResult::Refused(host_failure) => self.on_refused(host_failure, now),
            CallResult::Lost(host_failure) => {
                self.set_phase("the answer of the host was lost: finding out what happened", now);
                self.on_lost(host_failure, now)
            }
        }
    }

    pub(super) fn on_task_ended(&mut self, end: TaskEnd, now: Timestamp) -> Effect {
        match end {
            TaskEnd::Succeeded { snapshot } => {
                match self.job.intent.as_ref().map(|intent| &intent.call) {
                    Some(
                        HostCall::RevertToSnapshot { .. }
                        | HostCall::SetMedia { .. }
                        | HostCall::SetBoot { .. },
                    ) if self.after_loss => self.examine(RunState::ReadingAfterTask),
                    Some(HostCall::CreateSnapshot { .. }) if snapshot.is_none() => {
                        self.examine(RunState::ReadingAfterTask)
                    }
                    _ => {
                        self.created_snapshot = snapshot;
                        self.call_succeeded(now)
                    }
                }
            }
            TaskEnd::Lost(host_failure) => {
                self.mark_task_known();
                self.on_lost(host_failure, now)
            }
            TaskEnd::Failed(host_failure) => self.on_refused(host_failure, now),
            TaskEnd::Vanished => {
                self.task_vanished = true;
                self.set_phase("the host's task vanished: finding out what happened", now);
                // The job forgets the task that vanished, so that after a restart otter does not
                // follow this task, but resolves the call.
                self.job.host_task = None;
                self.await_host_after_loss(RETRY_PAUSE, now)
            }
        }
    }

    /// The host refused the call, or the call's task failed. Both prove that this sending of the
    /// call had no effect.
    pub(super) fn on_refused(&mut self, host_failure: HostFailure, now: Timestamp) -> Effect {
        match host_failure.kind {
            HostErrorKind::InvalidPowerState | HostErrorKind::NotFound => {
                self.examine(RunState::ReadingAfterRefusal(host_failure))
            }
            HostErrorKind::Busy => {
                let (blocker, effect) = match host_failure.blocking_task.clone() {
                    Some(task) => (Blocker::HostTask(task.clone()), Effect::AwaitTask(task)),
                    None => (Blocker::Busy, Effect::Pause(RETRY_PAUSE)),
                };
                self.last_host_failure = Some(host_failure);
                self.block(blocker, effect, now)
            }
            HostErrorKind::ToolsUnavailable => match self.power_off_without_tools(now) {
                Some(effect) => effect,
                None => self.end_after_call_not_run(
                    JobEnd::Failed(self.with_context(host_failure.to_failure())),
                    now,
                ),
            },
            _ if host_failure.is_outage() => self.on_unreadable(host_failure, now),
            HostErrorKind::Cancelled if self.is_overdue() => {
                let failure = self
                    .deadline_failure("The deadline passed, and the host's task was cancelled.");
                self.end_after_call_not_run(JobEnd::Failed(failure), now)
            }
            HostErrorKind::Cancelled if self.job.cancel_requested_at.is_some() => self
                .end_after_call_not_run(
                    JobEnd::Cancelled(self.cancelled_failure().with_fault(host_failure.fault)),
                    now,
                ),
            _ => self.end_after_call_not_run(
                JobEnd::Failed(self.with_context(host_failure.to_failure())),
                now,
            ),
        }
    }

    pub(super) fn on_examined_after_refusal(
        &mut self,
        refusal: &HostFailure,
        seen: ExamineResult,
        now: Timestamp,
    ) -> Effect {
        let (evidence, others) = match seen {
            Ok(seen) => seen,
            Err(host_failure) => return self.on_unreadable(host_failure, now),
        };
        if !evidence.identity.is_known() {
            return self.on_unreadable(HostFailure::unconfirmed_identity(), now);
        }
        if !self.job.target.is_machine(&evidence.identity) {
            return self.end_machine_gone(now);
        }
        let removes = |intent: &&Intent| {
            matches!(
                intent.call,
                HostCall::RemoveSnapshot { .. }
                    | HostCall::RemoveAllSnapshots
                    | HostCall::ConsolidateDisks
            )
        };
        if let Some(intent) =
            self.job.intent.as_ref().filter(removes).filter(|intent| intent.asked > 1)
            && lost_call::resolve(intent, &evidence, &others.tasks) == Resolution::Succeeded
        {
            // The machine shows the effect of the call, which it did not show before this sending
            // was refused. So an earlier sending, whose answer was lost, caused the effect.
            return self.call_succeeded(now);
        }
        let expected = match self.job.intent.as_ref().map(|intent| &intent.call) {
            Some(HostCall::PowerOn) => Some(PowerState::On),
            Some(HostCall::PowerOff | HostCall::ShutdownGuest) => Some(PowerState::Off),
            Some(HostCall::Suspend) => Some(PowerState::Suspended),
            _ => None,
        };
        if refusal.kind == HostErrorKind::InvalidPowerState
            && expected.is_some()
            && evidence.power_state == expected
        {
            if self.was_sent_before() {
                // The host refuses the call because the machine is already in the expected state.
                // This proves that the earlier sending, whose answer was lost, has run.
                self.finish_step(JobStepState::Succeeded, None, now);
            } else {
                self.finish_step(JobStepState::Skipped, Some(ALREADY), now);
            }
            self.job.intent = None;
            return self.save(AfterSave::ReadMachine);
        }
        self.end_after_call_not_run(JobEnd::Failed(self.with_context(refusal.to_failure())), now)
    }

    pub(super) fn call_succeeded(&mut self, now: Timestamp) -> Effect {
        self.last_host_failure = None;
        if self.job.kind() == JobKind::SnapshotCreate {
            // The id of the created snapshot is committed only with the end of the job. If otter
            // restarts before this commit, the job follows its task again, or reads the machine
            // again.
            return self.end(JobEnd::Succeeded, now);
        }
        self.finish_step(JobStepState::Succeeded, None, now);
        self.job.intent = None;
        if plan::may_continue(&self.job) {
            return self.save(AfterSave::ReadMachine);
        }
        self.end(JobEnd::Succeeded, now)
    }

    /// Decides how the job goes on after the machine could not be read, or after a call that is
    /// proven not to have reached the host.
    pub(super) fn on_unreadable(&mut self, host_failure: HostFailure, now: Timestamp) -> Effect {
        if host_failure.kind == HostErrorKind::NotFound {
            return self.end_machine_gone(now);
        }
        if !host_failure.is_outage() {
            return self.end_after_call_not_run(
                JobEnd::Failed(self.with_context(host_failure.to_failure())),
                now,
            );
        }
        let reason = host_failure.message.clone();
        self.was_away = true;
        self.last_host_failure = Some(host_failure);
        self.block(Blocker::HostAway(reason), Effect::AwaitHost(RETRY_PAUSE), now)
    }

    /// Blocks the job until the effect is done. No call of the job is under way.
    pub(super) fn block(&mut self, blocker: Blocker, effect: Effect, now: Timestamp) -> Effect {
        self.blocker = Some((blocker, now));
        match &mut self.job.intent {
            // The answer to an earlier sending of this call was lost. So the intent is kept, with
            // the evidence from before that sending.
            Some(intent) if intent.asked > 1 => {
                intent.asked -= 1;
                self.job.host_task = None;
                self.save(AfterSave::WaitAfterLoss(Box::new(effect)))
            }
            Some(_) => {
                self.job.intent = None;
                self.save(AfterSave::Wait(Box::new(effect)))
            }
            None => self.wait(effect, now),
        }
    }

    fn is_guest_call(&self) -> bool {
        self.job.intent.as_ref().is_some_and(|intent| intent.call.kind().is_guest_operation())
    }

    /// Whether the answer to an earlier sending of the current call was lost.
    pub(super) fn was_sent_before(&self) -> bool {
        self.job.intent.as_ref().is_some_and(|intent| intent.asked > 1)
    }

    pub(super) fn wait(&mut self, effect: Effect, now: Timestamp) -> Effect {
        if self.job.cancel_requested_at.is_some() {
            return self.end(JobEnd::Cancelled(self.cancelled_failure()), now);
        }
        if self.is_overdue() {
            return self.end(JobEnd::Failed(self.blocked_failure()), now);
        }
        self.run_state = RunState::Blocked;
        effect
    }
}
