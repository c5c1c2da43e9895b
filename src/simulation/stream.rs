//! The one stream of updates, as the vim25 collector brings it: what changed on the host comes in sets, each true when it
//! is told, in whatever order the host likes; after a gap everything comes anew.

use std::collections::{BTreeMap, BTreeSet};

use super::host::Host;
use super::random::Random;
use super::translation;
use crate::domain::ids::{MachineId, TaskId};
use crate::hypervisor::{Fact, Facts, TaskStatus};
use crate::simulator::Moref;
use crate::simulator::world::TaskState;

#[derive(Debug, Default)]
pub struct Stream {
    /// The revision of the host up to which changes were noticed.
    noticed: u64,
    /// What changed and is not told yet: machines and tasks.
    machines: BTreeSet<String>,
    tasks: BTreeSet<String>,
    /// The host's revision when all was told last: what was not there then is shown as gone.
    whole_at: u64,
    /// The machines that were told, and the host's revision then.
    told: BTreeMap<String, u64>,
    followed: BTreeMap<TaskId, Followed>,
}

#[derive(Debug)]
struct Followed {
    status: TaskStatus,
    /// Whether the host was asked to tell of it.
    listed: bool,
}

impl Stream {
    /// Up to which revision of the host a machine is shown.
    pub fn told(&self, machine: &MachineId) -> u64 {
        self.told.get(machine.backend_text()).copied().unwrap_or(self.whole_at)
    }

    /// Whether all that changed of a machine was told.
    pub fn is_up_to_date(&self, machine: &str) -> bool {
        !self.machines.contains(machine)
    }

    pub fn has_news(&self) -> bool {
        !self.machines.is_empty() || !self.tasks.is_empty()
    }

    /// Notes what changed on the host.
    pub fn notice(&mut self, host: &Host) {
        for object in host.world.changed_since(self.noticed).into_iter().flatten() {
            match object.kind {
                "VirtualMachine" => {
                    self.machines.insert(object.id.clone());
                }
                "Task" if self.followed.contains_key(&TaskId::from_backend(&object.id)) => {
                    self.tasks.insert(object.id.clone());
                }
                _ => {}
            }
        }
        self.noticed = host.world.revision();
    }

    /// Everything, on a new session.
    pub fn resync(&mut self, host: &Host) -> Facts {
        self.noticed = host.world.revision();
        self.whole_at = self.noticed;
        self.machines.clear();
        self.tasks.clear();
        self.told.clear();
        for followed in self.followed.values_mut() {
            followed.listed = false;
        }
        let datastores = host
            .world
            .datastores()
            .map(|datastore| Fact::Datastore(Box::new(translation::datastore(&host.world, datastore))));
        let machines =
            host.world.machines().map(|machine| Fact::Machine(Box::new(translation::machine(machine))));
        let changes = datastores.chain(machines).collect();
        for machine in host.world.machines() {
            self.told.insert(machine.id.clone(), host.world.revision());
        }
        Facts { complete: true, changes }
    }

    /// The next set: all that there is, or a part of it, for the host owes no order.
    pub fn deliver(
        &mut self,
        host: &Host,
        random: &mut Random,
        whole: bool,
    ) -> (Facts, Vec<(TaskId, TaskStatus)>) {
        self.notice(host);
        let all = whole || random.percent(65);
        let mut part = |set: &mut BTreeSet<String>| {
            let taken: BTreeSet<String> = set.iter().filter(|_| all || random.percent(50)).cloned().collect();
            set.retain(|object| !taken.contains(object));
            taken
        };
        let (machines, tasks) = (part(&mut self.machines), part(&mut self.tasks));
        let mut changes = Vec::new();
        let mut statuses = Vec::new();
        for task in tasks {
            match host.world.task(&task) {
                Some(_) => statuses.extend(self.read(host, &TaskId::from_backend(task), &mut changes)),
                // It left the list: reading it says why.
                None => {
                    if let Some(followed) = self.followed.get_mut(&TaskId::from_backend(task)) {
                        followed.listed = false;
                    }
                }
            }
        }
        let revision = host.world.revision();
        let (there, gone): (Vec<String>, Vec<String>) =
            machines.into_iter().partition(|machine| host.world.machine(machine).is_some());
        for machine in gone {
            if self.told.insert(machine.clone(), revision).is_some() {
                changes.push(Fact::MachineRemoved(MachineId::from_backend(machine)));
            }
        }
        for machine in there {
            changes.extend(
                host.world
                    .machine(&machine)
                    .map(|machine| Fact::Machine(Box::new(translation::machine(machine)))),
            );
            self.told.insert(machine, revision);
        }
        (Facts { complete: false, changes }, statuses)
    }

    /// Follows a task from now on.
    pub fn follow(&mut self, task: &TaskId) {
        let known = self.followed.get(task);
        if known.is_none_or(|followed| !matches!(followed.status, TaskStatus::Running { .. })) {
            let status = TaskStatus::Running { progress: None };
            self.followed.insert(task.clone(), Followed { status, listed: false });
        }
    }

    /// Where a followed task is, as far as was told.
    pub fn status(&self, task: &TaskId) -> Option<&TaskStatus> {
        self.followed.get(task).map(|followed| &followed.status)
    }

    pub fn has_unlisted(&self) -> bool {
        self.followed.values().any(|followed| !followed.listed)
    }

    /// Puts the followed tasks on the host's list, and reads each once.
    pub fn list(&mut self, host: &Host) -> (Facts, Vec<(TaskId, TaskStatus)>) {
        let unlisted: Vec<TaskId> = self
            .followed
            .iter()
            .filter(|(_, followed)| !followed.listed)
            .map(|(task, _)| task.clone())
            .collect();
        let mut changes = Vec::new();
        let mut statuses = Vec::new();
        for task in unlisted {
            if let Some(followed) = self.followed.get_mut(&task) {
                followed.listed = true;
            }
            statuses.push(self.read(host, &task, &mut changes).unwrap_or((task, TaskStatus::Vanished)));
        }
        (Facts { complete: false, changes }, statuses)
    }

    /// Tells those who follow a task.
    pub fn tell(&mut self, task: &TaskId, status: TaskStatus) {
        if let Some(followed) = self.followed.get_mut(task)
            && matches!(followed.status, TaskStatus::Running { .. })
        {
            followed.status = status;
        }
    }

    fn read(&self, host: &Host, id: &TaskId, changes: &mut Vec<Fact>) -> Option<(TaskId, TaskStatus)> {
        let task = host.world.task(id.backend_text())?;
        let followed = self.followed.get(id)?;
        if translation::restarts_guest(task) && matches!(followed.status, TaskStatus::Running { .. }) {
            changes.push(Fact::GuestRestarted(MachineId::from_backend(&task.machine)));
        }
        let status = match task.state {
            TaskState::Queued | TaskState::Running => {
                TaskStatus::Running { progress: task.progress.and_then(|percent| u8::try_from(percent).ok()) }
            }
            TaskState::Success => TaskStatus::Succeeded { snapshot: translation::made_snapshot(task) },
            TaskState::Error => {
                let fault = task.error.clone().unwrap_or_else(|| {
                    crate::simulator::Fault::not_found(&Moref::new("Task", id.backend_text()))
                });
                TaskStatus::Failed(std::sync::Arc::new(translation::error(&fault, "The host's task failed")))
            }
        };
        Some((id.clone(), status))
    }
}
