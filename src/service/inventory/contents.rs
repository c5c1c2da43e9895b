//! The live picture of the host as an immutable value, and how facts turn one picture into the
//! next. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::address_trust::AddressTrust;
use crate::domain::datastore::Datastore;
use crate::domain::event::Subject;
use crate::domain::ids::{DatastoreId, MachineId, SnapshotId};
use crate::domain::machine::Machine;
use crate::domain::power::PowerState;
use crate::hypervisor::{Fact, Facts};

/// Everything that the host has, as of one moment. Cloning shares the objects.
#[derive(Clone, Debug, Default)]
pub struct InventoryContents {
    /// Whether the host was ever read whole; before that there is nothing to show.
    pub loaded: bool,
    /// In the order of lists.
    pub machines: Vec<Arc<MachineRecord>>,
    /// In the order of lists.
    pub datastores: Vec<Arc<Datastore>>,
    places: Arc<HashMap<MachineId, usize>>,
}

/// A machine with what otter adds to the host's word.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineRecord {
    pub machine: Machine,
    trust: AddressTrust,
    /// How often the guest's tools stopped since otter first saw the machine.
    tools_stops: u64,
    sort_name: String,
}

/// What differs between two pictures, for those who watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Machine(MachineId),
    MachineRemoved(MachineId),
    Snapshot(MachineId, SnapshotId),
    SnapshotRemoved(MachineId, SnapshotId),
    Datastore(DatastoreId),
    /// Only the number of machines on it differs.
    DatastoreCount(DatastoreId),
    DatastoreRemoved(DatastoreId),
}

impl From<Change> for Subject {
    fn from(change: Change) -> Self {
        match change {
            Change::Machine(id) => Self::Machine(id),
            Change::MachineRemoved(id) => Self::MachineRemoved(id),
            Change::Snapshot(machine, id) => Self::Snapshot(machine, id),
            Change::SnapshotRemoved(machine, id) => Self::SnapshotRemoved(machine, id),
            Change::Datastore(id) => Self::Datastore(id),
            Change::DatastoreCount(id) => Self::DatastoreCount(id),
            Change::DatastoreRemoved(id) => Self::DatastoreRemoved(id),
        }
    }
}

impl MachineRecord {
    /// The preferred address, where it counts.
    #[must_use]
    pub fn ip_address(&self) -> Option<&str> {
        self.are_addresses_trusted().then_some(self.machine.guest.ip_address.as_deref()).flatten()
    }

    /// Every address, where they count.
    #[must_use]
    pub fn ip_addresses(&self) -> &[String] {
        if self.are_addresses_trusted() { &self.machine.guest.ip_addresses } else { &[] }
    }

    /// The lower-cased name, by which lists are ordered and loose names are matched.
    #[must_use]
    pub fn sort_name(&self) -> &str {
        &self.sort_name
    }

    /// When the guest's address wants to be confirmed by a direct read.
    #[must_use]
    pub fn confirm_at(&self) -> Option<Duration> {
        self.trust.confirm_at()
    }

    fn believed(&self) -> bool {
        self.trust == AddressTrust::Trusted && self.machine.power_state == Some(PowerState::On)
    }

    /// How often the guest's tools were seen to stop: whoever remembers it knows later whether they
    /// went meanwhile.
    #[must_use]
    pub const fn tools_stops(&self) -> u64 {
        self.tools_stops
    }

    fn new(machine: Machine, trust: AddressTrust, before: Option<&Self>) -> Self {
        let stopped = before.is_some_and(|before| {
            before.machine.guest.tools_running && !machine.guest.tools_running
        });
        let tools_stops = before.map_or(0, |before| before.tools_stops) + u64::from(stopped);
        let sort_name = machine.name.to_lowercase();
        Self { machine, trust, tools_stops, sort_name }
    }
}

impl InventoryContents {
    /// The machine of this id.
    #[must_use]
    pub fn machine(&self, id: &MachineId) -> Option<&Arc<MachineRecord>> {
        self.places.get(id).map(|place| &self.machines[*place])
    }

    /// The datastore of this id.
    #[must_use]
    pub fn datastore(&self, id: &DatastoreId) -> Option<&Arc<Datastore>> {
        self.datastores.iter().find(|datastore| datastore.id == *id)
    }

    /// The next picture, and what differs. `now` is the clock's elapsed time, `settle` is
    /// `esx.guest_settle`.
    #[must_use]
    pub fn apply(&self, facts: Facts, now: Duration, settle: Duration) -> (Self, Vec<Change>) {
        let mut next = Editor::new(self, now, settle);
        let Facts { complete, changes } = facts;
        if complete {
            next.forget_others(&changes);
        }
        for fact in changes {
            next.take(fact, complete);
        }
        next.finish(complete)
    }
}

/// A picture being changed.
struct Editor<'a> {
    before: &'a InventoryContents,
    now: Duration,
    settle: Duration,
    machines: HashMap<MachineId, Arc<MachineRecord>>,
    /// Which machines may differ from `before`.
    touched: Vec<MachineId>,
    datastores: Vec<Arc<Datastore>>,
}

impl<'a> Editor<'a> {
    fn new(before: &'a InventoryContents, now: Duration, settle: Duration) -> Self {
        let machines = before
            .machines
            .iter()
            .map(|record| (record.machine.id.clone(), Arc::clone(record)))
            .collect();
        let datastores = before.datastores.clone();
        Self { before, now, settle, machines, touched: Vec::new(), datastores }
    }

    fn forget_others(&mut self, changes: &[Fact]) {
        let mut machines = HashSet::new();
        let mut datastores = HashSet::new();
        for fact in changes {
            match fact {
                Fact::Machine(machine) => {
                    machines.insert(&machine.id);
                }
                Fact::Datastore(datastore) => {
                    datastores.insert(&datastore.id);
                }
                _ => {}
            }
        }
        // In the order of lists, so that changes are published in an order that repeats.
        for record in &self.before.machines {
            let id = &record.machine.id;
            if !machines.contains(id) {
                self.machines.remove(id);
                self.touched.push(id.clone());
            }
        }
        self.datastores.retain(|datastore| datastores.contains(&datastore.id));
    }

    fn take(&mut self, fact: Fact, complete: bool) {
        match fact {
            Fact::Machine(machine) => {
                let known = self.machines.get(&machine.id);
                let trust = match known {
                    Some(known) if complete => {
                        known.trust.after_gap(&known.machine, &machine, self.now, self.settle)
                    }
                    Some(known) => {
                        known.trust.after_update(&known.machine, &machine, self.now, self.settle)
                    }
                    None => AddressTrust::at_first(&machine, self.now, self.settle),
                };
                let record = MachineRecord::new(*machine, trust, known.map(Arc::as_ref));
                self.put(record);
            }
            Fact::MachineRemoved(id) => {
                self.machines.remove(&id);
                self.touched.push(id);
            }
            Fact::Datastore(datastore) => {
                self.datastores.retain(|known| known.id != datastore.id);
                self.datastores.push(Arc::new(*datastore));
            }
            Fact::DatastoreRemoved(id) => self.datastores.retain(|known| known.id != id),
            Fact::GuestRestarted(id) => {
                if let Some(known) = self.machines.get(&id) {
                    let trust = AddressTrust::after_restart(&known.machine, self.now, self.settle);
                    self.put(MachineRecord { trust, ..MachineRecord::clone(known) });
                }
            }
            Fact::GuestConfirmed { machine, tools_running, ip_address, ip_addresses } => {
                if let Some(known) = self.machines.get(&machine) {
                    let mut record = MachineRecord::clone(known);
                    record.trust = record.trust.after_confirmation(
                        &record.machine,
                        tools_running,
                        ip_address.as_deref(),
                        self.now,
                    );
                    if record.trust == AddressTrust::Trusted && !ip_addresses.is_empty() {
                        record.machine.guest.ip_addresses = ip_addresses;
                    }
                    self.put(record);
                }
            }
        }
    }

    fn put(&mut self, record: MachineRecord) {
        let id = record.machine.id.clone();
        self.touched.push(id.clone());
        self.machines.insert(id, Arc::new(record));
    }

    fn finish(mut self, complete: bool) -> (InventoryContents, Vec<Change>) {
        let mut changes = Vec::new();
        let mut same_places = true;
        let mut seen = HashSet::new();
        let touched = std::mem::take(&mut self.touched);
        for id in touched.into_iter().filter(|id| seen.insert(id.clone())) {
            let before = self.before.machine(&id);
            let after = self.machines.get(&id);
            same_places &= match (before, after) {
                (Some(before), Some(after)) => before.sort_name == after.sort_name,
                (None, None) => true,
                _ => false,
            };
            compare_machine(&id, before, after, &mut changes);
        }
        compare_datastores(&self.before.datastores, &self.datastores, &mut changes);
        let (machines, places) = if same_places {
            let refreshed = |record: &Arc<MachineRecord>| {
                self.machines.get(&record.machine.id).map_or_else(|| Arc::clone(record), Arc::clone)
            };
            (self.before.machines.iter().map(refreshed).collect(), Arc::clone(&self.before.places))
        } else {
            in_order(self.machines.into_values().collect())
        };
        self.datastores
            .sort_by_cached_key(|datastore| (datastore.name.to_lowercase(), datastore.id.clone()));
        let loaded = self.before.loaded || complete;
        (InventoryContents { loaded, machines, datastores: self.datastores, places }, changes)
    }
}

fn in_order(
    mut machines: Vec<Arc<MachineRecord>>,
) -> (Vec<Arc<MachineRecord>>, Arc<HashMap<MachineId, usize>>) {
    machines.sort_by(|a, b| {
        a.sort_name.cmp(&b.sort_name).then_with(|| a.machine.id.cmp(&b.machine.id))
    });
    let places = machines
        .iter()
        .enumerate()
        .map(|(place, record)| (record.machine.id.clone(), place))
        .collect();
    (machines, Arc::new(places))
}

fn compare_machine(
    id: &MachineId,
    before: Option<&Arc<MachineRecord>>,
    after: Option<&Arc<MachineRecord>>,
    changes: &mut Vec<Change>,
) {
    let snapshots = |record: Option<&Arc<MachineRecord>>| {
        record.map(|record| record.machine.snapshots.clone()).unwrap_or_default()
    };
    let same_snapshots = match (before, after) {
        (Some(before), Some(after)) => before.machine.snapshots == after.machine.snapshots,
        (None, None) => true,
        _ => false,
    };
    if !same_snapshots {
        let (old, new) = (snapshots(before), snapshots(after));
        // A snapshot's path changes with any name above it.
        let (old_paths, new_paths) = (old.paths(), new.paths());
        let old_by_id: HashMap<_, _> = old
            .items
            .iter()
            .zip(&old_paths)
            .map(|(snapshot, path)| (&snapshot.id, (snapshot, path)))
            .collect();
        let new_ids: HashSet<_> = new.items.iter().map(|snapshot| &snapshot.id).collect();
        for (snapshot, path) in new.items.iter().zip(&new_paths) {
            let current_moved = (old.current.as_ref() == Some(&snapshot.id))
                != (new.current.as_ref() == Some(&snapshot.id));
            if old_by_id.get(&snapshot.id) != Some(&(snapshot, path)) || current_moved {
                changes.push(Change::Snapshot(id.clone(), snapshot.id.clone()));
            }
        }
        for snapshot in old.items.iter().filter(|snapshot| !new_ids.contains(&snapshot.id)) {
            changes.push(Change::SnapshotRemoved(id.clone(), snapshot.id.clone()));
        }
    }
    match (before, after) {
        (Some(_), None) => changes.push(Change::MachineRemoved(id.clone())),
        (before, Some(after)) if before.is_none_or(|before| before != after) => {
            changes.push(Change::Machine(id.clone()));
        }
        _ => {}
    }
}

fn compare_datastores(
    before: &[Arc<Datastore>],
    after: &[Arc<Datastore>],
    changes: &mut Vec<Change>,
) {
    for datastore in after {
        let id = datastore.id.clone();
        match before.iter().find(|known| known.id == id) {
            Some(known) if known == datastore => {}
            Some(known) if known.is_same_except_count(datastore) => {
                changes.push(Change::DatastoreCount(id));
            }
            _ => changes.push(Change::Datastore(id)),
        }
    }
    for datastore in before {
        if !after.iter().any(|known| known.id == datastore.id) {
            changes.push(Change::DatastoreRemoved(datastore.id.clone()));
        }
    }
}
