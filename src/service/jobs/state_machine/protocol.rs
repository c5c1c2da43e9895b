//! What a [`JobStateMachine`](super::JobStateMachine) and its shell say to each other.

use std::time::Duration;

use jiff::Timestamp;

use crate::domain::call::{CallKind, Evidence, HostCall};
use crate::domain::ids::{QuestionId, SnapshotId, TaskId};
use crate::domain::job::Job;
use crate::domain::lease::Readiness;
use crate::domain::origin::Actor;
use crate::domain::power::PowerState;
use crate::domain::snapshot_rules::SnapshotRules;
use crate::hypervisor::Accepted;
use crate::service::host_failure::HostFailure;

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
    /// Ask the host to cancel the job's own task, and follow it; answer [`Input::TaskEnded`].
    CancelAndFollow(TaskId),
    /// Look at the guest in the picture once that is whole, and wait until it is other than `known`
    /// or it is `until`; answer [`Input::GuestObserved`].
    Watch { known: Option<GuestObservation>, until: Option<Timestamp> },
    /// Wait this long, and then until the host is there and the picture is whole; answer
    /// [`Input::Waited`].
    AwaitHost(Duration),
    /// Wait until somebody else's task ended, answer [`Input::Waited`].
    AwaitTask(TaskId),
    /// Wait until the question is gone, answer [`Input::Waited`].
    AwaitAnswer(QuestionId),
    /// Wait this long, answer [`Input::Waited`].
    Pause(Duration),
    /// Wait until the machine is so, answer [`Input::Ready`].
    AwaitReady(Readiness),
    /// Let the picture catch up with the host, answer [`Input::Synced`].
    Barrier,
    /// The end is committed: publish it. Nothing comes after.
    Finish,
}

/// What became of the last effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Saved,
    Examined(ExamineResult),
    Called(CallResult),
    TaskEnded(TaskEnd),
    GuestObserved(GuestWatchResult),
    Waited,
    /// Whether the machine is as it was waited for; else it cannot come to that any more.
    Ready(bool),
    /// What the picture shows, or that the host went away before it was caught up.
    Synced(Option<ObservedMachine>),
}

/// The evidence, and what otter itself knows around it.
pub type ExamineResult = Result<(Evidence, OtherJobs), HostFailure>;

/// What otter knows around a machine: its other jobs there, and the rules for snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherJobs {
    pub tasks: Vec<TaskId>,
    /// One of them made a call, or is about to, that may yet power the machine on, with no task
    /// known to tell.
    pub may_power_on: bool,
    /// What the job may do to the machine's snapshots.
    pub snapshot_rules: SnapshotRules,
}

impl OtherJobs {
    /// Of these jobs.
    pub fn from_jobs<'j>(jobs: impl Iterator<Item = &'j Job>) -> Self {
        let mut others = Self::default();
        for job in jobs {
            let call = job.intent.as_ref().map(|intent| intent.call.kind());
            let starts = matches!(call, Some(CallKind::PowerOn | CallKind::RevertToSnapshot));
            others.may_power_on |= starts && job.host_task.is_none() && !job.state.is_end();
            others.tasks.extend(job.host_task.clone());
        }
        others
    }
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallResult {
    Accepted(Accepted),
    Refused(HostFailure),
    Lost(HostFailure),
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEnd {
    /// With the snapshot that it made, where it makes one and says so.
    Succeeded {
        snapshot: Option<SnapshotId>,
    },
    Failed(HostFailure),
    /// Who told of it had lost sight of the task: it may have done its work.
    Lost(HostFailure),
    Vanished,
}

/// What came of watching a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestWatchResult {
    Observed(GuestObservation),
    TimeUp,
    /// The machine that was meant is no longer there.
    MachineGone,
}

/// A guest as the picture shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestObservation {
    pub power_state: Option<PowerState>,
    pub tools_running: bool,
    /// Whether they were seen to stop since the last call was made.
    pub tools_stopped: bool,
}

/// The machine as readers see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedMachine {
    pub power_state: Option<PowerState>,
    pub ip_address: Option<String>,
}

/// What may come while an effect is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// Somebody asks to cancel.
    Cancel(Actor),
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

/// The time that the state_machine goes by.
#[derive(Clone, Copy, Debug)]
pub struct JobRules {
    /// `esx.settle`: how long a machine must be quiet before a lost call is judged.
    pub settle: Duration,
}
