//! The control of every host that is made of the simulator's `World`: behind SOAP or in process.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};
use async_trait::async_trait;
use otter::domain::ids::{MachineId, SnapshotId, TaskId};
use otter::domain::{machine, power, snapshot};
use otter::hypervisor::HostErrorKind;
use otter::simulator::world::{Choice, Machine, Operation, PowerState, Question, World};
use otter::simulator::{Fault, Moref, Scenario, Value};
use secrecy::SecretString;

use super::suite::{Ability, ConnectionCut, HostContents, HostControl, TestMachines};

/// Access to the simulated world of a host. Each kind of host implements it in its own way.
#[async_trait]
pub trait WorldAccess: Send + Sync {
    /// Changes the world. It calls `change` once.
    fn change(&self, change: &mut (dyn FnMut(&mut World) + Send));

    /// The contents of the host now, read without the backend under test.
    async fn contents(&self) -> Result<HostContents>;

    fn drop_sessions(&self);

    fn set_reachable(&self, reachable: bool);

    fn refuse_logins(&self, refuse: bool);

    fn login_attempts(&self) -> u64;

    fn cut_next_snapshot(&self, cut: ConnectionCut);

    fn refuse_next_snapshot(&self, fault: Fault);

    fn reboot_host(&self);
}

/// Five machines: on, off, on with tools, with a chain of snapshots, and a permanent one.
pub fn scenario() -> Scenario {
    let mut scenario = Scenario::generated(5);
    let with_snapshots = &mut scenario.machines[3];
    let (above, at) = (with_snapshots.current_snapshot.clone(), with_snapshots.created_at);
    with_snapshots.current_snapshot =
        Some(with_snapshots.add_snapshot(above.as_deref(), "last", PowerState::Off, at));
    for index in [0, 2] {
        scenario.machines[index].power = PowerState::On;
    }
    scenario
}

pub struct WorldControl<H> {
    access: H,
    /// The number of added machines. Each gets a new moid.
    added: AtomicU32,
}

impl<H: WorldAccess> WorldControl<H> {
    pub const fn new(access: H) -> Self {
        Self { access, added: AtomicU32::new(0) }
    }

    fn mutate<T: Send>(&self, change: impl FnOnce(&mut World) -> T + Send) -> T {
        let (mut change, mut result) = (Some(change), None);
        self.access.change(&mut |world| result = change.take().map(|change| change(world)));
        result.expect("`WorldAccess::change` calls its argument once")
    }

    fn try_mutate<T: Send>(
        &self,
        change: impl FnOnce(&mut World) -> Result<T, Fault> + Send,
    ) -> Result<T> {
        self.mutate(change).map_err(|fault| anyhow!("{fault:?}"))
    }

    /// Runs an operation of another client to its end, and returns the result of its task.
    fn run_as_other_client(
        &self,
        machine: &MachineId,
        operation: Operation,
    ) -> Result<Option<Value>> {
        self.try_mutate(|world| {
            let task = world.start_task(machine.backend_text(), operation, "other-client")?;
            world.finish_task(&task.id);
            let task = world.task(&task.id);
            task.map_or(Ok(None), |task| task.error.clone().map_or(Ok(task.result.clone()), Err))
        })
    }

    fn change_machine(
        &self,
        machine: &MachineId,
        change: impl FnOnce(&mut Machine) + Send,
    ) -> Result<()> {
        self.mutate(|world| world.machine_mut(machine.backend_text()).map(change))
            .context("no such machine")
    }

    fn running_tasks(&self, each: fn(&mut World, &str)) {
        self.mutate(|world| world.running_tasks().iter().for_each(|task| each(world, task)));
    }
}

#[async_trait]
impl<H: WorldAccess> HostControl for WorldControl<H> {
    fn machines(&self) -> TestMachines {
        let [running, stopped, with_tools, with_snapshots, permanent] =
            ["1", "2", "3", "4", "5"].map(MachineId::from_backend);
        TestMachines { running, stopped, with_snapshots, with_tools, permanent }
    }

    fn unsupported(&self, _: Ability) -> Option<&'static str> {
        None
    }

    /// Compares the contents with the simulated world, if the world did not change meanwhile.
    async fn contents(&self) -> Result<HostContents> {
        for _ in 0..100 {
            let before = self.mutate(|world| world.revision());
            let contents = self.access.contents().await?;
            let is_right = self.mutate(|world| {
                let changed = world.changed_since(before).context("too much changed")?;
                let moved = changed
                    .iter()
                    .any(|object| matches!(object.kind, "VirtualMachine" | "Datastore"));
                if moved { Ok(false) } else { check(&contents, world).map(|()| true) }
            })?;
            if is_right {
                return Ok(contents);
            }
        }
        bail!("the host changes all the time")
    }

    async fn set_power(&self, machine: &MachineId, on: bool) -> Result<()> {
        self.run_as_other_client(machine, if on { Operation::PowerOn } else { Operation::PowerOff })
            .map(drop)
    }

    async fn rename_machine(&self, machine: &MachineId, name: &str) -> Result<()> {
        self.change_machine(machine, |machine| name.clone_into(&mut machine.name))
    }

    async fn create_snapshot(&self, machine: &MachineId, name: &str) -> Result<SnapshotId> {
        let operation = Operation::CreateSnapshot {
            name: name.to_owned(),
            description: String::new(),
            memory: false,
            quiesce: false,
        };
        match self.run_as_other_client(machine, operation)? {
            Some(Value::Reference(moref)) => Ok(SnapshotId::from_backend(moref.id)),
            other => bail!("the creation of a snapshot returned {other:?}"),
        }
    }

    async fn remove_snapshots(&self, machine: &MachineId) -> Result<()> {
        self.run_as_other_client(machine, Operation::RemoveAllSnapshots).map(drop)
    }

    async fn add_machine(&self, name: &str) -> Result<MachineId> {
        self.mutate(|world| {
            let datastore = world.datastores().next().context("no datastore")?;
            let id = 100 + self.added.fetch_add(1, Ordering::Relaxed);
            let machine = Machine::bare(&id.to_string(), name, datastore);
            let id = MachineId::from_backend(&machine.id);
            world.add_machine(machine);
            Ok(id)
        })
    }

    async fn remove_machine(&self, machine: &MachineId) -> Result<()> {
        self.mutate(|world| world.remove_machine(machine.backend_text()))
            .context("no such machine")
            .map(drop)
    }

    async fn start_power_on(&self, machine: &MachineId) -> Result<TaskId> {
        let task = self.try_mutate(|world| {
            world.start_task(machine.backend_text(), Operation::PowerOn, "other-client")
        })?;
        Ok(TaskId::from_backend(task.id))
    }

    async fn step_tasks(&self) -> Result<()> {
        self.running_tasks(World::step_task);
        Ok(())
    }

    async fn finish_tasks(&self) -> Result<()> {
        self.running_tasks(World::finish_task);
        Ok(())
    }

    async fn step_guests(&self) -> Result<()> {
        self.mutate(World::step_guests);
        Ok(())
    }

    async fn fail_next_power_off(&self) -> Result<()> {
        let fault = Fault::new("InsufficientResourcesFault", "The host has not enough memory.");
        self.mutate(|world| world.fail_next_task("PowerOffVM_Task", fault));
        Ok(())
    }

    async fn forget_tasks(&self) -> Result<()> {
        self.mutate(|world| world.forget_tasks(true));
        Ok(())
    }

    async fn ask_at_power_on(&self, machine: &MachineId) -> Result<()> {
        let choice = |key: &str, label: &str| Choice {
            key: key.to_owned(),
            label: format!("button.uuid.{label}"),
            summary: label.to_owned(),
            fails_with: None,
        };
        let question = Question {
            id: "12".to_owned(),
            message_id: "msg.uuid.altered".to_owned(),
            text: "Was the machine moved or copied?".to_owned(),
            choices: vec![choice("1", "moved"), choice("2", "copied")],
            default_choice: Some(1),
        };
        self.change_machine(machine, |machine| machine.question_at_power_on = Some(question))
    }

    async fn leave_disks(&self, machine: &MachineId) -> Result<()> {
        self.change_machine(machine, |machine| machine.consolidation_needed = true)
    }

    async fn expire_sessions(&self) -> Result<()> {
        self.access.drop_sessions();
        Ok(())
    }

    async fn disconnect(&self) -> Result<()> {
        self.access.set_reachable(false);
        Ok(())
    }

    async fn reconnect(&self) -> Result<()> {
        self.access.set_reachable(true);
        Ok(())
    }

    async fn refuse_logins(&self, refuse: bool) -> Result<()> {
        self.access.refuse_logins(refuse);
        Ok(())
    }

    fn login_attempts(&self) -> u64 {
        self.access.login_attempts()
    }

    fn password(&self) -> SecretString {
        SecretString::from("otter")
    }

    async fn cut_next_snapshot(&self, cut: ConnectionCut) -> Result<()> {
        self.access.cut_next_snapshot(cut);
        Ok(())
    }

    async fn refuse_next_snapshot(&self, kind: HostErrorKind) -> Result<()> {
        let fault = match kind {
            HostErrorKind::Busy => Fault::task_in_progress("haTask-7"),
            HostErrorKind::InvalidPowerState => Fault::invalid_power_state(None, "poweredOn"),
            HostErrorKind::InsufficientResources => {
                Fault::new("InsufficientResourcesFault", "Not enough.")
            }
            HostErrorKind::Forbidden => Fault::new("NoPermission", "Permission was denied.")
                .with("object", Moref::new("Folder", "ha-folder-vm"))
                .with("privilegeId", "VirtualMachine.State.CreateSnapshot"),
            HostErrorKind::LicenseRestricted => Fault::restricted_version(),
            HostErrorKind::NotSupported => Fault::not_supported(),
            HostErrorKind::NotFound => Fault::not_found(&Moref::new("VirtualMachine", "1")),
            HostErrorKind::Rejected => Fault::new("SnapshotFault", "It cannot be."),
            other => bail!("no fault is known for {other:?}"),
        };
        self.access.refuse_next_snapshot(fault);
        Ok(())
    }

    async fn reboot_host(&self) -> Result<()> {
        self.access.reboot_host();
        Ok(())
    }
}

/// Fails if the contents differ from the simulated world.
fn check(contents: &HostContents, world: &World) -> Result<()> {
    ensure!(
        world.machines().count() == contents.machines.len(),
        "the contents have machines {:?}",
        contents.machines.keys()
    );
    ensure!(world.datastores().count() == contents.datastores.len(), "datastores are missing");
    world.machines().try_for_each(|machine| {
        let observed = contents
            .machines
            .get(&MachineId::from_backend(&machine.id))
            .context("a machine is missing")?;
        ensure!(
            matches_world(observed, machine),
            "the world has {machine:#?}, the contents have {observed:#?}"
        );
        Ok(())
    })
}

/// Whether an observed machine equals the machine of the world, in all properties that cases
/// change.
fn matches_world(observed: &machine::Machine, actual: &Machine) -> bool {
    let power = match actual.power {
        PowerState::On => Some(power::PowerState::On),
        PowerState::Off => Some(power::PowerState::Off),
        PowerState::Suspended => Some(power::PowerState::Suspended),
        PowerState::Other(_) => None,
    };
    let mut snapshots: Vec<_> = actual
        .snapshots
        .iter()
        .map(|snapshot| (snapshot.id.as_str(), snapshot.name.as_str(), snapshot.parent.as_deref()))
        .collect();
    snapshots.sort_unstable();
    let parent = |snapshot: &snapshot::Snapshot| snapshot.parent.clone();
    let parents: Vec<_> = observed.snapshots.items.iter().map(parent).collect();
    let mut observed_snapshots: Vec<_> = (observed.snapshots.items.iter().zip(&parents))
        .map(|(snapshot, parent)| {
            (
                snapshot.id.backend_text(),
                snapshot.name.as_str(),
                parent.as_ref().map(SnapshotId::backend_text),
            )
        })
        .collect();
    observed_snapshots.sort_unstable();
    observed.name == actual.name
        && observed.power_state == power
        && observed.annotation.as_deref().unwrap_or_default() == actual.annotation
        && observed.guest.tools_running == actual.guest.tools_running
        && observed.guest.ip_address == actual.guest.reported_address
        && observed.snapshots.current.as_ref().map(SnapshotId::backend_text)
            == actual.current_snapshot.as_deref()
        && observed_snapshots == snapshots
        && observed.question.as_ref().map(|question| question.id.backend_text())
            == actual.question.as_ref().map(|question| question.id.as_str())
}
