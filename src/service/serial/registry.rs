//! The ports that are open: at most one task for each, begun on demand, and ended when no one has
//! used the port for a while. Also the logs of all ports that were used since the start.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::SerialSettings;
use super::port_log::{PortId, PortLog};
use super::port_task::{PortTask, TaskParts};
use super::segments::LogFolder;
use super::shared_port::{InputMessage, PortStatus, PortUse, SharedPort};
use super::ways::Ways;
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::MachineId;
use crate::domain::machine::Machine;
use crate::service::hosts::Hosts;
use crate::storage::SerialStorage;
use crate::supervisor::Supervisor;
use crate::telemetry::serial::SerialMetrics;

/// The closed ports whose output otter keeps in memory, if it keeps none in files.
const CLOSED_IN_MEMORY: usize = 64;

/// What [`Registry`] is made of.
pub struct RegistryParts {
    pub hosts: Hosts,
    pub ways: Ways,
    pub storage: Arc<dyn SerialStorage>,
    pub supervisor: Supervisor,
    pub clock: Clock,
    pub metrics: SerialMetrics,
    pub settings: SerialSettings,
}

/// The ports that are open. Clones share them.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    parts: RegistryParts,
    ports: Mutex<Ports>,
}

#[derive(Default)]
struct Ports {
    open: HashMap<(MachineId, i32), Arc<SharedPort>>,
    logs: HashMap<PortId, Arc<PortLog>>,
    /// The ports that were closed last, with bytes in memory alone. The last one is at the end.
    closed: VecDeque<PortId>,
}

impl Registry {
    /// No port is open.
    #[must_use]
    pub fn new(parts: RegistryParts) -> Self {
        Self(Arc::new(Inner { parts, ports: Mutex::default() }))
    }

    /// Joins the users of a port. Opens it if it is not open. Does not wait for the connection.
    ///
    /// # Errors
    /// `too-many-consoles` if `serial.max_open` ports are in use, `shutting-down`.
    pub fn join(&self, machine: &Machine, key: i32) -> Result<PortUse, Failure> {
        let RegistryParts { supervisor, settings, .. } = &self.0.parts;
        let stop = supervisor.shutdown_token();
        if stop.is_cancelled() {
            return Err(Failure::new(FailureKind::ShuttingDown, "otter is shutting down.")
                .with_machine(&machine.id, &machine.name));
        }
        let mut ports = self.ports();
        let name = (machine.id.clone(), key);
        let known = ports.open.get(&name).filter(|known| {
            !known.stop.is_cancelled() && known.machine.identity().agrees_with(&machine.identity())
        });
        if let Some(known) = known {
            return Ok(PortUse::of(known));
        }
        // An entry of another machine that had the same id, or that is about to end.
        if let Some(outdated) = ports.open.remove(&name) {
            outdated.stop.cancel();
        }
        if ports.open.len() >= settings.max_open && !remove_unused(&mut ports.open) {
            let detail = format!(
                "otter is connected to {} serial ports, which is the limit (serial.max_open). Try \
                 again when one of them is closed.",
                settings.max_open
            );
            return Err(Failure::new(FailureKind::TooManyConsoles, detail)
                .with_machine(&machine.id, &machine.name));
        }
        let log = self.log_in(&mut ports, machine, key);
        let machine = Arc::new(machine.clone());
        let (shared, inputs) = SharedPort::new(machine, key, log, stop.child_token());
        let shared = Arc::new(shared);
        ports.open.insert(name, Arc::clone(&shared));
        let usage = PortUse::of(&shared);
        drop(ports);
        self.start(&shared, inputs);
        Ok(usage)
    }

    /// What otter keeps of the output of a port. It may not be loaded yet.
    #[must_use]
    pub fn log(&self, machine: &Machine, key: i32) -> Arc<PortLog> {
        self.log_in(&mut self.ports(), machine, key)
    }

    /// The status of an open port. `None` if it is not open.
    #[must_use]
    pub fn status(&self, machine: &Machine, key: i32) -> Option<PortStatus> {
        let ports = self.ports();
        let shared = ports.open.get(&(machine.id.clone(), key))?;
        let is_same = shared.machine.identity().agrees_with(&machine.identity());
        (is_same && !shared.stop.is_cancelled()).then(|| shared.status.borrow().clone())
    }

    /// Whether the folder with this name belongs to a port that is open.
    #[must_use]
    pub fn is_open(&self, folder: &str) -> bool {
        let ports = self.ports();
        let mut open = ports.open.values();
        open.any(|shared| folder_name(&id_of(&shared.machine, shared.key)) == folder)
    }

    /// Forgets the logs of closed ports whose machine is gone.
    ///
    /// # Parameters
    /// - `known`: the keys of the machines that are there.
    pub fn forget_logs(&self, known: &HashSet<String>) {
        let mut ports = self.ports();
        let Ports { open, logs, closed } = &mut *ports;
        let is_open: HashSet<PortId> =
            open.values().map(|shared| id_of(&shared.machine, shared.key)).collect();
        logs.retain(|id, log| {
            known.contains(&id.machine) || is_open.contains(id) || Arc::strong_count(log) > 1
        });
        closed.retain(|id| logs.contains_key(id));
    }

    fn log_in(&self, ports: &mut Ports, machine: &Machine, key: i32) -> Arc<PortLog> {
        let RegistryParts { storage, clock, settings, .. } = &self.0.parts;
        let id = id_of(machine, key);
        let log = ports.logs.entry(id.clone()).or_insert_with(|| {
            let folder = settings.directory.as_ref().map(|directory| {
                LogFolder::new(directory.join(folder_name(&id)), settings.log_bytes)
            });
            Arc::new(PortLog::new(id, Arc::clone(storage), clock.clone(), folder))
        });
        Arc::clone(log)
    }

    fn start(&self, shared: &Arc<SharedPort>, inputs: mpsc::Receiver<InputMessage>) {
        let RegistryParts { hosts, ways, supervisor, clock, metrics, .. } = &self.0.parts;
        let task = PortTask::new(
            TaskParts {
                host: Arc::clone(hosts.for_machine(&shared.machine.id)),
                ways: ways.clone(),
                supervisor: supervisor.clone(),
                clock: clock.clone(),
                metrics: metrics.clone(),
                shared: Arc::clone(shared),
            },
            inputs,
        );
        let registry = self.clone();
        let ended = Arc::clone(shared);
        // The task ends by itself, and the shutdown waits for it, so that the exact end of the
        // output is stored.
        drop(supervisor.spawn_isolated("serial port", async move {
            let _removal = Removal { registry: registry.clone(), shared: ended };
            task.run(|shared| registry.remove_if_unused(shared)).await;
        }));
    }

    /// Removes a port if it has no user, so that it gets none any more.
    ///
    /// # Returns
    /// Whether the port was removed.
    fn remove_if_unused(&self, shared: &Arc<SharedPort>) -> bool {
        let mut ports = self.ports();
        let is_unused = *shared.users.borrow() == 0;
        if is_unused {
            remove(&mut ports.open, shared);
            shared.stop.cancel();
        }
        is_unused
    }

    /// Notes that a port was closed. If its output is in memory alone, that of the port that was
    /// closed longest ago makes room.
    fn note_closed(&self, shared: &SharedPort) {
        let mut ports = self.ports();
        let id = id_of(&shared.machine, shared.key);
        ports.closed.retain(|known| *known != id);
        if shared.log.is_in_memory_alone() {
            ports.closed.push_back(id);
        }
        while ports.closed.len() > CLOSED_IN_MEMORY {
            let Some(oldest) = ports.closed.pop_front() else { return };
            let mut open = ports.open.values();
            if open.any(|shared| id_of(&shared.machine, shared.key) == oldest) {
                continue;
            }
            if let Some(log) = ports.logs.get(&oldest) {
                log.drop_memory();
            }
        }
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.0.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a port from the registry when its task has ended, whatever the reason.
struct Removal {
    registry: Registry,
    shared: Arc<SharedPort>,
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        remove(&mut self.registry.ports().open, &self.shared);
        self.registry.note_closed(&self.shared);
        let machine = &self.shared.machine;
        let failure = Failure::new(FailureKind::Internal, "The task of the serial port ended.");
        self.shared.publish_end(failure.with_machine(&machine.id, &machine.name));
    }
}

fn remove(open: &mut HashMap<(MachineId, i32), Arc<SharedPort>>, shared: &Arc<SharedPort>) {
    let name = (shared.machine.id.clone(), shared.key);
    if open.get(&name).is_some_and(|known| Arc::ptr_eq(known, shared)) {
        open.remove(&name);
    }
}

/// Removes and ends one port that has no user. Returns whether there was one.
fn remove_unused(open: &mut HashMap<(MachineId, i32), Arc<SharedPort>>) -> bool {
    let unused = open.values().find(|shared| *shared.users.borrow() == 0).cloned();
    if let Some(unused) = &unused {
        open.remove(&(unused.machine.id.clone(), unused.key));
        unused.stop.cancel();
    }
    unused.is_some()
}

fn id_of(machine: &Machine, key: i32) -> PortId {
    PortId { machine: machine.identity().key(), port: key }
}

/// The name of the folder of a port. The key of a machine can have any characters.
fn folder_name(PortId { machine, port }: &PortId) -> String {
    let digest = hex::encode(Sha256::digest(machine));
    format!("{}-{port}", digest.get(..32).unwrap_or(&digest))
}
