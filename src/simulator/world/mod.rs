//! The simulated host as a pure state machine, without I/O and without a clock of its own.
//!
//! ```text
//! a call ──► start_task, shut_down_guest, … ──► scheduled events ──► advance(now) ──► changes
//! ```
//! A scheduled event is the next step of a task, the removal of an ended task, or something that a
//! guest does. Readers ask [`World::changed_since`] which objects they have to read again.

mod browse;
mod drives;
mod event_history;
mod file_content;
mod files;
mod guest;
mod machine;
mod machine_drives;
mod machine_files;
mod power;
mod reconfigure;
mod screens;
mod serial;
mod snapshots;
mod task;
mod task_lifecycle;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

pub use browse::{FileSearch, FileType, SearchDetails};
pub use drives::{
    AddedDisk, BootDevice, BootSettings, CdBacking, CdDrive, Controller, DISK_CONTROLLER,
    DRIVE_CONTROLLERS, FIRST_DISK,
};
pub use event_history::{EventDetail, EventHistory, EventMachine, HostEvent, MachineEvent};
pub use file_content::{FileContent, FilePart};
pub use files::{FileEntry, FilePath, FileProblem, StoredFile};
pub use guest::GuestEvent;
pub use machine::{
    CardNetwork, Choice, Guest, GuestInterface, Machine, NetworkCard, PowerState, Question,
    ScreenSource, SerialBacking, SerialFileAnswer, SerialPort, Snapshot,
};
pub use reconfigure::{
    BootChange, ConfigChange, ConnectionChange, DeviceChange, DeviceOperation, DeviceSpec,
};
pub use task::{Operation, Task, TaskState};

use super::pace::Pace;
use super::value::Moref;
use super::vim_fault::Fault;
use files::FileStore;

/// The maximum number of entries in the journal, which lists the latest changes of objects. A
/// reader that needs an older change reads every object again.
const MAX_JOURNAL: usize = 8_192;

/// A moment in time, by the wall clock (for timestamps) and by the elapsed time (for scheduled
/// events).
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub wall: Timestamp,
    pub elapsed: Duration,
}

/// The name, version and hardware of the host itself.
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

/// A datastore.
#[derive(Clone, Debug, PartialEq)]
pub struct Datastore {
    /// The moid of the datastore.
    pub id: String,
    pub name: String,
    /// The type of the file system: `VMFS`, `NFS` or `OTHER`.
    pub kind: String,
    pub capacity_bytes: i64,
    /// The free space as the host reports it: as it was at the last refresh.
    pub free_bytes: i64,
    /// By how many bytes files have grown since then.
    pub unreported_bytes: i64,
    /// When the host last read the free space. A datastore that is added has been read then.
    pub refreshed_at: Option<Timestamp>,
    pub uncommitted_bytes: i64,
    pub accessible: bool,
    pub url: String,
    /// The server and the path that the server exports, if the datastore is on NFS.
    pub remote: Option<(String, String)>,
}

impl Datastore {
    /// How many bytes are really free.
    #[must_use]
    pub const fn really_free(&self) -> i64 {
        self.free_bytes.saturating_sub(self.unreported_bytes)
    }
}

/// A network of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub name: String,
    /// The reference by which network cards name the network.
    pub reference: CardNetwork,
}

impl Network {
    /// A network of a standard switch.
    #[must_use]
    pub fn standard(name: &str) -> Self {
        Self { name: name.to_owned(), reference: CardNetwork::Standard(name.to_owned()) }
    }

    /// The reference to the managed object of the network. On ESX the moid of a standard network
    /// contains the network's name, and the moid of a port group is the key of the port group.
    #[must_use]
    pub fn moref(&self) -> Moref {
        match &self.reference {
            CardNetwork::Standard(name) => Moref::new("Network", format!("HaNetwork-{name}")),
            CardNetwork::PortGroup(key) => Moref::new("DistributedVirtualPortgroup", key.as_str()),
            CardNetwork::Opaque(id) => Moref::new("OpaqueNetwork", format!("network-o-{id}")),
        }
    }
}

/// How the simulated host behaves, as far as a test may change it.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent rules")]
pub struct HostRules {
    /// Whether the host refuses a call for a wrong power state at once. If not, the call starts a
    /// task, and the task fails.
    pub refuse_in_call: bool,
    /// Whether the host refuses every change, as with the free licence.
    pub read_only_licence: bool,
    /// Whether the host refuses every change because the role of the account is `ReadOnly`.
    pub read_only_account: bool,
    /// The methods whose tasks all end with a fault, as on a host without free memory or with a
    /// full datastore. The value is the fault.
    pub failing_tasks: BTreeMap<&'static str, Fault>,
    /// Whether a removal of snapshots leaves disks behind, so that the machine needs a
    /// consolidation.
    pub removals_leave_disks: bool,
    /// Whether consoles stay open when a running machine is reverted to a state in which it runs.
    pub consoles_outlive_reverts: bool,
}

/// An event of the world that is scheduled for a later time.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ScheduledEvent {
    TaskStep(String),
    ForgetTask(String),
    Guest { machine: String, run: u64, event: GuestEvent },
}

/// The whole state of the simulated host.
#[derive(Debug)]
pub struct World {
    pub host: HostInfo,
    pub rules: HostRules,
    machines: BTreeMap<String, Machine>,
    /// The revision at which the present machine with each moid was added. A later machine may use
    /// the moid of a removed machine.
    incarnations: BTreeMap<String, u64>,
    datastores: BTreeMap<String, Datastore>,
    networks: Vec<Network>,
    files: FileStore,
    tasks: BTreeMap<String, Task>,
    /// The ids of the tasks that hostd knows, oldest first.
    task_order: VecDeque<String>,
    /// The ids of the tasks of each machine, oldest first.
    tasks_by_machine: BTreeMap<String, Vec<String>>,
    next_task: i32,
    planned_failures: Vec<(&'static str, Fault)>,
    history: EventHistory,
    pace: Pace,
    now: Moment,
    due: BTreeMap<(Duration, u64), ScheduledEvent>,
    /// The events that wait until a test steps them. Only the pace `Stepped` uses this list.
    stepped_events: Vec<ScheduledEvent>,
    next_event: u64,
    revision: u64,
    /// The revision (the number of the change) at which an object other than a task was last added
    /// or removed.
    structure: u64,
    /// The revision (the number of the change) at which a task was last added or removed.
    task_structure: u64,
    journal: VecDeque<(u64, Moref)>,
    /// The first revision of the journal: the journal holds every change from this revision on.
    journal_start: u64,
}

impl World {
    /// The vim25 id of the role `Admin`.
    pub const ADMIN: i32 = -1;
    /// The vim25 id of the role `ReadOnly`.
    pub const READ_ONLY: i32 = -2;
    /// The vim25 id of the role `NoAccess`.
    pub const NO_ACCESS: i32 = -5;

    /// The id of the role that otter's account has on every object of the host.
    #[must_use]
    pub const fn role(&self) -> i32 {
        if self.rules.read_only_account { Self::READ_ONLY } else { Self::ADMIN }
    }

    /// The state of a host without machines and datastores.
    #[must_use]
    pub fn new(host: HostInfo, pace: Pace, now: Moment) -> Self {
        Self {
            host,
            rules: HostRules::default(),
            machines: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            datastores: BTreeMap::new(),
            networks: Vec::new(),
            files: FileStore::default(),
            tasks: BTreeMap::new(),
            task_order: VecDeque::new(),
            tasks_by_machine: BTreeMap::new(),
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
            task_structure: 1,
            journal: VecDeque::new(),
            journal_start: 1,
        }
    }

    /// Sets whether the host is in maintenance mode. In this mode the host powers on no machine.
    pub fn set_maintenance_mode(&mut self, enabled: bool) {
        self.host.in_maintenance_mode = enabled;
        self.record_change(Moref::new("HostSystem", "ha-host"));
    }

    /// The current time of the simulated host.
    #[must_use]
    pub const fn now(&self) -> Moment {
        self.now
    }

    /// Sets the current time to `now`, and runs in order all scheduled events that are due by then.
    pub fn advance(&mut self, now: Moment) {
        while let Some(entry) = self.due.first_entry() {
            let due = entry.key().0;
            if due > now.elapsed {
                break;
            }
            let event = entry.remove();
            // Events take place at the time at which they were due, even if this function runs them
            // later.
            let late = now.elapsed.saturating_sub(due);
            self.now =
                Moment { wall: now.wall.checked_sub(late).unwrap_or(now.wall), elapsed: due };
            self.run_event(event);
        }
        self.now = now;
    }

    /// When the next scheduled event is due. `None` if no event is scheduled.
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

    /// The machine with exactly this name. If several machines have the name, the first in the
    /// order of ids.
    #[must_use]
    pub fn machine_named(&self, name: &str) -> Option<&Machine> {
        self.machines.values().find(|machine| machine.name == name)
    }

    /// The machine with this moid, for the caller to change. The world records a change of the
    /// machine.
    pub fn machine_mut(&mut self, id: &str) -> Option<&mut Machine> {
        if self.machines.contains_key(id) {
            self.record_change(Moref::new("VirtualMachine", id));
        }
        self.machines.get_mut(id)
    }

    /// Adds a machine. The new machine replaces a machine with the same moid.
    pub fn add_machine(&mut self, machine: Machine) {
        self.record_change(Moref::new("VirtualMachine", machine.id.clone()));
        self.record_change(Moref::new("Datastore", machine.datastore.clone()));
        self.incarnations.insert(machine.id.clone(), self.revision);
        self.machines.insert(machine.id.clone(), machine);
        self.record_structure_change();
    }

    /// Removes a machine, as when it is deleted or unregistered.
    pub fn remove_machine(&mut self, id: &str) -> Option<Machine> {
        if self.machines.contains_key(id) {
            self.record_machine_event(id, "", MachineEvent::Removed);
        }
        let removed = self.machines.remove(id)?;
        // The guest of the removed machine is gone, so its scheduled events must not reach a later
        // machine with the same moid.
        let is_of_guest = |event: &ScheduledEvent| match event {
            ScheduledEvent::Guest { machine, .. } => machine == id,
            ScheduledEvent::TaskStep(_) | ScheduledEvent::ForgetTask(_) => false,
        };
        self.due.retain(|_, event| !is_of_guest(event));
        self.stepped_events.retain(|event| !is_of_guest(event));
        self.record_change(Moref::new("VirtualMachine", id));
        self.record_change(Moref::new("Datastore", removed.datastore.clone()));
        self.record_structure_change();
        // A running task notices the removal at its next step. A task that waits for an answer
        // takes no further step until its question is closed, so the question is closed here.
        self.close_question(id, None);
        Some(removed)
    }

    /// The incarnation of a machine: a number that differs between successive machines with the
    /// same moid. 0 for objects that are no machines.
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

    pub fn add_datastore(&mut self, mut datastore: Datastore) {
        datastore.refreshed_at.get_or_insert(self.now.wall);
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

    /// The networks in the order in which they were added.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.iter()
    }

    /// The network to which the reference of a card leads. `None` if the host does not show this
    /// network.
    #[must_use]
    pub fn network(&self, reference: &CardNetwork) -> Option<&Network> {
        self.networks.iter().find(|network| network.reference == *reference)
    }

    /// The name of the network to which a card is connected, or the key of the network if the host
    /// does not show it.
    #[must_use]
    pub fn network_name<'a>(&'a self, reference: &'a CardNetwork) -> &'a str {
        let (CardNetwork::Standard(own) | CardNetwork::PortGroup(own) | CardNetwork::Opaque(own)) =
            reference;
        self.network(reference).map_or(own, |network| &network.name)
    }

    /// Adds a network, unless the host already has a network with the same reference.
    pub fn add_network(&mut self, network: Network) {
        if self.network(&network.reference).is_none() {
            self.record_change(network.moref());
            self.networks.push(network);
            self.record_structure_change();
        }
    }

    /// Renames a network, as an administrator of the switch does. The moid of the network stays the
    /// same.
    pub fn rename_network(&mut self, reference: &CardNetwork, name: &str) {
        let found = self.networks.iter_mut().find(|network| network.reference == *reference);
        if let Some(network) = found {
            name.clone_into(&mut network.name);
            let moref = network.moref();
            self.record_change(moref);
        }
    }

    /// Removes a network, as happens when the host leaves the distributed switch.
    pub fn remove_network(&mut self, reference: &CardNetwork) {
        if let Some(at) = self.networks.iter().position(|network| network.reference == *reference) {
            let moref = self.networks.remove(at).moref();
            self.record_change(moref);
            self.record_structure_change();
        }
    }

    /// The machine that has the snapshot with this moid. `None` if no machine has it.
    #[must_use]
    pub fn machine_of_snapshot(&self, snapshot: &str) -> Option<&Machine> {
        let by_name = snapshot.split_once("-snapshot-").and_then(|(id, _)| self.machines.get(id));
        by_name
            .filter(|machine| machine.snapshot(snapshot).is_some())
            .or_else(|| self.machines.values().find(|machine| machine.snapshot(snapshot).is_some()))
    }

    /// Reboots the host: every machine is powered off, and all tasks are gone.
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

    /// The current revision: the number of changes since the world was made.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// The revision (the number of the change) at which an object other than a task was last added
    /// or removed.
    #[must_use]
    pub const fn structure(&self) -> u64 {
        self.structure
    }

    /// The revision (the number of the change) at which a task was last added or removed.
    #[must_use]
    pub const fn task_structure(&self) -> u64 {
        self.task_structure
    }

    /// The objects that changed after `revision`. `None` if the journal no longer holds all changes
    /// since then.
    #[must_use]
    pub fn changed_since(&self, revision: u64) -> Option<BTreeSet<&Moref>> {
        if revision + 1 < self.journal_start {
            return None;
        }
        let newest = self.journal.iter().rev().take_while(|(at, _)| *at > revision);
        Some(newest.map(|(_, object)| object).collect())
    }

    /// Records a change of an object in the journal. The revision of the world grows by one.
    fn record_change(&mut self, object: Moref) {
        self.revision += 1;
        self.journal.push_back((self.revision, object));
        while self.journal.len() > MAX_JOURNAL {
            if let Some((dropped, _)) = self.journal.pop_front() {
                self.journal_start = dropped + 1;
            }
        }
    }

    /// Records that a machine, datastore or network was added or removed, and that the objects
    /// which list it have changed.
    fn record_structure_change(&mut self) {
        self.structure = self.revision;
        for (kind, id) in [
            ("Folder", "ha-folder-vm"),
            ("HostSystem", "ha-host"),
            ("ResourcePool", "ha-root-pool"),
            ("Folder", "ha-folder-datastore"),
            ("Datacenter", "ha-datacenter"),
            ("ComputeResource", "ha-compute-res"),
            ("Folder", "ha-folder-network"),
        ] {
            self.record_change(Moref::new(kind, id));
        }
        // Each network has a list of its machines, which may have changed.
        let networks: Vec<Moref> = self.networks.iter().map(Network::moref).collect();
        for network in networks {
            self.record_change(network);
        }
        // Each datastore has a list of its machines, which may have changed.
        let datastores: Vec<String> = self.datastores.keys().cloned().collect();
        for id in datastores {
            self.record_change(Moref::new("Datastore", id));
        }
    }

    /// Schedules an event for the time `after` from now, scaled by the pace. In the pace `Stepped`,
    /// the event waits until a test steps it.
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

    /// Schedules an event for the time `after` from now, which the pace does not scale.
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
