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
pub trait Bench: Send + Sync {
    /// A fresh host that nobody else uses.
    async fn set(&self, pace: Pace) -> anyhow::Result<Set>;
}

/// A backend and the host that it is to follow.
pub struct Set {
    pub backend: Arc<dyn Hypervisor>,
    pub stage: Box<dyn Stage>,
}

/// How the tasks of a host go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// By themselves, and soon, as do guests.
    Brisk,
    /// Only by [`Stage::step_tasks`], [`Stage::finish_tasks`] and [`Stage::step_guests`]; for hosts
    /// that do not lack [`Ability::Hold`].
    Held,
}

/// What not every host can be made to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// Machines come.
    Arrivals,
    /// Machines go.
    Removals,
    /// Tasks wait for the stage ([`Pace::Held`]).
    Hold,
    /// Running tasks can be cancelled; of
    /// [`HostCall::PowerOff`](otter::domain::call::HostCall::PowerOff) they cannot.
    Cancel,
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
    Rename,
    /// A revert leaves the machine on, off or asleep as the snapshot recorded it.
    RecordedPower,
    /// The session is dropped by the host.
    LoseSession,
    /// The host is away, and comes back.
    GoAway,
    /// The account is refused.
    RefuseLogins,
    /// A connection breaks around a call.
    Cut,
    /// A call is refused with a named fault.
    RefuseCalls,
    /// The host itself restarts.
    Reboot,
    /// Each call checks the power state that it needs.
    PowerChecks,
    /// It is told when a datastore has other machines or less space.
    DatastoreNews,
}

/// Where a call is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    BeforeItRuns,
    /// It runs, and nobody is told.
    AfterItRan,
}

/// Machines by the part that they play. None of them is busy at first.
#[derive(Clone, Debug)]
pub struct Cast {
    /// On.
    pub running: MachineId,
    /// Off.
    pub stopped: MachineId,
    /// Has at least three snapshots, each below the one before; the last is the current one. It is
    /// off.
    pub reverted: MachineId,
    /// On, with running tools that tell an address, where the host has [`Ability::Tools`].
    pub with_tools: MachineId,
    /// Never removed, whatever happens; it can be changed.
    pub steady: MachineId,
}

/// All that there is on the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Truth {
    pub machines: BTreeMap<MachineId, Machine>,
    pub datastores: BTreeMap<DatastoreId, Datastore>,
}

/// The hand on one host. What it does is done on the host when it returns; whether the backend
/// knows is the question. A host need not have what it [lacks](Self::lacks).
#[async_trait]
pub trait Stage: Send + Sync {
    fn cast(&self) -> Cast;

    /// Why this cannot be had here; `None` where it can.
    fn lacks(&self, ability: Ability) -> Option<&'static str>;

    /// What there is now, found out by another way than the backend under trial.
    async fn truth(&self) -> anyhow::Result<Truth>;

    /// Somebody else turns a machine on or off.
    async fn power(&self, machine: &MachineId, on: bool) -> anyhow::Result<()>;

    /// Somebody else gives a machine another name.
    async fn rename(&self, machine: &MachineId, name: &str) -> anyhow::Result<()>;

    /// Somebody else takes a snapshot below the current one, without memory.
    async fn take_snapshot(&self, machine: &MachineId, name: &str) -> anyhow::Result<SnapshotId>;

    /// Somebody else removes all snapshots of a machine.
    async fn remove_snapshots(&self, machine: &MachineId) -> anyhow::Result<()>;

    /// [`Ability::Arrivals`]: somebody makes a machine, off.
    async fn add_machine(&self, _name: &str) -> anyhow::Result<MachineId> {
        lacking()
    }

    /// [`Ability::Removals`]: somebody deletes a machine that is off.
    async fn remove_machine(&self, _machine: &MachineId) -> anyhow::Result<()> {
        lacking()
    }

    /// [`Ability::Hold`]: somebody else turns on a machine that is off; the task is held.
    async fn start_task(&self, _machine: &MachineId) -> anyhow::Result<TaskId> {
        lacking()
    }

    /// [`Ability::Hold`]: every held task goes on a bit.
    async fn step_tasks(&self) -> anyhow::Result<()> {
        lacking()
    }

    /// [`Ability::Hold`]: every held task runs to its end, but where it waits for an answer.
    async fn finish_tasks(&self) -> anyhow::Result<()> {
        lacking()
    }

    /// [`Ability::Hold`]: every guest does what it would do next.
    async fn step_guests(&self) -> anyhow::Result<()> {
        lacking()
    }

    /// [`Ability::FailTasks`]: the next power-off is accepted, and fails for want of resources.
    async fn fail_next_power_off(&self) -> anyhow::Result<()> {
        lacking()
    }

    /// [`Ability::ForgetTasks`]: nobody knows any task any more; what runs goes on.
    async fn forget_tasks(&self) -> anyhow::Result<()> {
        lacking()
    }

    /// [`Ability::Questions`]: the next power-on of the machine waits for an answer; every choice
    /// lets it go on.
    async fn ask_at_power_on(&self, _machine: &MachineId) -> anyhow::Result<()> {
        lacking()
    }

    /// [`Ability::LoseSession`]: the sessions of everybody end, tasks go on.
    async fn lose_session(&self) -> anyhow::Result<()> {
        lacking()
    }

    /// [`Ability::GoAway`]: nothing reaches the host from now on, and what was connected is cut.
    async fn go_away(&self) -> anyhow::Result<()> {
        lacking()
    }

    /// [`Ability::GoAway`]: it can be reached again.
    async fn come_back(&self) -> anyhow::Result<()> {
        lacking()
    }

    /// [`Ability::RefuseLogins`]: whether the account is refused from now on.
    async fn refuse_logins(&self, _refuse: bool) -> anyhow::Result<()> {
        lacking()
    }

    /// [`Ability::RefuseLogins`]: how often somebody tried to log in.
    fn login_attempts(&self) -> u64 {
        0
    }

    /// The password of the account.
    fn password(&self) -> SecretString {
        SecretString::default()
    }

    /// [`Ability::Cut`]: the next call that takes a snapshot is cut. The suite makes no other call
    /// until then.
    async fn cut_next_snapshot(&self, _cut: Cut) -> anyhow::Result<()> {
        lacking()
    }

    /// [`Ability::RefuseCalls`]: the next call that takes a snapshot is refused, for this kind of
    /// reason.
    async fn refuse_next_snapshot(&self, _kind: HostErrorKind) -> anyhow::Result<()> {
        lacking()
    }

    /// [`Ability::Reboot`]: the host restarts, with all its machines, and is back.
    async fn reboot(&self) -> anyhow::Result<()> {
        lacking()
    }
}

fn lacking<T>() -> anyhow::Result<T> {
    anyhow::bail!("the stage lacks this without saying so")
}
