//! A call to the host that changes a machine, and what is known about the machine around it.

use super::ids::{QuestionId, SnapshotId, TaskId};
use super::machine::{MachineIdentity, PowerState};

/// One changing call. A job makes one, or several one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostCall {
    /// `PowerOnVM_Task`
    PowerOn,
    /// `PowerOffVM_Task`: hard, like pulling the plug.
    PowerOff,
    /// `ResetVM_Task`
    Reset,
    /// `RevertToSnapshot_Task`; with `suppress_power_on` the machine is never on afterwards.
    RevertToSnapshot { snapshot: SnapshotId, suppress_power_on: bool },
}

/// Which method a call or a task is of, without its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKind {
    PowerOn,
    PowerOff,
    Reset,
    RevertToSnapshot,
}

impl HostCall {
    /// Its method.
    #[must_use]
    pub const fn kind(&self) -> CallKind {
        match self {
            Self::PowerOn => CallKind::PowerOn,
            Self::PowerOff => CallKind::PowerOff,
            Self::Reset => CallKind::Reset,
            Self::RevertToSnapshot { .. } => CallKind::RevertToSnapshot,
        }
    }
}

impl CallKind {
    /// The name of the step that a job shows for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PowerOn => "power_on",
            Self::PowerOff => "power_off",
            Self::Reset => "reset",
            Self::RevertToSnapshot => "revert",
        }
    }
}

/// What the host itself said of a machine, read from it directly and at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub identity: MachineIdentity,
    pub power_state: Option<PowerState>,
    pub current_snapshot: Option<SnapshotId>,
    /// All that the machine has.
    pub snapshots: Vec<SnapshotId>,
    pub question: Option<QuestionId>,
    /// When the host itself started, in its own words: compared for equality and never with our clock.
    pub host_boot_time: Option<String>,
    /// The machine's `recentTask` list: running and lately ended tasks.
    pub recent_tasks: Vec<RecentTask>,
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
}
