//! What the host said last of every object in the filters, and what of it is not yet told. Pure: it
//! takes updates and gives facts.
//!
//! A change that is named as it was asked for is applied. Whatever else a host names (a path below
//! `snapshot`, one element of a list) marks the object to be read again whole; nothing is ignored.

use std::collections::{BTreeMap, BTreeSet};

use super::machine::{DatastoreProperties, MachineProperties};
use super::soap::Reference;
use super::soap::property::{ChangedValue, ObjectContent, ObjectUpdate, UpdateKind};
use super::task_info::TaskInfo;
use crate::domain::ids::{DatastoreId, MachineId, TaskId};
use crate::hypervisor::{Fact, Facts};

/// The picture as the host pushes it.
#[derive(Debug, Default)]
pub struct PropertyCache {
    machines: BTreeMap<MachineId, MachineProperties>,
    datastores: BTreeMap<DatastoreId, DatastoreProperties>,
    changed: BTreeSet<Reference>,
    removed: BTreeSet<Reference>,
    incomplete: BTreeSet<Reference>,
    /// The last word on each task of the set; none where it left the list.
    tasks: BTreeMap<TaskId, Option<TaskInfo>>,
    unauthenticated: bool,
}

impl PropertyCache {
    /// Takes one object's part of an update set.
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
        for change in &update.changes {
            let understood = match change.value {
                ChangedValue::Assigned(value) => self.assign(object, change.path, Some(value)),
                ChangedValue::Unset => self.assign(object, change.path, None),
                ChangedValue::Partial => false,
            };
            if !understood {
                self.incomplete.insert(object.clone());
            }
        }
        self.changed.insert(object.clone());
    }

    /// The objects that have to be read again, and are then given to [`replace`](Self::replace).
    pub fn take_incomplete(&mut self) -> Vec<Reference> {
        std::mem::take(&mut self.incomplete)
            .into_iter()
            .filter(|object| !self.removed.contains(object))
            .collect()
    }

    /// Takes an object as it was read whole.
    pub fn replace(&mut self, content: &ObjectContent<'_>) {
        self.reset(&content.object);
        self.note_missing(
            content.missing.iter().any(|missing| missing.fault.is_not_authenticated()),
        );
        for (path, value) in &content.properties {
            self.assign(&content.object, path, Some(*value));
        }
        self.changed.insert(content.object.clone());
    }

    /// Whether a property was kept from us for want of a session since this was asked last.
    pub fn take_unauthenticated(&mut self) -> bool {
        std::mem::take(&mut self.unauthenticated)
    }

    /// What the host said of tasks since this was asked last.
    pub fn take_tasks(&mut self) -> BTreeMap<TaskId, Option<TaskInfo>> {
        std::mem::take(&mut self.tasks)
    }

    /// Every machine that there is.
    pub fn machines(&self) -> impl Iterator<Item = &MachineId> {
        self.machines.keys()
    }

    /// Whether there is this machine.
    #[must_use]
    pub fn has_machine(&self, id: &MachineId) -> bool {
        self.machines.contains_key(id)
    }

    /// The machine that a task works on; some name its snapshot instead.
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

    /// What changed since this was asked last, or everything.
    pub fn take_facts(&mut self, complete: bool) -> Facts {
        let updated = std::mem::take(&mut self.changed);
        let removed = std::mem::take(&mut self.removed);
        let changes = if complete {
            let machines = self.machines.values().map(|known| Fact::Machine(known.machine()));
            let datastores =
                self.datastores.values().map(|known| Fact::Datastore(known.datastore()));
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
                Some(Fact::Machine(self.machines.get(&id)?.machine()))
            }
            "Datastore" => {
                let id = DatastoreId::from_backend(&object.value);
                Some(Fact::Datastore(self.datastores.get(&id)?.datastore()))
            }
            _ => None,
        }
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
                // Part of the information: as good as none, so that it is read again.
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
                self.machines.insert(id.clone(), MachineProperties::new(id));
            }
            "Datastore" => {
                let id = DatastoreId::from_backend(&object.value);
                self.datastores.insert(id.clone(), DatastoreProperties::new(id));
            }
            _ => {}
        }
    }

    fn remove(&mut self, object: &Reference) {
        self.changed.remove(object);
        self.incomplete.remove(object);
        let known = match object.kind.as_str() {
            "VirtualMachine" => {
                self.machines.remove(&MachineId::from_backend(&object.value)).is_some()
            }
            "Datastore" => {
                self.datastores.remove(&DatastoreId::from_backend(&object.value)).is_some()
            }
            _ => false,
        };
        if known {
            self.removed.insert(object.clone());
        }
    }

    /// False where the path means nothing here, or the object is not known whole.
    fn assign(
        &mut self,
        object: &Reference,
        path: &str,
        value: Option<super::soap::xml::Element<'_>>,
    ) -> bool {
        match object.kind.as_str() {
            "VirtualMachine" => self
                .machines
                .get_mut(&MachineId::from_backend(&object.value))
                .is_some_and(|properties| properties.assign(path, value)),
            "Datastore" => self
                .datastores
                .get_mut(&DatastoreId::from_backend(&object.value))
                .is_some_and(|properties| properties.assign(path, value)),
            // Not asked for.
            _ => true,
        }
    }

    fn note_missing(&mut self, unauthenticated: bool) {
        self.unauthenticated |= unauthenticated;
    }
}
