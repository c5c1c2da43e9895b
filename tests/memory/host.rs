//! The host in memory: who may call it, when things happen, and what changed since when. Everything is under one
//! lock; time moves on whenever somebody looks, and whoever waits is woken when something is due.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use otter::clock::Clock;
use otter::domain::call::{Evidence, HostCall, RecentTask, SeenSnapshot};
use otter::domain::datastore::Datastore;
use otter::domain::ids::{MachineId, QuestionId, SnapshotId, TaskId};
use otter::domain::machine::{Choice, Guest, Machine, Question};
use otter::domain::power::PowerState;
use otter::domain::snapshot::Snapshot;
use otter::hypervisor::{Accepted, Fact, HostError, HostErrorKind, TaskStatus};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::task::Task;
use super::world::{Asset, World, failure};

/// How the tasks of a host go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// By the clock, each within this time.
    Taking(Duration),
    /// Only by [`MemoryHost::step_tasks`], [`MemoryHost::finish_tasks`] and [`MemoryHost::step_guests`].
    Held,
}

/// Where a call is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    BeforeItRuns,
    AfterItRan,
}

/// The host. Clones are the same one.
#[derive(Clone, Debug)]
pub struct MemoryHost(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Clock,
    state: Mutex<State>,
    /// Moves on with whatever happens.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    world: World,
    password: SecretString,
    /// The tickets of those who are logged in.
    sessions: Vec<u64>,
    login_attempts: u64,
    refuses_logins: bool,
    away: bool,
    boots: u32,
    cut_next: Option<Cut>,
    refuse_next: Option<HostErrorKind>,
}

/// What is new since a revision.
pub struct News {
    pub revision: u64,
    /// Whether the facts are all that there is.
    pub complete: bool,
    pub facts: Vec<Fact>,
    pub tasks: HashMap<TaskId, TaskStatus>,
    /// When something is due next, by the clock's elapsed time.
    pub next_due: Option<Duration>,
}

/// Whose tasks are whose.
const US: &str = "otter";
const SOMEBODY: &str = "somebody else";

/// For those who call it over a session.
impl MemoryHost {
    /// An empty host.
    #[must_use]
    pub fn new(clock: Clock, pace: Pace, password: SecretString) -> Self {
        let world = World::new(pace, clock.elapsed(), clock.now());
        let state = State {
            world,
            password,
            sessions: Vec::new(),
            login_attempts: 0,
            refuses_logins: false,
            away: false,
            boots: 1,
            cut_next: None,
            refuse_next: None,
        };
        Self(Arc::new(Shared { clock, state: Mutex::new(state), changed: watch::Sender::new(0) }))
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// What there is to know now, as a number that grows.
    pub(super) fn revision(&self) -> u64 {
        self.lock().world.revision()
    }

    pub(super) fn log_in(&self, password: &SecretString) -> Result<u64, HostError> {
        let mut state = self.lock();
        state.reachable()?;
        state.login_attempts += 1;
        if state.refuses_logins || password.expose_secret() != state.password.expose_secret() {
            return Err(HostError::new(
                HostErrorKind::LoginRefused,
                "The host in memory refused the account: give it the right password.",
            ));
        }
        let ticket = state.login_attempts;
        state.sessions.push(ticket);
        Ok(ticket)
    }

    pub(super) fn log_out(&self, ticket: u64) {
        self.lock().sessions.retain(|known| *known != ticket);
    }

    /// What is new since `known`, or everything.
    pub(super) fn news(&self, ticket: u64, known: Option<u64>) -> Result<News, HostError> {
        let state = self.lock();
        state.admit(ticket)?;
        let world = &state.world;
        let changes = known.and_then(|known| world.changed_since(known));
        let (complete, facts) = match changes {
            Some(changes) => (false, changes.into_iter().filter_map(|change| world.fact(change)).collect()),
            None => (true, world.everything()),
        };
        let tasks = world.tasks().map(|task| (task.id.clone(), task.status())).collect();
        Ok(News { revision: world.revision(), complete, facts, tasks, next_due: world.next_due() })
    }

    /// Makes a call; the inner error is that of a connection which broke while the answer was awaited.
    pub(super) fn call(
        &self,
        ticket: u64,
        machine: &MachineId,
        call: &HostCall,
    ) -> Result<Result<Accepted, HostError>, HostError> {
        let mut state = self.lock();
        state.admit(ticket)?;
        let cut =
            || HostError::new(HostErrorKind::Unreachable, "The connection to the host in memory broke.");
        if let Some(kind) = state.refuse_next.take() {
            return Err(failure(kind, "The host refused the call, as was asked for."));
        }
        let planned = state.cut_next.take();
        if planned == Some(Cut::BeforeItRuns) {
            return Ok(Err(cut()));
        }
        let accepted = state.world.call(machine, call, US)?;
        drop(state);
        self.notify();
        Ok(if planned.is_some() { Err(cut()) } else { Ok(accepted) })
    }

    pub(super) fn cancel(&self, ticket: u64, task: &TaskId) -> Result<(), HostError> {
        let mut state = self.lock();
        state.admit(ticket)?;
        let cancelled = state.world.cancel(task);
        drop(state);
        self.notify();
        cancelled
    }

    pub(super) fn guest(&self, ticket: u64, machine: &MachineId) -> Result<Guest, HostError> {
        let state = self.lock();
        state.admit(ticket)?;
        Ok(state.world.existing(machine)?.guest.clone())
    }

    pub(super) fn examine(&self, ticket: u64, id: &MachineId) -> Result<Evidence, HostError> {
        let state = self.lock();
        state.admit(ticket)?;
        let machine = state.world.existing(id)?;
        let seen = |snapshot: &Snapshot| {
            let Snapshot { id, name, description, parent, .. } = snapshot.clone();
            SeenSnapshot { id, parent, name, description }
        };
        let tasks = state.world.tasks().filter(|task| task.machine == *id).map(|task| RecentTask {
            id: task.id.clone(),
            call: Some(task.call.kind()),
            by_us: task.user == US,
            running: matches!(task.status(), TaskStatus::Running { .. }),
        });
        Ok(Evidence {
            identity: machine.identity(),
            power_state: machine.power_state,
            current_snapshot: machine.snapshots.current.clone(),
            snapshots: machine.snapshots.items.iter().map(seen).collect(),
            tools_running: machine.guest.tools_running,
            question: machine.question.as_ref().map(|question| question.id.clone()),
            host_boot_time: Some(format!("boot {}", state.boots)),
            recent_tasks: tasks.collect(),
        })
    }

    pub(super) fn properties(
        &self,
        ticket: u64,
        id: &MachineId,
        paths: &[String],
    ) -> Result<Map<String, Value>, HostError> {
        let state = self.lock();
        state.admit(ticket)?;
        let machine = state.world.existing(id)?;
        let value = |path: &String| match property(machine, path) {
            Some(value) => Ok((path.clone(), value)),
            None => {
                Err(failure(HostErrorKind::InvalidProperty, format!("A machine has no property {path}.")))
            }
        };
        paths.iter().map(value).collect()
    }
}

/// For those who let things happen on it.
impl MemoryHost {
    /// Puts a machine there.
    pub fn add(&self, asset: Asset) {
        self.change(|state| state.world.add(asset));
    }

    /// Puts a datastore there.
    pub fn add_datastore(&self, datastore: Datastore) {
        self.change(|state| state.world.add_datastore(datastore));
    }

    /// Takes a machine away; its tasks are forgotten.
    pub fn remove(&self, machine: &MachineId) {
        self.change(|state| state.world.remove(machine));
    }

    /// Changes a machine by hand.
    pub fn change_machine(&self, machine: &MachineId, change: impl FnOnce(&mut Machine)) {
        self.change(|state| state.world.change(machine, change));
    }

    /// All machines and datastores.
    #[must_use]
    pub fn all(&self) -> (Vec<Machine>, Vec<Datastore>) {
        let state = self.lock();
        (state.world.machines().cloned().collect(), state.world.datastores().cloned().collect())
    }

    /// Somebody else starts something.
    ///
    /// # Errors
    /// As the host says no.
    pub fn start(&self, machine: &MachineId, call: &HostCall) -> Result<Accepted, HostError> {
        self.change(|state| state.world.call(machine, call, SOMEBODY))
    }

    /// Somebody else does something, which is done when this returns. Gives the snapshot that it made.
    ///
    /// # Errors
    /// As the host says no.
    pub fn by_somebody(&self, machine: &MachineId, call: &HostCall) -> Result<Option<SnapshotId>, HostError> {
        self.change(|state| {
            let Accepted::Task(task) = state.world.call(machine, call, SOMEBODY)? else { return Ok(None) };
            state.world.finish(&task);
            match state.world.tasks().find(|known| known.id == task).map(Task::status) {
                Some(TaskStatus::Succeeded { snapshot }) => Ok(snapshot),
                other => Err(failure(HostErrorKind::Rejected, format!("The task ended as {other:?}."))),
            }
        })
    }

    /// Every running task takes a step.
    pub fn step_tasks(&self) {
        self.change(|state| state.world.running().iter().for_each(|task| state.world.step(task)));
    }

    /// Every running task runs to its end, but where it waits for an answer.
    pub fn finish_tasks(&self) {
        self.change(|state| state.world.running().iter().for_each(|task| state.world.finish(task)));
    }

    /// Where they are held: every guest does what it would do next.
    pub fn step_guests(&self) {
        self.change(|state| state.world.step_guests());
    }

    /// The next power-off is accepted, and fails like this.
    pub fn fail_next_power_off(&self, kind: HostErrorKind) {
        self.change(|state| state.world.fail_next_power_off = Some(kind));
    }

    /// Nobody knows any task any more; what runs goes on.
    pub fn forget_tasks(&self) {
        self.change(|state| state.world.forget_tasks());
    }

    /// The next power-on of the machine waits for an answer.
    pub fn ask_at_power_on(&self, machine: &MachineId) {
        let choice = |key: &str, label: &str, default| Choice {
            key: key.to_owned(),
            label: label.to_owned(),
            summary: label.to_owned(),
            default,
        };
        let question = Question {
            id: QuestionId::new("moved-or-copied"),
            text: "Was this machine moved, or copied?".to_owned(),
            choices: vec![choice("1", "moved", false), choice("2", "copied", true)],
        };
        self.change(|state| state.world.ask_at_power_on(machine, question));
    }

    /// Every session ends.
    pub fn drop_sessions(&self) {
        self.change(|state| state.sessions.clear());
    }

    /// Whether the host can be reached from now on. Who was connected is not any more.
    pub fn set_away(&self, away: bool) {
        self.change(|state| {
            state.away = away;
            state.sessions.clear();
        });
    }

    /// Whether every account is refused.
    pub fn refuse_logins(&self, refuse: bool) {
        self.change(|state| state.refuses_logins = refuse);
    }

    /// How often somebody tried to log in.
    #[must_use]
    pub fn login_attempts(&self) -> u64 {
        self.lock().login_attempts
    }

    /// The next call is cut.
    pub fn cut_next(&self, cut: Cut) {
        self.change(|state| state.cut_next = Some(cut));
    }

    /// The next call is refused, for this kind of reason.
    pub fn refuse_next(&self, kind: HostErrorKind) {
        self.change(|state| state.refuse_next = Some(kind));
    }

    /// The host restarts: every machine is off, no task is known, no session is left.
    pub fn reboot(&self) {
        self.change(|state| {
            state.boots += 1;
            state.sessions.clear();
            state.world.drop_tasks();
            let on: Vec<MachineId> = state
                .world
                .machines()
                .filter(|machine| machine.power_state == Some(PowerState::On))
                .map(|machine| machine.id.clone())
                .collect();
            for machine in on {
                state.world.power_off(&machine);
            }
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.notify();
        result
    }

    fn notify(&self) {
        self.0.changed.send_modify(|count| *count += 1);
    }

    /// The state, with time moved on to now. Never held across an await.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.world.revision();
        state.world.advance(self.0.clock.elapsed(), self.0.clock.now());
        if state.world.revision() != before {
            self.notify();
        }
        state
    }
}

impl State {
    fn reachable(&self) -> Result<(), HostError> {
        if self.away {
            return Err(HostError::new(HostErrorKind::Unreachable, "The host in memory is away."));
        }
        Ok(())
    }

    /// Whether who has this ticket is logged in.
    fn admit(&self, ticket: u64) -> Result<(), HostError> {
        self.reachable()?;
        if !self.sessions.contains(&ticket) {
            return Err(HostError::new(
                HostErrorKind::NotAuthenticated,
                "The host in memory dropped the session.",
            ));
        }
        Ok(())
    }
}

/// The value at a vim25 path, where a machine in memory has an equal of it.
fn property(machine: &Machine, path: &str) -> Option<Value> {
    let power = machine.power_state.map(|state| match state {
        PowerState::On => "poweredOn",
        PowerState::Off => "poweredOff",
        PowerState::Suspended => "suspended",
    });
    Some(match path {
        "name" => json!(machine.name),
        "runtime.powerState" => json!(power),
        "runtime.connectionState" => json!(machine.connection_state),
        "runtime.question" => json!(machine.question.as_ref().map(|question| &question.text)),
        "config.annotation" => json!(machine.annotation),
        "config.instanceUuid" => json!(machine.instance_uuid),
        "config.uuid" => json!(machine.bios_uuid),
        "config.files.vmPathName" => json!(machine.path),
        "config.version" => json!("memory"),
        "config.hardware.numCPU" => json!(machine.cpu_count),
        "guest.ipAddress" => json!(machine.guest.ip_address),
        _ => return None,
    })
}
