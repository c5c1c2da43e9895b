//! The updates of one session: first all machines and datastores, then the changes. Each set is
//! read at one moment.

use std::collections::BTreeSet;
use std::sync::Arc;

use otter::domain::ids::{DatastoreId, MachineId, TaskId};
use otter::hypervisor::{Fact, Facts, TaskStatus};
use otter::simulator::Moref;
use otter::simulator::world::World;

use super::task_followers::TaskFollowers;
use super::translation;

/// The progress of the updates of one session.
#[derive(Default)]
pub struct UpdateStream {
    /// The revision of the world up to which changes were collected. `None` before the initial set.
    collected_revision: Option<u64>,
    /// The changed objects that the observer does not know yet.
    pending: BTreeSet<Moref>,
    /// The machines and datastores that the observer knows.
    reported: BTreeSet<Moref>,
}

/// A set of updates.
pub struct UpdateSet {
    pub facts: Facts,
    pub tasks: Vec<(TaskId, TaskStatus)>,
}

impl UpdateStream {
    /// Collects the changes. Returns the revision of the world if the observer knows everything up
    /// to this revision, otherwise `None`.
    pub fn collect_changes(&mut self, world: &World, followers: &TaskFollowers) -> Option<u64> {
        let unread =
            followers.take_unread().into_iter().map(|task| Moref::new("Task", task.backend_text()));
        self.pending.extend(unread);
        let changed = self.collected_revision.and_then(|revision| world.changed_since(revision));
        let Some(changed) = changed else {
            // The journal of the world does not reach back far enough.
            self.collected_revision = None;
            return None;
        };
        for object in changed {
            if matches!(object.kind, "DistributedVirtualPortgroup" | "OpaqueNetwork") {
                // Machines show the name of the network.
                let machines = world.machines().filter(|machine| !machine.network_cards.is_empty());
                self.pending
                    .extend(machines.map(|machine| Moref::new("VirtualMachine", &machine.id)));
            }
            let matters = match object.kind {
                "VirtualMachine" | "Datastore" => true,
                "Task" => followers.is_followed(&TaskId::from_backend(&object.id)),
                _ => false,
            };
            if matters {
                self.pending.insert(object.clone());
            }
        }
        self.collected_revision = Some(world.revision());
        self.pending.is_empty().then(|| world.revision())
    }

    /// Whether the next set is the initial one, with all machines and datastores.
    pub const fn is_initial(&self) -> bool {
        self.collected_revision.is_none()
    }

    /// The next set: first the initial one, then the changed objects that `is_in_next_update`
    /// selects, or all of them if it selects none.
    pub fn next_set(
        &mut self,
        world: &World,
        is_in_next_update: impl Fn(&Moref) -> bool,
    ) -> UpdateSet {
        if self.is_initial() {
            return self.everything(world);
        }
        let (mut current, mut later): (BTreeSet<Moref>, BTreeSet<Moref>) =
            std::mem::take(&mut self.pending).into_iter().partition(is_in_next_update);
        if current.is_empty() {
            std::mem::swap(&mut current, &mut later);
        }
        self.pending = later;
        let mut set =
            UpdateSet { facts: Facts { complete: false, changes: Vec::new() }, tasks: Vec::new() };
        for object in current {
            if object.kind == "Task" {
                self.read_task(world, &object, &mut set);
            } else {
                set.facts.changes.extend(self.read(world, object));
            }
        }
        set
    }

    fn everything(&mut self, world: &World) -> UpdateSet {
        self.collected_revision = Some(world.revision());
        self.pending.retain(|object| object.kind == "Task");
        let datastores = world.datastores().map(|datastore| Moref::new("Datastore", &datastore.id));
        let machines = world.machines().map(|machine| Moref::new("VirtualMachine", &machine.id));
        self.reported = datastores.chain(machines).collect();
        let changes = self
            .reported
            .clone()
            .into_iter()
            .filter_map(|object| self.read(world, object))
            .collect();
        UpdateSet { facts: Facts { complete: true, changes }, tasks: Vec::new() }
    }

    /// The fact about a machine or a datastore. `None` if it was added and removed between two
    /// sets.
    fn read(&mut self, world: &World, object: Moref) -> Option<Fact> {
        let id = object.id.clone();
        let fact = if object.kind == "VirtualMachine" {
            let found = world.machine(&id);
            found.map(|found| Fact::Machine(Arc::new(translation::machine(world, found))))
        } else {
            let found = world.datastore(&id);
            found.map(|found| Fact::Datastore(Arc::new(translation::datastore(world, found))))
        };
        if fact.is_some() {
            self.reported.insert(object);
            return fact;
        }
        self.reported.remove(&object).then(|| match object.kind {
            "VirtualMachine" => Fact::MachineRemoved(MachineId::from_backend(id)),
            _ => Fact::DatastoreRemoved(DatastoreId::from_backend(id)),
        })
    }

    fn read_task(&self, world: &World, object: &Moref, set: &mut UpdateSet) {
        let status = match world.task(&object.id) {
            Some(task) => {
                let machine = Moref::new("VirtualMachine", &task.machine);
                if let Some(by) = translation::guest_restart(task)
                    && self.reported.contains(&machine)
                {
                    let machine = MachineId::from_backend(&task.machine);
                    set.facts.changes.push(Fact::GuestRestarted { machine, by });
                }
                translation::status(task)
            }
            None => TaskStatus::Vanished,
        };
        set.tasks.push((TaskId::from_backend(&object.id), status));
    }
}
