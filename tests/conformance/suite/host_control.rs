//! What a host offers to the suite: machines of known parts, the truth about it, and a hand by
//! which things happen on it from outside, as colleagues, cables and its own administrator do.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use otter::domain::datastore::Datastore;
use otter::domain::ids::{DatastoreId, MachineId, SnapshotId, TaskId};
use otter::domain::machine::Machine;
use otter::hypervisor::{HostErrorKind, Hypervisor};
use secrecy::SecretString;

/// Makes hosts, each with a backend that is not running yet.
#[async_trait]
pub trait HostFactory: Send + Sync {
    /// A fresh host that nobody else uses.
    async fn create(&self, pacing: TaskPacing) -> anyhow::Result<TestHost>;
}

/// A backend and the host that it is to follow.
pub struct TestHost {
    pub backend: Arc<dyn Hypervisor>,
    pub control: Box<dyn HostControl>,
}

/// How the tasks of a host go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskPacing {
    /// By themselves, and soon, as do guests.
    Automatic,
    /// Only by [`HostControl::step_tasks`], [`HostControl::finish_tasks`] and [`HostControl::step_guests`]; for hosts
    /// that do not lack [`Ability::StepTasks`].
    Stepped,
}

/// What not every host can be made to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// Machines come.
    AddMachines,
    /// Machines go.
    RemoveMachines,
    /// Tasks wait for the stage ([`TaskPacing::Stepped`]).
    StepTasks,
    /// Running tasks can be cancelled; of
    /// [`HostCall::PowerOff`](otter::domain::call::HostCall::PowerOff) they cannot.
    CancelTasks,
    /// A task fails in its course.
    FailTasks,
    /// The host forgets its tasks.
    ForgetTasks,
    /// A machine's recent tasks can be read.
    RecentTasks,
    /// A machine asks a question.
    Questions,
    /// The guest's tools run where the cast says so, and are missing elsewhere; they tell an
    /// address.
    Tools,
    /// Guests restart when asked.
    GuestReboot,
    /// Snapshots can be renamed.
    RenameSnapshots,
    /// A revert leaves the machine on, off or asleep as the snapshot recorded it.
    RecordedPowerStates,
    /// The session is dropped by the host.
    ExpireSessions,
    /// The host is away, and comes back.
    Disconnect,
    /// The account is refused.
    RefuseLogins,
    /// A connection breaks around a call.
    CutConnection,
    /// A call is refused with a named fault.
    RefuseCalls,
    /// The host itself restarts.
    RebootHost,
    /// Each call checks the power state that it needs.
    PowerChecks,
    /// It is told when a datastore has other machines or less space.
    DatastoreUpdates,
}

/// Where a call is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionCut {
    BeforeItRuns,
    /// It runs, and nobody is told.
    AfterItRan,
}

/// Machines by the part that they play. None of them is busy at first.
#[derive(Clone, Debug)]
pub struct TestMachines {
    /// On.
    pub running: MachineId,
    /// Off.
    pub stopped: MachineId,
    /// Has at least three snapshots, each below the one before; the last is the current one. It is
    /// off.
    pub with_snapshots: MachineId,
    /// On, with running tools that tell an address, where the host has [`Ability::Tools`].
    pub with_tools: MachineId,
    /// Never removed, whatever happens; it can be changed.
    pub permanent: MachineId,
}

/// All that there is on the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostContents {
    pub machines: BTreeMap<MachineId, Machine>,
    pub datastores: BTreeMap<DatastoreId, Datastore>,
}

/// The hand on one host. What it does is done on the host when it returns; whether the backend
/// knows is the question. A host need not have what it [lacks](Self::lacks).
#[async_trait]
pub trait HostControl: Send + Sync {
    fn machines(&self) -> TestMachines;

    /// Why this cannot be had here; `None` where it can.
    fn unsupported(&self, ability: Ability) -> Option<&'static str>;

    /// What there is now, found out by another way than the backend under trial.
    async fn contents(&self) -> anyhow::Result<HostContents>;

    /// Somebody else turns a machine on or off.
    async fn set_power(&self, machine: &MachineId, on: bool) -> anyhow::Result<()>;

    /// Somebody else gives a machine another name.
    async fn rename_machine(&self, machine: &MachineId, name: &str) -> anyhow::Result<()>;

    /// Somebody else takes a snapshot below the current one, without memory.
    async fn create_snapshot(&self, machine: &MachineId, name: &str) -> anyhow::Result<SnapshotId>;

    /// Somebody else removes all snapshots of a machine.
    async fn remove_snapshots(&self, machine: &MachineId) -> anyhow::Result<()>;

    /// [`Ability::AddMachines`]: somebody makes a machine, off.
    async fn add_machine(&self, _name: &str) -> anyhow::Result<MachineId> {
        not_implemented()
    }

    /// [`Ability::RemoveMachines`]: somebody deletes a machine that is off.
    async fn remove_machine(&self, _machine: &MachineId) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::StepTasks`]: somebody else turns on a machine that is off; the task is held.
    async fn start_power_on(&self, _machine: &MachineId) -> anyhow::Result<TaskId> {
        not_implemented()
    }

    /// [`Ability::StepTasks`]: every held task goes on a bit.
    async fn step_tasks(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::StepTasks`]: every held task runs to its end, but where it waits for an answer.
    async fn finish_tasks(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::StepTasks`]: every guest does what it would do next.
    async fn step_guests(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::FailTasks`]: the next power-off is accepted, and fails for want of resources.
    async fn fail_next_power_off(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::ForgetTasks`]: nobody knows any task any more; what runs goes on.
    async fn forget_tasks(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::Questions`]: the next power-on of the machine waits for an answer; every choice
    /// lets it go on.
    async fn ask_at_power_on(&self, _machine: &MachineId) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::ExpireSessions`]: the sessions of everybody end, tasks go on.
    async fn expire_sessions(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::Disconnect`]: nothing reaches the host from now on, and what was connected is cut.
    async fn disconnect(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::Disconnect`]: it can be reached again.
    async fn reconnect(&self) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::RefuseLogins`]: whether the account is refused from now on.
    async fn refuse_logins(&self, _refuse: bool) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::RefuseLogins`]: how often somebody tried to log in.
    fn login_attempts(&self) -> u64 {
        0
    }

    /// The password of the account.
    fn password(&self) -> SecretString {
        SecretString::default()
    }

    /// [`Ability::CutConnection`]: the next call that takes a snapshot is cut. The suite makes no other call
    /// until then.
    async fn cut_next_snapshot(&self, _cut: ConnectionCut) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::RefuseCalls`]: the next call that takes a snapshot is refused, for this kind of
    /// reason.
    async fn refuse_next_snapshot(&self, _kind: HostErrorKind) -> anyhow::Result<()> {
        not_implemented()
    }

    /// [`Ability::RebootHost`]: the host restarts, with all its machines, and is back.
    async fn reboot_host(&self) -> anyhow::Result<()> {
        not_implemented()
    }
}

fn not_implemented<T>() -> anyhow::Result<T> {
    anyhow::bail!("the stage lacks this without saying so")
}
