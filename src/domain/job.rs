//! A job: one tracked operation on a machine, a datastore or the host. Every job has exactly one
//! end.
//!
//! ```text
//! queued ──► running ──► succeeded | failed | cancelled | unknown
//!    └──────────────────► failed (deadline, machine gone) | cancelled
//! ```
//! - `queued`: the job is stored and waits for its turn. The host was not called.
//! - `running`: the job has its turn. It may have called the host.
//! - `succeeded`: the requested state was reached.
//! - `failed`: the operation was not done, or only a part of it.
//! - `cancelled`: a caller cancelled the job before the operation was done.
//! - `unknown`: the host may or may not have done the operation, and the state of the machine
//!   cannot prove either.
//!
//! An ended job never changes.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::access::Authority;
use super::call::{CallKind, Evidence, HostCall};
use super::failure::Failure;
use super::ids::{DatastoreId, JobId, LeaseId, MachineId, QuestionId, SnapshotId, TaskId};
use super::lease::{Readiness, ReadinessKind};
use super::machine::MachineIdentity;
use super::network::Network;
use super::origin::{Actor, RequestOrigin};
use super::power::PowerState;

/// The operation that a caller requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobRequest {
    PowerOn,
    PowerOff,
    Reset,
    /// Powers off before the queued jobs of the machine.
    Kill,
    Suspend,
    /// Asks the guest to shut down. If the machine is still on after `force_after`, powers it off.
    Shutdown {
        force_after: Option<Duration>,
    },
    /// Asks the guest to reboot.
    Reboot,
    /// Answers the machine's pending question. The job runs while another job of the machine waits
    /// for the answer.
    Answer {
        question: QuestionId,
        /// The key of one of the question's choices.
        choice: String,
    },
    CreateSnapshot {
        name: String,
        description: String,
        memory: bool,
        quiesce: bool,
    },
    Revert {
        /// The id to which the caller's reference was resolved when the job was accepted.
        snapshot: SnapshotId,
        /// The path of the snapshot when the job was accepted, for messages.
        path: String,
        /// Whether the machine is on afterwards. `None` keeps the power state that the host's
        /// revert produces.
        power_on: Option<bool>,
    },
    RemoveSnapshot {
        /// The id to which the caller's reference was resolved when the job was accepted.
        snapshot: SnapshotId,
        path: String,
        children: bool,
    },
    RemoveAllSnapshots,
    /// Consolidates the disks of the machine, if the host says that they need it.
    Consolidate,
    /// At least one of `name` and `description` is set.
    RenameSnapshot {
        /// The id to which the caller's reference was resolved when the job was accepted.
        snapshot: SnapshotId,
        path: String,
        name: Option<String>,
        description: Option<String>,
    },
    /// Prepares a machine for its lease.
    Prepare {
        /// The snapshot to revert to, and its path when the job was accepted.
        snapshot: Option<(SnapshotId, String)>,
        power: Option<PowerState>,
        until: Option<Readiness>,
        /// The network in which an awaited address must be.
        cidr: Option<Network>,
        settle: Option<Duration>,
    },
    /// Cleans a machine up after its lease, and verifies the result.
    Release {
        /// Whether the power state stays unchanged. If false, the machine is powered off.
        keep_power: bool,
        /// The snapshot to revert to, and its path when the job was accepted.
        snapshot: Option<(SnapshotId, String)>,
    },
}

/// The object that a job works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobTarget {
    Machine(MachineIdentity),
    Datastore(DatastoreId),
    /// The host itself.
    Host,
}

/// The id of a target. It identifies the target only while the target exists, because a host can
/// reuse the id of a removed machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetId {
    Machine(MachineId),
    Datastore(DatastoreId),
    Host,
}

impl JobTarget {
    /// The id of the target.
    #[must_use]
    pub fn id(&self) -> TargetId {
        match self {
            Self::Machine(machine) => TargetId::Machine(machine.id.clone()),
            Self::Datastore(datastore) => TargetId::Datastore(datastore.clone()),
            Self::Host => TargetId::Host,
        }
    }

    /// The machine. `None` if the target is not a machine.
    #[must_use]
    pub const fn machine(&self) -> Option<&MachineIdentity> {
        match self {
            Self::Machine(machine) => Some(machine),
            Self::Datastore(_) | Self::Host => None,
        }
    }

    /// Whether a machine that was just read from the host is the target.
    #[must_use]
    pub fn is_machine(&self, observed: &MachineIdentity) -> bool {
        self.machine().is_some_and(|machine| machine.agrees_with(observed))
    }
}

impl TargetId {
    /// The stored word for the kind of the target.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Machine(_) => "machine",
            Self::Datastore(_) => "datastore",
            Self::Host => "host",
        }
    }

    /// The id of the machine. `None` if the target is not a machine.
    #[must_use]
    pub const fn machine(&self) -> Option<&MachineId> {
        match self {
            Self::Machine(machine) => Some(machine),
            Self::Datastore(_) | Self::Host => None,
        }
    }
}

impl fmt::Display for TargetId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(machine) => machine.fmt(formatter),
            Self::Datastore(datastore) => datastore.fmt(formatter),
            Self::Host => formatter.write_str("host"),
        }
    }
}

/// The kind of a job in the HTTP API. Callers can filter by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobKind {
    MachinePowerOn,
    MachinePowerOff,
    MachineReset,
    MachineSuspend,
    MachineShutdown,
    MachineReboot,
    MachineKill,
    MachineAnswer,
    MachineConsolidate,
    SnapshotCreate,
    SnapshotRevert,
    SnapshotRemove,
    SnapshotRemoveAll,
    SnapshotRename,
    LeasePrepare,
    LeaseRelease,
}

impl JobKind {
    /// Every kind, for filters and for the OpenAPI document.
    pub const ALL: &'static [Self] = &[
        Self::MachinePowerOn,
        Self::MachinePowerOff,
        Self::MachineReset,
        Self::MachineSuspend,
        Self::MachineShutdown,
        Self::MachineReboot,
        Self::MachineKill,
        Self::MachineAnswer,
        Self::MachineConsolidate,
        Self::SnapshotCreate,
        Self::SnapshotRevert,
        Self::SnapshotRemove,
        Self::SnapshotRemoveAll,
        Self::SnapshotRename,
        Self::LeasePrepare,
        Self::LeaseRelease,
    ];

    /// The word in the HTTP API and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MachinePowerOn => "machine.power_on",
            Self::MachinePowerOff => "machine.power_off",
            Self::MachineReset => "machine.reset",
            Self::MachineSuspend => "machine.suspend",
            Self::MachineShutdown => "machine.shutdown",
            Self::MachineReboot => "machine.reboot",
            Self::MachineKill => "machine.kill",
            Self::MachineAnswer => "machine.answer",
            Self::MachineConsolidate => "machine.consolidate",
            Self::SnapshotCreate => "snapshot.create",
            Self::SnapshotRevert => "snapshot.revert",
            Self::SnapshotRemove => "snapshot.remove",
            Self::SnapshotRemoveAll => "snapshot.remove_all",
            Self::SnapshotRename => "snapshot.rename",
            Self::LeasePrepare => "lease.prepare",
            Self::LeaseRelease => "lease.release",
        }
    }

    /// Parses the word. `None` if it names no kind of job.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }
}

impl JobRequest {
    /// The kind of the job that executes this request.
    #[must_use]
    pub const fn kind(&self) -> JobKind {
        match self {
            Self::PowerOn => JobKind::MachinePowerOn,
            Self::PowerOff => JobKind::MachinePowerOff,
            Self::Reset => JobKind::MachineReset,
            Self::Kill => JobKind::MachineKill,
            Self::Suspend => JobKind::MachineSuspend,
            Self::Shutdown { .. } => JobKind::MachineShutdown,
            Self::Reboot => JobKind::MachineReboot,
            Self::Answer { .. } => JobKind::MachineAnswer,
            Self::CreateSnapshot { .. } => JobKind::SnapshotCreate,
            Self::Revert { .. } => JobKind::SnapshotRevert,
            Self::RemoveSnapshot { .. } => JobKind::SnapshotRemove,
            Self::RemoveAllSnapshots => JobKind::SnapshotRemoveAll,
            Self::Consolidate => JobKind::MachineConsolidate,
            Self::RenameSnapshot { .. } => JobKind::SnapshotRename,
            Self::Prepare { .. } => JobKind::LeasePrepare,
            Self::Release { .. } => JobKind::LeaseRelease,
        }
    }
}

impl JobKind {
    /// Whether a job of this kind does not wait for a pending question or for other tasks on its
    /// machine. Jobs of these kinds end what the other jobs wait for.
    #[must_use]
    pub const fn ignores_blockers(self) -> bool {
        matches!(self, Self::MachineKill | Self::MachineAnswer)
    }
}

/// The state of a job. The header of this file defines each state. No state is ever added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    Unknown,
}

impl JobState {
    /// Every state, for filters and for the OpenAPI document.
    pub const ALL: &'static [Self] = &[
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Unknown,
    ];

    /// The word in the HTTP API and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }

    /// Parses the word. `None` if it names no state of a job.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == word)
    }

    /// Whether a job in this state has ended.
    #[must_use]
    pub const fn is_end(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// One tracked operation. The store keeps every field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: JobId,
    pub state: JobState,
    pub target: JobTarget,
    /// The name that the target had when the job was accepted.
    pub target_name: String,
    pub request: JobRequest,
    /// The current activity, in a few words for people.
    pub phase: String,
    pub steps: Vec<JobStep>,
    pub cancel_requested_at: Option<Timestamp>,
    /// The first caller that requested the cancellation. `None` if no caller did, and in jobs of
    /// earlier versions.
    pub cancel_requested_by: Option<Actor>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub deadline_at: Timestamp,
    /// The name of the caller's token. `anonymous` if otter has no tokens.
    pub requested_by: String,
    /// The HTTP request that created the job. The default value if otter itself created the job.
    pub origin: RequestOrigin,
    /// The value of the header `Otter-Reference`.
    pub reference: Option<String>,
    /// The lease in the caller's `Otter-Lease`, or the lease whose machine the job prepares or
    /// releases.
    pub lease: Option<LeaseId>,
    /// The job's permission to change snapshots.
    pub authority: Authority,
    pub result: Option<JobResult>,
    pub warnings: Vec<String>,
    pub error: Option<Failure>,
    /// The host's task of the current or the last call.
    pub host_task: Option<TaskId>,
    /// The host call that was committed and whose result is not known yet. If the answer was lost,
    /// otter uses the intent to decide what the call did.
    pub intent: Option<Intent>,
}

impl Job {
    /// The kind of the job.
    #[must_use]
    pub const fn kind(&self) -> JobKind {
        self.request.kind()
    }

    /// The id of the job's machine. `None` if the job does not work on a machine.
    #[must_use]
    pub fn machine_id(&self) -> Option<&MachineId> {
        self.target.machine().map(|machine| &machine.id)
    }

    /// Whether the job called the host, or may have: the intent of a call was committed.
    #[must_use]
    pub fn may_have_called_host(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.name, StepName::Call(_)))
    }

    /// Adds the job's machine to a failure, if the job works on a machine.
    #[must_use]
    pub fn add_machine_to(&self, failure: Failure) -> Failure {
        match self.machine_id() {
            Some(machine) => failure.with_machine(machine, &self.target_name),
            None => failure,
        }
    }

    /// The caller that created the job, and its request.
    #[must_use]
    pub fn requester(&self) -> Actor {
        Actor { name: self.requested_by.clone(), origin: self.origin }
    }

    /// Records a request to cancel the job. Later requests change nothing.
    pub fn request_cancel(&mut self, by: Actor, now: Timestamp) {
        if self.cancel_requested_at.is_none() {
            self.cancel_requested_at = Some(now);
            self.cancel_requested_by = Some(by);
        }
    }
}

/// One step of a job: a host call, or a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStep {
    pub name: StepName,
    pub state: JobStepState,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub detail: Option<String>,
}

/// The work of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepName {
    /// A host call.
    Call(CallKind),
    /// Waits until the machine is ready.
    Wait(ReadinessKind),
    /// Waits for a fixed time.
    Settle,
}

impl StepName {
    /// Every step that is not a host call.
    const WAITS: &'static [Self] = &[
        Self::Wait(ReadinessKind::On),
        Self::Wait(ReadinessKind::Address),
        Self::Wait(ReadinessKind::Tools),
        Self::Wait(ReadinessKind::Screen),
        Self::Settle,
    ];

    /// Every step.
    pub fn all() -> impl Iterator<Item = Self> {
        CallKind::ALL.iter().copied().map(Self::Call).chain(Self::WAITS.iter().copied())
    }

    /// The word in the HTTP API and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Call(call) => call.as_str(),
            Self::Wait(ReadinessKind::On) => "wait_power",
            Self::Wait(ReadinessKind::Address) => "wait_ip",
            Self::Wait(ReadinessKind::Tools) => "wait_tools",
            Self::Wait(ReadinessKind::Screen) => "wait_screen",
            Self::Settle => "settle",
        }
    }

    /// Parses the word. `None` if it names no step.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::all().find(|name| name.as_str() == word)
    }
}

/// The state of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobStepState {
    Running,
    Succeeded,
    Failed,
    Skipped,
    Unknown,
}

impl JobStepState {
    /// Every state, for the store and for the OpenAPI document.
    pub const ALL: &'static [Self] =
        &[Self::Running, Self::Succeeded, Self::Failed, Self::Skipped, Self::Unknown];

    /// The word in the HTTP API and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
        }
    }

    /// Parses the word. `None` if it names none.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == word)
    }
}

/// The result of a job that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobResult {
    /// False if the machine was in the requested state before the job.
    pub changed: bool,
    pub snapshot: Option<SnapshotId>,
    pub power_state: Option<PowerState>,
    /// The machine's address when the job ended, as the HTTP API showed it.
    pub ip_address: Option<String>,
}

/// A host call that is committed to the store before otter makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    pub call: HostCall,
    /// The state of the machine just before the call.
    pub before: Evidence,
    /// How often otter sent the call, or may have sent it. At least 1.
    pub asked: u32,
}
