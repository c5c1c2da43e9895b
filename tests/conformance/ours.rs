//! The vim25 backend in front of our simulator, and the hand on that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};
use async_trait::async_trait;
use otter::clock::Clock;
use otter::domain::ids::{MachineId, SnapshotId, TaskId};
use otter::domain::{machine, power};
use otter::esx::EsxHypervisor;
use otter::hypervisor::HostErrorKind;
use otter::simulator::world::{Choice, Machine, Operation, PowerState, Question, World};
use otter::simulator::{
    self, Comeback, Disruption, Fault, Moref, Restart, Scenario, SessionLoss, Simulator, SimulatorOptions,
    Value,
};
use secrecy::SecretString;

use super::newcomer;
use super::suite::{Ability, Bench, Cast, Cut, Pace, Set, Stage, Truth};
use crate::harness::record;

/// How the host is.
#[derive(Clone, Copy, Debug, Default)]
pub struct OurBench {
    loss: SessionLoss,
    page_limit: Option<usize>,
}

impl OurBench {
    /// All but the usual one.
    pub fn moods() -> [Self; 3] {
        [SessionLoss::MissingSet, SessionLoss::EmptyAnswer, SessionLoss::NoCollector]
            .map(|loss| Self { loss, page_limit: Some(2) })
    }
}

#[async_trait]
impl Bench for OurBench {
    async fn set(&self, pace: Pace) -> Result<Set> {
        let mut options = SimulatorOptions::new(scenario(), Clock::system());
        options.on_answer = Some(record);
        options.pace = match pace {
            Pace::Brisk => simulator::Pace::Auto { scale: 0.01 },
            Pace::Held => simulator::Pace::Stepped,
        };
        let simulator = Simulator::start(options).await?;
        simulator.control().set_session_loss(self.loss);
        simulator.control().set_page_limit(self.page_limit);
        let backend = EsxHypervisor::new(&newcomer::options(&simulator.url()), Clock::system())?;
        Ok(Set {
            backend: Arc::new(backend),
            stage: Box::new(OurStage { simulator, added: AtomicU32::new(0) }),
        })
    }
}

/// Five machines: on, off, on with tools, with a chain of snapshots, and one more.
fn scenario() -> Scenario {
    let mut scenario = Scenario::generated(5);
    let reverted = &mut scenario.machines[3];
    let (above, at) = (reverted.current_snapshot.clone(), reverted.created_at);
    reverted.current_snapshot = Some(reverted.add_snapshot(above.as_deref(), "last", PowerState::Off, at));
    for place in [0, 2] {
        scenario.machines[place].power = PowerState::On;
    }
    scenario
}

struct OurStage {
    simulator: Simulator,
    /// How many machines were added: moids are not used again here.
    added: AtomicU32,
}

impl OurStage {
    fn change<T>(&self, change: impl FnOnce(&mut World) -> Result<T, Fault>) -> Result<T> {
        self.simulator.control().mutate(change).map_err(|fault| anyhow!("{fault:?}"))
    }

    /// Somebody else does something, to its end.
    fn by_somebody(&self, machine: &MachineId, operation: Operation) -> Result<Option<Value>> {
        self.change(|world| {
            let task = world.start_task(machine.as_str(), operation, "somebody else")?;
            world.finish_task(&task.id);
            let task = world.task(&task.id);
            task.map_or(Ok(None), |task| task.error.clone().map_or(Ok(task.result.clone()), Err))
        })
    }
}

#[async_trait]
impl Stage for OurStage {
    fn cast(&self) -> Cast {
        let [running, stopped, with_tools, reverted, steady] = ["1", "2", "3", "4", "5"].map(MachineId::new);
        Cast { running, stopped, reverted, with_tools, steady }
    }

    fn lacks(&self, _: Ability) -> Option<&'static str> {
        None
    }

    /// What a newcomer reads, once it was held against the simulated world itself.
    async fn truth(&self) -> Result<Truth> {
        let truth = newcomer::truth(&self.simulator.url()).await?;
        self.simulator.control().look(|world| {
            ensure!(
                world.machines().count() == truth.machines.len(),
                "a newcomer sees {:?}",
                truth.machines.keys()
            );
            ensure!(world.datastores().count() == truth.datastores.len(), "a newcomer misses datastores");
            world.machines().try_for_each(|machine| {
                let seen = truth.machines.get(&MachineId::new(&machine.id)).context("a machine is missed")?;
                ensure!(is_as(seen, machine), "there is {machine:#?}, and a newcomer sees {seen:#?}");
                Ok(())
            })
        })?;
        Ok(truth)
    }

    async fn power(&self, machine: &MachineId, on: bool) -> Result<()> {
        self.by_somebody(machine, if on { Operation::PowerOn } else { Operation::PowerOff }).map(drop)
    }

    async fn rename(&self, machine: &MachineId, name: &str) -> Result<()> {
        let found = self.simulator.control().mutate(|world| {
            world.machine_mut(machine.as_str()).map(|machine| name.clone_into(&mut machine.name))
        });
        found.context("no such machine")
    }

    async fn take_snapshot(&self, machine: &MachineId, name: &str) -> Result<SnapshotId> {
        let operation = Operation::CreateSnapshot {
            name: name.to_owned(),
            description: String::new(),
            memory: false,
            quiesce: false,
        };
        match self.by_somebody(machine, operation)? {
            Some(Value::Reference(moref)) => Ok(SnapshotId::new(moref.id)),
            other => bail!("a snapshot was taken, and there is {other:?}"),
        }
    }

    async fn remove_snapshots(&self, machine: &MachineId) -> Result<()> {
        self.by_somebody(machine, Operation::RemoveAllSnapshots).map(drop)
    }

    async fn add_machine(&self, name: &str) -> Result<MachineId> {
        self.simulator.control().mutate(|world| {
            let datastore = world.datastores().next().context("no datastore")?;
            let id = 100 + self.added.fetch_add(1, Ordering::Relaxed);
            let machine = Machine::bare(&id.to_string(), name, datastore);
            let id = MachineId::new(&machine.id);
            world.add_machine(machine);
            Ok(id)
        })
    }

    async fn remove_machine(&self, machine: &MachineId) -> Result<()> {
        self.simulator
            .control()
            .mutate(|world| world.remove_machine(machine.as_str()))
            .context("no such machine")
            .map(drop)
    }

    async fn start_task(&self, machine: &MachineId) -> Result<TaskId> {
        let task =
            self.change(|world| world.start_task(machine.as_str(), Operation::PowerOn, "somebody else"))?;
        Ok(TaskId::new(task.id))
    }

    async fn step_tasks(&self) -> Result<()> {
        self.simulator.control().step_tasks();
        Ok(())
    }

    async fn finish_tasks(&self) -> Result<()> {
        let control = self.simulator.control();
        control.running_tasks().iter().for_each(|task| control.finish_task(task));
        Ok(())
    }

    async fn step_guests(&self) -> Result<()> {
        self.simulator.control().step_guests();
        Ok(())
    }

    async fn fail_next_power_off(&self) -> Result<()> {
        let fault = Fault::new("InsufficientResourcesFault", "There is not enough of something.");
        self.simulator.control().fail_next_task("PowerOffVM_Task", fault);
        Ok(())
    }

    async fn forget_tasks(&self) -> Result<()> {
        self.simulator.control().vanish_tasks();
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
            text: "Was it moved, or copied?".to_owned(),
            choices: vec![choice("1", "moved"), choice("2", "copied")],
            default_choice: Some(1),
        };
        let found = self.simulator.control().mutate(|world| {
            world.machine_mut(machine.as_str()).map(|machine| machine.question_at_power_on = Some(question))
        });
        found.context("no such machine")
    }

    async fn lose_session(&self) -> Result<()> {
        self.simulator.control().expire_sessions();
        Ok(())
    }

    async fn go_away(&self) -> Result<()> {
        self.simulator.control().restart_hostd(Restart { away: Some(Comeback::Refuse), drop_running: false });
        Ok(())
    }

    async fn come_back(&self) -> Result<()> {
        self.simulator.control().resume();
        Ok(())
    }

    async fn refuse_logins(&self, refuse: bool) -> Result<()> {
        self.simulator.control().refuse_logins(refuse);
        Ok(())
    }

    fn login_attempts(&self) -> u64 {
        self.simulator.control().calls("Login")
    }

    fn password(&self) -> SecretString {
        SecretString::from("otter")
    }

    async fn cut_next_snapshot(&self, cut: Cut) -> Result<()> {
        let what = match cut {
            Cut::BeforeItRuns => Disruption::CloseBeforeRunning,
            Cut::AfterItRan => Disruption::CloseAfterRunning,
        };
        self.simulator.control().disrupt_next("CreateSnapshot_Task", what);
        Ok(())
    }

    async fn refuse_next_snapshot(&self, kind: HostErrorKind) -> Result<()> {
        let fault = match kind {
            HostErrorKind::Busy => Fault::task_in_progress("haTask-7"),
            HostErrorKind::InvalidPowerState => Fault::invalid_power_state(None, "poweredOn"),
            HostErrorKind::InsufficientResources => Fault::new("InsufficientResourcesFault", "Not enough."),
            HostErrorKind::Forbidden => Fault::new("NoPermission", "Permission was denied.")
                .with("object", Moref::new("Folder", "ha-folder-vm"))
                .with("privilegeId", "VirtualMachine.State.CreateSnapshot"),
            HostErrorKind::LicenseRestricted => Fault::restricted_version(),
            HostErrorKind::NotSupported => Fault::not_supported(),
            HostErrorKind::NotFound => Fault::not_found(&Moref::new("VirtualMachine", "1")),
            HostErrorKind::Rejected => Fault::new("SnapshotFault", "It cannot be."),
            other => bail!("no fault is known for {other:?}"),
        };
        self.simulator.control().disrupt_next("CreateSnapshot_Task", Disruption::Fault(fault));
        Ok(())
    }

    async fn reboot(&self) -> Result<()> {
        self.simulator.control().reboot_host();
        Ok(())
    }
}

/// Whether a machine is told as it is, in all that cases make happen.
fn is_as(seen: &machine::Machine, is: &Machine) -> bool {
    let power = match is.power {
        PowerState::On => Some(power::PowerState::On),
        PowerState::Off => Some(power::PowerState::Off),
        PowerState::Suspended => Some(power::PowerState::Suspended),
        PowerState::Other(_) => None,
    };
    let mut snapshots: Vec<_> = is
        .snapshots
        .iter()
        .map(|snapshot| (snapshot.id.as_str(), snapshot.name.as_str(), snapshot.parent.as_deref()))
        .collect();
    snapshots.sort_unstable();
    let told = |snapshot: &otter::domain::snapshot::Snapshot| snapshot.parent.clone();
    let parents: Vec<_> = seen.snapshots.items.iter().map(told).collect();
    let mut seen_snapshots: Vec<_> = (seen.snapshots.items.iter().zip(&parents))
        .map(|(snapshot, parent)| {
            (snapshot.id.as_str(), snapshot.name.as_str(), parent.as_ref().map(SnapshotId::as_str))
        })
        .collect();
    seen_snapshots.sort_unstable();
    seen.name == is.name
        && seen.power_state == power
        && seen.annotation.as_deref().unwrap_or_default() == is.annotation
        && seen.guest.tools_running == is.guest.tools_running
        && seen.guest.ip_address == is.guest.told_address
        && seen.snapshots.current.as_ref().map(SnapshotId::as_str) == is.current_snapshot.as_deref()
        && seen_snapshots == snapshots
        && seen.question.as_ref().map(|question| question.id.as_str())
            == is.question.as_ref().map(|question| question.id.as_str())
}
