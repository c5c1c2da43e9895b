//! A job: one tracked operation on a machine, a datastore or the host, from its acceptance to its
//! one end.
//!
//! ```text
//! queued ──► running ──► succeeded | failed | cancelled | unknown
//!    └──────────────────► failed (deadline, machine gone) | cancelled
//! ```
//! An end is never taken back. `unknown` is an end: the host may or may not have done it, and
//! looking proves nothing more.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::access::Authority;
use super::call::{Evidence, HostCall};
use super::failure::Failure;
use super::ids::{DatastoreId, JobId, LeaseId, MachineId, QuestionId, SnapshotId, TaskId};
use super::lease::Readiness;
use super::machine::MachineIdentity;
use super::origin::{Actor, RequestOrigin};
use super::power::PowerState;

/// What a caller asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobRequest {
    PowerOn,
    PowerOff,
    Reset,
    /// Power off ahead of everything else that is queued.
    Kill,
    Suspend,
    /// Asks the guest, and pulls the plug where it is not off after `force_after`.
    Shutdown {
        force_after: Option<Duration>,
    },
    /// Asks the guest.
    Reboot,
    /// Answers the machine's question beside whatever waits for that.
    Answer {
        question: QuestionId,
        /// The key of a choice.
        choice: String,
    },
    CreateSnapshot {
        name: String,
        description: String,
        memory: bool,
        quiesce: bool,
    },
    Revert {
        /// Bound when the job was accepted, whatever it was called by.
        snapshot: SnapshotId,
        /// The path that it had then, for people.
        path: String,
        /// `None`: as the host does.
        power_on: Option<bool>,
    },
    RemoveSnapshot {
        /// Bound as a revert's.
        snapshot: SnapshotId,
        path: String,
        children: bool,
    },
    RemoveAllSnapshots,
    /// One of the two at least.
    RenameSnapshot {
        /// Bound as a revert's.
        snapshot: SnapshotId,
        path: String,
        name: Option<String>,
        description: Option<String>,
    },
    /// Makes a machine ready for whoever leased it.
    Prepare {
        /// Bound as a revert's, with its path.
        snapshot: Option<(SnapshotId, String)>,
        power: Option<PowerState>,
        until: Option<Readiness>,
        settle: Option<Duration>,
    },
    /// Brings a machine back after its lease, and proves it.
    Release {
        /// Left as it is; else it is powered off.
        keep_power: bool,
        /// Bound as a revert's, with its path.
        snapshot: Option<(SnapshotId, String)>,
    },
}

/// What a job works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobTarget {
    Machine(MachineIdentity),
    Datastore(DatastoreId),
    /// The host itself.
    Host,
}

/// A target by its id alone, which finds it now: a host uses the id of a machine again once it is
/// gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetId {
    Machine(MachineId),
    Datastore(DatastoreId),
    Host,
}

impl JobTarget {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> TargetId {
        match self {
            Self::Machine(machine) => TargetId::Machine(machine.id.clone()),
            Self::Datastore(datastore) => TargetId::Datastore(datastore.clone()),
            Self::Host => TargetId::Host,
        }
    }

    /// The machine, if it is one.
    #[must_use]
    pub const fn machine(&self) -> Option<&MachineIdentity> {
        match self {
            Self::Machine(machine) => Some(machine),
            Self::Datastore(_) | Self::Host => None,
        }
    }

    /// Whether a machine, read now, is the target.
    #[must_use]
    pub fn is_machine(&self, seen: &MachineIdentity) -> bool {
        self.machine().is_some_and(|machine| machine.agrees_with(seen))
    }
}

impl TargetId {
    /// The word for what it is the id of.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Machine(_) => "machine",
            Self::Datastore(_) => "datastore",
            Self::Host => "host",
        }
    }

    /// The machine, if it is one.
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

/// The kind of a job, as callers see and filter it.
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
    SnapshotCreate,
    SnapshotRevert,
    SnapshotRemove,
    SnapshotRemoveAll,
    SnapshotRename,
    LeasePrepare,
    LeaseRelease,
}

impl JobKind {
    /// Every kind, for filters and documents.
    pub const ALL: &'static [Self] = &[
        Self::MachinePowerOn,
        Self::MachinePowerOff,
        Self::MachineReset,
        Self::MachineSuspend,
        Self::MachineShutdown,
        Self::MachineReboot,
        Self::MachineKill,
        Self::MachineAnswer,
        Self::SnapshotCreate,
        Self::SnapshotRevert,
        Self::SnapshotRemove,
        Self::SnapshotRemoveAll,
        Self::SnapshotRename,
        Self::LeasePrepare,
        Self::LeaseRelease,
    ];

    /// The word that callers see.
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
            Self::SnapshotCreate => "snapshot.create",
            Self::SnapshotRevert => "snapshot.revert",
            Self::SnapshotRemove => "snapshot.remove",
            Self::SnapshotRemoveAll => "snapshot.remove_all",
            Self::SnapshotRename => "snapshot.rename",
            Self::LeasePrepare => "lease.prepare",
            Self::LeaseRelease => "lease.release",
        }
    }

    /// Reads the word back; `None` for any other.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }
}

impl JobRequest {
    /// The kind of job that this makes.
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
            Self::RenameSnapshot { .. } => JobKind::SnapshotRename,
            Self::Prepare { .. } => JobKind::LeasePrepare,
            Self::Release { .. } => JobKind::LeaseRelease,
        }
    }
}

impl JobKind {
    /// Whether it waits neither for what runs on the machine nor for a question: it is what ends
    /// them.
    #[must_use]
    pub const fn bypasses_queue(self) -> bool {
        matches!(self, Self::MachineKill | Self::MachineAnswer)
    }
}

/// Where a job is. Closed for ever.
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
    /// Every state, for filters and documents.
    pub const ALL: &'static [Self] = &[
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Unknown,
    ];

    /// The word that callers see.
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

    /// Reads the word back; `None` for any other.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == word)
    }

    /// Whether this is an end.
    #[must_use]
    pub const fn is_end(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// One tracked operation. All of this is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: JobId,
    pub state: JobState,
    pub target: JobTarget,
    /// The name that the target had when the job was accepted.
    pub target_name: String,
    pub request: JobRequest,
    /// What is going on, in a few words for people.
    pub phase: String,
    pub steps: Vec<JobStep>,
    pub cancel_requested_at: Option<Timestamp>,
    /// Who asked for that first. Jobs of earlier versions lack it.
    pub cancel_requested_by: Option<Actor>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub deadline_at: Timestamp,
    /// The token's name, or `anonymous` where none is asked for.
    pub requested_by: String,
    /// The request that asked for it; the default for what otter starts by itself.
    pub origin: RequestOrigin,
    /// What the caller sent as `Otter-Reference`.
    pub reference: Option<String>,
    /// The lease that it was asked for under, or that it prepares or releases.
    pub lease: Option<LeaseId>,
    /// What it may do to snapshots.
    pub authority: Authority,
    pub result: Option<JobResult>,
    pub warnings: Vec<String>,
    pub error: Option<Failure>,
    /// The host's task of the call that is, or was last, under way.
    pub host_task: Option<TaskId>,
    /// The host call that was committed and has not been settled; what a judgement goes by.
    pub intent: Option<Intent>,
}

impl Job {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> JobKind {
        self.request.kind()
    }

    /// The id of its machine, if it works on one.
    #[must_use]
    pub fn machine_id(&self) -> Option<&MachineId> {
        self.target.machine().map(|machine| &machine.id)
    }

    /// Names its machine in a failure, if it works on one.
    #[must_use]
    pub fn add_machine_to(&self, failure: Failure) -> Failure {
        match self.machine_id() {
            Some(machine) => failure.with_machine(machine, &self.target_name),
            None => failure,
        }
    }

    /// Who asked for it, by which request.
    #[must_use]
    pub fn requester(&self) -> Actor {
        Actor { name: self.requested_by.clone(), origin: self.origin }
    }

    /// Notes that somebody asks to cancel it. The first one counts.
    pub fn request_cancel(&mut self, by: Actor, now: Timestamp) {
        if self.cancel_requested_at.is_none() {
            self.cancel_requested_at = Some(now);
            self.cancel_requested_by = Some(by);
        }
    }
}

/// One step of a job: a host call of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStep {
    pub name: String,
    pub state: JobStepState,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub detail: Option<String>,
}

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobStepState {
    Running,
    Succeeded,
    Failed,
    Skipped,
    Unknown,
}

impl JobStepState {
    /// Every state, for the store and documents.
    pub const ALL: &'static [Self] =
        &[Self::Running, Self::Succeeded, Self::Failed, Self::Skipped, Self::Unknown];

    /// The word that callers see.
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

    /// Reads the word back; `None` for any other.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == word)
    }
}

/// What a job that succeeded did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobResult {
    /// False where the machine was in the wanted state already.
    pub changed: bool,
    pub snapshot: Option<SnapshotId>,
    pub power_state: Option<PowerState>,
    /// The machine's believed address when the job ended.
    pub ip_address: Option<String>,
}

/// A host call as it was committed to disk before it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    pub call: HostCall,
    /// What the machine was like just before.
    pub before: Evidence,
    /// How often the call was, or may have been, sent: 1 from the first on.
    pub asked: u32,
}
