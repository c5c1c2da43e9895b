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
//! guest is watched in the inventory instead. Each way out leads through the store: the intent is
//! committed before its call, the task's reference as soon as it is known, the end before anybody
//! hears of it. After a crash [`Driver::resume`] enters this diagram where the committed job says,
//! and a call without a known end is judged like one whose answer was lost. A refusal proves only
//! that its own sending did not run: after a loss it leads back to judging, or to unknown.

mod calling;
mod ending;
mod judging;
#[cfg(test)]
mod tests;
mod vocabulary;
mod watching;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use self::ending::End;
pub use self::vocabulary::{
    Blocker, Called, Effect, Glimpse, Glimpsed, Input, Interrupt, Others, Reaction, Rules, Seen,
    Shown, TaskEnd,
};
use crate::domain::failure::FailureKind;
use crate::domain::ids::{SnapshotId, TaskId};
use crate::domain::job::{Job, JobState};
use crate::domain::lease::Readiness;
use crate::domain::origin::Actor;
use crate::service::host_failure::HostFailure;
use crate::service::jobs::clocks;

/// How long to wait before the host is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What is told of a call that could not be judged in time.
const UNJUDGED: &str =
    "The answer to the call was lost, and the deadline passed before the machine could be judged.";

/// What is told of a guest that was not seen to obey in time.
const UNSEEN: &str =
    "The guest was asked and was not seen to have done it by the deadline; it may still do it.";

/// A job that runs.
#[derive(Clone, Debug)]
pub struct Driver {
    job: Job,
    rules: Rules,
    stage: Stage,
    blocker: Option<(Blocker, Timestamp)>,
    /// The last refusal that was not final, for the report at the deadline.
    last_host_failure: Option<HostFailure>,
    /// The current call's answer or task was lost on the way, now or before a restart.
    after_loss: bool,
    /// The current call was seen to run, and then its task vanished.
    vanished: bool,
    /// The snapshot that the job made.
    made: Option<SnapshotId>,
    /// The tools were seen to go after the guest was asked to restart.
    tools_went: bool,
    deadline: Deadline,
}

/// Where the job stands against its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    Ahead,
    Passed { question: bool },
    GraceOver { question: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Queued,
    Saving(Then),
    /// Reading the machine before a call.
    Beginning,
    /// Waiting for something before a call: nothing is under way on the host.
    Blocked,
    Calling,
    Following(TaskId),
    /// The guest was asked, or may have been, and does it by itself.
    Watching,
    /// Waiting for the machine to be ready, or for time to pass: nothing is under way on the host.
    Readying(Option<Readiness>),
    /// Reading the machine after a refusal, to see whether the wanted state is there anyway.
    Rechecking(HostFailure),
    /// The call may or may not run: waiting for the host.
    JudgingAway,
    /// The same, reading the machine. `quiet`: the machine was quiet when the settling began.
    Judging {
        quiet: bool,
    },
    /// The same, waiting for another task or for quiet.
    Settling {
        quiet: bool,
    },
    /// Reading the machine after a lost revert's own task succeeded, or for the snapshot that a
    /// task did not name.
    Verifying,
    Syncing(Box<End>),
    SyncingAway(Box<End>),
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Then {
    Begin,
    Call,
    /// Wait as the effect says: the call was proven not to have run.
    Block(Box<Effect>),
    /// Wait as the effect says, then judge: this sending did not run, an earlier one may have.
    Settle(Box<Effect>),
    Follow(TaskId),
    Watch,
    Publish,
}

impl Driver {
    /// A job that waits for its turn.
    #[must_use]
    pub fn queued(job: Job, rules: Rules) -> Self {
        Self::at(job, rules, Stage::Queued)
    }

    /// A job that ran when the daemon stopped, and its first effect. A job that waited is
    /// [`Driver::queued`].
    #[must_use]
    pub fn resume(job: Job, rules: Rules) -> (Self, Effect) {
        let mut driver = Self::at(job, rules, Stage::Blocked);
        driver.after_loss = driver.job.intent.is_some();
        let effect = match (&driver.job.intent, driver.job.host_task.clone()) {
            (None, _) => Effect::AwaitHost(Duration::ZERO),
            (Some(_), Some(task)) => driver.follow(task),
            (Some(_), None) => {
                driver.stage = Stage::JudgingAway;
                Effect::AwaitHost(Duration::ZERO)
            }
        };
        (driver, effect)
    }

    /// The durable part.
    #[must_use]
    pub const fn job(&self) -> &Job {
        &self.job
    }

    /// Whether its end is committed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.stage == Stage::Ended && self.job.state.is_end()
    }

    /// What it waits for that is not its own work, and since when.
    #[must_use]
    pub const fn blocker(&self) -> Option<&(Blocker, Timestamp)> {
        self.blocker.as_ref()
    }

    /// The task that works for this job now.
    #[must_use]
    pub const fn following(&self) -> Option<&TaskId> {
        match &self.stage {
            Stage::Following(task) => Some(task),
            _ => None,
        }
    }

    /// Whether a call of it was made whose end is not known and is looked for on the machine.
    #[must_use]
    pub const fn is_settling(&self) -> bool {
        matches!(self.stage, Stage::JudgingAway | Stage::Judging { .. } | Stage::Settling { .. })
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
            clocks::shift_deadline(&mut self.job, by, now);
        }
    }

    /// The job starts.
    pub fn start(&mut self, now: Timestamp) -> Effect {
        self.job.state = JobState::Running;
        self.job.started_at = Some(now);
        self.phase("reading the machine", now);
        self.save(Then::Begin)
    }

    /// Ends a job that waits in its queue: nothing was done.
    pub fn cancel_queued(&mut self, by: Actor, now: Timestamp) -> Effect {
        self.job.request_cancel(by, now);
        self.close(End::Cancelled(self.cancelled_failure()), None, now)
    }

    /// Ends a job whose deadline passed while it waited in its queue.
    pub fn expire_queued(&mut self, now: Timestamp) -> Effect {
        let detail = "The deadline passed while the job waited for its turn; nothing was done.";
        let failure = self.failure(FailureKind::DeadlineExceeded, detail);
        self.close(End::Failed(failure), None, now)
    }

    /// Ends a job that otter cannot work on. The end says nothing of what the host did.
    pub fn abandon(&mut self, detail: &str, now: Timestamp) {
        let failure = self.failure(FailureKind::OutcomeUnknown, detail);
        // The caller commits the job.
        let _ = self.close(End::Unknown(failure), None, now);
    }

    /// Takes what became of the last effect and says what is next.
    pub fn step(&mut self, input: Input, now: Timestamp) -> Effect {
        let stage = std::mem::replace(&mut self.stage, Stage::Ended);
        match (stage, input) {
            (Stage::Saving(then), Input::Saved) => self.saved(then, now),
            (Stage::Beginning, Input::Examined(seen)) => self.begun(seen, now),
            (Stage::Blocked, Input::Waited) => {
                self.blocker = None;
                self.begin()
            }
            (Stage::Calling, Input::Called(called)) => self.called(called, now),
            (Stage::Following(_), Input::TaskEnded(end)) => self.task_ended(end, now),
            (Stage::Watching, Input::Glimpsed(glimpsed)) => self.glimpsed(glimpsed, now),
            (Stage::Readying(_), Input::Waited) => self.readied(true, now),
            (Stage::Readying(_), Input::Readied(ready)) => self.readied(ready, now),
            (Stage::Rechecking(host_failure), Input::Examined(seen)) => {
                self.rechecked(&host_failure, seen, now)
            }
            (Stage::JudgingAway, Input::Waited) => {
                self.blocker = None;
                self.examine(Stage::Judging { quiet: false })
            }
            (Stage::Settling { quiet }, Input::Waited) => {
                self.blocker = None;
                self.examine(Stage::Judging { quiet })
            }
            (Stage::Judging { quiet }, Input::Examined(seen)) => self.judged(quiet, seen, now),
            (Stage::Verifying, Input::Examined(seen)) => self.verified(seen, now),
            (Stage::Syncing(end), Input::Synced(shown)) => self.synced(*end, shown, now),
            (Stage::SyncingAway(end), Input::Waited) => {
                self.blocker = None;
                self.stage = Stage::Syncing(end);
                Effect::Barrier
            }
            (stage, _) => {
                // An answer that was not asked for changes nothing; ask again for the one that was.
                let effect = effect_of(&stage, &self.job);
                self.stage = stage;
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
                self.deadline = Deadline::Passed { question };
            }
            Interrupt::GraceOver => {
                let question = matches!(self.deadline, Deadline::Passed { question: true });
                self.deadline = Deadline::GraceOver { question };
            }
        }
        match (&self.stage, interrupt) {
            (Stage::Blocked | Stage::Readying(_), Interrupt::Cancel(_)) => {
                Self::instead(self.end(End::Cancelled(self.cancelled_failure()), now))
            }
            (Stage::Blocked | Stage::Readying(_), _) => {
                let failure = self.blocked_failure();
                Self::instead(self.end(End::Failed(failure), now))
            }
            // The wish is committed first, so that a crash does not forget it; then the task is
            // cancelled.
            (Stage::Following(task), Interrupt::Cancel(_)) => {
                let task = task.clone();
                Self::instead(self.save(Then::Follow(task)))
            }
            (Stage::Following(task), Interrupt::Deadline { .. }) => {
                Reaction { cancel_task: Some(task.clone()), instead: None }
            }
            // Nobody can call a guest back, and it may still obey.
            (Stage::Watching, Interrupt::Cancel(_)) => Self::instead(self.save(Then::Watch)),
            (Stage::Watching, _) => Self::instead(self.give_up(UNSEEN, now)),
            (Stage::Following(_), Interrupt::GraceOver) => {
                let detail = "The deadline passed and the host's task could not be stopped; it may still succeed.";
                Self::instead(self.give_up(detail, now))
            }
            // A host that is away is given the grace to come back: then a task of the job can be
            // found and cancelled.
            (Stage::JudgingAway | Stage::Settling { .. }, Interrupt::GraceOver)
            | (Stage::Settling { .. }, Interrupt::Deadline { .. }) => {
                Self::instead(self.give_up(UNJUDGED, now))
            }
            (Stage::Syncing(_) | Stage::SyncingAway(_), Interrupt::GraceOver) => {
                match std::mem::replace(&mut self.stage, Stage::Ended) {
                    Stage::Syncing(end) | Stage::SyncingAway(end) => {
                        Self::instead(self.synced(*end, None, now))
                    }
                    _ => Reaction::default(),
                }
            }
            _ => Reaction::default(),
        }
    }

    fn overdue(&self) -> bool {
        self.deadline != Deadline::Ahead
    }

    fn grace_over(&self) -> bool {
        matches!(self.deadline, Deadline::GraceOver { .. })
    }

    fn at(job: Job, rules: Rules, stage: Stage) -> Self {
        Self {
            job,
            rules,
            stage,
            blocker: None,
            last_host_failure: None,
            after_loss: false,
            vanished: false,
            made: None,
            tools_went: false,
            deadline: Deadline::Ahead,
        }
    }

    fn saved(&mut self, then: Then, now: Timestamp) -> Effect {
        match then {
            Then::Begin => self.begin(),
            Then::Call if self.job.cancel_requested_at.is_some() => {
                self.end_unsent(End::Cancelled(self.cancelled_failure()), now)
            }
            Then::Call if self.overdue() => {
                self.end_unsent(End::Failed(self.blocked_failure()), now)
            }
            Then::Call => match self.job.intent.as_ref().map(|intent| intent.call.clone()) {
                Some(call) => {
                    self.stage = Stage::Calling;
                    Effect::Call(call)
                }
                None => self.begin(),
            },
            Then::Block(effect) => self.wait(*effect, now),
            Then::Settle(_) if self.grace_over() => self.give_up(UNJUDGED, now),
            Then::Settle(effect) => {
                self.stage = Stage::Settling { quiet: false };
                *effect
            }
            Then::Follow(task) if self.grace_over() => {
                let detail = format!(
                    "The deadline passed while the host's task {task} ran; it may still succeed."
                );
                self.give_up(&detail, now)
            }
            Then::Follow(task) => self.follow(task),
            Then::Watch => self.watch(None, now),
            Then::Publish => {
                self.stage = Stage::Ended;
                Effect::Finish
            }
        }
    }

    fn follow(&mut self, task: TaskId) -> Effect {
        self.stage = Stage::Following(task.clone());
        // Who asked before there was a task meant this one.
        if self.overdue() || self.job.cancel_requested_at.is_some() {
            Effect::CancelAndFollow(task)
        } else {
            Effect::Follow(task)
        }
    }

    fn examine(&mut self, stage: Stage) -> Effect {
        self.stage = stage;
        Effect::Examine
    }

    fn save(&mut self, then: Then) -> Effect {
        self.stage = Stage::Saving(then);
        Effect::Save
    }

    const fn instead(effect: Effect) -> Reaction {
        Reaction { cancel_task: None, instead: Some(effect) }
    }

    fn phase(&mut self, phase: &str, now: Timestamp) {
        phase.clone_into(&mut self.job.phase);
        self.job.updated_at = now;
    }
}

/// The effect that a stage waits for.
fn effect_of(stage: &Stage, job: &Job) -> Effect {
    match stage {
        Stage::Queued | Stage::Saving(_) => Effect::Save,
        Stage::Beginning | Stage::Rechecking(_) | Stage::Judging { .. } | Stage::Verifying => {
            Effect::Examine
        }
        Stage::Calling => {
            job.intent.as_ref().map_or(Effect::Examine, |intent| Effect::Call(intent.call.clone()))
        }
        Stage::Following(task) => Effect::Follow(task.clone()),
        Stage::Readying(Some(readiness)) => Effect::AwaitReady(*readiness),
        Stage::Watching => Effect::Watch { known: None, until: watching::force_at(job) },
        Stage::Blocked | Stage::JudgingAway | Stage::SyncingAway(_) => {
            Effect::AwaitHost(RETRY_PAUSE)
        }
        Stage::Readying(None) | Stage::Settling { .. } => Effect::Pause(RETRY_PAUSE),
        Stage::Syncing(_) => Effect::Barrier,
        Stage::Ended => Effect::Finish,
    }
}
