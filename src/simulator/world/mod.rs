//! The simulated host as a pure state machine: no I/O, no clock of its own; what happens when is an
//! event.
//!
//! ```text
//! a call ──► start_task / shut_down_guest / … ──► events (task steps, guest) ──► advance(now) ──► changes
//! ```
//! Whoever looks asks [`World::changed_since`] which objects to look at again.

mod event_history;
mod guest;
mod machine;
mod power;
mod snapshots;
mod task;
mod task_lifecycle;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

pub use event_history::{EventDetail, EventHistory, EventMachine, HostEvent, MachineEvent};
pub use guest::GuestEvent;
pub use machine::{
    Choice, Guest, Machine, NetworkCard, PowerState, Question, SerialBacking, SerialPort, Snapshot,
};
pub use task::{Operation, Task, TaskState};

use super::pace::Pace;
use super::value::Moref;
use super::vim_fault::Fault;

/// How many changes are remembered; who is further behind looks at everything again.
const MAX_JOURNAL: usize = 8_192;

/// A moment: the wall clock for people, the elapsed time for what is due.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub wall: Timestamp,
    pub elapsed: Duration,
}

/// What the host says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct HostInfo {
    pub name: String,
    pub version: String,
    pub build: String,
    pub api_version: String,
    pub uuid: String,
    pub cpu_count: i16,
    pub memory_bytes: i64,
    pub booted_at: Timestamp,
    pub in_maintenance_mode: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Datastore {
    /// The moref.
    pub id: String,
    pub name: String,
    /// `VMFS`, `NFS`, `OTHER`.
    pub kind: String,
    pub capacity_bytes: i64,
    pub free_bytes: i64,
    pub uncommitted_bytes: i64,
    pub accessible: bool,
    pub url: String,
    /// For NFS: the server and its export.
    pub remote: Option<(String, String)>,
}

/// Rules that a test may bend.
#[derive(Clone, Debug, Default)]
pub struct HostRules {
    /// Whether a wrong power state is refused by the call itself instead of by the task.
    pub refuse_in_call: bool,
    /// Whether every change is refused, as by the free licence.
    pub read_only_licence: bool,
    /// Whether every change is refused for want of rights: the account's role is `ReadOnly`.
    pub read_only_account: bool,
}

/// Something that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ScheduledEvent {
    TaskStep(String),
    ForgetTask(String),
    Guest { machine: String, run: u64, event: GuestEvent },
}

/// The whole host.
#[derive(Debug)]
pub struct World {
    pub host: HostInfo,
    pub rules: HostRules,
    machines: BTreeMap<String, Machine>,
    /// The revision at which each moid was given to its machine: moids are used again.
    incarnations: BTreeMap<String, u64>,
    datastores: BTreeMap<String, Datastore>,
    tasks: BTreeMap<String, Task>,
    /// The order in which tasks were made.
    task_order: VecDeque<String>,
    next_task: i32,
    planned_failures: Vec<(&'static str, Fault)>,
    history: EventHistory,
    pace: Pace,
    now: Moment,
    due: BTreeMap<(Duration, u64), ScheduledEvent>,
    /// In the stepped pace: what the guests would do next.
    stepped_events: Vec<ScheduledEvent>,
    next_event: u64,
    revision: u64,
    /// The revision of the last change of which objects there are.
    structure: u64,
    journal: VecDeque<(u64, Moref)>,
    /// The first revision that the journal knows all changes after.
    journal_start: u64,
}

impl World {
    /// The ids of the roles that every host has.
    pub const ADMIN: i32 = -1;
    pub const READ_ONLY: i32 = -2;
    pub const NO_ACCESS: i32 = -5;

    /// The role that the account has everywhere.
    #[must_use]
    pub const fn role(&self) -> i32 {
        if self.rules.read_only_account { Self::READ_ONLY } else { Self::ADMIN }
    }

    /// An empty host that was just started.
    #[must_use]
    pub fn new(host: HostInfo, pace: Pace, now: Moment) -> Self {
        Self {
            host,
            rules: HostRules::default(),
            machines: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            datastores: BTreeMap::new(),
            tasks: BTreeMap::new(),
            task_order: VecDeque::new(),
            next_task: 100_000_000,
            planned_failures: Vec::new(),
            history: EventHistory::default(),
            pace,
            now,
            due: BTreeMap::new(),
            stepped_events: Vec::new(),
            next_event: 0,
            revision: 1,
            structure: 1,
            journal: VecDeque::new(),
            journal_start: 1,
        }
    }

    /// The moment that the world is at.
    #[must_use]
    pub const fn now(&self) -> Moment {
        self.now
    }

    /// Moves time on and does what is due by then, in order.
    pub fn advance(&mut self, now: Moment) {
        while let Some(entry) = self.due.first_entry() {
            let due = entry.key().0;
            if due > now.elapsed {
                break;
            }
            let event = entry.remove();
            // What follows from an event is counted from when it was due, however late somebody
            // looks.
            let late = now.elapsed.saturating_sub(due);
            self.now =
                Moment { wall: now.wall.checked_sub(late).unwrap_or(now.wall), elapsed: due };
            self.run_event(event);
        }
        self.now = now;
    }

    /// When something is due next.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.due.first_key_value().map(|((due, _), _)| *due)
    }

    /// The machines in the order of their ids.
    pub fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.machines.values()
    }

    #[must_use]
    pub fn machine(&self, id: &str) -> Option<&Machine> {
        self.machines.get(id)
    }

    /// The machine of this exact name; the first, where there are several.
    #[must_use]
    pub fn machine_named(&self, name: &str) -> Option<&Machine> {
        self.machines.values().find(|machine| machine.name == name)
    }

    /// A machine to be changed.
    pub fn machine_mut(&mut self, id: &str) -> Option<&mut Machine> {
        if self.machines.contains_key(id) {
            self.record_change(Moref::new("VirtualMachine", id));
        }
        self.machines.get_mut(id)
    }

    /// Puts a machine there; one of the same moid is replaced.
    pub fn add_machine(&mut self, machine: Machine) {
        self.record_change(Moref::new("VirtualMachine", machine.id.clone()));
        self.record_change(Moref::new("Datastore", machine.datastore.clone()));
        self.incarnations.insert(machine.id.clone(), self.revision);
        self.machines.insert(machine.id.clone(), machine);
        self.record_structure_change();
    }

    /// Takes a machine away, as deleting or unregistering does.
    pub fn remove_machine(&mut self, id: &str) -> Option<Machine> {
        if self.machines.contains_key(id) {
            self.record_machine_event(id, "", MachineEvent::Removed);
        }
        let removed = self.machines.remove(id)?;
        self.record_change(Moref::new("VirtualMachine", id));
        self.record_change(Moref::new("Datastore", removed.datastore.clone()));
        self.record_structure_change();
        // A task notices at its next step; one that hangs on a question has none.
        self.close_question(id, None);
        Some(removed)
    }

    /// Tells two machines apart that had the same moid one after the other.
    #[must_use]
    pub fn incarnation(&self, object: &Moref) -> u64 {
        match object.kind {
            "VirtualMachine" => self.incarnations.get(&object.id).copied().unwrap_or(0),
            _ => 0,
        }
    }

    pub fn datastores(&self) -> impl Iterator<Item = &Datastore> {
        self.datastores.values()
    }

    #[must_use]
    pub fn datastore(&self, id: &str) -> Option<&Datastore> {
        self.datastores.get(id)
    }

    pub fn datastore_mut(&mut self, id: &str) -> Option<&mut Datastore> {
        if self.datastores.contains_key(id) {
            self.record_change(Moref::new("Datastore", id));
        }
        self.datastores.get_mut(id)
    }

    pub fn add_datastore(&mut self, datastore: Datastore) {
        self.record_change(Moref::new("Datastore", datastore.id.clone()));
        self.datastores.insert(datastore.id.clone(), datastore);
        self.record_structure_change();
    }

    pub fn remove_datastore(&mut self, id: &str) -> Option<Datastore> {
        let removed = self.datastores.remove(id)?;
        self.record_change(Moref::new("Datastore", id));
        self.record_structure_change();
        Some(removed)
    }

    /// Finds the machine that has this snapshot.
    #[must_use]
    pub fn machine_of_snapshot(&self, snapshot: &str) -> Option<&Machine> {
        let by_name = snapshot.split_once("-snapshot-").and_then(|(id, _)| self.machines.get(id));
        by_name
            .filter(|machine| machine.snapshot(snapshot).is_some())
            .or_else(|| self.machines.values().find(|machine| machine.snapshot(snapshot).is_some()))
    }

    /// The host was restarted: everything is off, and nothing is known of tasks.
    pub fn reboot_host(&mut self) {
        self.forget_tasks(false);
        let ids: Vec<String> = self.machines.keys().cloned().collect();
        for id in ids {
            if self.machines[&id].power == PowerState::On {
                self.power_off_now(&id);
            }
        }
        self.host.booted_at = self.now.wall;
        self.record_change(Moref::new("HostSystem", "ha-host"));
    }

    /// Counts changes.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// The revision at which objects last came or went.
    #[must_use]
    pub const fn structure(&self) -> u64 {
        self.structure
    }

    /// The objects that changed after `revision`; `None` where that is too long ago to know.
    #[must_use]
    pub fn changed_since(&self, revision: u64) -> Option<BTreeSet<&Moref>> {
        if revision + 1 < self.journal_start {
            return None;
        }
        let newest = self.journal.iter().rev().take_while(|(at, _)| *at > revision);
        Some(newest.map(|(_, object)| object).collect())
    }

    /// Says that an object was changed.
    fn record_change(&mut self, object: Moref) {
        self.revision += 1;
        self.journal.push_back((self.revision, object));
        while self.journal.len() > MAX_JOURNAL {
            if let Some((dropped, _)) = self.journal.pop_front() {
                self.journal_start = dropped + 1;
            }
        }
    }

    fn record_structure_change(&mut self) {
        self.structure = self.revision;
        for (kind, id) in [
            ("Folder", "ha-folder-vm"),
            ("HostSystem", "ha-host"),
            ("ResourcePool", "ha-root-pool"),
            ("Folder", "ha-folder-datastore"),
            ("Datacenter", "ha-datacenter"),
            ("ComputeResource", "ha-compute-res"),
            ("Network", "HaNetwork-VM Network"),
        ] {
            self.record_change(Moref::new(kind, id));
        }
        // Each lists the machines on it.
        let datastores: Vec<String> = self.datastores.keys().cloned().collect();
        for id in datastores {
            self.record_change(Moref::new("Datastore", id));
        }
    }

    /// Plans an event, or keeps it for a step where time is stepped.
    fn schedule(&mut self, after: Duration, event: ScheduledEvent) {
        match self.pace {
            Pace::Auto { scale } => {
                self.schedule_exactly(after.mul_f64(scale.max(0.0)), event);
            }
            Pace::Stepped => {
                let machines = &self.machines;
                self.stepped_events.retain(|waiting| match waiting {
                    ScheduledEvent::Guest { machine, run, .. } => {
                        machines.get(machine).is_some_and(|machine| machine.run == *run)
                    }
                    ScheduledEvent::TaskStep(_) | ScheduledEvent::ForgetTask(_) => true,
                });
                self.stepped_events.push(event);
            }
        }
    }

    fn schedule_exactly(&mut self, after: Duration, event: ScheduledEvent) {
        self.next_event += 1;
        self.due.insert((self.now.elapsed + after, self.next_event), event);
    }

    fn run_event(&mut self, event: ScheduledEvent) {
        match event {
            ScheduledEvent::TaskStep(task) => self.step_task(&task),
            ScheduledEvent::ForgetTask(task) => self.forget_task(&task),
            ScheduledEvent::Guest { machine, run, event } => self.guest_event(&machine, run, event),
        }
    }
}
