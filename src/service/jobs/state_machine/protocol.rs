//! The effects, inputs and interrupts of a [`JobStateMachine`](super::JobStateMachine).

use std::time::Duration;

use jiff::Timestamp;

use crate::domain::call::{CallKind, Evidence, HostCall};
use crate::domain::failure::Failure;
use crate::domain::ids::{QuestionId, SnapshotId, TaskId};
use crate::domain::job::Job;
use crate::domain::lease::Readiness;
use crate::domain::origin::Actor;
use crate::domain::power::PowerState;
use crate::domain::snapshot_rules::SnapshotRules;
use crate::hypervisor::Accepted;
use crate::service::host_failure::HostFailure;

/// The next action of the job, which the runner performs. Exactly one effect is under way at a
/// time. Each variant names the input with which the runner answers the effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Commit the job to disk. Answer: [`Input::Saved`].
    Save,
    /// Read the machine from the host. Answer: [`Input::Examined`].
    Examine,
    /// Send the call. Answer: [`Input::Called`].
    Call(HostCall),
    /// Follow the job's own task. Answer: [`Input::TaskEnded`].
    Follow(TaskId),
    /// Ask the host to cancel the job's own task, and follow the task. Answer:
    /// [`Input::TaskEnded`].
    CancelAndFollow(TaskId),
    /// Wait until the inventory is up to date and shows the guest in a state other than `known`, or
    /// until the time `until`. Answer: [`Input::GuestObserved`].
    Watch { known: Option<GuestObservation>, until: Option<Timestamp> },
    /// Wait for this time, then until the host is connected and the inventory is up to date.
    /// Answer: [`Input::Waited`].
    AwaitHost(Duration),
    /// Wait until a task that is not the job's own has ended. Answer: [`Input::Waited`].
    AwaitTask(TaskId),
    /// Wait until the question is gone. Answer: [`Input::Waited`].
    AwaitAnswer(QuestionId),
    /// Wait for this time. Answer: [`Input::Waited`].
    Pause(Duration),
    /// Wait until the machine is ready. Answer: [`Input::Ready`].
    AwaitReady(Readiness),
    /// Wait until the inventory is up to date with the host. Answer: [`Input::Synced`].
    Barrier,
    /// Publish the committed end of the job. This is the last effect of a job.
    Finish,
}

/// The result of the last effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The job is committed.
    Saved,
    /// The machine was read, or it could not be read.
    Examined(ExamineResult),
    /// The host answered the call, or its answer was lost.
    Called(CallResult),
    /// The followed task ended.
    TaskEnded(TaskEnd),
    /// The state of the guest changed, the time was up, or the machine is no longer on the host.
    GuestObserved(GuestWatchResult),
    /// The wait that the effect asked for is over.
    Waited,
    /// Whether the machine is ready. False if the machine can no longer become ready.
    Ready(bool),
    /// The job cannot find out whether the machine is ready.
    NoReadiness(Failure),
    /// The machine as the up-to-date inventory shows it. `None` if the host went away before the
    /// inventory was up to date.
    Synced(Option<ObservedMachine>),
}

/// The evidence of a machine with the facts about otter's other jobs on it, or the error of the
/// host.
pub type ExamineResult = Result<(Evidence, OtherJobs), HostFailure>;

/// The facts about otter's other jobs on a machine, and the rules for its snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherJobs {
    pub tasks: Vec<TaskId>,
    /// Whether another job may be powering the machine on: it has sent, or is about to send, a call
    /// that can do so, and the task of the call is not known.
    pub may_power_on: bool,
    /// The rules for changes of the machine's snapshots by this job.
    pub snapshot_rules: SnapshotRules,
}

impl OtherJobs {
    /// Collects the facts about these jobs.
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

/// The result of sending a call to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallResult {
    /// The host accepted the call.
    Accepted(Accepted),
    /// The host refused the call, or the call did not reach the host. In both cases the call did
    /// not run.
    Refused(HostFailure),
    /// The call was sent, and its answer was lost. The call may have run.
    Lost(HostFailure),
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEnd {
    /// The task succeeded. `snapshot` is the snapshot that it created, if the host names it.
    Succeeded {
        snapshot: Option<SnapshotId>,
    },
    Failed(HostFailure),
    /// A manager such as vCenter lost its connection to the host, so the task may have done its
    /// work.
    Lost(HostFailure),
    /// The host no longer knows the task.
    Vanished,
}

/// The result of watching a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestWatchResult {
    Observed(GuestObservation),
    TimeUp,
    /// The job's machine is no longer on the host.
    MachineGone,
}

/// The state of a guest in the inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestObservation {
    pub power_state: Option<PowerState>,
    pub tools_running: bool,
    /// Whether the guest's tools stopped after the job sent its last call.
    pub tools_stopped: bool,
}

/// The machine as readers of the inventory see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedMachine {
    pub power_state: Option<PowerState>,
    pub ip_address: Option<String>,
    pub consolidation_needed: Option<bool>,
}

/// An event that comes while an effect is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// This actor requested to cancel the job.
    Cancel(Actor),
    /// The deadline passed. `question`: whether the machine waits for an answer.
    Deadline { question: bool },
    /// The machine waits on the question with this text, and no caller answered it within
    /// [`JobRules::question_grace`]. Only a preparation gets this interrupt.
    QuestionUnanswered(String),
    /// The grace after the deadline is over. The job ends now.
    GraceOver,
}

/// The reaction to an interrupt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaction {
    /// Ask the host to cancel this task. The effect that is under way continues.
    pub cancel_task: Option<TaskId>,
    /// Drop the effect that is under way, and perform this effect in its place.
    pub instead: Option<Effect>,
}

/// The reason why a running job is blocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocker {
    HostTask(TaskId),
    Question(QuestionId),
    HostAway(String),
    /// The host says that the machine is busy and does not name a task.
    Busy,
}

/// The settings of a job's state machine.
#[derive(Clone, Copy, Debug)]
pub struct JobRules {
    /// `esx.settle`: how long no task may run on a machine before a lost call is resolved.
    pub settle: Duration,
    /// `leases.question_grace`: how long a preparation waits for the answer to a question.
    pub question_grace: Duration,
}
