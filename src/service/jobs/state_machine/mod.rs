//! One job from its turn to its end: `step(input) → effect`, pure. `runner` does the I/O.
//!
//! ```text
//! queued ─► begin: examine ─► plan ─► commit the intent ─► call ─► follow the task ─► barrier ─► end
//!             ▲  │ blocked          ▲ │ ask again           │ lost   │ vanished         ▲
//!             └──┘                  │ │                     ▼        ▼                  │
//!       busy, host away, question   └─┼───────────── judge: settle, examine ────────────┘
//!                                     └─ next call of the same job (power after a revert)
//! ```
//! What a guest does by itself (shutdown, reboot) has no task: after the call, or its loss, the
//! guest is watched in the picture instead. Each way out leads through the store: the intent is
//! committed before its call, the task's reference as soon as it is known, the end before anybody
//! hears of it. After a crash [`JobStateMachine::resume`] enters this picture where the committed job says,
//! and a call without a known end is judged like one whose answer was lost. A refusal proves only
//! that its own sending did not run: after a loss it leads back to judging, or to unknown.

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

/// How long to wait before the host is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What is told of a call that could not be judged in time.
const UNRESOLVED: &str =
    "The answer to the call was lost, and the deadline passed before the machine could be judged.";

/// What is told of a guest that was not seen to obey in time.
const GUEST_DID_NOT_REACT: &str =
    "The guest was asked and was not seen to have done it by the deadline; it may still do it.";

/// A job that runs.
#[derive(Clone, Debug)]
pub struct JobStateMachine {
    job: Job,
    rules: JobRules,
    run_state: RunState,
    blocker: Option<(Blocker, Timestamp)>,
    /// The last refusal that was not final, for the report at the deadline.
    last_host_failure: Option<HostFailure>,
    /// The current call's answer or task was lost on the way, now or before a restart.
    after_loss: bool,
    /// The current call was seen to run, and then its task vanished.
    task_vanished: bool,
    /// The snapshot that the job made.
    created_snapshot: Option<SnapshotId>,
    /// The tools were seen to go after the guest was asked to restart.
    tools_stopped: bool,
    deadline: DeadlineState,
}

/// Where the job stands against its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum DeadlineState {
    Ahead,
    Passed { question: bool },
    GraceOver { question: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum RunState {
    Queued,
    Saving(AfterSave),
    /// Reading the machine before a call.
    ReadingBeforeCall,
    /// Waiting for something before a call: nothing is under way on the host.
    Blocked,
    Calling,
    FollowingTask(TaskId),
    /// The guest was asked, or may have been, and does it by itself.
    WatchingGuest,
    /// Waiting for the machine to be ready, or for time to pass: nothing is under way on the host.
    AwaitingReadiness(Option<Readiness>),
    /// Reading the machine after a refusal, to see whether the wanted state is there anyway.
    ReadingAfterRefusal(HostFailure),
    /// The call may or may not run: waiting for the host.
    AwaitingHostAfterLoss,
    /// The same, reading the machine. `quiet`: the machine was quiet when the settling began.
    ReadingAfterLoss {
        quiet: bool,
    },
    /// The same, waiting for another task or for quiet.
    SettlingAfterLoss {
        quiet: bool,
    },
    /// Reading the machine after a lost revert's own task succeeded, or for the snapshot that a
    /// task did not name.
    ReadingAfterTask,
    AwaitingInventory(Box<JobEnd>),
    AwaitingHostAtEnd(Box<JobEnd>),
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum AfterSave {
    ReadMachine,
    Call,
    /// Wait as the effect says: the call was proven not to have run.
    Wait(Box<Effect>),
    /// Wait as the effect says, then judge: this sending did not run, an earlier one may have.
    WaitAfterLoss(Box<Effect>),
    FollowTask(TaskId),
    WatchGuest,
    Publish,
}

impl JobStateMachine {
    /// A job that waits for its turn.
    #[must_use]
    pub fn from_queued(job: Job, rules: JobRules) -> Self {
        Self::new(job, rules, RunState::Queued)
    }

    /// A job that ran when the daemon stopped, and its first effect. A job that waited is
    /// [`JobStateMachine::from_queued`].
    #[must_use]
    pub fn resume(job: Job, rules: JobRules) -> (Self, Effect) {
        let mut state_machine = Self::new(job, rules, RunState::Blocked);
        state_machine.after_loss = state_machine.job.intent.is_some();
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

    /// The durable part.
    #[must_use]
    pub const fn job(&self) -> &Job {
        &self.job
    }

    /// Whether its end is committed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.run_state == RunState::Ended && self.job.state.is_end()
    }

    /// What it waits for that is not its own work, and since when.
    #[must_use]
    pub const fn blocker(&self) -> Option<&(Blocker, Timestamp)> {
        self.blocker.as_ref()
    }

    /// The task that works for this job now.
    #[must_use]
    pub const fn following(&self) -> Option<&TaskId> {
        match &self.run_state {
            RunState::FollowingTask(task) => Some(task),
            _ => None,
        }
    }

    /// Whether a call of it was made whose end is not known and is looked for on the machine.
    #[must_use]
    pub const fn is_settling(&self) -> bool {
        matches!(
            self.run_state,
            RunState::AwaitingHostAfterLoss
                | RunState::ReadingAfterLoss { .. }
                | RunState::SettlingAfterLoss { .. }
        )
    }

    /// The job's turn has come: it starts, unless its deadline passed while it waited.
    ///
    /// # Parameters
    /// - `overdue`: whether the deadline passed, by the clock that never jumps.
    pub fn take_turn(&mut self, overdue: bool, now: Timestamp) -> Effect {
        if overdue { self.expire_queued(now) } else { self.start(now) }
    }

    /// The wall clock jumped: the deadline moves with it. An end stays as it is being committed.
    pub fn shift_deadline(&mut self, by: SignedDuration, now: Timestamp) {
        if !self.job.state.is_end() {
            deadline_clocks::shift_deadline(&mut self.job, by, now);
        }
    }

    /// The job starts.
    pub fn start(&mut self, now: Timestamp) -> Effect {
        self.job.state = JobState::Running;
        self.job.started_at = Some(now);
        self.set_phase("reading the machine", now);
        self.save(AfterSave::ReadMachine)
    }

    /// Ends a job that waits in its queue: nothing was done.
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

    /// Ends a job that otter cannot work on. The end says nothing of what the host did.
    pub fn abandon(&mut self, detail: &str, now: Timestamp) {
        let failure = self.new_failure(FailureKind::OutcomeUnknown, detail);
        // The caller commits the job.
        let _ = self.close(JobEnd::Unknown(failure), None, now);
    }

    /// Takes what became of the last effect and says what is next.
    pub fn step(&mut self, input: Input, now: Timestamp) -> Effect {
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
                // An answer that was not asked for changes nothing; ask again for the one that was.
                let effect = pending_effect(&run_state, &self.job);
                self.run_state = run_state;
                effect
            }
        }
    }

    /// Takes what came in while an effect is under way.
    pub fn interrupt(&mut self, interrupt: Interrupt, now: Timestamp) -> Reaction {
        if self.job.state.is_end() {
            return Reaction::default();
        }
        match &interrupt {
            Interrupt::Cancel(by) => {
                self.job.request_cancel(by.clone(), now);
                self.job.updated_at = now;
            }
            // What answers the question, or ends who asks, was not held up by it.
            Interrupt::Deadline { question } => {
                let question = *question && !self.job.kind().bypasses_queue();
                self.deadline = DeadlineState::Passed { question };
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
            (RunState::Blocked | RunState::AwaitingReadiness(_), _) => {
                let failure = self.blocked_failure();
                Self::replace_effect(self.end(JobEnd::Failed(failure), now))
            }
            // The wish is committed first, so that a crash does not forget it; then the task is
            // cancelled.
            (RunState::FollowingTask(task), Interrupt::Cancel(_)) => {
                let task = task.clone();
                Self::replace_effect(self.save(AfterSave::FollowTask(task)))
            }
            (RunState::FollowingTask(task), Interrupt::Deadline { .. }) => {
                Reaction { cancel_task: Some(task.clone()), instead: None }
            }
            // Nobody can call a guest back, and it may still obey.
            (RunState::WatchingGuest, Interrupt::Cancel(_)) => {
                Self::replace_effect(self.save(AfterSave::WatchGuest))
            }
            (RunState::WatchingGuest, _) => {
                Self::replace_effect(self.end_unknown(GUEST_DID_NOT_REACT, now))
            }
            (RunState::FollowingTask(_), Interrupt::GraceOver) => {
                let detail = "The deadline passed and the host's task could not be stopped; it may still succeed.";
                Self::replace_effect(self.end_unknown(detail, now))
            }
            // A host that is away is given the grace to come back: then a task of the job can be
            // found and cancelled.
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
            after_loss: false,
            task_vanished: false,
            created_snapshot: None,
            tools_stopped: false,
            deadline: DeadlineState::Ahead,
        }
    }

    fn on_saved(&mut self, after: AfterSave, now: Timestamp) -> Effect {
        match after {
            AfterSave::ReadMachine => self.read_before_call(),
            AfterSave::Call if self.job.cancel_requested_at.is_some() => {
                self.end_after_call_not_run(JobEnd::Cancelled(self.cancelled_failure()), now)
            }
            AfterSave::Call if self.is_overdue() => {
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
                self.end_unknown(&detail, now)
            }
            AfterSave::FollowTask(task) => self.follow(task),
            AfterSave::WatchGuest => self.watch_guest(None, now),
            AfterSave::Publish => {
                self.run_state = RunState::Ended;
                Effect::Finish
            }
        }
    }

    fn follow(&mut self, task: TaskId) -> Effect {
        self.run_state = RunState::FollowingTask(task.clone());
        // Who asked before there was a task meant this one.
        if self.is_overdue() || self.job.cancel_requested_at.is_some() {
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
        self.run_state = RunState::Saving(after);
        Effect::Save
    }

    const fn replace_effect(effect: Effect) -> Reaction {
        Reaction { cancel_task: None, instead: Some(effect) }
    }

    fn set_phase(&mut self, phase: &str, now: Timestamp) {
        phase.clone_into(&mut self.job.phase);
        self.job.updated_at = now;
    }
}

/// The effect that a stage waits for.
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
        RunState::AwaitingReadiness(Some(readiness)) => Effect::AwaitReady(*readiness),
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
