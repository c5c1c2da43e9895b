//! A call to the host that changes a machine, and what is known about the machine around it.

use super::ids::{QuestionId, SnapshotId, TaskId};
use super::machine::MachineIdentity;
use super::power::PowerState;

/// One changing call. A job makes one, or several one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostCall {
    /// `PowerOnVM_Task`
    PowerOn,
    /// `PowerOffVM_Task`: hard, like pulling the plug.
    PowerOff,
    /// `ResetVM_Task`
    Reset,
    /// `SuspendVM_Task`
    Suspend,
    /// `ShutdownGuest`: asks the guest; no task, the end is seen in the power state.
    ShutdownGuest,
    /// `RebootGuest`: asks the guest; no task, the end is seen in the guest tools that go and come
    /// back.
    RebootGuest,
    /// `AnswerVM`; no task. The choice is the key of one.
    Answer { question: QuestionId, choice: String },
    /// `CreateSnapshot_Task`, of what is current.
    CreateSnapshot { name: String, description: String, memory: bool, quiesce: bool },
    /// `RevertToSnapshot_Task`; with `suppress_power_on` the machine is never on afterwards.
    RevertToSnapshot { snapshot: SnapshotId, suppress_power_on: bool },
    /// `RemoveSnapshot_Task`; without its children they move up.
    RemoveSnapshot { snapshot: SnapshotId, children: bool },
    /// `RemoveAllSnapshots_Task`
    RemoveAllSnapshots,
    /// `RenameSnapshot`; no task. What is `None` stays as it is.
    RenameSnapshot { snapshot: SnapshotId, name: Option<String>, description: Option<String> },
}

/// Which method a call or a task is of, without its parameters.
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
    RenameSnapshot,
}

impl HostCall {
    /// Its method.
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
            Self::RenameSnapshot { .. } => CallKind::RenameSnapshot,
        }
    }
}

impl CallKind {
    /// Every kind.
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
        Self::RenameSnapshot,
    ];

    /// Whether the guest does it by itself after the call: its end is seen in the machine alone.
    #[must_use]
    pub const fn is_guest_operation(self) -> bool {
        matches!(self, Self::ShutdownGuest | Self::RebootGuest)
    }

    /// The name of the step that a job shows for it.
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
            Self::RenameSnapshot => "rename_snapshot",
        }
    }

    /// Reads the name back; `None` for any other.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }
}

/// What the host itself said of a machine, read from it directly and at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub identity: MachineIdentity,
    pub power_state: Option<PowerState>,
    pub current_snapshot: Option<SnapshotId>,
    /// All that the machine has, parents before their children.
    pub snapshots: Vec<SnapshotEvidence>,
    /// Whether the guest's tools run.
    pub tools_running: bool,
    pub question: Option<QuestionId>,
    /// When the host itself started, in its own words: compared for equality and never with our
    /// clock.
    pub host_boot_time: Option<String>,
    /// The machine's `recentTask` list: running and lately ended tasks.
    pub recent_tasks: Vec<RecentTask>,
}

/// A snapshot as found on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEvidence {
    pub id: SnapshotId,
    pub parent: Option<SnapshotId>,
    /// Unescaped. Empty in what was recorded before a call, as is the description: there the ids
    /// count.
    pub name: String,
    pub description: String,
}

impl SnapshotEvidence {
    /// Whether it has this name and this description; what is not given is as it may be.
    #[must_use]
    pub fn has_name_and_description(&self, name: Option<&str>, description: Option<&str>) -> bool {
        name.is_none_or(|name| name == self.name)
            && description.is_none_or(|description| description == self.description)
    }
}

/// One task of a machine as found on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentTask {
    pub id: TaskId,
    /// `None` where its description is not that of a call which otter makes.
    pub call: Option<CallKind>,
    /// Whether the host says that our own account started it.
    pub by_us: bool,
    pub running: bool,
}

impl Evidence {
    /// Whether any task works on the machine now.
    #[must_use]
    pub fn has_running_task(&self) -> bool {
        self.recent_tasks.iter().any(|task| task.running)
    }

    /// The snapshot of this id.
    #[must_use]
    pub fn snapshot(&self, id: &SnapshotId) -> Option<&SnapshotEvidence> {
        self.snapshots.iter().find(|snapshot| snapshot.id == *id)
    }

    /// Every snapshot below `id`, not itself.
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

    /// What of it is worth recording before a call: names and descriptions can be long and prove
    /// nothing.
    #[must_use]
    pub fn without_texts(mut self) -> Self {
        for snapshot in &mut self.snapshots {
            snapshot.name = String::new();
            snapshot.description = String::new();
        }
        self
    }
}
