//! How the suite controls a host: it has known machines, its contents can be read without the
//! backend, and it can be changed as other clients, the network and its administrator change it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use otter::domain::datastore::Datastore;
use otter::domain::ids::{DatastoreId, MachineId, SnapshotId, TaskId};
use otter::domain::machine::Machine;
use otter::hypervisor::{HostErrorKind, Hypervisor};
use secrecy::SecretString;

/// Creates hosts, each with a backend that does not run yet.
#[async_trait]
pub trait HostFactory: Send + Sync {
    /// Creates a fresh host, for one case only.
    async fn create(&self, pacing: TaskPacing) -> anyhow::Result<TestHost>;
}

/// A backend and its host.
pub struct TestHost {
    pub backend: Arc<dyn Hypervisor>,
    pub control: Box<dyn HostControl>,
}

/// When the tasks of a host progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskPacing {
    /// Tasks and guests progress by themselves, and quickly.
    Automatic,
    /// Tasks and guests progress only by [`HostControl::step_tasks`],
    /// [`HostControl::finish_tasks`] and [`HostControl::step_guests`]. Needs
    /// [`Ability::StepTasks`].
    Stepped,
}

/// A property of a host, or an event on it, that not every host supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// Machines can be added.
    AddMachines,
    /// Machines can be removed.
    RemoveMachines,
    /// Tasks wait for the control ([`TaskPacing::Stepped`]).
    StepTasks,
    /// Running tasks can be cancelled, except those of
    /// [`HostCall::PowerOff`](otter::domain::call::HostCall::PowerOff).
    CancelTasks,
    /// A running task can fail.
    FailTasks,
    /// The host can forget its tasks.
    ForgetTasks,
    /// The recent tasks of a machine can be read.
    RecentTasks,
    /// A machine can ask a question.
    Questions,
    /// The tools run in [`TestMachines::with_tools`] and report an address. The other machines have
    /// no tools.
    Tools,
    /// Guests can be rebooted.
    GuestReboot,
    /// Snapshots can be renamed.
    RenameSnapshots,
    /// Removals of snapshots can leave disks behind, and disks can be consolidated.
    Consolidation,
    /// A revert restores the power state that the snapshot recorded.
    RecordedPowerStates,
    /// The host can end its sessions.
    ExpireSessions,
    /// The host can become unreachable and reachable again.
    Disconnect,
    /// The host can refuse logins.
    RefuseLogins,
    /// A connection can break before or after a call runs.
    CutConnection,
    /// The host can refuse a call with a given fault.
    RefuseCalls,
    /// The host can be rebooted.
    RebootHost,
    /// Each call checks the power state of the machine.
    PowerChecks,
    /// Machines that are on have screens.
    Screens,
    /// The host reports changes of a datastore's machines and free space.
    DatastoreUpdates,
}

/// When the connection of a call breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionCut {
    BeforeItRuns,
    /// The call runs, but its answer is lost.
    AfterItRan,
}

/// The machines of a host by their state at the start. None of them has a running task.
#[derive(Clone, Debug)]
pub struct TestMachines {
    /// On.
    pub running: MachineId,
    /// Off.
    pub stopped: MachineId,
    /// Off, with a chain of at least three snapshots, of which the last is the current one.
    pub with_snapshots: MachineId,
    /// On. If the host has [`Ability::Tools`], the tools run and report an address.
    pub with_tools: MachineId,
    /// Never removed; cases may change it.
    pub permanent: MachineId,
}

/// All machines and datastores of a host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostContents {
    pub machines: BTreeMap<MachineId, Machine>,
    pub datastores: BTreeMap<DatastoreId, Datastore>,
}

/// Controls one host. Each change is complete on the host when the method returns; the backend may
/// not know it yet. A host need not implement methods for abilities that it does not
/// [support](Self::unsupported).
#[async_trait]
pub trait HostControl: Send + Sync {
    fn machines(&self) -> TestMachines;

    /// Why the host does not have this ability. `None` if it has it.
    fn unsupported(&self, ability: Ability) -> Option<&'static str>;

    /// The contents of the host now, read without the backend under test.
    async fn contents(&self) -> anyhow::Result<HostContents>;

    /// Another client powers a machine on or off.
    async fn set_power(&self, machine: &MachineId, on: bool) -> anyhow::Result<()>;

    /// Another client renames a machine.
    async fn rename_machine(&self, machine: &MachineId, name: &str) -> anyhow::Result<()>;

    /// Another client creates a snapshot without memory, as a child of the current one.
    async fn create_snapshot(&self, machine: &MachineId, name: &str) -> anyhow::Result<SnapshotId>;

    /// Another client removes all snapshots of a machine.
    async fn remove_snapshots(&self, machine: &MachineId) -> anyhow::Result<()>;

    /// [`Ability::AddMachines`]: another client creates a machine, which is off.
    async fn add_machine(&self, _name: &str) -> anyhow::Result<MachineId> {
        not_implemented()
    }

    /// [`Ability::RemoveMachines`]: another client deletes a machine that is off.
    async fn remove_machine(&self, _machine: &MachineId) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::StepTasks`]: another client powers on a machine that is off. The task waits for
    /// the control.
    async fn start_power_on(&self, _machine: &MachineId) -> anyhow::Result<TaskId> {
        not_implemented()
    }

    /// [`Ability::StepTasks`]: every running task makes some progress.
    async fn step_tasks(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::StepTasks`]: every running task ends, except those that wait for an answer.
    async fn finish_tasks(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::StepTasks`]: every guest makes its next step, such as the start of its tools.
    async fn step_guests(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::FailTasks`]: the next power-off is accepted, and its task fails with
    /// `InsufficientResources`.
    async fn fail_next_power_off(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::ForgetTasks`]: the host forgets all tasks. Running operations continue.
    async fn forget_tasks(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::Questions`]: the next power-on of the machine asks a question. It continues after
    /// any answer.
    async fn ask_at_power_on(&self, _machine: &MachineId) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::Consolidation`]: a machine needs a consolidation of its disks.
    async fn leave_disks(&self, _machine: &MachineId) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::ExpireSessions`]: all sessions end. Tasks continue.
    async fn expire_sessions(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::Disconnect`]: the host becomes unreachable, and all connections break.
    async fn disconnect(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::Disconnect`]: the host becomes reachable again.
    async fn reconnect(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::RefuseLogins`]: sets whether the host refuses logins.
    async fn refuse_logins(&self, _refuse: bool) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::RefuseLogins`]: the number of login attempts.
    fn login_attempts(&self) -> u64 {
        0
    }

    /// The password of the account.
    fn password(&self) -> SecretString {
        SecretString::default()
    }

    /// [`Ability::CutConnection`]: the connection of the next call that creates a snapshot breaks.
    /// The suite makes no other call until then.
    async fn cut_next_snapshot(&self, _cut: ConnectionCut) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::RefuseCalls`]: the host refuses the next call that creates a snapshot, with a
    /// fault of this kind.
    async fn refuse_next_snapshot(&self, _kind: HostErrorKind) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::RebootHost`]: the host reboots with all its machines, and is up again.
    async fn reboot_host(&self) -> anyhow::Result<()> {
        not_implemented()
    }
}

fn not_implemented<T>() -> anyhow::Result<T> {
    anyhow::bail!("the control does not implement an ability that it claims to support")
}
