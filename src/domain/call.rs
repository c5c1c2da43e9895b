//! A call to the host that changes a machine, and the evidence about the machine before and after
//! the call.

use super::ids::{QuestionId, SnapshotId, TaskId};
use super::machine::MachineIdentity;
use super::media::{BootMedia, BootOptions, CdDrive};
use super::power::PowerState;

/// One host call that changes a machine. A job makes one such call, or several one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostCall {
    /// Powers the machine on (`PowerOnVM_Task`).
    PowerOn,
    /// `PowerOffVM_Task`. The guest is not shut down first.
    PowerOff,
    /// Resets the machine (`ResetVM_Task`).
    Reset,
    /// Suspends the machine (`SuspendVM_Task`).
    Suspend,
    /// `ShutdownGuest`. The host makes no task for this call: the power state shows when the guest
    /// has shut down.
    ShutdownGuest,
    /// `RebootGuest`. The host makes no task for this call: VMware Tools in the guest stop and
    /// start again.
    RebootGuest,
    /// `AnswerVM`. The host makes no task for this call. `choice` is the key of one of the
    /// question's choices.
    Answer { question: QuestionId, choice: String },
    /// `CreateSnapshot_Task`. The new snapshot becomes a child of the machine's current snapshot.
    CreateSnapshot { name: String, description: String, memory: bool, quiesce: bool },
    /// `RevertToSnapshot_Task`. If `suppress_power_on` is set, the host does not power the machine
    /// on after the revert.
    RevertToSnapshot { snapshot: SnapshotId, suppress_power_on: bool },
    /// `RemoveSnapshot_Task`. If `children` is set, all snapshots below are removed too. Otherwise
    /// the children of the snapshot move up to its parent.
    RemoveSnapshot { snapshot: SnapshotId, children: bool },
    /// Removes all snapshots of the machine (`RemoveAllSnapshots_Task`).
    RemoveAllSnapshots,
    /// Consolidates the disks of the machine (`ConsolidateVMDisks_Task`).
    ConsolidateDisks,
    /// `RenameSnapshot`. The host makes no task for this call. A `None` leaves the name or the
    /// description unchanged.
    RenameSnapshot { snapshot: SnapshotId, name: Option<String>, description: Option<String> },
    /// Makes a CD drive of the machine as `drive` says (`ReconfigVM_Task`).
    SetMedia { drive: CdDrive },
    /// Sets the boot order and the boot delay (`ReconfigVM_Task`).
    SetBoot { boot: BootOptions },
}

/// The method of a host call, without its parameters. It is also known of a task that a call
/// started.
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
    SetMedia,
    SetBoot,
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
            Self::SetMedia { .. } => CallKind::SetMedia,
            Self::SetBoot { .. } => CallKind::SetBoot,
        }
    }
}

impl CallKind {
    /// Every kind of call.
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
        Self::SetMedia,
        Self::SetBoot,
    ];

    /// Whether a task of a call of this kind can be the task of a call of the other kind. A task
    /// does not say what its `ReconfigVM_Task` changed.
    #[must_use]
    pub fn shares_task_with(self, other: Self) -> bool {
        let reconfigures = |kind| matches!(kind, Self::SetMedia | Self::SetBoot);
        self == other || (reconfigures(self) && reconfigures(other))
    }

    /// Whether the guest carries out the operation after the host has answered the call. Only the
    /// state of the machine shows when the guest is done.
    #[must_use]
    pub const fn is_guest_operation(self) -> bool {
        matches!(self, Self::ShutdownGuest | Self::RebootGuest)
    }

    /// The name of the job step that makes this call. The store contains this name.
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
            Self::SetMedia => "set_media",
            Self::SetBoot => "set_boot",
        }
    }

    /// Parses the name of a job step that makes a call. `None` if no call has that name.
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
    /// All snapshots of the machine. Every parent comes before its children.
    pub snapshots: Vec<SnapshotEvidence>,
    pub tools_running: bool,
    pub question: Option<QuestionId>,
    /// Whether the disks of the machine need a consolidation. `None` if the host does not say so,
    /// and in evidence that an earlier version of otter stored.
    pub consolidation_needed: Option<bool>,
    /// The time at which the host booted, as the host writes it. otter only compares it with an
    /// earlier boot time of the host, and never with its own clock.
    pub host_boot_time: Option<String>,
    /// The tasks in the machine's property `recentTask`: running tasks, and tasks that ended
    /// recently.
    pub recent_tasks: Vec<RecentTask>,
    /// The drives and the boot options, as the inventory shows them after a barrier. Empty unless
    /// the job reads or changes them, and in evidence that was recorded before a call.
    pub media: BootMedia,
}

/// A snapshot of a machine as evidence, read directly from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEvidence {
    pub id: SnapshotId,
    pub parent: Option<SnapshotId>,
    /// The unescaped name of the snapshot. In evidence that was recorded before a call, the name
    /// and the description are empty, because only the ids of the snapshots matter there.
    pub name: String,
    pub description: String,
}

impl SnapshotEvidence {
    /// Whether the snapshot has exactly this name and this description. `None` matches every text.
    /// A name with other escapes does not match, because a rename can change just the escapes.
    #[must_use]
    pub fn matches(&self, name: Option<&str>, description: Option<&str>) -> bool {
        name.is_none_or(|name| name == self.name)
            && description.is_none_or(|description| description == self.description)
    }
}

/// A recent task of a machine, read directly from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentTask {
    pub id: TaskId,
    /// The kind of call that started the task. `None` if otter never makes a call with the task's
    /// `descriptionId`.
    pub call: Option<CallKind>,
    /// Whether the account that otter uses started the task.
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

    /// The ids of all snapshots below the snapshot `id`, without `id` itself.
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

    /// The evidence without the names and descriptions of snapshots, and without drives and boot
    /// options. otter records evidence in this form before a call, because the texts can be long
    /// and prove nothing.
    #[must_use]
    pub fn without_texts(mut self) -> Self {
        self.media = BootMedia::default();
        for snapshot in &mut self.snapshots {
            snapshot.name = String::new();
            snapshot.description = String::new();
        }
        self
    }
}
