//! A call to the host that changes a machine, and the evidence about the machine before and after
//! the call.

use super::ids::{QuestionId, SnapshotId, TaskId};
use super::machine::MachineIdentity;
use super::power::PowerState;

/// One call that changes a machine. A job makes one call, or several one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostCall {
    /// `PowerOnVM_Task`
    PowerOn,
    /// `PowerOffVM_Task`. The guest is not shut down first.
    PowerOff,
    /// `ResetVM_Task`
    Reset,
    /// `SuspendVM_Task`
    Suspend,
    /// `ShutdownGuest`. There is no task: the power state shows when the guest has shut down.
    ShutdownGuest,
    /// `RebootGuest`. There is no task: the guest tools stop and start again.
    RebootGuest,
    /// `AnswerVM`. There is no task. `choice` is the key of one of the question's choices.
    Answer { question: QuestionId, choice: String },
    /// `CreateSnapshot_Task`. The new snapshot is a child of the current one.
    CreateSnapshot { name: String, description: String, memory: bool, quiesce: bool },
    /// `RevertToSnapshot_Task`. With `suppress_power_on` the host does not power the machine on.
    RevertToSnapshot { snapshot: SnapshotId, suppress_power_on: bool },
    /// `RemoveSnapshot_Task`. If `children` is false, the children move up to the parent.
    RemoveSnapshot { snapshot: SnapshotId, children: bool },
    /// `RemoveAllSnapshots_Task`
    RemoveAllSnapshots,
    /// `ConsolidateVMDisks_Task`
    ConsolidateDisks,
    /// `RenameSnapshot`. There is no task. `None` leaves the name or the description unchanged.
    RenameSnapshot { snapshot: SnapshotId, name: Option<String>, description: Option<String> },
}

/// The method of a call or of a task, without its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKind {
    PowerOn,
    PowerOff,
    Reset,
    Suspend,
    ShutdownGuest,
    RebootGuest,
    Answer,
    CreateSnapshot,
    RevertToSnapshot,
    RemoveSnapshot,
    RemoveAllSnapshots,
    ConsolidateDisks,
    RenameSnapshot,
}

impl HostCall {
    /// The method of this call.
    #[must_use]
    pub const fn kind(&self) -> CallKind {
        match self {
            Self::PowerOn => CallKind::PowerOn,
            Self::PowerOff => CallKind::PowerOff,
            Self::Reset => CallKind::Reset,
            Self::Suspend => CallKind::Suspend,
            Self::ShutdownGuest => CallKind::ShutdownGuest,
            Self::RebootGuest => CallKind::RebootGuest,
            Self::Answer { .. } => CallKind::Answer,
            Self::CreateSnapshot { .. } => CallKind::CreateSnapshot,
            Self::RevertToSnapshot { .. } => CallKind::RevertToSnapshot,
            Self::RemoveSnapshot { .. } => CallKind::RemoveSnapshot,
            Self::RemoveAllSnapshots => CallKind::RemoveAllSnapshots,
            Self::ConsolidateDisks => CallKind::ConsolidateDisks,
            Self::RenameSnapshot { .. } => CallKind::RenameSnapshot,
        }
    }
}

impl CallKind {
    /// Every method.
    pub const ALL: &'static [Self] = &[
        Self::PowerOn,
        Self::PowerOff,
        Self::Reset,
        Self::Suspend,
        Self::ShutdownGuest,
        Self::RebootGuest,
        Self::Answer,
        Self::CreateSnapshot,
        Self::RevertToSnapshot,
        Self::RemoveSnapshot,
        Self::RemoveAllSnapshots,
        Self::ConsolidateDisks,
        Self::RenameSnapshot,
    ];

    /// Whether the guest executes the operation after the call returned. Only the state of the
    /// machine shows when it is done.
    #[must_use]
    pub const fn is_guest_operation(self) -> bool {
        matches!(self, Self::ShutdownGuest | Self::RebootGuest)
    }

    /// The name of the job step that makes this call. Stored jobs contain it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PowerOn => "power_on",
            Self::PowerOff => "power_off",
            Self::Reset => "reset",
            Self::Suspend => "suspend",
            Self::ShutdownGuest => "shutdown",
            Self::RebootGuest => "reboot",
            Self::Answer => "answer",
            Self::CreateSnapshot => "create_snapshot",
            Self::RevertToSnapshot => "revert",
            Self::RemoveSnapshot => "remove_snapshot",
            Self::RemoveAllSnapshots => "remove_all_snapshots",
            Self::ConsolidateDisks => "consolidate_disks",
            Self::RenameSnapshot => "rename_snapshot",
        }
    }

    /// Parses the name of a step. `None` if no call has that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }
}

/// The state of a machine, read directly from the host at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub identity: MachineIdentity,
    pub power_state: Option<PowerState>,
    pub current_snapshot: Option<SnapshotId>,
    /// All snapshots of the machine, parents before their children.
    pub snapshots: Vec<SnapshotEvidence>,
    pub tools_running: bool,
    pub question: Option<QuestionId>,
    /// Whether the disks of the machine need a consolidation. `None` if the host does not report
    /// it, and in evidence of earlier versions.
    pub consolidation_needed: Option<bool>,
    /// The time at which the host booted, as the host writes it. otter compares it for equality
    /// only, never with its own clock.
    pub host_boot_time: Option<String>,
    /// The machine's `recentTask` list: running tasks, and tasks that ended recently.
    pub recent_tasks: Vec<RecentTask>,
}

/// A snapshot that was read from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEvidence {
    pub id: SnapshotId,
    pub parent: Option<SnapshotId>,
    /// The unescaped name. In evidence that was recorded before a call, the name and the
    /// description are empty, because only the ids matter.
    pub name: String,
    pub description: String,
}

impl SnapshotEvidence {
    /// Whether the snapshot has exactly this name and this description. Other forms of the name do
    /// not match, because a rename can change only the form. `None` matches every text.
    #[must_use]
    pub fn matches(&self, name: Option<&str>, description: Option<&str>) -> bool {
        name.is_none_or(|name| name == self.name)
            && description.is_none_or(|description| description == self.description)
    }
}

/// A task of a machine that was read from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentTask {
    pub id: TaskId,
    /// `None` if otter does not make calls with the task's `descriptionId`.
    pub call: Option<CallKind>,
    /// Whether otter's own account started the task.
    pub by_us: bool,
    pub running: bool,
}

impl Evidence {
    /// Whether a task of the machine is running.
    #[must_use]
    pub fn has_running_task(&self) -> bool {
        self.recent_tasks.iter().any(|task| task.running)
    }

    /// The snapshot with this id. `None` if the machine has no such snapshot.
    #[must_use]
    pub fn snapshot(&self, id: &SnapshotId) -> Option<&SnapshotEvidence> {
        self.snapshots.iter().find(|snapshot| snapshot.id == *id)
    }

    /// Every snapshot below `id`, without `id` itself.
    #[must_use]
    pub fn descendants(&self, id: &SnapshotId) -> Vec<SnapshotId> {
        let mut below: Vec<SnapshotId> = Vec::new();
        for snapshot in &self.snapshots {
            if snapshot.parent.as_ref().is_some_and(|parent| parent == id || below.contains(parent))
            {
                below.push(snapshot.id.clone());
            }
        }
        below
    }

    /// The evidence that is recorded before a call: without names and descriptions of snapshots,
    /// which can be long and prove nothing.
    #[must_use]
    pub fn without_texts(mut self) -> Self {
        for snapshot in &mut self.snapshots {
            snapshot.name = String::new();
            snapshot.description = String::new();
        }
        self
    }
}
