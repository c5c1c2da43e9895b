//! The host: the simulator's world, what can be asked of it, and whether it can be reached.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::random::Random;
use super::translation;
use crate::domain::call::{Evidence, HostCall};
use crate::domain::ids::{MachineId, TaskId};
use crate::hypervisor::{Accepted, HostError, HostErrorKind};
use crate::simulator::world::{
    Choice, Guest, Machine, Moment, NetworkCard, Operation, PowerState, Question, World,
};
use crate::simulator::{Fault, Moref, Pace, Scenario};

pub struct Host {
    pub world: World,
    /// False while nothing answers.
    pub reachable: bool,
    /// How many machines there have been, for their names.
    pub machines_made: u64,
    questions: u64,
    addresses: u64,
    /// The run of each machine whose guest was given its address.
    runs: std::collections::BTreeMap<String, u64>,
}

/// What of a machine was read so far, and its tasks.
pub struct Look {
    evidence: Evidence,
    tasks: Vec<String>,
}

impl Look {
    /// The machine as it was read after its tasks; none where there are other tasks now, which are to be read first.
    pub fn confirmed_by(&self, again: &Self) -> Option<Evidence> {
        let recent_tasks = self.evidence.recent_tasks.clone();
        (self.tasks == again.tasks).then(|| Evidence { recent_tasks, ..again.evidence.clone() })
    }
}

/// The wall clock at this time of the run.
pub fn wall(elapsed: Duration) -> Timestamp {
    let start = Timestamp::constant(1_772_366_400, 0);
    start.saturating_add(SignedDuration::try_from(elapsed).unwrap_or_default()).unwrap_or(Timestamp::MAX)
}

impl Host {
    /// A host with these many machines, no two alike.
    pub fn new(random: &mut Random, machines: u64) -> Self {
        let scale = *random.pick(&[0.1, 1.0, 1.0, 10.0, 40.0]).unwrap_or(&1.0);
        let moment = Moment { wall: wall(Duration::ZERO), elapsed: Duration::ZERO };
        let lab = Scenario::generated(0);
        let mut world = lab.build(Pace::Auto { scale }, moment);
        world.rules.refuse_in_call = random.percent(50);
        let mut host = Self {
            world,
            reachable: true,
            machines_made: 0,
            questions: 0,
            addresses: 0,
            runs: std::collections::BTreeMap::new(),
        };
        for _ in 0..machines {
            let id = (16 + host.machines_made).to_string();
            host.add_machine(random, &id);
        }
        host
    }

    /// Lets the world do what is due by then.
    pub fn advance(&mut self, elapsed: Duration) {
        self.world.advance(Moment { wall: wall(elapsed), elapsed });
    }

    /// Puts a new machine there.
    pub fn add_machine(&mut self, random: &mut Random, id: &str) {
        self.machines_made += 1;
        let name = format!("machine-{}", self.machines_made);
        let Some(datastore) = self.world.datastores().next().cloned() else { return };
        let mut machine = Machine::bare(id, &name, &datastore);
        machine.instance_uuid = format!("52000000-0000-0000-0000-{:012}", self.machines_made);
        machine.network_cards.push(NetworkCard {
            key: 4000,
            kind: "VirtualVmxnet3",
            mac_address: format!("00:0c:29:00:00:{:02x}", self.machines_made % 256),
            network: "VM Network".to_owned(),
            connected: true,
        });
        if random.percent(60) {
            machine.guest = Guest {
                tools_installed: true,
                address: Some(self.next_address()),
                tools_after: Duration::from_secs(2),
                address_after: Duration::from_secs(3),
                ..Guest::without_tools()
            };
        }
        machine.power = match random.below(4) {
            0 | 1 => PowerState::Off,
            2 => PowerState::On,
            _ => PowerState::Suspended,
        };
        if machine.power == PowerState::On && machine.guest.tools_installed {
            machine.guest.tools_running = true;
            machine.guest.told_address.clone_from(&machine.guest.address);
        }
        let at = machine.created_at;
        let state = |random: &mut Random| match random.below(3) {
            0 => PowerState::On,
            _ => PowerState::Off,
        };
        let mut last = None;
        for name in ["base", "kickstart", "leaf"] {
            if random.percent(80) {
                let state = state(random);
                last = Some(machine.add_snapshot(last.as_deref(), name, state, at));
            }
        }
        machine.current_snapshot = last;
        if random.percent(15) {
            machine.question_at_power_on = Some(self.question());
        }
        self.register(machine);
    }

    /// Has every machine off, so that it can be leased.
    pub fn power_down(&mut self) {
        let ids: Vec<String> = self.world.machines().map(|machine| machine.id.clone()).collect();
        for id in ids {
            if let Some(machine) = self.world.machine_mut(&id) {
                machine.power = PowerState::Off;
                machine.guest.tools_running = false;
                machine.guest.told_address = None;
            }
        }
    }

    /// Registers a machine under a new moid. Its snapshots have new morefs then.
    pub fn register_anew(&mut self, mut machine: Machine) {
        self.machines_made += 1;
        let id = (16 + self.machines_made).to_string();
        let renamed = |snapshot: &str| {
            let number = snapshot.rsplit('-').next().unwrap_or_default();
            format!("{id}-snapshot-{number}")
        };
        for snapshot in &mut machine.snapshots {
            snapshot.id = renamed(&snapshot.id);
            snapshot.parent = snapshot.parent.as_deref().map(renamed);
        }
        machine.current_snapshot = machine.current_snapshot.as_deref().map(renamed);
        machine.id = id;
        self.register(machine);
    }

    fn register(&mut self, machine: Machine) {
        self.runs.insert(machine.id.clone(), machine.run);
        self.world.add_machine(machine);
    }

    /// A machine asks, now or when it is powered on next.
    pub fn ask(&mut self, random: &mut Random, id: &str) {
        let question = self.question();
        if random.percent(50) {
            self.world.ask(id, question);
        } else if let Some(machine) = self.world.machine_mut(id) {
            machine.question_at_power_on = Some(question);
        }
    }

    /// Each run of a guest may have an address of its own, as DHCP gives them.
    pub fn give_addresses(&mut self, random: &mut Random) {
        let changed: Vec<(String, u64)> = self
            .world
            .machines()
            .filter(|machine| {
                machine.guest.tools_installed && self.runs.get(&machine.id) != Some(&machine.run)
            })
            .map(|machine| (machine.id.clone(), machine.run))
            .collect();
        for (id, run) in changed {
            let address = random.percent(75).then(|| self.next_address());
            if let Some(machine) = self.world.machine_mut(&id)
                && address.is_some()
            {
                machine.guest.address = address;
            }
            self.runs.insert(id, run);
        }
    }

    /// Makes a call as otter's account does.
    pub fn call(&mut self, machine: &MachineId, call: &HostCall, user: &str) -> Result<Accepted, HostError> {
        self.call_or_fault(machine, call, user)
            .map_err(|fault| translation::error(&fault, "The host refused the call"))
    }

    fn call_or_fault(&mut self, machine: &MachineId, call: &HostCall, user: &str) -> Result<Accepted, Fault> {
        let id = machine.backend_text();
        let operation = match call.clone() {
            HostCall::ShutdownGuest => return self.world.shut_down_guest(id).map(|()| Accepted::Done),
            HostCall::RebootGuest => return self.world.reboot_guest(id).map(|()| Accepted::Done),
            HostCall::Answer { question, choice } => {
                return self.world.answer(id, question.backend_text(), &choice).map(|()| Accepted::Done);
            }
            HostCall::RenameSnapshot { snapshot, name, description } => {
                let renamed = self.world.rename_snapshot(snapshot.backend_text(), name, description);
                return renamed.map(|()| Accepted::Done);
            }
            HostCall::PowerOn => Operation::PowerOn,
            HostCall::PowerOff => Operation::PowerOff,
            HostCall::Reset => Operation::Reset,
            HostCall::Suspend => Operation::Suspend,
            HostCall::RemoveAllSnapshots => Operation::RemoveAllSnapshots,
            HostCall::CreateSnapshot { name, description, memory, quiesce } => {
                Operation::CreateSnapshot { name, description, memory, quiesce }
            }
            HostCall::RevertToSnapshot { snapshot, suppress_power_on } => Operation::RevertToSnapshot {
                snapshot: snapshot.backend_text().to_owned(),
                suppress_power_on,
            },
            HostCall::RemoveSnapshot { snapshot, children } => {
                Operation::RemoveSnapshot { snapshot: snapshot.backend_text().to_owned(), children }
            }
        };
        let target = match &operation {
            Operation::RevertToSnapshot { snapshot, .. } | Operation::RemoveSnapshot { snapshot, .. } => {
                let owner = self.world.machine_of_snapshot(snapshot).map(|owner| owner.id.clone());
                owner.ok_or_else(|| {
                    Fault::not_found(&Moref::new("VirtualMachineSnapshot", snapshot.clone()))
                })?
            }
            _ => id.to_owned(),
        };
        let task = self.world.start_task(&target, operation, user)?;
        Ok(Accepted::Task(TaskId::from_backend(task.id)))
    }

    /// Reads a machine directly, without what its tasks are at.
    pub fn look(&self, machine: &MachineId) -> Result<Look, HostError> {
        let found = self.world.machine(machine.backend_text());
        let found = found
            .ok_or_else(|| HostError::new(HostErrorKind::NotFound, "The host knows no such machine."))?;
        let tasks = self.world.recent_tasks(machine.backend_text()).map(|task| task.id.clone()).collect();
        Ok(Look { evidence: translation::evidence(&self.world, found), tasks })
    }

    /// Reads what the tasks are at that a look found.
    pub fn look_at_tasks(&self, look: &mut Look) {
        let known = look.tasks.iter().filter_map(|task| self.world.task(task));
        look.evidence.recent_tasks = known.map(translation::recent_task).collect();
    }

    /// Somebody else does something to a machine, if the host lets it.
    pub fn meddle(&mut self, random: &mut Random, id: &str) -> Option<String> {
        let snapshots: Vec<String> =
            self.world.machine(id)?.snapshots.iter().map(|snapshot| snapshot.id.clone()).collect();
        let snapshot = random.pick(&snapshots).cloned();
        let operation = match (random.below(8), snapshot) {
            (0 | 1, _) => Operation::PowerOn,
            (2, _) => Operation::PowerOff,
            (3, _) => Operation::Reset,
            (4, Some(snapshot)) => Operation::RevertToSnapshot { snapshot, suppress_power_on: false },
            (5, Some(snapshot)) => Operation::RemoveSnapshot { snapshot, children: false },
            (6, _) => {
                self.world.shut_down_guest(id).ok()?;
                return Some("shutdown".to_owned());
            }
            _ => Operation::CreateSnapshot {
                name: (*random.pick(&["new", "other"])?).to_owned(),
                description: String::new(),
                memory: false,
                quiesce: false,
            },
        };
        self.world.start_task(id, operation, "somebody").ok().map(|task| task.id)
    }

    fn question(&mut self) -> Question {
        self.questions += 1;
        let choice = |key: &str, fails_with| Choice {
            key: key.to_owned(),
            label: format!("button.{key}"),
            summary: key.to_owned(),
            fails_with,
        };
        let refusal = Fault::new("VmConfigFault", "The machine was not started.");
        Question {
            id: format!("q-{}", self.questions),
            message_id: "msg.uuid.altered".to_owned(),
            text: "Moved or copied?".to_owned(),
            choices: vec![choice("1", None), choice("2", Some(refusal))],
            default_choice: Some(0),
        }
    }

    fn next_address(&mut self) -> String {
        self.addresses += 1;
        format!("10.0.{}.{}", self.addresses / 250, self.addresses % 250 + 1)
    }
}
