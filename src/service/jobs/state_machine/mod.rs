//! The state machine of one job, from its turn to its end: `step(input) → effect`. Pure; `runner`
//! and `effects` do the I/O.
//!
//! ```text
//! queued ─► read the machine ─► plan ─► commit intent ─► call ─► follow task ─► barrier ─► end
//!            ▲ ▲  │ blocked               ▲                │ lost  │ vanished    ▲
//!            │ └──┘                       │ send again     ▼       ▼             │
//!            │ busy, host away,           └────── resolve the call: settle, ─────┘
//!            │ question                                read the machine
//!            └─ next call of the same job (power after a revert)
//! ```
//! - Before each call, the job reads the machine and decides the call (`plan`). The job waits if
//!   the machine is busy, the host is away or the machine asks a question.
//! - The job commits its intent before the call, the reference of the task after the call, and its
//!   end before readers see it. Its start is committed with the intent, or before it waits.
//! - A shutdown or a reboot by the guest has no task. After the call, or after its loss, the job
//!   watches the guest in the inventory (`guest_watch`).
//! - If the answer or the task of a call is lost, the job resolves the call from the evidence
//!   (`recovery`, `lost_call`).
//! - A refusal proves only that its own sending did not run. If an earlier sending was lost, the
//!   job resolves the call again, or ends as `unknown`.
//! - After a crash, [`JobStateMachine::resume`] continues from the committed job. A call without a
//!   known end is treated like a lost call.
//!
//! Each event is an [`Input`], the result of the last effect, or an [`Interrupt`]: a request to
//! cancel, the deadline, or the end of the grace after the deadline.

mod finish;
mod guest_watch;
mod host_call;
mod protocol;
mod recovery;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use self::finish::JobEnd;
pub use self::protocol::{
    Blocker, CallResult, Effect, ExamineResult, GuestObservation, GuestWatchResult, Input,
    Interrupt, JobRules, ObservedMachine, OtherJobs, Reaction, TaskEnd,
};
use crate::domain::failure::FailureKind;
use crate::domain::ids::{SnapshotId, TaskId};
use crate::domain::job::{Job, JobState};
use crate::domain::lease::Readiness;
use crate::domain::origin::Actor;
use crate::service::host_failure::HostFailure;
use crate::service::jobs::deadline_clocks;
use crate::service::jobs::text_watch::TextSight;

/// The pause before a job tries to reach the host again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The error detail if a lost call is not resolved before the deadline.
const UNRESOLVED: &str =
    "The answer to the call was lost, and the deadline passed before the machine could be checked.";

/// The error detail if the guest does not react before the deadline.
const GUEST_DID_NOT_REACT: &str =
    "The guest was asked, and did not do it before the deadline; it may still do it.";

/// The state machine of one job.
#[expect(clippy::struct_excessive_bools, reason = "the facts are independent of each other")]
#[derive(Clone, Debug)]
pub struct JobStateMachine {
    job: Job,
    rules: JobRules,
    run_state: RunState,
    /// The reason why the job is blocked, and since when.
    blocker: Option<(Blocker, Timestamp)>,
    /// The last refusal after which the job went on. If the job fails at its deadline, the failure
    /// reports this refusal.
    last_host_failure: Option<HostFailure>,
    /// Whether the host was away or otter was down, and the machine was not read from then until
    /// the deadline.
    was_away: bool,
    /// Whether the answer or the task of the current call was lost, in this run or before a
    /// restart.
    after_loss: bool,
    /// Whether the current call ran, and its task then vanished from the host.
    task_vanished: bool,
    /// The snapshot that the job created. `None` if it created none.
    created_snapshot: Option<SnapshotId>,
    /// Whether the guest's tools stopped after the guest was asked to restart.
    tools_stopped: bool,
    deadline: DeadlineState,
    /// The text of the unanswered question because of which the job ends before its deadline.
    /// `None` if there is no such question.
    unanswered: Option<String>,
    /// What the screen showed last, or the serial port output, while the job waits for a text
    /// there.
    sight: TextSight,
    /// The start of the job is not committed yet. The next commit of the job includes it.
    start_unsaved: bool,
}

/// The state of the job's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum DeadlineState {
    /// The deadline is in the future.
    Ahead,
    /// The deadline has passed. `question`: whether the machine waited for an answer at that time.
    Passed { question: bool },
    /// The grace after the deadline is over. `question`: whether the machine waited for an answer
    /// when the deadline passed.
    GraceOver { question: bool },
}

/// What a job is doing while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RunState {
    /// The job waits for its turn.
    Queued,
    /// The job is being committed. After the commit, the job continues as [`AfterSave`] says.
    Saving(AfterSave),
    /// The job reads the machine to decide its next call. No call is under way.
    ReadingBeforeCall,
    /// The job waits for another task, for an answer or for the host. No call of the job is under
    /// way.
    Blocked,
    /// The call is sent, and its answer is awaited.
    Calling,
    /// The job follows the task of its call to its end.
    FollowingTask(TaskId),
    /// The guest was asked to shut down or to reboot, or may have been asked. The job watches the
    /// guest.
    WatchingGuest,
    /// The job waits until the machine is ready. `None`: the job waits for a fixed time. No call of
    /// the job is under way.
    AwaitingReadiness(Option<Readiness>),
    /// The host refused the call. The job reads the machine, because the machine may have the
    /// expected state nevertheless.
    ReadingAfterRefusal(HostFailure),
    /// The call was lost. The job waits until the host can be reached.
    AwaitingHostAfterLoss,
    /// The call was lost. The job reads the machine to resolve the call.
    ReadingAfterLoss {
        /// Whether no task ran on the machine when the settle time began.
        quiet: bool,
    },
    /// The call was lost. The job waits for the end of another task, or until the settle time is
    /// over.
    SettlingAfterLoss {
        /// Whether no task ran on the machine when the settle time began.
        quiet: bool,
    },
    /// The task succeeded. The job reads the machine to check the current snapshot after a lost
    /// revert, or to find the created snapshot if the task did not name it.
    ReadingAfterTask,
    /// The end of the job is decided. The job waits until the inventory shows the effect of its
    /// calls.
    AwaitingInventory(Box<JobEnd>),
    /// The end of the job is decided, and the host is away. The job waits for the host first, and
    /// for the inventory after that.
    AwaitingHostAtEnd(Box<JobEnd>),
    /// The end of the job is committed.
    Ended,
}

/// The continuation of a job after a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
enum AfterSave {
    /// Read the machine to decide the next call.
    ReadMachine,
    /// Send the committed intent.
    Call,
    /// Wait as this effect says, then read the machine. The call is proven not to have run.
    Wait(Box<Effect>),
    /// Wait as this effect says, then resolve the call. The last sending of the call did not run,
    /// but an earlier one may have run.
    WaitAfterLoss(Box<Effect>),
    /// Follow the task of the call.
    FollowTask(TaskId),
    /// Watch how the guest reacts to the call.
    WatchGuest,
    /// Perform this wait in this state. No call of the job is under way.
    Resume(Box<(RunState, Effect)>),
    /// Publish the committed end of the job.
    Publish,
}

impl JobStateMachine {
    /// The state machine of a job that waits for its turn.
    #[must_use]
    pub fn from_queued(job: Job, rules: JobRules) -> Self {
        Self::new(job, rules, RunState::Queued)
    }

    /// The state machine of a job that ran when otter stopped, and its next effect. For a job that
    /// waited, use [`JobStateMachine::from_queued`].
    #[must_use]
    pub fn resume(job: Job, rules: JobRules) -> (Self, Effect) {
        let mut state_machine = Self::new(job, rules, RunState::Blocked);
        state_machine.after_loss = state_machine.job.intent.is_some();
        state_machine.was_away = true;
        let effect = match (&state_machine.job.intent, state_machine.job.host_task.clone()) {
            (None, _) => Effect::AwaitHost(Duration::ZERO),
            (Some(_), Some(task)) => state_machine.follow(task),
            (Some(_), None) => {
                state_machine.run_state = RunState::AwaitingHostAfterLoss;
                Effect::AwaitHost(Duration::ZERO)
            }
        };
        (state_machine, effect)
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

    /// The task of the host that works for this job. `None` if the job follows no task.
    #[must_use]
    pub const fn following(&self) -> Option<&TaskId> {
        match &self.run_state {
            RunState::FollowingTask(task) => Some(task),
            _ => None,
        }
    }

    /// Whether a call of the job was lost and is not resolved yet.
    #[must_use]
    pub const fn is_settling(&self) -> bool {
        matches!(
            self.run_state,
            RunState::AwaitingHostAfterLoss
                | RunState::ReadingAfterLoss { .. }
                | RunState::SettlingAfterLoss { .. }
        )
    }

    /// Starts the job, because its turn has come. If its deadline passed while it waited, ends the
    /// job instead.
    ///
    /// # Parameters
    /// - `overdue`: whether the deadline has passed, by the clock that never jumps.
    pub fn take_turn(&mut self, overdue: bool, now: Timestamp) -> Effect {
        if overdue { self.expire_queued(now) } else { self.start(now) }
    }

    /// Moves the deadline after a jump of the wall clock. Does not change a job that has ended.
    pub fn shift_deadline(&mut self, by: SignedDuration, now: Timestamp) {
        if !self.job.state.is_end() {
            deadline_clocks::shift_deadline(&mut self.job, by, now);
        }
    }

    /// Starts the job.
    pub fn start(&mut self, now: Timestamp) -> Effect {
        self.job.state = JobState::Running;
        self.job.started_at = Some(now);
        self.set_phase("reading the machine", now);
        // A crash before the commit has no effect: no call was sent, and the job waits again.
        self.start_unsaved = true;
        self.read_before_call()
    }

    /// Cancels a job that waits in its queue. The job has done nothing.
    pub fn cancel_queued(&mut self, by: Actor, now: Timestamp) -> Effect {
        self.job.request_cancel(by, now);
        self.close(JobEnd::Cancelled(self.cancelled_failure()), None, now)
    }

    /// Ends a job whose deadline passed while it waited in its queue.
    pub fn expire_queued(&mut self, now: Timestamp) -> Effect {
        let detail = "The deadline passed while the job waited for its turn; nothing was done.";
        let failure = self.new_failure(FailureKind::DeadlineExceeded, detail);
        self.close(JobEnd::Failed(failure), None, now)
    }

    /// Ends a job that otter cannot work on as `unknown`, because it is not known what the host
    /// did.
    pub fn abandon(&mut self, detail: &str, now: Timestamp) {
        let failure = self.new_failure(FailureKind::OutcomeUnknown, detail);
        // The effect that commits the job is not needed, because the caller commits the job itself.
        let _ = self.close(JobEnd::Unknown(failure), None, now);
    }

    /// Takes the result of the last effect, and returns the next effect.
    pub fn step(&mut self, input: Input, now: Timestamp) -> Effect {
        let effect = self.next_effect(input, now);
        self.save_start_before(effect)
    }

    fn next_effect(&mut self, input: Input, now: Timestamp) -> Effect {
        let run_state = std::mem::replace(&mut self.run_state, RunState::Ended);
        match (run_state, input) {
            (RunState::Saving(after), Input::Saved) => self.on_saved(after, now),
            (RunState::ReadingBeforeCall, Input::Examined(seen)) => {
                self.on_examined_before_call(seen, now)
            }
            (RunState::Blocked, Input::Waited) => {
                self.blocker = None;
                self.read_before_call()
            }
            (RunState::Calling, Input::Called(called)) => self.on_called(called, now),
            (RunState::FollowingTask(_), Input::TaskEnded(end)) => self.on_task_ended(end, now),
            (RunState::WatchingGuest, Input::GuestObserved(result)) => {
                self.on_guest_observed(result, now)
            }
            (RunState::AwaitingReadiness(_), Input::Waited) => self.on_ready(true, now),
            (RunState::AwaitingReadiness(_), Input::Ready(ready)) => self.on_ready(ready, now),
            (RunState::AwaitingReadiness(_), Input::NoReadiness(failure)) => {
                self.end(JobEnd::Failed(self.with_context(failure)), now)
            }
            (RunState::ReadingAfterRefusal(host_failure), Input::Examined(seen)) => {
                self.on_examined_after_refusal(&host_failure, seen, now)
            }
            (RunState::AwaitingHostAfterLoss, Input::Waited) => {
                self.blocker = None;
                self.examine(RunState::ReadingAfterLoss { quiet: false })
            }
            (RunState::SettlingAfterLoss { quiet }, Input::Waited) => {
                self.blocker = None;
                self.examine(RunState::ReadingAfterLoss { quiet })
            }
            (RunState::ReadingAfterLoss { quiet }, Input::Examined(seen)) => {
                self.on_examined_after_loss(quiet, seen, now)
            }
            (RunState::ReadingAfterTask, Input::Examined(seen)) => {
                self.on_examined_after_task(seen, now)
            }
            (RunState::AwaitingInventory(end), Input::Synced(shown)) => {
                self.on_synced(*end, shown, now)
            }
            (RunState::AwaitingHostAtEnd(end), Input::Waited) => {
                self.blocker = None;
                self.run_state = RunState::AwaitingInventory(end);
                Effect::Barrier
            }
            (run_state, _) => {
                // An input that does not answer the pending effect changes nothing, and the effect
                // is repeated.
                let effect = pending_effect(&run_state, &self.job);
                self.run_state = run_state;
                effect
            }
        }
    }

    /// Takes what the screen shows, or the serial port outputs, while the job waits for a text
    /// there. The step of the wait shows it.
    pub fn see_text(&mut self, sight: TextSight, now: Timestamp) {
        self.sight = sight;
        self.describe_text_step(now);
    }

    /// Takes an interrupt that arrives while an effect is under way.
    pub fn interrupt(&mut self, interrupt: Interrupt, now: Timestamp) -> Reaction {
        if self.job.state.is_end() {
            return Reaction::default();
        }
        match &interrupt {
            Interrupt::Cancel(by) => {
                self.job.request_cancel(by.clone(), now);
                self.job.updated_at = now;
            }
            // A question of the machine does not matter to a kill or an answer, because they do not
            // wait for it.
            Interrupt::Deadline { question } => {
                let question = *question && !self.job.kind().ignores_blockers();
                self.deadline = DeadlineState::Passed { question };
            }
            Interrupt::QuestionUnanswered(text) => {
                if self.is_overdue() || !self.may_wait_at_question() {
                    return Reaction::default();
                }
                self.deadline = DeadlineState::Passed { question: true };
                self.unanswered = Some(text.clone());
            }
            Interrupt::GraceOver => {
                let question = matches!(self.deadline, DeadlineState::Passed { question: true });
                self.deadline = DeadlineState::GraceOver { question };
            }
        }
        match (&self.run_state, interrupt) {
            (RunState::Blocked | RunState::AwaitingReadiness(_), Interrupt::Cancel(_)) => {
                Self::replace_effect(self.end(JobEnd::Cancelled(self.cancelled_failure()), now))
            }
            (RunState::Blocked, _) => {
                let failure = self.blocked_failure();
                Self::replace_effect(self.end(JobEnd::Failed(failure), now))
            }
            (RunState::AwaitingReadiness(readiness), _) => {
                let failure = self.not_ready_failure(readiness.as_ref());
                Self::replace_effect(self.end(JobEnd::Failed(failure), now))
            }
            // The request to cancel is committed before the host is asked to cancel the task, so
            // that a crash does not lose the request.
            (RunState::FollowingTask(task), Interrupt::Cancel(_)) => {
                let task = task.clone();
                Self::replace_effect(self.save(AfterSave::FollowTask(task)))
            }
            (
                RunState::FollowingTask(task),
                Interrupt::Deadline { .. } | Interrupt::QuestionUnanswered(_),
            ) => {
                let may_cancel = !self.must_finish_current_call();
                Reaction { cancel_task: may_cancel.then(|| task.clone()), instead: None }
            }
            // Only record the request to cancel: what the guest was asked to do cannot be
            // cancelled, and the guest may still do it.
            (RunState::WatchingGuest, Interrupt::Cancel(_)) => {
                Self::replace_effect(self.save(AfterSave::WatchGuest))
            }
            (RunState::WatchingGuest, _) => {
                Self::replace_effect(self.end_unknown(GUEST_DID_NOT_REACT, now))
            }
            (RunState::FollowingTask(_), Interrupt::GraceOver) => {
                let detail = "The deadline passed and the host's task could not be stopped; it \
                     may still succeed.";
                Self::replace_effect(self.end_while_task_runs(detail, now))
            }
            // A job that waits for a host that is away does not end at its deadline, but only after
            // the grace: the host may come back, so that the job's task can be found and cancelled.
            (
                RunState::AwaitingHostAfterLoss | RunState::SettlingAfterLoss { .. },
                Interrupt::GraceOver,
            )
            | (RunState::SettlingAfterLoss { .. }, Interrupt::Deadline { .. }) => {
                Self::replace_effect(self.end_unknown(UNRESOLVED, now))
            }
            (
                RunState::AwaitingInventory(_) | RunState::AwaitingHostAtEnd(_),
                Interrupt::GraceOver,
            ) => match std::mem::replace(&mut self.run_state, RunState::Ended) {
                RunState::AwaitingInventory(end) | RunState::AwaitingHostAtEnd(end) => {
                    Self::replace_effect(self.on_synced(*end, None, now))
                }
                _ => Reaction::default(),
            },
            _ => Reaction::default(),
        }
    }

    /// Whether a question of the machine may be the reason why the job makes no progress. After a
    /// lost call this is not so, because the job first resolves the call.
    fn may_wait_at_question(&self) -> bool {
        let blocker = self.blocker.as_ref().map(|(blocker, _)| blocker);
        let run_state = match &self.run_state {
            RunState::Saving(AfterSave::Resume(wait)) => &wait.0,
            run_state => run_state,
        };
        match run_state {
            RunState::FollowingTask(_) | RunState::AwaitingReadiness(_) => true,
            RunState::Blocked => !matches!(blocker, Some(Blocker::HostAway(_))),
            _ => false,
        }
    }

    fn is_overdue(&self) -> bool {
        self.deadline != DeadlineState::Ahead
    }

    fn is_grace_over(&self) -> bool {
        matches!(self.deadline, DeadlineState::GraceOver { .. })
    }

    fn new(job: Job, rules: JobRules, run_state: RunState) -> Self {
        Self {
            job,
            rules,
            run_state,
            blocker: None,
            last_host_failure: None,
            was_away: false,
            after_loss: false,
            task_vanished: false,
            created_snapshot: None,
            tools_stopped: false,
            deadline: DeadlineState::Ahead,
            unanswered: None,
            sight: TextSight::default(),
            start_unsaved: false,
        }
    }

    fn on_saved(&mut self, after: AfterSave, now: Timestamp) -> Effect {
        match after {
            AfterSave::ReadMachine => self.read_before_call(),
            AfterSave::Call
                if self.job.cancel_requested_at.is_some() && !self.must_finish_current_call() =>
            {
                self.end_after_call_not_run(JobEnd::Cancelled(self.cancelled_failure()), now)
            }
            AfterSave::Call if self.is_overdue() && !self.must_finish_current_call() => {
                self.end_after_call_not_run(JobEnd::Failed(self.blocked_failure()), now)
            }
            AfterSave::Call => match self.job.intent.as_ref().map(|intent| intent.call.clone()) {
                Some(call) => {
                    self.run_state = RunState::Calling;
                    Effect::Call(call)
                }
                None => self.read_before_call(),
            },
            AfterSave::Wait(effect) => self.wait(*effect, now),
            AfterSave::WaitAfterLoss(_) if self.is_grace_over() => {
                self.end_unknown(UNRESOLVED, now)
            }
            AfterSave::WaitAfterLoss(effect) => {
                self.run_state = RunState::SettlingAfterLoss { quiet: false };
                *effect
            }
            AfterSave::FollowTask(task) if self.is_grace_over() => {
                let detail = format!(
                    "The deadline passed while the host's task {task} ran; it may still succeed."
                );
                self.end_while_task_runs(&detail, now)
            }
            AfterSave::FollowTask(task) => self.follow(task),
            AfterSave::WatchGuest => self.watch_guest(None, now),
            AfterSave::Resume(wait) => self.resume_wait(*wait, now),
            AfterSave::Publish => {
                self.run_state = RunState::Ended;
                Effect::Finish
            }
        }
    }

    fn follow(&mut self, task: TaskId) -> Effect {
        self.run_state = RunState::FollowingTask(task.clone());
        // A request to cancel may have come before the task existed. It applies to this task.
        let is_over = self.is_overdue() || self.job.cancel_requested_at.is_some();
        if is_over && !self.must_finish_current_call() {
            Effect::CancelAndFollow(task)
        } else {
            Effect::Follow(task)
        }
    }

    fn examine(&mut self, run_state: RunState) -> Effect {
        self.run_state = run_state;
        Effect::Examine
    }

    fn save(&mut self, after: AfterSave) -> Effect {
        self.start_unsaved = false;
        self.run_state = RunState::Saving(after);
        Effect::Save
    }

    /// Commits the start of the job first if the job is about to wait.
    fn save_start_before(&mut self, effect: Effect) -> Effect {
        let waits = !matches!(effect, Effect::Examine | Effect::Save | Effect::Barrier);
        if !self.start_unsaved || !waits {
            return effect;
        }
        let run_state = std::mem::replace(&mut self.run_state, RunState::Ended);
        self.save(AfterSave::Resume(Box::new((run_state, effect))))
    }

    /// Performs a wait whose state is committed now, unless an interrupt came during the commit.
    fn resume_wait(&mut self, (run_state, effect): (RunState, Effect), now: Timestamp) -> Effect {
        let is_cancelled = self.job.cancel_requested_at.is_some();
        self.run_state = run_state;
        match self.run_state {
            RunState::Blocked | RunState::AwaitingReadiness(_) if is_cancelled => {
                self.end(JobEnd::Cancelled(self.cancelled_failure()), now)
            }
            RunState::Blocked if self.is_overdue() => {
                self.end(JobEnd::Failed(self.blocked_failure()), now)
            }
            RunState::AwaitingReadiness(ref readiness) if self.is_overdue() => {
                let failure = self.not_ready_failure(readiness.as_ref());
                self.end(JobEnd::Failed(failure), now)
            }
            _ => effect,
        }
    }

    const fn replace_effect(effect: Effect) -> Reaction {
        Reaction { cancel_task: None, instead: Some(effect) }
    }

    fn set_phase(&mut self, phase: &str, now: Timestamp) {
        phase.clone_into(&mut self.job.phase);
        self.job.updated_at = now;
    }
}

/// The effect whose result a job in this state waits for.
fn pending_effect(run_state: &RunState, job: &Job) -> Effect {
    match run_state {
        RunState::Queued | RunState::Saving(_) => Effect::Save,
        RunState::ReadingBeforeCall
        | RunState::ReadingAfterRefusal(_)
        | RunState::ReadingAfterLoss { .. }
        | RunState::ReadingAfterTask => Effect::Examine,
        RunState::Calling => {
            job.intent.as_ref().map_or(Effect::Examine, |intent| Effect::Call(intent.call.clone()))
        }
        RunState::FollowingTask(task) => Effect::Follow(task.clone()),
        RunState::AwaitingReadiness(Some(readiness)) => Effect::AwaitReady(readiness.clone()),
        RunState::WatchingGuest => {
            Effect::Watch { known: None, until: guest_watch::force_time(job) }
        }
        RunState::Blocked | RunState::AwaitingHostAfterLoss | RunState::AwaitingHostAtEnd(_) => {
            Effect::AwaitHost(RETRY_PAUSE)
        }
        RunState::AwaitingReadiness(None) | RunState::SettlingAfterLoss { .. } => {
            Effect::Pause(RETRY_PAUSE)
        }
        RunState::AwaitingInventory(_) => Effect::Barrier,
        RunState::Ended => Effect::Finish,
    }
}
