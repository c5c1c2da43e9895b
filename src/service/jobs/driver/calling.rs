//! Before a call, the call, and its task: what the machine, the host's answer and the task's end
//! lead to.

use jiff::Timestamp;

use super::vocabulary::{Blocker, Called, Effect, Others, Seen, TaskEnd};
use super::{Driver, End, RETRY_PAUSE, Stage, Then};
use crate::domain::call::{Evidence, HostCall};
use crate::domain::failure::Failure;
use crate::domain::job::{Intent, JobKind, JobStep, JobStepState};
use crate::domain::lease::Readiness;
use crate::domain::power::PowerState;
use crate::domain::snapshot_rules::SnapshotTree;
use crate::hypervisor::{Accepted, HostErrorKind};
use crate::service::host_failure::HostFailure;
use crate::service::jobs::judgement::{self, Verdict};
use crate::service::jobs::plan::{self, Plan};
use crate::service::snapshots;

/// The detail of a step that was not needed.
const ALREADY: &str = "the machine was in this state already";

impl Driver {
    pub(super) fn begin(&mut self) -> Effect {
        self.examine(Stage::Beginning)
    }

    pub(super) fn begun(&mut self, seen: Seen, now: Timestamp) -> Effect {
        let (evidence, others) = match seen {
            Ok(seen) => seen,
            Err(host_failure) => return self.unreadable(host_failure, now),
        };
        if !self.job.target.is_machine(&evidence.identity) {
            return self.gone(now);
        }
        let plan = plan::next(&self.job, &evidence);
        // A kill neither waits for what runs nor minds a question: it is what ends both. But a
        // machine that is off while a task works on it may be about to be on, unless the task hangs
        // on a question.
        let patient = !self.job.kind().bypasses_queue();
        let killing = self.job.kind() == JobKind::MachineKill;
        let not_off_yet = killing && plan == Plan::Done && evidence.question.is_none();
        let in_the_way =
            evidence.recent_tasks.iter().find(|task| task.running && (patient || not_off_yet));
        // Nor has it killed what the job beside it is about to power on.
        let about_to_be_on = not_off_yet && others.may_power_on;
        if plan == Plan::Done
            && !about_to_be_on
            && !self.job.steps.is_empty()
            && (patient || in_the_way.is_none())
        {
            // Too late to be cancelled or to run out of time. A step that still waited was not
            // needed.
            self.finish_step(JobStepState::Skipped, Some(ALREADY), now);
            return self.end(End::Succeeded, now);
        }
        if self.job.cancel_requested_at.is_some() {
            return self.end(End::Cancelled(self.cancelled_failure()), now);
        }
        if patient && let Some(question) = evidence.question.clone() {
            let effect = Effect::AwaitAnswer(question.clone());
            return self.block(Blocker::Question(question), effect, now);
        }
        if let Some(task) = in_the_way {
            let task = task.id.clone();
            return self.block(Blocker::HostTask(task.clone()), Effect::AwaitTask(task), now);
        }
        if about_to_be_on {
            return self.block(Blocker::Busy, Effect::Pause(RETRY_PAUSE), now);
        }
        if self.overdue() {
            return self.end(End::Failed(self.blocked_failure()), now);
        }
        match plan {
            Plan::Call(call) => match self.refused_by_rules(&evidence, &others) {
                Some(refusal) => self.end(End::Failed(self.about(refusal)), now),
                None => self.commit(call, evidence, now),
            },
            Plan::Await(readiness) => self.await_ready(readiness, now),
            Plan::Settle(time) => {
                self.phase("letting the machine come to rest", now);
                self.begin_step(plan::SETTLE, now);
                self.stage = Stage::Readying(None);
                Effect::Pause(time)
            }
            Plan::Done => self.end(End::Succeeded, now),
            Plan::Fail(failure) => self.end(End::Failed(self.about(failure)), now),
        }
    }

    /// Why the job may not change the present snapshots. The snapshots may have changed since the
    /// job was accepted, and the call may cover other snapshots than it did then.
    pub(super) fn refused_by_rules(&self, evidence: &Evidence, others: &Others) -> Option<Failure> {
        let tree = SnapshotTree::from_evidence(evidence);
        snapshots::check(&self.job, &others.snapshot_rules, &tree).err()
    }

    pub(super) fn commit(&mut self, call: HostCall, before: Evidence, now: Timestamp) -> Effect {
        let name = call.kind().as_str();
        self.phase(&format!("{}: asking the host", name.replace('_', " ")), now);
        self.job.host_task = None;
        self.after_loss = false;
        self.vanished = false;
        self.job.intent = Some(Intent { call, before: before.without_texts(), asked: 1 });
        self.begin_step(name, now);
        self.save(Then::Call)
    }

    fn await_ready(&mut self, readiness: Readiness, now: Timestamp) -> Effect {
        self.phase(&format!("waiting for {}", readiness.as_str()), now);
        self.begin_step(plan::step_of(readiness), now);
        self.stage = Stage::Readying(Some(readiness));
        Effect::AwaitReady(readiness)
    }

    pub(super) fn readied(&mut self, ready: bool, now: Timestamp) -> Effect {
        if !ready {
            // It is off or gone: what that means the machine itself has to tell.
            return self.begin();
        }
        self.finish_step(JobStepState::Succeeded, None, now);
        self.save(Then::Begin)
    }

    /// A step that runs, or runs again: where it did before, it was proven to have had no effect.
    fn begin_step(&mut self, name: &str, now: Timestamp) {
        let running =
            |step: &&mut JobStep| step.name == name && step.state == JobStepState::Running;
        if let Some(step) = self.job.steps.iter_mut().find(running) {
            step.started_at = Some(now);
        } else {
            self.job.steps.push(JobStep {
                name: name.to_owned(),
                state: JobStepState::Running,
                started_at: Some(now),
                finished_at: None,
                detail: None,
            });
        }
    }

    pub(super) fn called(&mut self, called: Called, now: Timestamp) -> Effect {
        match called {
            Called::Accepted(Accepted::Task(task)) => {
                // Of two on one machine the first has come to its end, and the machine was as
                // before it.
                self.vanished = false;
                self.job.host_task = Some(task.clone());
                self.phase("waiting for the host's task", now);
                self.save(Then::Follow(task))
            }
            Called::Accepted(Accepted::Done) if self.asks_guest() => {
                self.phase("waiting for the guest", now);
                self.watch(None, now)
            }
            Called::Accepted(Accepted::Done) => self.call_succeeded(now),
            Called::Refused(host_failure) => self.refused(host_failure, now),
            Called::Lost(host_failure) => {
                self.phase("the answer of the host was lost: finding out what happened", now);
                self.lost(host_failure, now)
            }
        }
    }

    pub(super) fn task_ended(&mut self, end: TaskEnd, now: Timestamp) -> Effect {
        match end {
            TaskEnd::Succeeded { snapshot } => {
                match self.job.intent.as_ref().map(|intent| &intent.call) {
                    Some(HostCall::RevertToSnapshot { .. }) if self.after_loss => {
                        self.examine(Stage::Verifying)
                    }
                    Some(HostCall::CreateSnapshot { .. }) if snapshot.is_none() => {
                        self.examine(Stage::Verifying)
                    }
                    _ => {
                        self.made = snapshot;
                        self.call_succeeded(now)
                    }
                }
            }
            TaskEnd::Lost(host_failure) => {
                self.spend_task();
                self.lost(host_failure, now)
            }
            TaskEnd::Failed(host_failure) => self.refused(host_failure, now),
            TaskEnd::Vanished => {
                self.vanished = true;
                self.phase("the host's task vanished: finding out what happened", now);
                // Its reference leads nowhere any more; after a restart the call is judged, not
                // followed.
                self.job.host_task = None;
                self.judge_when_back(RETRY_PAUSE, now)
            }
        }
    }

    /// The call or its task was refused, which proves that it had no effect.
    pub(super) fn refused(&mut self, host_failure: HostFailure, now: Timestamp) -> Effect {
        match host_failure.kind {
            HostErrorKind::InvalidPowerState | HostErrorKind::NotFound => {
                self.examine(Stage::Rechecking(host_failure))
            }
            HostErrorKind::Busy => {
                let (blocker, effect) = match host_failure.blocking_task.clone() {
                    Some(task) => (Blocker::HostTask(task.clone()), Effect::AwaitTask(task)),
                    None => (Blocker::Busy, Effect::Pause(RETRY_PAUSE)),
                };
                self.last_host_failure = Some(host_failure);
                self.block(blocker, effect, now)
            }
            HostErrorKind::ToolsUnavailable => match self.force_without_tools(now) {
                Some(effect) => effect,
                None => self.end_unsent(End::Failed(self.about(host_failure.to_failure())), now),
            },
            _ if host_failure.is_outage() => self.unreadable(host_failure, now),
            HostErrorKind::Cancelled if self.overdue() => {
                let failure = self
                    .deadline_failure("The deadline passed, and the host's task was cancelled.");
                self.end_unsent(End::Failed(failure), now)
            }
            HostErrorKind::Cancelled if self.job.cancel_requested_at.is_some() => self.end_unsent(
                End::Cancelled(self.cancelled_failure().with_fault(host_failure.fault)),
                now,
            ),
            _ => self.end_unsent(End::Failed(self.about(host_failure.to_failure())), now),
        }
    }

    pub(super) fn rechecked(
        &mut self,
        refusal: &HostFailure,
        seen: Seen,
        now: Timestamp,
    ) -> Effect {
        let (evidence, others) = match seen {
            Ok(seen) => seen,
            Err(host_failure) => return self.unreadable(host_failure, now),
        };
        if !self.job.target.is_machine(&evidence.identity) {
            return self.gone(now);
        }
        let removes = |intent: &&Intent| {
            matches!(intent.call, HostCall::RemoveSnapshot { .. } | HostCall::RemoveAllSnapshots)
        };
        if let Some(intent) =
            self.job.intent.as_ref().filter(removes).filter(|intent| intent.asked > 1)
            && judgement::judge(intent, &evidence, &others.tasks) == Verdict::Succeeded
        {
            // What was to be removed went between the look at it and the sending that was refused.
            return self.call_succeeded(now);
        }
        let wanted = match self.job.intent.as_ref().map(|intent| &intent.call) {
            Some(HostCall::PowerOn) => Some(PowerState::On),
            Some(HostCall::PowerOff | HostCall::ShutdownGuest) => Some(PowerState::Off),
            Some(HostCall::Suspend) => Some(PowerState::Suspended),
            _ => None,
        };
        if refusal.kind == HostErrorKind::InvalidPowerState
            && wanted.is_some()
            && evidence.power_state == wanted
        {
            if self.asked_before() {
                // The refusal says that the call whose answer was lost came through after all.
                self.finish_step(JobStepState::Succeeded, None, now);
            } else {
                self.finish_step(JobStepState::Skipped, Some(ALREADY), now);
            }
            self.job.intent = None;
            return self.save(Then::Begin);
        }
        self.end_unsent(End::Failed(self.about(refusal.to_failure())), now)
    }

    pub(super) fn call_succeeded(&mut self, now: Timestamp) -> Effect {
        self.last_host_failure = None;
        if self.job.kind() == JobKind::SnapshotCreate {
            // Which one was made is on disk with the end alone; a start before that follows the
            // task, or looks, again.
            return self.end(End::Succeeded, now);
        }
        self.finish_step(JobStepState::Succeeded, None, now);
        self.job.intent = None;
        if plan::may_continue(&self.job) {
            return self.save(Then::Begin);
        }
        self.end(End::Succeeded, now)
    }

    /// The machine could not be read, or the call proven not to have reached the host.
    pub(super) fn unreadable(&mut self, host_failure: HostFailure, now: Timestamp) -> Effect {
        if host_failure.kind == HostErrorKind::NotFound {
            return self.gone(now);
        }
        if !host_failure.is_outage() {
            return self.end_unsent(End::Failed(self.about(host_failure.to_failure())), now);
        }
        let reason = host_failure.message.clone();
        self.last_host_failure = Some(host_failure);
        self.block(Blocker::HostAway(reason), Effect::AwaitHost(RETRY_PAUSE), now)
    }

    /// Waits for something else to end; nothing of this job is under way on the host.
    pub(super) fn block(&mut self, blocker: Blocker, effect: Effect, now: Timestamp) -> Effect {
        self.blocker = Some((blocker, now));
        match &mut self.job.intent {
            // An earlier sending was lost, and what is known of the machine from before it still
            // counts.
            Some(intent) if intent.asked > 1 => {
                intent.asked -= 1;
                self.job.host_task = None;
                self.save(Then::Settle(Box::new(effect)))
            }
            Some(_) => {
                self.job.intent = None;
                self.save(Then::Block(Box::new(effect)))
            }
            None => self.wait(effect, now),
        }
    }

    fn asks_guest(&self) -> bool {
        self.job.intent.as_ref().is_some_and(|intent| intent.call.kind().is_guest_operation())
    }

    /// Whether a sending of the current call, before the last one, was lost.
    pub(super) fn asked_before(&self) -> bool {
        self.job.intent.as_ref().is_some_and(|intent| intent.asked > 1)
    }

    pub(super) fn wait(&mut self, effect: Effect, now: Timestamp) -> Effect {
        if self.job.cancel_requested_at.is_some() {
            return self.end(End::Cancelled(self.cancelled_failure()), now);
        }
        if self.overdue() {
            return self.end(End::Failed(self.blocked_failure()), now);
        }
        self.stage = Stage::Blocked;
        effect
    }
}
