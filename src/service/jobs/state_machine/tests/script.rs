//! Plays one case of a test: gives the state machine a fixed list of answers and interrupts. At
//! each line it checks the rules that hold in every case.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{RULES, job, start};
use crate::domain::call::{CallKind, Evidence};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{SnapshotId, TaskId};
use crate::domain::job::{Job, JobRequest, JobState, JobStepState};
use crate::domain::origin::Actor;
use crate::hypervisor::{Accepted, HostErrorKind};
use crate::service::host_failure::HostFailure;
use crate::service::jobs::state_machine::{
    CallResult, Effect, GuestObservation, GuestWatchResult, Input, Interrupt, JobStateMachine,
    ObservedMachine, OtherJobs, TaskEnd,
};
use crate::service::jobs::text_watch::TextSight;

/// One line of a case. A line answers the effect that is under way, or interrupts the job.
///
/// A commit, a wait or a barrier that no line answers succeeds by itself.
#[derive(Clone, Debug)]
pub enum ScriptLine {
    /// The host shows the machine with this evidence.
    Saw(Evidence),
    /// The host shows the machine with this evidence, while otter's other jobs work on the machine.
    SawWithOthers(Evidence, OtherJobs),
    /// The host shows the machine with this evidence at two reads: before and after `esx.settle`.
    Settled(Evidence),
    /// The host does not show the machine, and fails with this error.
    Unreadable(HostErrorKind),
    /// The host starts this task for the call.
    Accepted(&'static str),
    /// The host executes the call, which has no task.
    Done,
    Refused(HostErrorKind),
    /// The host refuses the call because this task works on the machine.
    RefusedBecauseOf(&'static str),
    /// The answer to the call is lost.
    Lost,
    TaskSucceeded,
    /// The task succeeds and names the snapshot that it created.
    TaskCreated(&'static str),
    TaskFailed(HostErrorKind),
    /// The task ends because otter cancelled it.
    TaskCancelled,
    /// The task fails, and the task may have done its work.
    TaskUncertain,
    /// The host no longer knows the task.
    TaskVanished,
    /// The inventory shows the guest in this state.
    Guest(GuestObservation),
    /// The time `force_after` of the job is over.
    ForceAfter,
    /// The inventory no longer contains the job's machine.
    GuestGone,
    /// Whether the machine is ready. False if it can no longer become ready.
    Ready(bool),
    /// The screen shows this text, or there is no screen for this reason.
    Shows(Result<&'static str, &'static str>),
    /// Whether the machine is ready cannot be known.
    NoReadiness(FailureKind),
    /// A host that was away can be reached again.
    HostBack,
    /// A task that is not the job's own ends.
    OtherTaskEnded,
    QuestionGone,
    /// The pause that the job asked for is over.
    Paused,
    /// The host goes away before the inventory has the changes of the job.
    Unsynced,
    /// The commit of the job succeeds.
    Committed,
    Cancel,
    Deadline,
    /// The deadline passes while the machine waits for an answer.
    DeadlineWithQuestion,
    /// No caller answered the question of the machine within `leases.question_grace`.
    QuestionUnanswered,
    GraceOver,
    /// The daemon dies and starts again.
    Crash,
}

/// How a job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The job succeeded and changed the machine.
    Changed,
    /// The job succeeded, and the machine was already in the requested state.
    Unchanged,
    Failed(FailureKind),
    Cancelled,
    Unknown,
}

/// A case that was played to its end.
pub struct Played {
    /// The job as the last commit stored it on disk.
    pub job: Job,
    /// The kind of every call that otter sent to the host, in order.
    pub calls: Vec<CallKind>,
}

impl Played {
    pub fn ending(&self) -> Ending {
        let kind = self.job.error.as_ref().map(|failure| failure.kind);
        match (self.job.state, kind) {
            (JobState::Succeeded, None) if self.job.result.as_ref().unwrap().changed => {
                Ending::Changed
            }
            (JobState::Succeeded, None) => Ending::Unchanged,
            (JobState::Failed, Some(kind)) => Ending::Failed(kind),
            (JobState::Cancelled, Some(FailureKind::JobCancelled)) => Ending::Cancelled,
            (JobState::Unknown, Some(FailureKind::OutcomeUnknown)) => Ending::Unknown,
            end => panic!("{end:?} is not an end"),
        }
    }
}

/// Plays a case from the start of the job to its end.
///
/// Panics if a line does not answer the effect that is under way, or if the job goes on after the
/// last line.
pub fn play(request: JobRequest, lines: &[ScriptLine]) -> Played {
    let committed = job(request);
    let mut state_machine = JobStateMachine::from_queued(committed.clone(), RULES);
    let effect = state_machine.start(start());
    let (calls, cancelled) = (Vec::new(), Vec::new());
    let mut play = Play { state_machine, effect, committed, calls, cancelled, inputs: 0 };
    for (number, line) in lines.iter().enumerate() {
        play.check_rules();
        let fits = match line {
            ScriptLine::Settled(evidence) => {
                let saw = || ScriptLine::Saw(evidence.clone());
                play.answer(&saw()) && play.answer(&ScriptLine::Paused) && play.answer(&saw())
            }
            ScriptLine::Crash => play.crash(),
            ScriptLine::Shows(shown) => play.show(*shown),
            line => match interrupt_for(line) {
                Some(interrupt) => play.interrupt(interrupt),
                None => play.answer(line),
            },
        };
        assert!(fits, "line {number}, {line:?}, does not answer {:?}", play.effect);
    }
    play.check_rules();
    while play.pass() {}
    assert_eq!(play.effect, Effect::Finish, "the job goes on after the last line");
    Played { job: play.committed, calls: play.calls }
}

struct Play {
    state_machine: JobStateMachine,
    /// The effect that is under way.
    effect: Effect,
    /// The job as the last commit stored it on disk.
    committed: Job,
    calls: Vec<CallKind>,
    /// The tasks that otter asked the host to cancel.
    cancelled: Vec<TaskId>,
    inputs: i64,
}

impl Play {
    /// Checks the rules that hold in every state of the job.
    fn check_rules(&self) {
        let is_held = matches!(self.effect, Effect::Save | Effect::Call(_) | Effect::Finish);
        for interrupts in [
            vec![Interrupt::Cancel(Actor::otter())],
            vec![Interrupt::Deadline { question: false }, Interrupt::GraceOver],
        ] {
            let mut state_machine = self.state_machine.clone();
            for interrupt in interrupts {
                let instead = state_machine.interrupt(interrupt, self.now()).instead;
                if is_held {
                    assert_eq!(instead, None, "{:?} is never dropped", self.effect);
                } else if instead.is_some() {
                    break;
                }
            }
        }
        if self.committed.state == JobState::Running {
            let (mut state_machine, effect) =
                JobStateMachine::resume(self.committed.clone(), RULES);
            if let (Some(_), Some(task)) = (&self.committed.intent, &self.committed.host_task) {
                assert_eq!(followed_task(&effect), Some(task));
            } else {
                assert_eq!(effect, Effect::AwaitHost(Duration::ZERO));
                let next = state_machine.step(Input::Waited, self.now());
                assert_eq!(next, Effect::Examine, "after a crash the machine is read first");
            }
        }
    }

    /// Answers the effect that is under way with this line. Returns false if the line does not
    /// answer this effect.
    fn answer(&mut self, line: &ScriptLine) -> bool {
        loop {
            if let Some(input) = self.input_for(line) {
                self.step(input);
                return true;
            }
            if !self.pass() {
                return false;
            }
        }
    }

    /// Answers the effect that is under way if it has only one possible answer. Returns false if it
    /// has several.
    fn pass(&mut self) -> bool {
        let input = match self.effect {
            Effect::Save => Input::Saved,
            Effect::AwaitHost(_)
            | Effect::AwaitTask(_)
            | Effect::AwaitAnswer(_)
            | Effect::Pause(_) => Input::Waited,
            Effect::Barrier => Input::Synced(Some(ObservedMachine::default())),
            _ => return false,
        };
        self.step(input);
        true
    }

    fn input_for(&self, line: &ScriptLine) -> Option<Input> {
        use ScriptLine as Line;
        let follows = matches!(self.effect, Effect::Follow(_) | Effect::CancelAndFollow(_));
        Some(match (line, &self.effect) {
            (Line::Committed, Effect::Save) => Input::Saved,
            (Line::Saw(evidence), Effect::Examine) => {
                Input::Examined(Ok((evidence.clone(), OtherJobs::default())))
            }
            (Line::SawWithOthers(evidence, others), Effect::Examine) => {
                Input::Examined(Ok((evidence.clone(), others.clone())))
            }
            (Line::Unreadable(kind), Effect::Examine) => Input::Examined(Err(host_failure(*kind))),
            (Line::Accepted(task), Effect::Call(_)) => {
                Input::Called(CallResult::Accepted(Accepted::Task(TaskId::from_backend(*task))))
            }
            (Line::Done, Effect::Call(_)) => Input::Called(CallResult::Accepted(Accepted::Done)),
            (Line::Refused(kind), Effect::Call(_)) => {
                Input::Called(CallResult::Refused(host_failure(*kind)))
            }
            (Line::RefusedBecauseOf(task), Effect::Call(_)) => {
                let blocking_task = Some(TaskId::from_backend(*task));
                let busy = host_failure(HostErrorKind::Busy);
                Input::Called(CallResult::Refused(HostFailure { blocking_task, ..busy }))
            }
            (Line::Lost, Effect::Call(_)) => {
                Input::Called(CallResult::Lost(host_failure(HostErrorKind::Unreachable)))
            }
            (Line::TaskSucceeded, _) if follows => {
                Input::TaskEnded(TaskEnd::Succeeded { snapshot: None })
            }
            (Line::TaskCreated(snapshot), _) if follows => {
                let snapshot = Some(SnapshotId::from_backend(*snapshot));
                Input::TaskEnded(TaskEnd::Succeeded { snapshot })
            }
            (Line::TaskFailed(kind), _) if follows => {
                Input::TaskEnded(TaskEnd::Failed(host_failure(*kind)))
            }
            (Line::TaskCancelled, effect) if follows => {
                let is_asked =
                    followed_task(effect).is_some_and(|task| self.cancelled.contains(task));
                assert!(is_asked, "the host was not asked to cancel the task");
                Input::TaskEnded(TaskEnd::Failed(host_failure(HostErrorKind::Cancelled)))
            }
            (Line::TaskUncertain, _) if follows => {
                Input::TaskEnded(TaskEnd::Lost(host_failure(HostErrorKind::Rejected)))
            }
            (Line::TaskVanished, _) if follows => Input::TaskEnded(TaskEnd::Vanished),
            (Line::Guest(observation), Effect::Watch { .. }) => {
                Input::GuestObserved(GuestWatchResult::Observed(*observation))
            }
            (Line::ForceAfter, Effect::Watch { until: Some(_), .. }) => {
                Input::GuestObserved(GuestWatchResult::TimeUp)
            }
            (Line::GuestGone, Effect::Watch { .. }) => {
                Input::GuestObserved(GuestWatchResult::MachineGone)
            }
            (Line::Ready(is_ready), Effect::AwaitReady(_)) => Input::Ready(*is_ready),
            (Line::NoReadiness(kind), Effect::AwaitReady(_)) => {
                Input::NoReadiness(Failure::new(*kind, "no screens"))
            }
            (Line::HostBack, Effect::AwaitHost(_))
            | (Line::OtherTaskEnded, Effect::AwaitTask(_))
            | (Line::QuestionGone, Effect::AwaitAnswer(_))
            | (Line::Paused, Effect::Pause(_)) => Input::Waited,
            (Line::Unsynced, Effect::Barrier) => Input::Synced(None),
            _ => return None,
        })
    }

    fn step(&mut self, input: Input) {
        if input == Input::Saved {
            assert!(!self.committed.state.is_end(), "an end is never changed");
            self.committed = self.state_machine.job().clone();
        }
        self.inputs += 1;
        let effect = self.state_machine.step(input, self.now());
        self.take(effect);
    }

    fn interrupt(&mut self, interrupt: Interrupt) -> bool {
        let is_cancel = matches!(interrupt, Interrupt::Cancel(_));
        let reaction = self.state_machine.interrupt(interrupt, self.now());
        self.cancelled.extend(reaction.cancel_task);
        if let Some(effect) = reaction.instead {
            self.take(effect);
        }
        // The request to cancel is committed at once. This commit also stores the current progress
        // of the job.
        if is_cancel && self.effect != Effect::Save && !self.committed.state.is_end() {
            self.committed = self.state_machine.job().clone();
        }
        true
    }

    fn show(&mut self, shown: Result<&str, &str>) -> bool {
        while !matches!(self.effect, Effect::AwaitReady(_)) {
            if !self.pass() {
                return false;
            }
        }
        // A text that was read stays when the screen is lost.
        let text = shown.ok().map(Arc::from).or_else(|| self.state_machine.sight.text.clone());
        let trouble = shown.err().map(str::to_owned);
        self.state_machine.see_text(TextSight { text, trouble }, self.now());
        true
    }

    fn crash(&mut self) -> bool {
        let committed = self.committed.clone();
        let (state_machine, effect) = if committed.state == JobState::Queued {
            let mut queued = JobStateMachine::from_queued(committed, RULES);
            let effect = queued.start(self.now());
            (queued, effect)
        } else {
            JobStateMachine::resume(committed, RULES)
        };
        self.state_machine = state_machine;
        self.take(effect);
        true
    }

    fn take(&mut self, effect: Effect) {
        let committed = &self.committed;
        match &effect {
            Effect::Call(call) => {
                let intent = committed.intent.as_ref().map(|intent| &intent.call);
                assert_eq!(intent, Some(call), "the intent is committed before its call");
                assert_eq!(committed.state, JobState::Running);
                self.calls.push(call.kind());
            }
            Effect::CancelAndFollow(task) => self.cancelled.push(task.clone()),
            Effect::Finish => {
                assert_eq!(committed, self.state_machine.job(), "the end is committed first");
                assert!(committed.state.is_end() && committed.finished_at.is_some());
                assert_eq!(committed.intent, None);
                assert_eq!(committed.error.is_none(), committed.state == JobState::Succeeded);
                assert!(committed.steps.iter().all(|step| step.state != JobStepState::Running));
            }
            _ => {}
        }
        self.effect = effect;
    }

    fn now(&self) -> Timestamp {
        start() + SignedDuration::from_secs(self.inputs)
    }
}

fn interrupt_for(line: &ScriptLine) -> Option<Interrupt> {
    match line {
        ScriptLine::Cancel => Some(Interrupt::Cancel(Actor::otter())),
        ScriptLine::Deadline => Some(Interrupt::Deadline { question: false }),
        ScriptLine::DeadlineWithQuestion => Some(Interrupt::Deadline { question: true }),
        ScriptLine::QuestionUnanswered => {
            Some(Interrupt::QuestionUnanswered("msg.test: Go on?".to_owned()))
        }
        ScriptLine::GraceOver => Some(Interrupt::GraceOver),
        _ => None,
    }
}

fn followed_task(effect: &Effect) -> Option<&TaskId> {
    match effect {
        Effect::Follow(task) | Effect::CancelAndFollow(task) => Some(task),
        _ => None,
    }
}

fn host_failure(kind: HostErrorKind) -> HostFailure {
    HostFailure {
        kind,
        message: format!("{kind:?}"),
        fault: None,
        blocking_task: None,
        outcome_uncertain: false,
    }
}
