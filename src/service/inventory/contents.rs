//! The contents of the inventory as an immutable value. Facts from the host turn the contents into
//! new contents, and give the list of changes between the two.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;

use super::address_trust::AddressTrust;
use super::entry::{Entry, GuestHistory};
use super::machine_index::{MachineIndex, Positions, has_same_keys};
use super::machine_list::MachineList;
use crate::domain::datastore::Datastore;
use crate::domain::event::Subject;
use crate::domain::ids::{DatastoreId, MachineId, SnapshotId};
use crate::domain::mac::MacAddress;
use crate::domain::machine::Machine;
use crate::domain::machine_reference::MachineReference;
use crate::domain::names::{contains_loosely, unescape_vim};
use crate::domain::network::Network;
use crate::domain::power::PowerState;
use crate::domain::snapshot::Snapshots;
use crate::hypervisor::{Fact, Facts};

/// All machines and datastores of the host at one moment. A clone shares the machines and
/// datastores with the original.
#[derive(Clone, Debug, Default)]
pub struct InventoryContents {
    /// Whether otter has read the host completely once. Until then callers see no objects.
    pub loaded: bool,
    /// The wall-clock time of the last facts; `None` before the first.
    pub updated_at: Option<Timestamp>,
    /// The machines as the host reports them, in the order of their names.
    pub machines: MachineList,
    /// The datastores in the order of their names.
    pub datastores: Vec<Arc<Datastore>>,
    /// The index of each machine in `machines`.
    positions: Arc<HashMap<MachineId, usize>>,
    /// The search index of `machines`, which is built when it is first used. All contents whose
    /// machines have the same keys (ids, names, UUIDs and hardware addresses) share one index.
    index: Arc<OnceLock<MachineIndex>>,
}

/// Stands for the keys of all machines: their ids, names, UUIDs and hardware addresses. If two
/// values are equal, the keys did not change between them. If the values are not equal, the keys
/// may still be the same.
#[derive(Clone, Debug)]
pub struct SharedKeys(Arc<OnceLock<MachineIndex>>);

/// The key that decides the place of a machine in the list: its name in lower case, then its id.
type SortKey = (String, MachineId);

impl PartialEq for SharedKeys {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

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
        self.position(id).map(|position| &self.machines[position])
    }

    /// The position of a machine in `machines`.
    #[must_use]
    pub fn position(&self, id: &MachineId) -> Option<usize> {
        self.positions.get(id).copied()
    }

    /// The datastore with this id.
    #[must_use]
    pub fn datastore(&self, id: &DatastoreId) -> Option<&Arc<Datastore>> {
        self.datastores.iter().find(|datastore| datastore.id == *id)
    }

    /// All machines that a reference matches, and possibly others, in the order of their names. The
    /// caller checks each of them.
    #[must_use]
    pub fn near_reference(&self, reference: &MachineReference) -> Vec<&Arc<Machine>> {
        if let MachineReference::Id(id) = reference {
            let unescaped = unescape_vim(&id.to_string()).parse::<MachineId>().ok();
            let known = std::iter::once(id).chain(&unescaped);
            let mut positions: Vec<usize> = known.filter_map(|id| self.position(id)).collect();
            positions.sort_unstable();
            positions.dedup();
            return positions.into_iter().map(|position| &self.machines[position]).collect();
        }
        match self.index().near_reference(reference) {
            Some(positions) => self.at(positions).collect(),
            None => self.machines.iter().collect(),
        }
    }

    /// The machines in the order of their names. If `name` is given, only those whose name contains
    /// it (see [`contains_loosely`]). If `mac` is given, only those that have a network card with
    /// this address.
    pub fn search(
        &self,
        name: Option<&str>,
        mac: Option<MacAddress>,
    ) -> impl Iterator<Item = &Arc<Machine>> {
        let near = match (mac, name) {
            (Some(mac), _) => Some(self.index().with_mac(mac)),
            (None, Some(name)) => self.index().near_name(name),
            (None, None) => None,
        };
        let all = near.is_none().then(|| self.machines.iter());
        let some = near.map(|positions| self.at(positions));
        let machines = all.into_iter().flatten().chain(some.into_iter().flatten());
        machines
            .filter(move |machine| name.is_none_or(|name| contains_loosely(&machine.name, name)))
    }

    /// The keys of all machines (ids, names, UUIDs and hardware addresses), to compare them with
    /// the keys of later contents.
    #[must_use]
    pub fn keys(&self) -> SharedKeys {
        SharedKeys(Arc::clone(&self.index))
    }

    /// Whether the addresses of the guest are trusted: the machine is on, and the addresses are not
    /// older than its last start or revert.
    #[must_use]
    pub fn has_trusted_addresses(&self, id: &MachineId) -> bool {
        self.entry(id).is_some_and(|Entry { machine, guest }| {
            guest.address_trust == AddressTrust::Trusted
                && machine.power_state == Some(PowerState::On)
        })
    }

    /// The first address of the guest (see [`Machine::addresses`]), and if `within` is a network,
    /// the first address inside it. `None` if the addresses are not trusted.
    #[must_use]
    pub fn ip_address(&self, id: &MachineId, within: Option<Network>) -> Option<IpAddr> {
        let machine = self.machine(id).filter(|_| self.has_trusted_addresses(id))?;
        machine.address_within(within)
    }

    /// How often the guest tools stopped since otter first saw the machine; 0 if the machine does
    /// not exist. If the number increases between two reads, the tools stopped between these reads.
    #[must_use]
    pub fn tools_stops(&self, id: &MachineId) -> u64 {
        self.entry(id).map_or(0, |entry| entry.guest.tools_stops)
    }

    /// How often the guest was started, reverted, reset, suspended or powered off since otter first
    /// saw the machine; 0 if the machine does not exist.
    #[must_use]
    pub fn restarts(&self, id: &MachineId) -> u64 {
        self.entry(id).map_or(0, |entry| entry.guest.restarts)
    }

    /// When the last of these restarts happened, as the elapsed time of the clock. `None` if otter
    /// saw none.
    #[must_use]
    pub fn restarted_at(&self, id: &MachineId) -> Option<Duration> {
        self.entry(id).and_then(|entry| entry.guest.restarted_at)
    }

    /// How often the machine was reverted to a snapshot since otter first saw it; 0 if the machine
    /// does not exist. One revert can count twice: when the host reports another current snapshot,
    /// and when its task ends.
    #[must_use]
    pub fn reverts(&self, id: &MachineId) -> u64 {
        self.entry(id).map_or(0, |entry| entry.guest.reverts)
    }

    /// How often a job of otter reset the machine; 0 if the machine does not exist.
    #[must_use]
    pub fn resets(&self, id: &MachineId) -> u64 {
        self.entry(id).map_or(0, |entry| entry.guest.resets)
    }

    /// The machines whose addresses a direct read can confirm. Each has the earliest time for this
    /// read, as the elapsed time of the clock.
    pub fn confirmations(&self) -> impl Iterator<Item = (&MachineId, Duration)> {
        self.machines.entries().filter_map(|Entry { machine, guest }| {
            Some((&machine.id, guest.address_trust.confirm_at()?))
        })
    }

    /// The contents after these facts, and the changes between the old and the new contents.
    ///
    /// # Parameters
    /// - `now`: the elapsed time of the clock
    /// - `settle`: the setting `esx.guest_settle`
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

    fn entry(&self, id: &MachineId) -> Option<&Entry> {
        self.position(id).map(|position| self.machines.entry(position))
    }

    /// The position in the list of machines at which a machine with this key belongs.
    fn place_of(&self, key: &SortKey) -> usize {
        let (mut low, mut high) = (0, self.machines.len());
        while low < high {
            let middle = low.midpoint(high);
            if sort_key(&self.machines[middle]) < *key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn index(&self) -> &MachineIndex {
        self.index.get_or_init(|| MachineIndex::new(&self.machines))
    }

    fn at(&self, positions: Positions) -> impl Iterator<Item = &Arc<Machine>> {
        positions.into_iter().map(|position| &self.machines[position as usize])
    }
}

/// The contents while facts are applied to them. An editor has only those objects that the facts
/// change.
struct Editor<'a> {
    before: &'a InventoryContents,
    now: Duration,
    settle: Duration,
    /// The machines that may differ from those in `before`. The value is `None` if the machine was
    /// removed.
    changed: HashMap<MachineId, Option<Entry>>,
    /// The keys of the map `changed`, in the order of the facts.
    touched: Vec<MachineId>,
    /// The new datastores. `None` if they do not differ from those in `before`.
    datastores: Option<Vec<Arc<Datastore>>>,
}

impl<'a> Editor<'a> {
    fn new(before: &'a InventoryContents, now: Duration, settle: Duration) -> Self {
        let (changed, touched) = (HashMap::new(), Vec::new());
        Self { before, now, settle, changed, touched, datastores: None }
    }

    /// Removes every object that a complete read of the host does not contain.
    ///
    /// # Parameters
    /// - `changes`: the facts of the complete read.
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
        // The loop goes through `machines` of `before`, which is sorted, so that the order of the
        // published changes is deterministic.
        for machine in &self.before.machines {
            if !machines.contains(&machine.id) {
                self.set(machine.id.clone(), None);
            }
        }
        self.datastores().retain(|datastore| datastores.contains(&datastore.id));
    }

    fn apply_fact(&mut self, fact: Fact, complete: bool) {
        let (now, settle) = (self.now, self.settle);
        match fact {
            Fact::Machine(mut machine) => {
                let known = self.get(&machine.id);
                if let Some(Entry { machine: known, .. }) = known
                    && !machine.has_known_identity()
                    && known.has_known_identity()
                {
                    Arc::make_mut(&mut machine).keep_identity(known);
                }
                let guest = match known {
                    Some(Entry { machine: known, guest }) => {
                        guest.after(known, &machine, complete, now, settle)
                    }
                    None => GuestHistory::at_first(&machine, now, settle),
                };
                self.set(machine.id.clone(), Some(Entry { machine, guest }));
            }
            Fact::MachineRemoved(id) => self.set(id, None),
            Fact::Datastore(datastore) => {
                let datastores = self.datastores();
                datastores.retain(|known| known.id != datastore.id);
                datastores.push(datastore);
            }
            Fact::DatastoreRemoved(id) => self.datastores().retain(|known| known.id != id),
            Fact::GuestRestarted { machine: id, by } => {
                if let Some(Entry { machine, guest }) = self.get(&id).cloned() {
                    let guest = guest.after_restart(&machine, by, now, settle);
                    self.set(id, Some(Entry { machine, guest }));
                }
            }
            Fact::GuestConfirmed { machine: id, tools_running, ip_address, interfaces } => {
                if let Some(Entry { mut machine, mut guest }) = self.get(&id).cloned() {
                    guest.address_trust = guest.address_trust.after_confirmation(
                        &machine,
                        tools_running,
                        ip_address.as_deref(),
                        now,
                    );
                    if guest.address_trust == AddressTrust::Trusted {
                        Arc::make_mut(&mut machine).guest.interfaces = interfaces;
                    }
                    self.set(id, Some(Entry { machine, guest }));
                }
            }
        }
    }

    fn get(&self, id: &MachineId) -> Option<&Entry> {
        match self.changed.get(id) {
            Some(changed) => changed.as_ref(),
            None => self.before.entry(id),
        }
    }

    fn set(&mut self, id: MachineId, entry: Option<Entry>) {
        if self.changed.insert(id.clone(), entry).is_none() {
            self.touched.push(id);
        }
    }

    fn datastores(&mut self) -> &mut Vec<Arc<Datastore>> {
        self.datastores.get_or_insert_with(|| self.before.datastores.clone())
    }

    fn finish(mut self, complete: bool) -> (InventoryContents, Vec<Change>) {
        let (contents, mut changes) = (self.before, Vec::new());
        let (mut same_order, mut same_keys) = (true, true);
        for id in &self.touched {
            let (before, after) = (contents.entry(id), self.get(id));
            let pair = match (before, after) {
                (Some(before), Some(after)) => Some((&before.machine, &after.machine)),
                _ => None,
            };
            let both_absent = before.is_none() && after.is_none();
            same_order &= both_absent || pair.is_some_and(|(old, new)| old.name == new.name);
            same_keys &= both_absent || pair.is_some_and(|(old, new)| has_same_keys(old, new));
            compare_machine(id, before, after, &mut changes);
        }
        let datastores = match self.datastores.take() {
            Some(mut datastores) => {
                compare_datastores(&contents.datastores, &datastores, &mut changes);
                datastores.sort_by_cached_key(|datastore| {
                    (datastore.name.to_lowercase(), datastore.id.clone())
                });
                datastores
            }
            None => contents.datastores.clone(),
        };
        let (machines, positions) = if same_order { self.replaced() } else { self.sorted() };
        let index = if same_keys { Arc::clone(&contents.index) } else { Arc::new(OnceLock::new()) };
        let (loaded, updated_at) = (contents.loaded || complete, contents.updated_at);
        let contents =
            InventoryContents { loaded, updated_at, machines, datastores, positions, index };
        (contents, changes)
    }

    /// The new list of machines, and the position of each machine, if each machine has kept its
    /// place in the list.
    fn replaced(self) -> (MachineList, Arc<HashMap<MachineId, usize>>) {
        let positions = &self.before.positions;
        let replacements =
            self.changed.into_iter().filter_map(|(id, entry)| Some((*positions.get(&id)?, entry?)));
        (self.before.machines.with_replaced(replacements), Arc::clone(positions))
    }

    /// The new list of machines, and the position of each machine, if machines were added, removed
    /// or renamed. The machines that stay keep their order, and the others are inserted.
    fn sorted(mut self) -> (MachineList, Arc<HashMap<MachineId, usize>>) {
        let stays = |changed: &Entry| {
            let before = self.before.machine(&changed.machine.id);
            before.is_some_and(|before| before.name == changed.machine.name)
        };
        let mut inserted: Vec<(SortKey, Entry)> = Vec::new();
        for entry in self.changed.values_mut() {
            if let Some(entry) = entry.take_if(|entry| !stays(entry)) {
                inserted.push((sort_key(&entry.machine), entry));
            }
        }
        inserted.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut inserted =
            inserted.into_iter().map(|(key, entry)| (self.before.place_of(&key), entry)).peekable();
        let mut entries = Vec::with_capacity(self.before.machines.len() + inserted.len());
        for (position, before) in self.before.machines.entries().enumerate() {
            while let Some((_, entry)) = inserted.next_if(|(place, _)| *place == position) {
                entries.push(entry);
            }
            match self.changed.get_mut(&before.machine.id) {
                None => entries.push(before.clone()),
                Some(changed) => entries.extend(changed.take()),
            }
        }
        entries.extend(inserted.map(|(_, entry)| entry));
        let ids = entries.iter().map(|entry| entry.machine.id.clone());
        let positions = ids.enumerate().map(|(position, id)| (id, position)).collect();
        (MachineList::from_entries(&entries), Arc::new(positions))
    }
}

fn sort_key(machine: &Machine) -> SortKey {
    (machine.name.to_lowercase(), machine.id.clone())
}

fn compare_machine(
    id: &MachineId,
    before: Option<&Entry>,
    after: Option<&Entry>,
    changes: &mut Vec<Change>,
) {
    if before == after {
        return;
    }
    let none = Snapshots::default();
    let old = before.map_or(&none, |entry| &entry.machine.snapshots);
    let new = after.map_or(&none, |entry| &entry.machine.snapshots);
    if old != new {
        // Compare the paths too: the path of a snapshot contains the names of its ancestors, so it
        // changes when an ancestor is renamed.
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
