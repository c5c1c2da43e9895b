//! The contents of the inventory as an immutable value. Facts from the host produce the next value
//! and the changes between both.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::address_trust::AddressTrust;
use crate::domain::datastore::Datastore;
use crate::domain::event::Subject;
use crate::domain::ids::{DatastoreId, MachineId, SnapshotId};
use crate::domain::machine::Machine;
use crate::domain::network::Network;
use crate::domain::power::PowerState;
use crate::domain::snapshot::Snapshots;
use crate::hypervisor::{Fact, Facts};

/// All machines and datastores of the host at one moment. A clone shares the objects.
#[derive(Clone, Debug, Default)]
pub struct InventoryContents {
    /// Whether the host was read completely once. Until then callers see no objects.
    pub loaded: bool,
    /// The wall-clock time of the last facts; `None` before the first.
    pub updated_at: Option<Timestamp>,
    /// The machines as the host reports them, in the order of their names.
    pub machines: Vec<Arc<Machine>>,
    /// The datastores in the order of their names.
    pub datastores: Vec<Arc<Datastore>>,
    /// The history of the guest of each machine, in the order of `machines`.
    guests: Vec<GuestHistory>,
    /// The index of each machine in `machines`.
    positions: Arc<HashMap<MachineId, usize>>,
}

/// Data about a guest that follow from several reports of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GuestHistory {
    address_trust: AddressTrust,
    /// How often the guest tools stopped since otter first saw the machine.
    tools_stops: u64,
}

/// A machine while facts are applied.
type Entry = (Arc<Machine>, GuestHistory);

/// A difference between two contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Machine(MachineId),
    MachineRemoved(MachineId),
    Snapshot(MachineId, SnapshotId),
    SnapshotRemoved(MachineId, SnapshotId),
    Datastore(DatastoreId),
    /// Only the number of machines on the datastore differs.
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

impl InventoryContents {
    /// The machine with this id.
    #[must_use]
    pub fn machine(&self, id: &MachineId) -> Option<&Arc<Machine>> {
        self.positions.get(id).map(|position| &self.machines[*position])
    }

    /// The datastore with this id.
    #[must_use]
    pub fn datastore(&self, id: &DatastoreId) -> Option<&Arc<Datastore>> {
        self.datastores.iter().find(|datastore| datastore.id == *id)
    }

    /// Whether the addresses of the guest are trusted: the machine is on, and the addresses are not
    /// older than its last start or revert.
    #[must_use]
    pub fn has_trusted_addresses(&self, id: &MachineId) -> bool {
        self.entry(id).is_some_and(|(machine, guest)| {
            guest.address_trust == AddressTrust::Trusted
                && machine.power_state == Some(PowerState::On)
        })
    }

    /// The first address of the guest that counts and is inside this network, if there is one. See
    /// [`Machine::addresses`]. `None` if the addresses are not trusted.
    #[must_use]
    pub fn ip_address(&self, id: &MachineId, within: Option<Network>) -> Option<IpAddr> {
        let machine = self.machine(id).filter(|_| self.has_trusted_addresses(id))?;
        machine.address_within(within)
    }

    /// How often the guest tools stopped since otter first saw the machine; 0 if the machine does
    /// not exist. If the number increases between two reads, the tools stopped in between.
    #[must_use]
    pub fn tools_stops(&self, id: &MachineId) -> u64 {
        self.entry(id).map_or(0, |(_, guest)| guest.tools_stops)
    }

    /// The machines whose addresses a direct read can confirm, each with the earliest time of that
    /// read, as the elapsed time of the clock.
    pub fn confirmations(&self) -> impl Iterator<Item = (&MachineId, Duration)> {
        let entries = self.machines.iter().zip(&self.guests);
        entries
            .filter_map(|(machine, guest)| Some((&machine.id, guest.address_trust.confirm_at()?)))
    }

    /// The contents after these facts, and the changes.
    ///
    /// # Parameters
    /// - `now`: the elapsed time of the clock
    /// - `settle`: `esx.guest_settle`
    #[must_use]
    pub fn apply(&self, facts: Facts, now: Duration, settle: Duration) -> (Self, Vec<Change>) {
        let mut next = Editor::new(self, now, settle);
        let Facts { complete, changes } = facts;
        if complete {
            next.remove_unlisted(&changes);
        }
        for fact in changes {
            next.apply_fact(fact, complete);
        }
        next.finish(complete)
    }

    fn entry(&self, id: &MachineId) -> Option<(&Arc<Machine>, GuestHistory)> {
        self.positions.get(id).map(|position| (&self.machines[*position], self.guests[*position]))
    }
}

/// The contents while facts are applied.
struct Editor<'a> {
    before: &'a InventoryContents,
    now: Duration,
    settle: Duration,
    machines: HashMap<MachineId, Entry>,
    /// The machines that may differ from `before`.
    touched: Vec<MachineId>,
    datastores: Vec<Arc<Datastore>>,
}

impl<'a> Editor<'a> {
    fn new(before: &'a InventoryContents, now: Duration, settle: Duration) -> Self {
        let entries = before.machines.iter().zip(&before.guests);
        let machines = entries
            .map(|(machine, guest)| (machine.id.clone(), (Arc::clone(machine), *guest)))
            .collect();
        let datastores = before.datastores.clone();
        Self { before, now, settle, machines, touched: Vec::new(), datastores }
    }

    /// Removes every object that a complete read does not contain.
    fn remove_unlisted(&mut self, changes: &[Fact]) {
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
        // In the order of `machines`, so that the order of the published changes is deterministic.
        for machine in &self.before.machines {
            if !machines.contains(&machine.id) {
                self.machines.remove(&machine.id);
                self.touched.push(machine.id.clone());
            }
        }
        self.datastores.retain(|datastore| datastores.contains(&datastore.id));
    }

    fn apply_fact(&mut self, fact: Fact, complete: bool) {
        let (now, settle) = (self.now, self.settle);
        match fact {
            Fact::Machine(mut machine) => {
                if let Some((known, _)) = self.machines.get(&machine.id)
                    && !machine.has_known_identity()
                    && known.has_known_identity()
                {
                    Arc::make_mut(&mut machine).keep_identity(known);
                }
                let guest = match self.machines.get(&machine.id) {
                    Some((known, guest)) => guest.after(known, &machine, complete, now, settle),
                    None => GuestHistory {
                        address_trust: AddressTrust::at_first(&machine, now, settle),
                        tools_stops: 0,
                    },
                };
                self.insert(machine, guest);
            }
            Fact::MachineRemoved(id) => {
                self.machines.remove(&id);
                self.touched.push(id);
            }
            Fact::Datastore(datastore) => {
                self.datastores.retain(|known| known.id != datastore.id);
                self.datastores.push(datastore);
            }
            Fact::DatastoreRemoved(id) => self.datastores.retain(|known| known.id != id),
            Fact::GuestRestarted(id) => {
                if let Some((machine, guest)) = self.machines.get(&id) {
                    let address_trust = AddressTrust::after_restart(machine, now, settle);
                    self.insert(Arc::clone(machine), GuestHistory { address_trust, ..*guest });
                }
            }
            Fact::GuestConfirmed { machine, tools_running, ip_address, interfaces } => {
                if let Some((machine, guest)) = self.machines.get(&machine) {
                    let (mut machine, mut guest) = (Arc::clone(machine), *guest);
                    guest.address_trust = guest.address_trust.after_confirmation(
                        &machine,
                        tools_running,
                        ip_address.as_deref(),
                        now,
                    );
                    if guest.address_trust == AddressTrust::Trusted {
                        Arc::make_mut(&mut machine).guest.interfaces = interfaces;
                    }
                    self.insert(machine, guest);
                }
            }
        }
    }

    fn insert(&mut self, machine: Arc<Machine>, guest: GuestHistory) {
        self.touched.push(machine.id.clone());
        self.machines.insert(machine.id.clone(), (machine, guest));
    }

    fn finish(mut self, complete: bool) -> (InventoryContents, Vec<Change>) {
        let mut changes = Vec::new();
        let mut same_order = true;
        let mut seen = HashSet::new();
        let touched = std::mem::take(&mut self.touched);
        for id in touched.into_iter().filter(|id| seen.insert(id.clone())) {
            let before = self.before.entry(&id);
            let after = self.machines.get(&id).map(|(machine, guest)| (machine, *guest));
            same_order &= match (before, after) {
                (Some((before, _)), Some((after, _))) => before.name == after.name,
                (None, None) => true,
                _ => false,
            };
            compare_machine(&id, before, after, &mut changes);
        }
        compare_datastores(&self.before.datastores, &self.datastores, &mut changes);
        let (entries, positions) = if same_order {
            let ids = self.before.machines.iter().map(|machine| &machine.id);
            let entries = ids.filter_map(|id| self.machines.get(id).cloned()).collect();
            (entries, Arc::clone(&self.before.positions))
        } else {
            sorted_with_positions(self.machines.into_values().collect())
        };
        let (machines, guests) = entries.into_iter().unzip();
        let mut datastores = self.datastores;
        datastores
            .sort_by_cached_key(|datastore| (datastore.name.to_lowercase(), datastore.id.clone()));
        let (loaded, updated_at) = (self.before.loaded || complete, self.before.updated_at);
        let contents =
            InventoryContents { loaded, updated_at, machines, datastores, guests, positions };
        (contents, changes)
    }
}

impl GuestHistory {
    /// The history after a complete read or an update changed the machine from `before` to
    /// `machine`.
    fn after(
        self,
        before: &Machine,
        machine: &Machine,
        complete: bool,
        now: Duration,
        settle: Duration,
    ) -> Self {
        let stopped = before.guest.tools_running && !machine.guest.tools_running;
        let address_trust = if complete {
            self.address_trust.after_gap(before, machine, now, settle)
        } else {
            self.address_trust.after_update(before, machine, now, settle)
        };
        Self { address_trust, tools_stops: self.tools_stops + u64::from(stopped) }
    }
}

fn sorted_with_positions(mut entries: Vec<Entry>) -> (Vec<Entry>, Arc<HashMap<MachineId, usize>>) {
    entries.sort_by_cached_key(|(machine, _)| (machine.name.to_lowercase(), machine.id.clone()));
    let ids = entries.iter().map(|(machine, _)| machine.id.clone());
    let positions = ids.enumerate().map(|(position, id)| (id, position)).collect();
    (entries, Arc::new(positions))
}

fn compare_machine(
    id: &MachineId,
    before: Option<(&Arc<Machine>, GuestHistory)>,
    after: Option<(&Arc<Machine>, GuestHistory)>,
    changes: &mut Vec<Change>,
) {
    if before == after {
        return;
    }
    let none = Snapshots::default();
    let old = before.map_or(&none, |(machine, _)| &machine.snapshots);
    let new = after.map_or(&none, |(machine, _)| &machine.snapshots);
    if old != new {
        // The path of a snapshot contains the names of its ancestors, so it changes with them.
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
    changes.push(match after {
        Some(_) => Change::Machine(id.clone()),
        None => Change::MachineRemoved(id.clone()),
    });
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
