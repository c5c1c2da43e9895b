//! The rules of the host in memory, without a lock or a clock: what calls do to machines, by tasks that take steps.
//!
//! ```text
//! call ──► task: running, 25, 50 (a question holds it here), 75 ──► succeeded │ failed
//! guest: power on ──► tools run and tell the address; asked to reboot ──► tools stop ──► tools run
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use otter::domain::call::HostCall;
use otter::domain::datastore::Datastore;
use otter::domain::failure::Fault;
use otter::domain::ids::{DatastoreId, MachineId, SnapshotId, TaskId};
use otter::domain::machine::{Machine, Question};
use otter::domain::power::PowerState;
use otter::domain::snapshot::Snapshot;
use otter::hypervisor::{Accepted, Fact, HostError, HostErrorKind};

use super::host::Pace;
use super::task::{STEPS, Task};
use super::tree::{relink, remove_snapshot};

/// How many changes are remembered; who is further behind reads everything.
const JOURNAL: usize = 4_096;

/// A machine, and what of it no observer sees.
#[derive(Clone, Debug)]
pub struct Asset {
    pub machine: Machine,
    /// The address that its guest takes, where it has tools.
    pub address: Option<String>,
    /// Counts starts and stops, so that what was planned for an earlier run is dropped.
    pub run: u64,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Before the machine: what that shows was true after it.
    Restarted(MachineId),
    Machine(MachineId),
    Datastore(DatastoreId),
    /// Nothing to tell but to those who follow it.
    Task,
}

#[derive(Clone, Debug)]
enum Event {
    Step(TaskId),
    /// Of a guest, in the run of its machine for which it was planned.
    Guest(MachineId, u64, GuestEvent),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GuestEvent {
    ToolsStart,
    /// The tools go as the guest begins to restart.
    Restarts,
    Ends,
}

/// All that there is.
#[derive(Debug)]
pub struct World {
    pub fail_next_power_off: Option<HostErrorKind>,
    pace: Pace,
    now: Duration,
    wall: Timestamp,
    assets: BTreeMap<MachineId, Asset>,
    datastores: BTreeMap<DatastoreId, Datastore>,
    questions: BTreeMap<MachineId, Question>,
    tasks: BTreeMap<TaskId, Task>,
    due: BTreeMap<(Duration, u64), Event>,
    /// What guests do next where they are held.
    waiting: Vec<Event>,
    revision: u64,
    journal: VecDeque<(u64, Change)>,
    /// Names tasks, snapshots and events.
    counter: u64,
}

impl World {
    pub fn new(pace: Pace, now: Duration, wall: Timestamp) -> Self {
        Self {
            fail_next_power_off: None,
            pace,
            now,
            wall,
            assets: BTreeMap::new(),
            datastores: BTreeMap::new(),
            questions: BTreeMap::new(),
            tasks: BTreeMap::new(),
            due: BTreeMap::new(),
            waiting: Vec::new(),
            revision: 0,
            journal: VecDeque::new(),
            counter: 0,
        }
    }

    /// Does what is due by now.
    pub fn advance(&mut self, now: Duration, wall: Timestamp) {
        (self.now, self.wall) = (now, wall);
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let event = entry.remove();
            self.happen(event);
        }
    }

    /// Where they are held: every guest does what it would do next.
    pub fn step_guests(&mut self) {
        for event in std::mem::take(&mut self.waiting) {
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Step(task) => self.step(&task),
            Event::Guest(machine, run, event) => {
                if self.assets.get(&machine).is_none_or(|asset| asset.run != run) {
                    return;
                }
                match event {
                    GuestEvent::ToolsStart => self.tools(&machine, true),
                    GuestEvent::Restarts => {
                        self.tools(&machine, false);
                        self.plan_guest(2, &machine, GuestEvent::ToolsStart);
                    }
                    GuestEvent::Ends => self.power_off(&machine),
                }
            }
        }
    }

    pub fn next_due(&self) -> Option<Duration> {
        self.due.first_key_value().map(|((due, _), _)| *due)
    }

    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// What changed after `revision`; `None` where that is too long ago to know.
    pub fn changed_since(&self, revision: u64) -> Option<BTreeSet<&Change>> {
        let oldest = self.journal.front().map_or(self.revision, |(at, _)| at.saturating_sub(1));
        let newer = self.journal.iter().rev().take_while(|(at, _)| *at > revision);
        (oldest <= revision).then(|| newer.map(|(_, change)| change).collect())
    }

    /// What an observer is told of a change.
    pub fn fact(&self, change: &Change) -> Option<Fact> {
        Some(match change {
            Change::Task => return None,
            Change::Restarted(id) => Fact::GuestRestarted(id.clone()),
            Change::Machine(id) => match self.assets.get(id) {
                Some(asset) => Fact::Machine(Box::new(asset.machine.clone())),
                None => Fact::MachineRemoved(id.clone()),
            },
            Change::Datastore(id) => match self.datastores.get(id) {
                Some(datastore) => Fact::Datastore(Box::new(datastore.clone())),
                None => Fact::DatastoreRemoved(id.clone()),
            },
        })
    }

    pub fn everything(&self) -> Vec<Fact> {
        let datastores =
            self.datastores.values().map(|datastore| Fact::Datastore(Box::new(datastore.clone())));
        let machines = self.machines().map(|machine| Fact::Machine(Box::new(machine.clone())));
        datastores.chain(machines).collect()
    }

    pub fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.assets.values().map(|asset| &asset.machine)
    }

    pub fn datastores(&self) -> impl Iterator<Item = &Datastore> {
        self.datastores.values()
    }

    /// The tasks that the host knows.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values().filter(|task| task.known)
    }

    pub fn running(&self) -> Vec<TaskId> {
        self.tasks.values().filter(|task| task.end.is_none()).map(|task| task.id.clone()).collect()
    }

    pub fn existing(&self, id: &MachineId) -> Result<&Machine, HostError> {
        let asset = self.assets.get(id);
        asset.map(|asset| &asset.machine).ok_or_else(|| not_found("machine", id.as_str()))
    }

    pub fn add(&mut self, asset: Asset) {
        let id = asset.machine.id.clone();
        self.assets.insert(id.clone(), asset);
        self.note(Change::Machine(id));
        self.count_machines();
    }

    pub fn add_datastore(&mut self, datastore: Datastore) {
        let id = datastore.id.clone();
        self.datastores.insert(id, datastore);
        self.count_machines();
    }

    pub fn remove(&mut self, id: &MachineId) {
        if self.assets.remove(id).is_some() {
            self.tasks.retain(|_, task| task.machine != *id);
            self.note(Change::Machine(id.clone()));
            self.count_machines();
        }
    }

    pub fn change(&mut self, id: &MachineId, change: impl FnOnce(&mut Machine)) {
        if let Some(asset) = self.assets.get_mut(id) {
            change(&mut asset.machine);
            relink(&mut asset.machine);
            self.note(Change::Machine(id.clone()));
        }
    }

    pub fn ask_at_power_on(&mut self, id: &MachineId, question: Question) {
        self.questions.insert(id.clone(), question);
    }

    /// Takes a call: what has no task is done, the rest begins.
    pub fn call(
        &mut self,
        id: &MachineId,
        call: &HostCall,
        user: &'static str,
    ) -> Result<Accepted, HostError> {
        let machine = self.existing(id)?;
        match call {
            HostCall::ShutdownGuest | HostCall::RebootGuest => {
                check_power(machine, PowerState::On)?;
                if !machine.guest.tools_running {
                    return Err(failure(HostErrorKind::ToolsUnavailable, "The guest runs no tools."));
                }
                let event = match call {
                    HostCall::ShutdownGuest => GuestEvent::Ends,
                    _ => GuestEvent::Restarts,
                };
                self.plan_guest(1, id, event);
                return Ok(Accepted::Done);
            }
            HostCall::Answer { question, choice } => {
                let asked = machine.question.as_ref().filter(|asked| asked.id == *question);
                if !asked.is_some_and(|asked| asked.choices.iter().any(|known| known.key == *choice)) {
                    return Err(failure(
                        HostErrorKind::Rejected,
                        "There is no such question, or no such choice.",
                    ));
                }
                self.go_on(id);
                return Ok(Accepted::Done);
            }
            HostCall::RenameSnapshot { snapshot, name, description } => {
                if machine.snapshots.get(snapshot).is_none() {
                    return Err(not_found("snapshot", snapshot.as_str()));
                }
                self.change(id, |machine| {
                    for known in machine.snapshots.items.iter_mut().filter(|known| known.id == *snapshot) {
                        known.name = name.clone().unwrap_or_else(|| known.name.clone());
                        known.description = description.clone().unwrap_or_else(|| known.description.clone());
                    }
                });
                return Ok(Accepted::Done);
            }
            _ => {}
        }
        if let Some(busy) = self.tasks.values().find(|task| task.machine == *id && task.end.is_none()) {
            let error = failure(HostErrorKind::Busy, "Another task works on the machine.");
            return Err(error.blocked_by(Some(busy.id.clone())));
        }
        let task = TaskId::new(format!("task-{}-{}-{}", id, call.kind().as_str(), self.next()));
        self.tasks.insert(
            task.clone(),
            Task {
                id: task.clone(),
                machine: id.clone(),
                call: call.clone(),
                user,
                step: 0,
                held: false,
                end: None,
                known: true,
            },
        );
        self.note(Change::Task);
        self.plan_step(&task);
        Ok(Accepted::Task(task))
    }

    pub fn cancel(&mut self, id: &TaskId) -> Result<(), HostError> {
        let task =
            self.tasks.get(id).filter(|task| task.known).ok_or_else(|| not_found("task", id.as_str()))?;
        if task.end.is_some() {
            return Err(failure(HostErrorKind::InvalidState, "The task has ended."));
        }
        if !matches!(task.call, HostCall::PowerOn | HostCall::CreateSnapshot { .. }) {
            return Err(failure(HostErrorKind::NotSupported, "The task cannot be cancelled."));
        }
        let machine = task.machine.clone();
        self.change(&machine, |machine| machine.question = None);
        self.end(id, Err(failure(HostErrorKind::Cancelled, "The task was cancelled.")));
        Ok(())
    }

    /// Lets a task take its next step, or end.
    pub fn step(&mut self, id: &TaskId) {
        let Some(task) = self.tasks.get_mut(id).filter(|task| task.end.is_none() && !task.held) else {
            return;
        };
        if task.step == STEPS.len() {
            let (machine, call) = (task.machine.clone(), task.call.clone());
            let outcome = self.effect(&machine, &call);
            return self.end(id, outcome);
        }
        task.step += 1;
        let asks = STEPS[task.step - 1] == Some(50) && task.call == HostCall::PowerOn;
        let machine = task.machine.clone();
        let question = if asks { self.questions.remove(&machine) } else { None };
        if let Some(question) = question {
            task.held = true;
            self.change(&machine, |machine| machine.question = Some(question));
        }
        self.note(Change::Task);
        self.plan_step(id);
    }

    /// Lets a task run to its end, unless it waits for an answer.
    pub fn finish(&mut self, id: &TaskId) {
        while self.tasks.get(id).is_some_and(|task| task.end.is_none() && !task.held) {
            self.step(id);
        }
    }

    /// The host forgets its tasks, and what they do goes on.
    pub fn forget_tasks(&mut self) {
        self.tasks.retain(|_, task| task.end.is_none());
        self.tasks.values_mut().for_each(|task| task.known = false);
        self.note(Change::Task);
    }

    /// The host forgets its tasks, and what they did stops where it is.
    pub fn drop_tasks(&mut self) {
        self.tasks.clear();
        self.note(Change::Task);
    }

    pub fn power_off(&mut self, id: &MachineId) {
        self.power(id, PowerState::Off);
        self.change(id, |machine| machine.question = None);
    }

    /// Says again how many machines each datastore has.
    fn count_machines(&mut self) {
        let ids: Vec<DatastoreId> = self.datastores.keys().cloned().collect();
        for id in ids {
            let on_it = self.machines().filter(|machine| machine.datastores.contains(&id)).count();
            if let Some(datastore) = self.datastores.get_mut(&id) {
                datastore.machine_count = u32::try_from(on_it).unwrap_or(u32::MAX);
            }
            self.note(Change::Datastore(id));
        }
    }

    /// Does what a call is for.
    fn effect(&mut self, id: &MachineId, call: &HostCall) -> Result<Option<SnapshotId>, HostError> {
        let machine = self.existing(id)?;
        match call {
            HostCall::PowerOn => {
                if machine.power_state == Some(PowerState::On) {
                    return Err(power_state(machine));
                }
                self.power_on(id);
            }
            HostCall::PowerOff => {
                check_power(machine, PowerState::On)?;
                if let Some(kind) = self.fail_next_power_off.take() {
                    return Err(failure(kind, "The task failed, as was asked for."));
                }
                self.power_off(id);
            }
            HostCall::Reset => {
                check_power(machine, PowerState::On)?;
                self.power_on(id);
            }
            HostCall::Suspend => {
                check_power(machine, PowerState::On)?;
                self.power(id, PowerState::Suspended);
            }
            HostCall::CreateSnapshot { name, description, memory, quiesce } => {
                return Ok(Some(self.create_snapshot(id, name, description, (*memory, *quiesce))));
            }
            HostCall::RevertToSnapshot { snapshot, suppress_power_on } => {
                let recorded = machine.snapshots.get(snapshot).map(|snapshot| snapshot.power_state);
                let recorded = recorded.ok_or_else(|| not_found("snapshot", snapshot.as_str()))?;
                self.change(id, |machine| machine.snapshots.current = Some(snapshot.clone()));
                match recorded {
                    Some(PowerState::On) if !suppress_power_on => self.power_on(id),
                    Some(PowerState::On | PowerState::Suspended) => self.power(id, PowerState::Suspended),
                    Some(PowerState::Off) | None => self.power_off(id),
                }
                if recorded != Some(PowerState::On) || *suppress_power_on {
                    self.note(Change::Restarted(id.clone()));
                }
            }
            HostCall::RemoveSnapshot { snapshot, children } => {
                if machine.snapshots.get(snapshot).is_none() {
                    return Err(not_found("snapshot", snapshot.as_str()));
                }
                self.change(id, |machine| remove_snapshot(machine, snapshot, *children));
            }
            HostCall::RemoveAllSnapshots => self.change(id, |machine| {
                machine.snapshots.items.clear();
                machine.snapshots.current = None;
            }),
            HostCall::ShutdownGuest
            | HostCall::RebootGuest
            | HostCall::Answer { .. }
            | HostCall::RenameSnapshot { .. } => {}
        }
        Ok(None)
    }

    fn power_on(&mut self, id: &MachineId) {
        self.power(id, PowerState::On);
        self.note(Change::Restarted(id.clone()));
        self.plan_guest(2, id, GuestEvent::ToolsStart);
    }

    /// A new run of the machine, which begins without tools.
    fn power(&mut self, id: &MachineId, state: PowerState) {
        if let Some(asset) = self.assets.get_mut(id) {
            asset.run += 1;
        }
        self.change(id, |machine| machine.power_state = Some(state));
        self.tools(id, false);
    }

    /// The guest's tools start or stop, where it has some; they tell its address.
    fn tools(&mut self, id: &MachineId, run: bool) {
        let Some(Asset { machine, address: Some(address), .. }) = self.assets.get(id) else { return };
        if machine.guest.tools_running == run {
            return;
        }
        let address = run.then(|| address.clone());
        self.change(id, |machine| {
            machine.guest.tools_running = run;
            machine.guest.tools_status = Some(if run { "running" } else { "not_running" }.to_owned());
            machine.guest.ip_addresses = address.iter().cloned().collect();
            machine.guest.ip_address = address;
        });
    }

    /// Below the current one. Memory is kept of a running machine only; without it, a revert leaves it off.
    fn create_snapshot(
        &mut self,
        id: &MachineId,
        name: &str,
        description: &str,
        (memory, quiesced): (bool, bool),
    ) -> SnapshotId {
        let snapshot = SnapshotId::new(format!("{id}-snapshot-{}", self.next()));
        let (made, at) = (snapshot.clone(), self.wall);
        self.change(id, |machine| {
            let power_state = match machine.power_state {
                Some(PowerState::On) if !memory => Some(PowerState::Off),
                other => other,
            };
            machine.snapshots.items.push(Snapshot {
                id: made.clone(),
                name: name.to_owned(),
                description: description.to_owned(),
                created_at: Some(at),
                power_state,
                quiesced,
                parent: machine.snapshots.current.take(),
                children: Vec::new(),
            });
            machine.snapshots.current = Some(made);
        });
        snapshot
    }

    fn end(&mut self, id: &TaskId, outcome: Result<Option<SnapshotId>, HostError>) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.end = Some(outcome.map_err(Arc::new));
            self.note(Change::Task);
        }
    }

    /// The question is answered, and what waited on it goes on.
    fn go_on(&mut self, id: &MachineId) {
        self.change(id, |machine| machine.question = None);
        let held = self.tasks.values_mut().find(|task| task.machine == *id && task.held);
        if let Some(task) = held {
            task.held = false;
            let task = task.id.clone();
            self.plan_step(&task);
        }
    }

    fn plan_step(&mut self, task: &TaskId) {
        if let Pace::Taking(time) = self.pace {
            self.plan(time / 5, Event::Step(task.clone()));
        }
    }

    /// Plans what a guest does so many steps of a task later.
    fn plan_guest(&mut self, steps: u32, id: &MachineId, event: GuestEvent) {
        let Some(run) = self.assets.get(id).map(|asset| asset.run) else { return };
        let event = Event::Guest(id.clone(), run, event);
        match self.pace {
            Pace::Taking(time) => self.plan(time / 5 * steps, event),
            Pace::Held => self.waiting.push(event),
        }
    }

    fn plan(&mut self, after: Duration, event: Event) {
        let key = (self.now + after, self.next());
        self.due.insert(key, event);
        // Whoever waits for the next thing that is due has to look again.
        self.note(Change::Task);
    }

    fn note(&mut self, change: Change) {
        self.revision += 1;
        self.journal.push_back((self.revision, change));
        if self.journal.len() > JOURNAL {
            self.journal.pop_front();
        }
    }

    const fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }
}

/// A failure in the host's words.
pub fn failure(kind: HostErrorKind, message: impl Into<String>) -> HostError {
    let message = message.into();
    let fault = Fault { name: format!("{kind:?}"), message: message.clone(), details: BTreeMap::new() };
    HostError::new(kind, message).with_fault(fault)
}

fn not_found(what: &str, id: &str) -> HostError {
    failure(HostErrorKind::NotFound, format!("There is no {what} {id}."))
}

fn check_power(machine: &Machine, wanted: PowerState) -> Result<(), HostError> {
    if machine.power_state == Some(wanted) { Ok(()) } else { Err(power_state(machine)) }
}

fn power_state(machine: &Machine) -> HostError {
    let state = machine.power_state.map_or("in an unknown state", PowerState::as_str);
    failure(HostErrorKind::InvalidPowerState, format!("The machine {} is {state}.", machine.name))
}
