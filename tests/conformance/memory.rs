//! The backend in memory, and the hand on its host.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use otter::clock::Clock;
use otter::domain::call::HostCall;
use otter::domain::ids::{MachineId, SnapshotId, TaskId};
use otter::hypervisor::{Accepted, HostErrorKind};
use secrecy::SecretString;

use super::suite::{Ability, Bench, Cast, Cut, Pace, Set, Stage, Truth};
use crate::harness::in_memory;
use crate::memory::{self, MemoryHost, MemoryHypervisor};

pub struct MemoryBench;

#[async_trait]
impl Bench for MemoryBench {
    async fn set(&self, pace: Pace) -> Result<Set> {
        let pace = match pace {
            Pace::Brisk => memory::Pace::Taking(Duration::from_millis(2)),
            Pace::Held => memory::Pace::Held,
        };
        let host = in_memory::host(Clock::system(), pace);
        let backend = Arc::new(MemoryHypervisor::new(host.clone(), in_memory::password()));
        Ok(Set { backend, stage: Box::new(MemoryStage(host)) })
    }
}

struct MemoryStage(MemoryHost);

#[async_trait]
impl Stage for MemoryStage {
    fn cast(&self) -> Cast {
        let [reverted, running, with_tools, stopped, steady] = in_memory::MACHINES.map(MachineId::new);
        Cast { running, stopped, reverted, with_tools, steady }
    }

    fn lacks(&self, _: Ability) -> Option<&'static str> {
        None
    }

    async fn truth(&self) -> Result<Truth> {
        let (machines, datastores) = self.0.all();
        Ok(Truth {
            machines: machines.into_iter().map(|machine| (machine.id.clone(), machine)).collect(),
            datastores: datastores.into_iter().map(|datastore| (datastore.id.clone(), datastore)).collect(),
        })
    }

    async fn power(&self, machine: &MachineId, on: bool) -> Result<()> {
        self.0.by_somebody(machine, &if on { HostCall::PowerOn } else { HostCall::PowerOff })?;
        Ok(())
    }

    async fn rename(&self, machine: &MachineId, name: &str) -> Result<()> {
        self.0.change_machine(machine, |machine| name.clone_into(&mut machine.name));
        Ok(())
    }

    async fn take_snapshot(&self, machine: &MachineId, name: &str) -> Result<SnapshotId> {
        let call = HostCall::CreateSnapshot {
            name: name.to_owned(),
            description: String::new(),
            memory: false,
            quiesce: false,
        };
        self.0.by_somebody(machine, &call)?.context("no snapshot")
    }

    async fn remove_snapshots(&self, machine: &MachineId) -> Result<()> {
        self.0.by_somebody(machine, &HostCall::RemoveAllSnapshots)?;
        Ok(())
    }

    async fn add_machine(&self, name: &str) -> Result<MachineId> {
        let number = self.0.all().0.len() + 100;
        let asset = in_memory::asset(&format!("{name}-{number}"), name, None);
        let id = asset.machine.id.clone();
        self.0.add(asset);
        Ok(id)
    }

    async fn remove_machine(&self, machine: &MachineId) -> Result<()> {
        self.0.remove(machine);
        Ok(())
    }

    async fn start_task(&self, machine: &MachineId) -> Result<TaskId> {
        match self.0.start(machine, &HostCall::PowerOn)? {
            Accepted::Task(task) => Ok(task),
            Accepted::Done => bail!("a power-on without a task"),
        }
    }

    async fn step_tasks(&self) -> Result<()> {
        self.0.step_tasks();
        Ok(())
    }

    async fn finish_tasks(&self) -> Result<()> {
        self.0.finish_tasks();
        Ok(())
    }

    async fn step_guests(&self) -> Result<()> {
        self.0.step_guests();
        Ok(())
    }

    async fn fail_next_power_off(&self) -> Result<()> {
        self.0.fail_next_power_off(HostErrorKind::InsufficientResources);
        Ok(())
    }

    async fn forget_tasks(&self) -> Result<()> {
        self.0.forget_tasks();
        Ok(())
    }

    async fn ask_at_power_on(&self, machine: &MachineId) -> Result<()> {
        self.0.ask_at_power_on(machine);
        Ok(())
    }

    async fn lose_session(&self) -> Result<()> {
        self.0.drop_sessions();
        Ok(())
    }

    async fn go_away(&self) -> Result<()> {
        self.0.set_away(true);
        Ok(())
    }

    async fn come_back(&self) -> Result<()> {
        self.0.set_away(false);
        Ok(())
    }

    async fn refuse_logins(&self, refuse: bool) -> Result<()> {
        self.0.refuse_logins(refuse);
        Ok(())
    }

    fn login_attempts(&self) -> u64 {
        self.0.login_attempts()
    }

    fn password(&self) -> SecretString {
        in_memory::password()
    }

    async fn cut_next_snapshot(&self, cut: Cut) -> Result<()> {
        self.0.cut_next(match cut {
            Cut::BeforeItRuns => memory::Cut::BeforeItRuns,
            Cut::AfterItRan => memory::Cut::AfterItRan,
        });
        Ok(())
    }

    async fn refuse_next_snapshot(&self, kind: HostErrorKind) -> Result<()> {
        self.0.refuse_next(kind);
        Ok(())
    }

    async fn reboot(&self) -> Result<()> {
        self.0.reboot();
        Ok(())
    }
}
