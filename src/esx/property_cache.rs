//! The last known properties of every object in the filters, and which objects have changed since
//! the last report. Pure code: it takes update sets and returns facts.
//!
//! A change of a followed path is applied. A change of any other path (below `snapshot`, or of one
//! element of a list) marks the object as incomplete, and the collector reads the object again. No
//! change is ignored.

use std::collections::{BTreeMap, BTreeSet};

use super::datastore::DatastoreProperties;
use super::machine::MachineProperties;
use super::network::{NETWORK_PATHS, NetworkNames, NetworkProperties};
use super::soap::Reference;
use super::soap::property::{ChangedValue, ObjectContent, ObjectUpdate, UpdateKind};
use super::soap::xml::Element;
use super::task_info::TaskInfo;
use crate::domain::ids::{DatastoreId, MachineId, TaskId};
use crate::hypervisor::{Fact, Facts};

/// The objects that the collector's filters select. [`apply`](Self::apply) takes updates from the
/// stream, and [`replace`](Self::replace) takes objects that the collector has read again.
#[derive(Debug, Default)]
pub struct PropertyCache {
    machines: BTreeMap<MachineId, MachineProperties>,
    datastores: BTreeMap<DatastoreId, DatastoreProperties>,
    /// The networks to which cards refer by a key.
    networks: BTreeMap<Reference, NetworkProperties>,
    /// The names of networks that the last reported facts show, by the key of the network.
    reported_names: NetworkNames,
    changed: BTreeSet<Reference>,
    removed: BTreeSet<Reference>,
    /// Whether a machine came or went since the last call of `take_membership_changed`.
    membership_changed: bool,
    incomplete: BTreeSet<Reference>,
    /// The last `info` of each task that the update set contains. `None` if the task has left the
    /// `ListView`, or if the set contains only a part of its `info`.
    tasks: BTreeMap<TaskId, Option<TaskInfo>>,
    /// Whether the host could not return a property because of `NotAuthenticated`.
    unauthenticated: bool,
}

impl PropertyCache {
    /// Applies the update of one object.
    pub fn apply(&mut self, update: &ObjectUpdate<'_>) {
        let object = &update.object;
        if object.kind == "Task" {
            return self.apply_task(update);
        }
        if update.kind == UpdateKind::Leave {
            return self.remove(object);
        }
        if update.kind == UpdateKind::Enter {
            self.reset(object);
            if update.changes.is_empty() {
                self.incomplete.insert(object.clone());
            }
        }
        self.note_missing(
            update.missing.iter().any(|missing| missing.fault.is_not_authenticated()),
        );
        let mut properties = self.properties(object);
        let mut is_understood = true;
        for change in &update.changes {
            is_understood &= match change.value {
                ChangedValue::Assigned(value) => properties.assign(change.path, Some(value)),
                ChangedValue::Unset => properties.assign(change.path, None),
                ChangedValue::Partial => false,
            };
        }
        if !is_understood {
            self.incomplete.insert(object.clone());
        }
        self.changed.insert(object.clone());
    }

    /// Takes the objects that the collector must read again, and then pass to
    /// [`replace`](Self::replace).
    pub fn take_incomplete(&mut self) -> Vec<Reference> {
        std::mem::take(&mut self.incomplete)
            .into_iter()
            .filter(|object| !self.removed.contains(object))
            .collect()
    }

    /// Replaces an object by the result of a read of all its followed properties.
    pub fn replace(&mut self, content: &ObjectContent<'_>) {
        self.reset(&content.object);
        self.note_missing(
            content.missing.iter().any(|missing| missing.fault.is_not_authenticated()),
        );
        let mut properties = self.properties(&content.object);
        for (path, value) in &content.properties {
            properties.assign(path, Some(*value));
        }
        self.changed.insert(content.object.clone());
    }

    /// Whether, since the last call of this function, the host could not return a property because
    /// of `NotAuthenticated`.
    pub fn take_unauthenticated(&mut self) -> bool {
        std::mem::take(&mut self.unauthenticated)
    }

    /// Takes the tasks that have changed since the last call of this function. `None` stands for a
    /// task that the collector must read again.
    pub fn take_tasks(&mut self) -> BTreeMap<TaskId, Option<TaskInfo>> {
        std::mem::take(&mut self.tasks)
    }

    /// The ids of all machines in the cache.
    pub fn machines(&self) -> impl Iterator<Item = &MachineId> {
        self.machines.keys()
    }

    /// Whether the host has other machines than at the last call of
    /// [`take_membership_changed`](Self::take_membership_changed).
    #[must_use]
    pub const fn has_membership_changed(&self) -> bool {
        self.membership_changed
    }

    /// As [`has_membership_changed`](Self::has_membership_changed). The next call compares with the
    /// machines of this moment.
    pub fn take_membership_changed(&mut self) -> bool {
        std::mem::take(&mut self.membership_changed)
    }

    /// Whether the cache has this machine.
    #[must_use]
    pub fn has_machine(&self, id: &MachineId) -> bool {
        self.machines.contains_key(id)
    }

    /// The machine on which a task works. `entity` is the machine itself, or one of its snapshots.
    #[must_use]
    pub fn machine_for_entity(&self, entity: &Reference) -> Option<MachineId> {
        match entity.kind.as_str() {
            "VirtualMachine" => Some(MachineId::from_backend(&entity.value)),
            "VirtualMachineSnapshot" => self
                .machines
                .iter()
                .find(|(_, properties)| properties.has_snapshot(&entity.value))
                .map(|(id, _)| id.clone()),
            _ => None,
        }
    }

    /// Takes the changes since the last call of this function, or all objects if `complete` is set.
    pub fn take_facts(&mut self, complete: bool) -> Facts {
        let names: NetworkNames =
            self.networks.values().filter_map(NetworkProperties::key_and_name).collect();
        let earlier = std::mem::replace(&mut self.reported_names, names);
        let mut updated = std::mem::take(&mut self.changed);
        updated.extend(self.machines_on_renamed_networks(&earlier));
        let removed = std::mem::take(&mut self.removed);
        let changes = if complete {
            let machines = self
                .machines
                .values()
                .map(|machine| Fact::Machine(machine.machine(&self.reported_names)));
            let datastores =
                self.datastores.values().map(|datastore| Fact::Datastore(datastore.datastore()));
            datastores.chain(machines).collect()
        } else {
            let removed = removed.iter().filter_map(|object| match object.kind.as_str() {
                "VirtualMachine" => {
                    Some(Fact::MachineRemoved(MachineId::from_backend(&object.value)))
                }
                "Datastore" => {
                    Some(Fact::DatastoreRemoved(DatastoreId::from_backend(&object.value)))
                }
                _ => None,
            });
            removed.chain(updated.iter().filter_map(|object| self.fact(object))).collect()
        };
        Facts { complete, changes }
    }

    fn fact(&self, object: &Reference) -> Option<Fact> {
        match object.kind.as_str() {
            "VirtualMachine" => {
                let id = MachineId::from_backend(&object.value);
                Some(Fact::Machine(self.machines.get(&id)?.machine(&self.reported_names)))
            }
            "Datastore" => {
                let id = DatastoreId::from_backend(&object.value);
                Some(Fact::Datastore(self.datastores.get(&id)?.datastore()))
            }
            _ => None,
        }
    }

    /// The machines that have a card whose network had another name in `earlier`.
    fn machines_on_renamed_networks(&self, earlier: &NetworkNames) -> Vec<Reference> {
        let now = &self.reported_names;
        if earlier == now {
            return Vec::new();
        }
        let is_renamed = |key: &str| earlier.get(key) != now.get(key);
        let machines =
            self.machines.iter().filter(|(_, machine)| machine.network_keys().any(is_renamed));
        machines.map(|(id, _)| Reference::new("VirtualMachine", id.backend_text())).collect()
    }

    fn apply_task(&mut self, update: &ObjectUpdate<'_>) {
        let task = TaskId::from_backend(&update.object.value);
        if update.kind == UpdateKind::Leave {
            self.tasks.insert(task, None);
            return;
        }
        for change in &update.changes {
            match change.value {
                ChangedValue::Assigned(info) if change.path == "info" => {
                    self.tasks.insert(task.clone(), Some(TaskInfo::from_element(info)));
                }
                // The update has only a part of `info`, so the task is marked to be read again.
                _ => {
                    self.tasks.insert(task.clone(), None);
                }
            }
        }
    }

    fn reset(&mut self, object: &Reference) {
        self.removed.remove(object);
        match object.kind.as_str() {
            "VirtualMachine" => {
                let id = MachineId::from_backend(&object.value);
                let before = self.machines.insert(id.clone(), MachineProperties::new(id));
                self.membership_changed |= before.is_none();
            }
            "Datastore" => {
                let id = DatastoreId::from_backend(&object.value);
                self.datastores.insert(id.clone(), DatastoreProperties::new(id));
            }
            kind if is_network(kind) => {
                self.networks.insert(object.clone(), NetworkProperties::default());
            }
            _ => {}
        }
    }

    fn remove(&mut self, object: &Reference) {
        self.changed.remove(object);
        self.incomplete.remove(object);
        let was_known = match object.kind.as_str() {
            "VirtualMachine" => {
                let machine = MachineId::from_backend(&object.value);
                let was_known = self.machines.remove(&machine).is_some();
                self.membership_changed |= was_known;
                was_known
            }
            "Datastore" => {
                self.datastores.remove(&DatastoreId::from_backend(&object.value)).is_some()
            }
            kind if is_network(kind) => self.networks.remove(object).is_some(),
            _ => false,
        };
        if was_known {
            self.removed.insert(object.clone());
        }
    }

    /// The properties of an object, for the caller to change.
    fn properties(&mut self, object: &Reference) -> ObjectProperties<'_> {
        let found = match object.kind.as_str() {
            "VirtualMachine" => self
                .machines
                .get_mut(&MachineId::from_backend(&object.value))
                .map(ObjectProperties::Machine),
            "Datastore" => self
                .datastores
                .get_mut(&DatastoreId::from_backend(&object.value))
                .map(ObjectProperties::Datastore),
            kind if is_network(kind) => {
                self.networks.get_mut(object).map(ObjectProperties::Network)
            }
            // The filters select no other types, so an object of another type is ignored.
            _ => Some(ObjectProperties::Ignored),
        };
        found.unwrap_or(ObjectProperties::Unknown)
    }

    fn note_missing(&mut self, unauthenticated: bool) {
        self.unauthenticated |= unauthenticated;
    }
}

/// The properties of one object, by the type of the object.
enum ObjectProperties<'c> {
    Machine(&'c mut MachineProperties),
    Datastore(&'c mut DatastoreProperties),
    Network(&'c mut NetworkProperties),
    Ignored,
    /// The cache has no such object.
    Unknown,
}

impl ObjectProperties<'_> {
    /// Sets the property at `path`, or unsets it if `value` is `None`. Returns `false` if otter
    /// does not follow the path or if the cache has no such object.
    fn assign(&mut self, path: &str, value: Option<Element<'_>>) -> bool {
        match self {
            Self::Machine(properties) => properties.assign(path, value),
            Self::Datastore(properties) => properties.assign(path, value),
            Self::Network(properties) => properties.assign(path, value),
            Self::Ignored => true,
            Self::Unknown => false,
        }
    }
}

fn is_network(kind: &str) -> bool {
    NETWORK_PATHS.iter().any(|(known, _)| *known == kind)
}
