//! A job: one tracked operation on a machine, a datastore or the host. Every job has exactly one
//! end.
//!
//! ```text
//! queued ──► running ──► succeeded | failed | cancelled | unknown
//!    └──────────────────► failed (deadline, machine gone) | cancelled
//! ```
//! - `queued`: the job is stored and waits for its turn. otter has not called the host for it.
//! - `running`: the job has its turn. otter may have called the host for it.
//! - `succeeded`: the requested state was reached.
//! - `failed`: the operation was not done, or only a part of it was done.
//! - `cancelled`: a caller cancelled the job before the operation was done.
//! - `unknown`: the host may or may not have done the operation, and the state of the machine
//!   proves neither.
//!
//! An ended job never changes.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::access::Authority;
use super::call::{CallKind, Evidence, HostCall};
use super::failure::Failure;
use super::file_job::{FileCall, FileIntent, FileResult, FileTarget, UploadRequest};
use super::file_path::FilePath;
use super::ids::{DatastoreId, JobId, LeaseId, MachineId, QuestionId, SnapshotId, TaskId};
use super::lease::{Readiness, ReadinessKind};
use super::machine::MachineIdentity;
use super::media::{BootRequest, MediaRecord};
use super::network::Network;
use super::origin::{Actor, RequestOrigin};
use super::power::PowerState;

/// The operation that a caller requested, with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobRequest {
    PowerOn,
    PowerOff,
    Reset,
    /// Powers the machine off at once, before all queued jobs of the machine.
    Kill,
    Suspend,
    /// Asks the guest to shut down. If the machine is still on after the time `force_after`, powers
    /// it off.
    Shutdown {
        force_after: Option<Duration>,
    },
    /// Asks the guest to restart.
    Reboot,
    /// Answers the machine's pending question. This job runs at once, because another job of the
    /// machine may be waiting for the answer.
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
        /// The id of the snapshot to which the caller's reference led when the job was accepted.
        snapshot: SnapshotId,
        /// The path that the snapshot had when the job was accepted, for messages.
        path: String,
        /// Whether the machine must be on after the revert. `None` keeps the power state into which
        /// the host's revert puts the machine.
        power_on: Option<bool>,
    },
    RemoveSnapshot {
        /// The id of the snapshot to which the caller's reference led when the job was accepted.
        snapshot: SnapshotId,
        path: String,
        children: bool,
    },
    RemoveAllSnapshots,
    /// Consolidates the disks of the machine, if the host says that a consolidation is needed.
    Consolidate,
    /// Changes the name or the description of a snapshot, or both. At least one of the two is set.
    RenameSnapshot {
        /// The id of the snapshot to which the caller's reference led when the job was accepted.
        snapshot: SnapshotId,
        path: String,
        name: Option<String>,
        description: Option<String>,
    },
    /// Puts an ISO into the first CD drive of the machine, or takes out what is in there.
    SetMedia {
        /// The path with the name of its datastore, `[isos] qubes.iso`. `None` means nothing.
        iso: Option<String>,
    },
    /// Sets what the machine boots from.
    SetBoot(BootRequest),
    /// Writes the body of a call into a file.
    UploadFile(UploadRequest),
    /// Deletes a file or an empty folder.
    DeleteFile,
    CreateFolder,
    /// Prepares a machine for its lease.
    Prepare {
        /// The snapshot to which the machine is reverted, and the path that the snapshot had when
        /// the job was accepted. `None` means no revert.
        snapshot: Option<(SnapshotId, String)>,
        /// The ISO that is put into the first CD drive, as in [`Self::SetMedia`]. `None` leaves the
        /// drive as it is.
        iso: Option<String>,
        /// `None` leaves the boot options as they are.
        boot: Option<BootRequest>,
        power: Option<PowerState>,
        until: Option<Readiness>,
        /// The network in which the guest's address must be, if the preparation waits for an
        /// address.
        cidr: Option<Network>,
        settle: Option<Duration>,
    },
    /// Puts a machine into a clean state after its lease, and verifies the result.
    Release {
        /// Whether the power state of the machine stays unchanged. If false, the machine is powered
        /// off.
        keep_power: bool,
        /// The snapshot to which the machine is reverted, and the path that the snapshot had when
        /// the job was accepted. `None` means no revert.
        snapshot: Option<(SnapshotId, String)>,
        /// What the CD drive and the boot options were before the lease. `None` leaves them as they
        /// are: nothing changed them, or the revert restores them.
        media: Option<MediaRecord>,
    },
}

/// The object that a job works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobTarget {
    Machine(MachineIdentity),
    Datastore(DatastoreId),
    /// A file or folder of a datastore.
    File(FileTarget),
    /// The host itself, if the job works on no machine and no datastore.
    Host,
}

/// The id of the object that a job works on. The id identifies the object only while the object
/// exists, because a host can use the id of a removed machine again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetId {
    Machine(MachineId),
    Datastore(DatastoreId),
    File(DatastoreId, FilePath),
    Host,
}

impl JobTarget {
    /// The id of this target.
    #[must_use]
    pub fn id(&self) -> TargetId {
        match self {
            Self::Machine(machine) => TargetId::Machine(machine.id.clone()),
            Self::Datastore(datastore) => TargetId::Datastore(datastore.clone()),
            Self::File(FileTarget { datastore, datastore_name: _, path }) => {
                TargetId::File(datastore.clone(), path.clone())
            }
            Self::Host => TargetId::Host,
        }
    }

    /// The identity of the target machine. `None` if the target is not a machine.
    #[must_use]
    pub const fn machine(&self) -> Option<&MachineIdentity> {
        match self {
            Self::Machine(machine) => Some(machine),
            Self::Datastore(_) | Self::File(_) | Self::Host => None,
        }
    }

    /// The target file. `None` if the target is not a file.
    #[must_use]
    pub const fn file(&self) -> Option<&FileTarget> {
        match self {
            Self::File(file) => Some(file),
            Self::Machine(_) | Self::Datastore(_) | Self::Host => None,
        }
    }

    /// Whether a machine that was just read from the host is the machine of this target.
    #[must_use]
    pub fn is_machine(&self, observed: &MachineIdentity) -> bool {
        self.machine().is_some_and(|machine| machine.agrees_with(observed))
    }
}

impl TargetId {
    /// The word for the kind of target that the store contains.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Machine(_) => "machine",
            // The texts of the ids tell datastores and their files apart.
            Self::Datastore(_) | Self::File(..) => "datastore",
            Self::Host => "host",
        }
    }

    /// The id of the target machine. `None` if the target is not a machine.
    #[must_use]
    pub const fn machine(&self) -> Option<&MachineId> {
        match self {
            Self::Machine(machine) => Some(machine),
            Self::Datastore(_) | Self::File(..) | Self::Host => None,
        }
    }
}

impl fmt::Display for TargetId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(machine) => machine.fmt(formatter),
            Self::Datastore(datastore) => datastore.fmt(formatter),
            Self::File(datastore, path) => write!(formatter, "[{datastore}] {path}"),
            Self::Host => formatter.write_str("host"),
        }
    }
}

/// The kind of a job in the HTTP API. Callers can filter jobs by their kind.
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
    MachineMedia,
    MachineBoot,
    FileUpload,
    FileDelete,
    FileCreateFolder,
    LeasePrepare,
    LeaseRelease,
}

impl JobKind {
    /// Every kind, for filters of the HTTP API and for the OpenAPI document.
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
        Self::MachineMedia,
        Self::MachineBoot,
        Self::FileUpload,
        Self::FileDelete,
        Self::FileCreateFolder,
        Self::LeasePrepare,
        Self::LeaseRelease,
    ];

    /// The word for this kind in the HTTP API and in the store.
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
            Self::MachineMedia => "machine.media",
            Self::MachineBoot => "machine.boot",
            Self::FileUpload => "file.upload",
            Self::FileDelete => "file.delete",
            Self::FileCreateFolder => "file.create_folder",
            Self::LeasePrepare => "lease.prepare",
            Self::LeaseRelease => "lease.release",
        }
    }

    /// Parses the word of a job kind. `None` if the word names no kind.
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
            Self::SetMedia { .. } => JobKind::MachineMedia,
            Self::SetBoot(_) => JobKind::MachineBoot,
            Self::UploadFile(_) => JobKind::FileUpload,
            Self::DeleteFile => JobKind::FileDelete,
            Self::CreateFolder => JobKind::FileCreateFolder,
            Self::Prepare { .. } => JobKind::LeasePrepare,
            Self::Release { .. } => JobKind::LeaseRelease,
        }
    }
}

impl JobKind {
    /// Whether a job of this kind runs although its machine has a pending question or a running
    /// task. Jobs of such kinds end exactly what other jobs wait for.
    #[must_use]
    pub const fn ignores_blockers(self) -> bool {
        matches!(self, Self::MachineKill | Self::MachineAnswer)
    }
}

/// The state of a job. The text at the top of this file defines each state. No state is ever added,
/// because callers may rely on the complete list.
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
    /// Every state, for filters of the HTTP API and for the OpenAPI document.
    pub const ALL: &'static [Self] = &[
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Unknown,
    ];

    /// The word for this state in the HTTP API and in the store.
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

    /// Parses the word of a job state. `None` if the word names no state.
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

/// One tracked operation. The store keeps every field of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: JobId,
    pub state: JobState,
    pub target: JobTarget,
    /// The name that the target had when the job was accepted.
    pub target_name: String,
    pub request: JobRequest,
    /// What the job is doing now, in a few words for people.
    pub phase: String,
    pub steps: Vec<JobStep>,
    pub cancel_requested_at: Option<Timestamp>,
    /// The first caller that requested the cancellation of the job. `None` if no caller requested
    /// it, and in jobs that an earlier version of otter stored.
    pub cancel_requested_by: Option<Actor>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub deadline_at: Timestamp,
    /// The name of the caller's token. It is `anonymous` if otter has no tokens.
    pub requested_by: String,
    /// The HTTP request that created the job. It has the default value if otter itself created the
    /// job.
    pub origin: RequestOrigin,
    /// The value of the request header `Otter-Reference`.
    pub reference: Option<String>,
    /// The lease that the caller named in the header `Otter-Lease`, or the lease whose machine the
    /// job prepares or releases.
    pub lease: Option<LeaseId>,
    /// On whose behalf the job changes snapshots, which decides which snapshots it may change.
    pub authority: Authority,
    pub result: Option<JobResult>,
    pub warnings: Vec<String>,
    pub error: Option<Failure>,
    /// The task on the host that the job's current or last call started.
    pub host_task: Option<TaskId>,
    /// The host call whose intent is committed but whose result is not known yet. If the answer of
    /// the host was lost, otter uses the intent to decide what the call did.
    pub intent: Option<Intent>,
    /// The call on a file whose intent is committed but whose result is not known yet. Only jobs on
    /// files have it.
    pub file_intent: Option<FileIntent>,
}

impl Job {
    /// The kind of the job.
    #[must_use]
    pub const fn kind(&self) -> JobKind {
        self.request.kind()
    }

    /// The id of the machine that the job works on. `None` if the job works on no machine.
    #[must_use]
    pub fn machine_id(&self) -> Option<&MachineId> {
        self.target.machine().map(|machine| &machine.id)
    }

    /// Whether the job has called the host or may have called it, because the intent of a call was
    /// committed.
    #[must_use]
    pub fn may_have_called_host(&self) -> bool {
        let may_call =
            |name| matches!(name, StepName::Call(_) | StepName::FileCall(_) | StepName::Transfer);
        self.steps.iter().any(|step| may_call(step.name))
    }

    /// Whether a step has a text that was on the screen of the machine, or came from its serial
    /// port.
    #[must_use]
    pub fn has_seen_screen(&self) -> bool {
        self.steps.iter().any(|step| step.seen.is_some())
    }

    /// Adds the job's machine to a failure. The failure stays unchanged if the job works on no
    /// machine.
    #[must_use]
    pub fn add_machine_to(&self, failure: Failure) -> Failure {
        match self.machine_id() {
            Some(machine) => failure.with_machine(machine, &self.target_name),
            None => failure,
        }
    }

    /// The caller that created the job, with the origin of the request.
    #[must_use]
    pub fn requester(&self) -> Actor {
        Actor { name: self.requested_by.clone(), origin: self.origin }
    }

    /// Records a caller's request to cancel the job. A later request changes nothing.
    pub fn request_cancel(&mut self, by: Actor, now: Timestamp) {
        if self.cancel_requested_at.is_none() {
            self.cancel_requested_at = Some(now);
            self.cancel_requested_by = Some(by);
        }
    }
}

/// One step of a job: a host call or a wait, with its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStep {
    pub name: StepName,
    pub state: JobStepState,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub detail: Option<String>,
    /// The last text on the screen or from the serial port, if the step waits for one. Only
    /// callers see it that may see the screen during the job.
    pub seen: Option<String>,
}

/// What a step of a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepName {
    /// The step makes a host call.
    Call(CallKind),
    /// The step makes a call on a file. `replace` of a moved part is always false here.
    FileCall(FileCall),
    /// The step sends the body of an upload to the host.
    Transfer,
    /// The step waits until the machine is ready.
    Wait(ReadinessKind),
    /// The step waits for a fixed time.
    Settle,
}

impl StepName {
    /// All names of steps that are not host calls.
    const WAITS: &'static [Self] = &[
        Self::Wait(ReadinessKind::On),
        Self::Wait(ReadinessKind::Address),
        Self::Wait(ReadinessKind::Tools),
        Self::Wait(ReadinessKind::Screen),
        Self::Wait(ReadinessKind::Serial),
        Self::Settle,
    ];

    /// All names of steps.
    pub fn all() -> impl Iterator<Item = Self> {
        let calls = CallKind::ALL.iter().copied().map(Self::Call);
        let on_files = FileCall::ALL.iter().copied().map(Self::FileCall);
        calls.chain(on_files).chain([Self::Transfer]).chain(Self::WAITS.iter().copied())
    }

    /// The word for this step in the HTTP API and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Call(call) => call.as_str(),
            Self::FileCall(call) => call.as_str(),
            Self::Transfer => "transfer",
            Self::Wait(ReadinessKind::On) => "wait_power",
            Self::Wait(ReadinessKind::Address) => "wait_ip",
            Self::Wait(ReadinessKind::Tools) => "wait_tools",
            Self::Wait(ReadinessKind::Screen) => "wait_screen",
            Self::Wait(ReadinessKind::Serial) => "wait_serial",
            Self::Settle => "settle",
        }
    }

    /// Parses the word of a step. `None` if the word names no step.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::all().find(|name| name.as_str() == word)
    }
}

/// The state of a step of a job.
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

    /// The word for this state of a step in the HTTP API and in the store.
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

    /// Parses the word of a step's state. `None` if the word names no state.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == word)
    }
}

/// The result of a job that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobResult {
    /// Whether the job changed the machine. False if the machine was in the requested state
    /// already.
    pub changed: bool,
    pub snapshot: Option<SnapshotId>,
    pub power_state: Option<PowerState>,
    /// The address that the machine had when the job ended, as the HTTP API showed it.
    pub ip_address: Option<String>,
    /// Only jobs on files have it.
    pub file: Option<FileResult>,
}

/// A host call that otter commits to the store before it makes the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    pub call: HostCall,
    /// The state of the machine just before the call.
    pub before: Evidence,
    /// How often otter has sent the call or may have sent it. The number is at least 1.
    pub asked: u32,
}
