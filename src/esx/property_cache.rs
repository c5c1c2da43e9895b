//! The last known properties of every object in the filters, and which of them changed since the
//! last report. Pure: it takes update sets and returns facts.
//!
//! A change of a followed path is applied. A change of any other path (below `snapshot`, or one
//! element of a list) marks the object as incomplete, and the collector reads it again. No change
//! is ignored.

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

/// The objects of the filters. [`apply`](Self::apply) takes updates of the stream,
/// [`replace`](Self::replace) objects that were read again.
#[derive(Debug, Default)]
pub struct PropertyCache {
    machines: BTreeMap<MachineId, MachineProperties>,
    datastores: BTreeMap<DatastoreId, DatastoreProperties>,
    /// The networks that cards name by a key.
    networks: BTreeMap<Reference, NetworkProperties>,
    /// The names of networks in the last facts.
    reported_names: NetworkNames,
    changed: BTreeSet<Reference>,
    removed: BTreeSet<Reference>,
    /// Whether a machine came or went since the last call of `take_membership_changed`.
    membership_changed: bool,
    incomplete: BTreeSet<Reference>,
    /// The last `info` of each task in the set, `None` if it left the `ListView` or only a part of
    /// it came.
    tasks: BTreeMap<TaskId, Option<TaskInfo>>,
    /// Whether a property was missing as `NotAuthenticated`.
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

    /// Takes the objects to read again and to pass to [`replace`](Self::replace).
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

    /// Whether a property was missing as `NotAuthenticated` since the last call.
    pub fn take_unauthenticated(&mut self) -> bool {
        std::mem::take(&mut self.unauthenticated)
    }

    /// Takes the tasks that changed since the last call, `None` for those to read again.
    pub fn take_tasks(&mut self) -> BTreeMap<TaskId, Option<TaskInfo>> {
        std::mem::take(&mut self.tasks)
    }

    /// All machines.
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

    /// Whether the host has this machine.
    #[must_use]
    pub fn has_machine(&self, id: &MachineId) -> bool {
        self.machines.contains_key(id)
    }

    /// The machine of a task. `entity` is the machine, or a snapshot of it.
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

    /// Takes the changes since the last call, or all objects if `complete`.
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

    /// The machines with a card whose network has another name than in `earlier`.
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
                // Only a part of `info` came: read it again.
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

    /// The properties of an object, for a change of their values.
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
            // No filter has other types.
            _ => Some(ObjectProperties::Ignored),
        };
        found.unwrap_or(ObjectProperties::Unknown)
    }

    fn note_missing(&mut self, unauthenticated: bool) {
        self.unauthenticated |= unauthenticated;
    }
}

/// The properties of one object.
enum ObjectProperties<'c> {
    Machine(&'c mut MachineProperties),
    Datastore(&'c mut DatastoreProperties),
    Network(&'c mut NetworkProperties),
    Ignored,
    /// The cache does not have the object.
    Unknown,
}

impl ObjectProperties<'_> {
    /// Sets one property, or unsets it with `None`. Returns `false` if the path is not followed or
    /// the object is unknown.
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
