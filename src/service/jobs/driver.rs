//! One job from its turn to its end: `step(input) → effect`, pure. `runner` does the I/O.
//!
//! ```text
//! queued ─► begin: examine ─► plan ─► commit the intent ─► call ─► follow the task ─► barrier ─► end
//!             ▲  │ blocked          ▲ │ ask again           │ lost   │ vanished         ▲
//!             └──┘                  │ │                     ▼        ▼                  │
//!       busy, host away, question   └─┼───────────── judge: settle, examine ────────────┘
//!                                     └─ next call of the same job (power after a revert)
//! ```
//! Each way out leads through the store: the intent is committed before its call, the task's reference as soon
//! as it is known, the end before anybody hears of it. After a crash [`Driver::resume`] enters this picture
//! where the committed job says, and a call without a known end is judged like one whose answer was lost.

use std::time::Duration;

use jiff::Timestamp;

use super::judgement::{self, Verdict};
use super::plan::{self, Plan};
use crate::domain::call::{Evidence, HostCall};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{QuestionId, TaskId};
use crate::domain::job::{Intent, Job, JobRequest, JobResult, JobState, Step, StepState};
use crate::domain::machine::PowerState;
use crate::hypervisor::{Accepted, HostErrorKind};
use crate::service::trouble::Trouble;

/// What the shell is to do next; exactly one thing at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Commit the job to disk, answer [`Input::Saved`].
    Save,
    /// Read the machine from the host, answer [`Input::Examined`].
    Examine,
    /// Make the call, answer [`Input::Called`].
    Call(HostCall),
    /// Follow the job's own task, answer [`Input::TaskEnded`].
    Follow(TaskId),
    /// Wait this long, and then until the host is there and the picture is whole; answer [`Input::Waited`].
    AwaitHost(Duration),
    /// Wait until somebody else's task ended, answer [`Input::Waited`].
    AwaitTask(TaskId),
    /// Wait until the question is gone, answer [`Input::Waited`].
    AwaitAnswer(QuestionId),
    /// Wait this long, answer [`Input::Waited`].
    Pause(Duration),
    /// Let the picture catch up with the host, answer [`Input::Synced`].
    Barrier,
    /// The end is committed: publish it. Nothing comes after.
    Finish,
}

/// What became of the last effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Saved,
    /// The evidence, and the tasks of otter's other jobs on the machine.
    Examined(Result<(Evidence, Vec<TaskId>), Trouble>),
    Called(Called),
    TaskEnded(TaskEnd),
    Waited,
    /// What the picture shows, or that the host went away before it was caught up.
    Synced(Option<Shown>),
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Called {
    Accepted(Accepted),
    Refused(Trouble),
    Lost(Trouble),
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEnd {
    Succeeded,
    Failed(Trouble),
    Vanished,
}

/// The machine as readers see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    pub power_state: Option<PowerState>,
    pub ip_address: Option<String>,
}

/// What may come while an effect is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// Somebody asks to cancel.
    Cancel,
    /// The deadline passed. `question`: whether the machine waits on a question.
    Deadline { question: bool },
    /// Some time after the deadline: what has not ended by now is given up.
    GraceOver,
}

/// The answer to an interrupt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaction {
    /// Ask the host to cancel this task, beside the effect that is under way.
    pub cancel_task: Option<TaskId>,
    /// Drop the effect that is under way and do this instead.
    pub instead: Option<Effect>,
}

/// What a running job waits for that is not its own work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocker {
    HostTask(TaskId),
    Question(QuestionId),
    HostAway(String),
    /// Something that the host did not name.
    Busy,
}

/// The time that the driver goes by.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// `esx.settle`: how long a machine must be quiet before a lost call is judged.
    pub settle: Duration,
}

/// How long to wait before the host is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A job that runs.
#[derive(Clone, Debug)]
pub struct Driver {
    job: Job,
    rules: Rules,
    stage: Stage,
    blocker: Option<(Blocker, Timestamp)>,
    /// The last refusal that was not final, for the report at the deadline.
    last_trouble: Option<Trouble>,
    /// The current call's answer or task was lost on the way, now or before a restart.
    after_loss: bool,
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
    /// Reading the machine after a refusal, to see whether the wanted state is there anyway.
    Rechecking(Trouble),
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
    /// Reading the machine after a lost revert's own task succeeded.
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
    Follow(TaskId),
    Publish,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Succeeded,
    Failed(Failure),
    Cancelled(Failure),
    Unknown(Failure),
}

impl Driver {
    /// A job that waits for its turn.
    #[must_use]
    pub fn queued(job: Job, rules: Rules) -> Self {
        Self::at(job, rules, Stage::Queued)
    }

    /// A job that ran when the daemon stopped, and its first effect. A job that waited is [`Driver::queued`].
    #[must_use]
    pub fn resume(job: Job, rules: Rules) -> (Self, Effect) {
        let mut driver = Self::at(job, rules, Stage::Blocked);
        driver.after_loss = driver.job.intent.is_some();
        let effect = match (&driver.job.intent, driver.job.host_task.clone()) {
            (None, _) => Effect::AwaitHost(Duration::ZERO),
            (Some(_), Some(task)) => driver.follow(task),
            (Some(_), None) => driver.judge_when_back(Duration::ZERO),
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

    /// The job's turn has come.
    pub fn start(&mut self, now: Timestamp) -> Effect {
        self.job.state = JobState::Running;
        self.job.started_at = Some(now);
        self.phase("reading the machine", now);
        self.save(Then::Begin)
    }

    /// Ends a job that waits in its queue: nothing was done.
    pub fn cancel_queued(&mut self, now: Timestamp) -> Effect {
        self.job.cancel_requested_at.get_or_insert(now);
        self.close(End::Cancelled(self.cancelled_failure()), None, now)
    }

    /// Ends a job whose deadline passed while it waited in its queue.
    pub fn expire_queued(&mut self, now: Timestamp) -> Effect {
        let detail = "The deadline passed while the job waited for its turn; nothing was done.";
        let failure = self.failure(FailureKind::DeadlineExceeded, detail);
        self.close(End::Failed(failure), None, now)
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
            (Stage::Rechecking(trouble), Input::Examined(seen)) => self.rechecked(&trouble, seen, now),
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
        match interrupt {
            Interrupt::Cancel => {
                self.job.cancel_requested_at.get_or_insert(now);
                self.job.updated_at = now;
            }
            Interrupt::Deadline { question } => self.deadline = Deadline::Passed { question },
            Interrupt::GraceOver => {
                let question = matches!(self.deadline, Deadline::Passed { question: true });
                self.deadline = Deadline::GraceOver { question };
            }
        }
        match (&self.stage, interrupt) {
            (Stage::Blocked, Interrupt::Cancel) => {
                Self::instead(self.end(End::Cancelled(self.cancelled_failure()), now))
            }
            (Stage::Blocked, _) => {
                let failure = self.blocked_failure();
                Self::instead(self.end(End::Failed(failure), now))
            }
            (Stage::Following(task), Interrupt::Cancel | Interrupt::Deadline { .. }) => {
                Reaction { cancel_task: Some(task.clone()), instead: None }
            }
            (Stage::Following(_), Interrupt::GraceOver) => {
                let detail =
                    "The deadline passed and the host's task could not be stopped; it may still succeed.";
                Self::instead(self.give_up(detail, now))
            }
            (
                Stage::JudgingAway | Stage::Settling { .. },
                Interrupt::Deadline { .. } | Interrupt::GraceOver,
            ) => {
                let detail = "The answer to the call was lost, and the deadline passed before the machine could be judged.";
                Self::instead(self.give_up(detail, now))
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
            last_trouble: None,
            after_loss: false,
            deadline: Deadline::Ahead,
        }
    }

    fn saved(&mut self, then: Then, now: Timestamp) -> Effect {
        match then {
            Then::Begin => self.begin(),
            Then::Call if self.job.cancel_requested_at.is_some() && self.asked_once() => {
                self.end(End::Cancelled(self.cancelled_failure()), now)
            }
            Then::Call if self.overdue() && self.asked_once() => {
                self.end(End::Failed(self.blocked_failure()), now)
            }
            Then::Call => match self.job.intent.as_ref().map(|intent| intent.call.clone()) {
                Some(call) => {
                    self.stage = Stage::Calling;
                    Effect::Call(call)
                }
                None => self.begin(),
            },
            Then::Block(effect) => self.wait(*effect, now),
            Then::Follow(task) if self.grace_over() => {
                let detail =
                    format!("The deadline passed while the host's task {task} ran; it may still succeed.");
                self.give_up(&detail, now)
            }
            Then::Follow(task) => self.follow(task),
            Then::Publish => {
                self.stage = Stage::Ended;
                Effect::Finish
            }
        }
    }

    fn begin(&mut self) -> Effect {
        self.examine(Stage::Beginning)
    }

    fn begun(&mut self, seen: Result<(Evidence, Vec<TaskId>), Trouble>, now: Timestamp) -> Effect {
        let evidence = match seen {
            Ok((evidence, _)) => evidence,
            Err(trouble) => return self.unreadable(trouble, now),
        };
        if !self.job.machine.agrees_with(&evidence.identity) {
            return self.gone(now);
        }
        if self.job.cancel_requested_at.is_some() {
            return self.end(End::Cancelled(self.cancelled_failure()), now);
        }
        // A kill neither waits for what runs nor minds a question: it is what ends both.
        let patient = self.job.request != JobRequest::Kill;
        if patient && let Some(question) = evidence.question.clone() {
            let effect = Effect::AwaitAnswer(question.clone());
            return self.block(Blocker::Question(question), effect, now);
        }
        let running = evidence.recent_tasks.iter().find(|task| task.running);
        if patient && let Some(task) = running {
            let task = task.id.clone();
            return self.block(Blocker::HostTask(task.clone()), Effect::AwaitTask(task), now);
        }
        if self.overdue() {
            return self.end(End::Failed(self.blocked_failure()), now);
        }
        match plan::next(&self.job, &evidence) {
            Plan::Call(call) => self.commit(call, evidence, now),
            Plan::Done => self.end(End::Succeeded, now),
            Plan::Fail(failure) => self.end(End::Failed(self.about(failure)), now),
        }
    }

    fn commit(&mut self, call: HostCall, before: Evidence, now: Timestamp) -> Effect {
        let name = call.kind().as_str();
        self.phase(&format!("{}: asking the host", name.replace('_', " ")), now);
        self.job.host_task = None;
        self.after_loss = false;
        self.job.intent = Some(Intent { call, before, asked: 1 });
        if !self.job.steps.iter().any(|step| step.name == name && step.state == StepState::Running) {
            self.job.steps.push(Step {
                name: name.to_owned(),
                state: StepState::Running,
                started_at: Some(now),
                finished_at: None,
                detail: None,
            });
        }
        self.save(Then::Call)
    }

    fn called(&mut self, called: Called, now: Timestamp) -> Effect {
        match called {
            Called::Accepted(Accepted::Task(task)) => {
                self.job.host_task = Some(task.clone());
                self.phase("waiting for the host's task", now);
                self.save(Then::Follow(task))
            }
            Called::Accepted(Accepted::Done) => self.call_succeeded(now),
            Called::Refused(trouble) => self.refused(trouble, now),
            Called::Lost(trouble) => {
                self.phase("the answer of the host was lost: finding out what happened", now);
                self.lost(trouble, now)
            }
        }
    }

    fn task_ended(&mut self, end: TaskEnd, now: Timestamp) -> Effect {
        match end {
            TaskEnd::Succeeded => match self.job.intent.as_ref().map(|intent| &intent.call) {
                Some(HostCall::RevertToSnapshot { .. }) if self.after_loss => self.examine(Stage::Verifying),
                _ => self.call_succeeded(now),
            },
            TaskEnd::Failed(trouble) if trouble.leaves_open() => self.lost(trouble, now),
            TaskEnd::Failed(trouble) => self.refused(trouble, now),
            TaskEnd::Vanished => {
                self.phase("the host's task vanished: finding out what happened", now);
                // Its reference leads nowhere any more; after a restart the call is judged, not followed.
                self.job.host_task = None;
                self.judge_when_back(Duration::ZERO)
            }
        }
    }

    /// The call or its task was refused, which proves that it had no effect.
    fn refused(&mut self, trouble: Trouble, now: Timestamp) -> Effect {
        match trouble.kind {
            HostErrorKind::InvalidPowerState | HostErrorKind::NotFound => {
                self.examine(Stage::Rechecking(trouble))
            }
            HostErrorKind::Busy => {
                let (blocker, effect) = match trouble.blocking_task.clone() {
                    Some(task) => (Blocker::HostTask(task.clone()), Effect::AwaitTask(task)),
                    None => (Blocker::Busy, Effect::Pause(RETRY_PAUSE)),
                };
                self.last_trouble = Some(trouble);
                self.block(blocker, effect, now)
            }
            _ if trouble.is_outage() => self.unreadable(trouble, now),
            HostErrorKind::Cancelled if self.overdue() => {
                let failure =
                    self.deadline_failure("The deadline passed, and the host's task was cancelled.");
                self.end(End::Failed(failure), now)
            }
            HostErrorKind::Cancelled if self.job.cancel_requested_at.is_some() => {
                self.end(End::Cancelled(self.cancelled_failure().with_fault(trouble.fault)), now)
            }
            _ => self.end(End::Failed(self.about(trouble.failure())), now),
        }
    }

    fn rechecked(
        &mut self,
        refusal: &Trouble,
        seen: Result<(Evidence, Vec<TaskId>), Trouble>,
        now: Timestamp,
    ) -> Effect {
        let evidence = match seen {
            Ok((evidence, _)) => evidence,
            Err(trouble) => return self.unreadable(trouble, now),
        };
        if !self.job.machine.agrees_with(&evidence.identity) {
            return self.gone(now);
        }
        let wanted = match self.job.intent.as_ref().map(|intent| &intent.call) {
            Some(HostCall::PowerOn) => Some(PowerState::On),
            Some(HostCall::PowerOff) => Some(PowerState::Off),
            _ => None,
        };
        if refusal.kind == HostErrorKind::InvalidPowerState
            && wanted.is_some()
            && evidence.power_state == wanted
        {
            self.finish_step(StepState::Skipped, Some("the machine was in this state already"), now);
            self.job.intent = None;
            return self.save(Then::Begin);
        }
        self.end(End::Failed(self.about(refusal.failure())), now)
    }

    fn call_succeeded(&mut self, now: Timestamp) -> Effect {
        self.finish_step(StepState::Succeeded, None, now);
        self.job.intent = None;
        self.last_trouble = None;
        if plan::may_continue(&self.job) {
            return self.save(Then::Begin);
        }
        self.end(End::Succeeded, now)
    }

    fn lost(&mut self, trouble: Trouble, now: Timestamp) -> Effect {
        self.after_loss = true;
        let reason = trouble.message.clone();
        self.last_trouble = Some(trouble);
        self.blocker = Some((Blocker::HostAway(reason), now));
        self.judge_when_back(Duration::ZERO)
    }

    fn judge_when_back(&mut self, pause: Duration) -> Effect {
        self.after_loss = true;
        self.stage = Stage::JudgingAway;
        Effect::AwaitHost(pause)
    }

    fn judged(
        &mut self,
        quiet: bool,
        seen: Result<(Evidence, Vec<TaskId>), Trouble>,
        now: Timestamp,
    ) -> Effect {
        let (evidence, known) = match seen {
            Ok(seen) => seen,
            Err(trouble) if trouble.kind == HostErrorKind::NotFound => return self.gone(now),
            Err(trouble) => {
                self.blocker = Some((Blocker::HostAway(trouble.message), now));
                return self.judge_when_back(RETRY_PAUSE);
            }
        };
        if !self.job.machine.agrees_with(&evidence.identity) {
            return self.gone(now);
        }
        let Some(intent) = self.job.intent.clone() else { return self.begin() };
        if let Some(task) = judgement::own_task(&intent, &evidence, &known) {
            self.job.host_task = Some(task.clone());
            return self.save(Then::Follow(task));
        }
        if self.overdue() {
            return self.give_up(
                "The answer to the call was lost, and the deadline passed before it was judged.",
                now,
            );
        }
        // A kill settles by time alone: it must not wait for what it is to end.
        let patient = self.job.request != JobRequest::Kill;
        if patient && let Some(task) = evidence.recent_tasks.iter().find(|task| task.running) {
            let task = task.id.clone();
            self.blocker = Some((Blocker::HostTask(task.clone()), now));
            self.stage = Stage::Settling { quiet: false };
            return Effect::AwaitTask(task);
        }
        if !quiet {
            self.phase("letting the machine settle", now);
            self.stage = Stage::Settling { quiet: true };
            return Effect::Pause(self.rules.settle);
        }
        match judgement::judge(&intent, &evidence, &known) {
            Verdict::Succeeded => self.call_succeeded(now),
            Verdict::Follow(task) => {
                self.job.host_task = Some(task.clone());
                self.save(Then::Follow(task))
            }
            Verdict::AskAgain if self.job.cancel_requested_at.is_some() => {
                self.end(End::Cancelled(self.cancelled_failure()), now)
            }
            Verdict::AskAgain => {
                self.phase("asking the host again", now);
                let asked = intent.asked + 1;
                let before = Evidence { recent_tasks: evidence.recent_tasks, ..intent.before };
                self.job.host_task = None;
                self.job.intent = Some(Intent { before, asked, call: intent.call });
                self.save(Then::Call)
            }
            Verdict::Unknown(why) => self.give_up(
                &format!("The answer of the host was lost, and what happened cannot be known: {why}."),
                now,
            ),
        }
    }

    fn verified(&mut self, seen: Result<(Evidence, Vec<TaskId>), Trouble>, now: Timestamp) -> Effect {
        let wanted = self.job.intent.as_ref().and_then(|intent| match &intent.call {
            HostCall::RevertToSnapshot { snapshot, .. } => Some(snapshot.clone()),
            _ => None,
        });
        match seen {
            Ok((evidence, _)) if evidence.current_snapshot == wanted => self.call_succeeded(now),
            Ok(_) => self.give_up("The revert's task succeeded, but another snapshot is current now.", now),
            Err(trouble) if trouble.kind == HostErrorKind::NotFound => self.gone(now),
            Err(trouble) => {
                self.blocker = Some((Blocker::HostAway(trouble.message), now));
                self.judge_when_back(RETRY_PAUSE)
            }
        }
    }

    /// The machine could not be read, or the call proven not to have reached the host.
    fn unreadable(&mut self, trouble: Trouble, now: Timestamp) -> Effect {
        if trouble.kind == HostErrorKind::NotFound {
            return self.gone(now);
        }
        if !trouble.is_outage() {
            return self.end(End::Failed(self.about(trouble.failure())), now);
        }
        let reason = trouble.message.clone();
        self.last_trouble = Some(trouble);
        self.block(Blocker::HostAway(reason), Effect::AwaitHost(RETRY_PAUSE), now)
    }

    /// Waits for something else to end; nothing of this job is under way on the host.
    fn block(&mut self, blocker: Blocker, effect: Effect, now: Timestamp) -> Effect {
        self.blocker = Some((blocker, now));
        if self.job.intent.take().is_some() {
            return self.save(Then::Block(Box::new(effect)));
        }
        self.wait(effect, now)
    }

    fn wait(&mut self, effect: Effect, now: Timestamp) -> Effect {
        if self.job.cancel_requested_at.is_some() {
            return self.end(End::Cancelled(self.cancelled_failure()), now);
        }
        if self.overdue() {
            return self.end(End::Failed(self.blocked_failure()), now);
        }
        self.stage = Stage::Blocked;
        effect
    }

    fn gone(&mut self, now: Timestamp) -> Effect {
        let detail = "The machine that was meant is no longer on the host.";
        self.end(End::Failed(self.failure(FailureKind::MachineGone, detail)), now)
    }

    fn give_up(&mut self, detail: &str, now: Timestamp) -> Effect {
        let failure = self.failure(FailureKind::OutcomeUnknown, detail);
        self.end(End::Unknown(failure), now)
    }

    /// Ends the job; where the host was called, the picture first catches up with what the call did.
    fn end(&mut self, end: End, now: Timestamp) -> Effect {
        if self.job.steps.is_empty() && end != End::Succeeded {
            return self.close(end, None, now);
        }
        if self.grace_over() {
            return self.synced(end, None, now);
        }
        self.phase("letting the picture catch up", now);
        self.stage = Stage::Syncing(Box::new(end));
        Effect::Barrier
    }

    fn synced(&mut self, end: End, shown: Option<Shown>, now: Timestamp) -> Effect {
        match shown {
            Some(_) => self.close(end, shown, now),
            None if self.overdue() => {
                let warning =
                    "The host went away before the machine could be read again; it may show an older state.";
                self.job.warnings.push(warning.to_owned());
                self.close(end, None, now)
            }
            None => {
                self.stage = Stage::SyncingAway(Box::new(end));
                Effect::AwaitHost(RETRY_PAUSE)
            }
        }
    }

    fn close(&mut self, end: End, shown: Option<Shown>, now: Timestamp) -> Effect {
        self.blocker = None;
        let (state, step, error) = match end {
            End::Succeeded => (JobState::Succeeded, StepState::Succeeded, None),
            End::Failed(failure) => (JobState::Failed, StepState::Failed, Some(failure)),
            End::Cancelled(failure) => (JobState::Cancelled, StepState::Failed, Some(failure)),
            End::Unknown(failure) => (JobState::Unknown, StepState::Unknown, Some(failure)),
        };
        self.finish_step(step, None, now);
        self.phase(state.as_str(), now);
        self.job.state = state;
        self.job.finished_at = Some(now);
        self.job.intent = None;
        self.job.error = error;
        if state == JobState::Succeeded {
            let shown = shown.unwrap_or_default();
            self.job.result = Some(JobResult {
                changed: self.job.steps.iter().any(|step| step.state == StepState::Succeeded),
                snapshot: match &self.job.request {
                    JobRequest::Revert { snapshot, .. } => Some(snapshot.clone()),
                    _ => None,
                },
                power_state: shown.power_state,
                ip_address: shown.ip_address,
            });
        }
        self.save(Then::Publish)
    }

    /// Whether the committed call was not sent before.
    fn asked_once(&self) -> bool {
        self.job.intent.as_ref().is_some_and(|intent| intent.asked == 1)
    }

    fn follow(&mut self, task: TaskId) -> Effect {
        self.stage = Stage::Following(task.clone());
        Effect::Follow(task)
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

    fn finish_step(&mut self, state: StepState, detail: Option<&str>, now: Timestamp) {
        for step in self.job.steps.iter_mut().filter(|step| step.state == StepState::Running) {
            step.state = state;
            step.finished_at = Some(now);
            step.detail = detail.map(str::to_owned);
        }
    }

    fn about(&self, failure: Failure) -> Failure {
        failure.of_machine(&self.job.machine.id, &self.job.machine_name).of_job(self.job.id)
    }

    fn failure(&self, kind: FailureKind, detail: &str) -> Failure {
        self.about(Failure::new(kind, detail))
    }

    fn cancelled_failure(&self) -> Failure {
        self.failure(FailureKind::JobCancelled, "The job was cancelled as it was asked to be.")
    }

    fn deadline_failure(&self, detail: &str) -> Failure {
        if matches!(
            self.deadline,
            Deadline::Passed { question: true } | Deadline::GraceOver { question: true }
        ) {
            let detail = "The machine waited on a question until the deadline; answer it, then start again.";
            return self.failure(FailureKind::QuestionPending, detail);
        }
        self.failure(FailureKind::DeadlineExceeded, detail)
    }

    fn blocked_failure(&self) -> Failure {
        let fault = self.last_trouble.as_ref().and_then(|trouble| trouble.fault.clone());
        match self.blocker.as_ref().map(|(blocker, _)| blocker) {
            Some(Blocker::Question(_)) => self.failure(
                FailureKind::QuestionPending,
                "The machine waited on a question until the deadline; answer it, then start again.",
            ),
            Some(Blocker::HostTask(task)) => self
                .failure(
                    FailureKind::MachineBusy,
                    &format!("Another task of the host, {task}, worked on the machine until the deadline."),
                )
                .with_fault(fault),
            Some(Blocker::Busy) => self
                .failure(FailureKind::MachineBusy, "The host said until the deadline that the machine is busy.")
                .with_fault(fault),
            Some(Blocker::HostAway(reason)) => self.deadline_failure(&format!(
                "The host could not be reached until the deadline, and nothing was done. It last said: {reason}"
            )),
            None => self.deadline_failure("The deadline passed before the host was asked; nothing was done."),
        }
    }
}

/// The effect that a stage waits for.
fn effect_of(stage: &Stage, job: &Job) -> Effect {
    match stage {
        Stage::Queued | Stage::Saving(_) => Effect::Save,
        Stage::Beginning | Stage::Rechecking(_) | Stage::Judging { .. } | Stage::Verifying => Effect::Examine,
        Stage::Calling => {
            job.intent.as_ref().map_or(Effect::Examine, |intent| Effect::Call(intent.call.clone()))
        }
        Stage::Following(task) => Effect::Follow(task.clone()),
        Stage::Blocked | Stage::JudgingAway | Stage::SyncingAway(_) => Effect::AwaitHost(RETRY_PAUSE),
        Stage::Settling { .. } => Effect::Pause(RETRY_PAUSE),
        Stage::Syncing(_) => Effect::Barrier,
        Stage::Ended => Effect::Finish,
    }
}
