//! Keeps the connections of the serial ports as the world says: a task for each port that listens,
//! dials, writes a file, or ends in a pseudoterminal.
//!
//! ```text
//! world changes ──► reconcile ──► a plan for each changed port ──► if it is another plan than
//!                                 that of the running task: this task ends, and a new one begins
//! ```
//! A plan holds the power epoch of its machine, so that a power-off, a suspend and a revert end the
//! task, and with it the connection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::Shared;
use super::super::value::Moref;
use super::super::world::{Machine, PowerState, SerialBacking, SerialPort, World};
use super::dialler::{self, Destination};
use super::line::Line;
use super::listener;
use super::pty::Pty;
use super::reserved_port::ReservedPort;
use super::telnet::Identity;
use super::uri::{PortUri, Protocol};
use super::{PortId, SerialPorts, file_writer};

/// The tasks of the serial ports.
pub struct Switchboard {
    shared: Arc<Shared>,
    /// The revision of the world that was seen last.
    seen: u64,
    reserved: BTreeMap<PortId, Reservation>,
    ttys: BTreeMap<PortId, TtyEnd>,
    running: BTreeMap<PortId, Running>,
    /// The tasks that were stopped last. The next task of a port waits for the end of the earlier.
    stopped: BTreeMap<PortId, JoinHandle<()>>,
    tasks: TaskTracker,
}

/// The port on loopback of a port whose machine listens.
struct Reservation {
    /// The URI in the world.
    service: String,
    /// `None` if the host cannot use the URI.
    port: Option<(Protocol, Arc<ReservedPort>)>,
}

/// The end of a pipe that is a pseudoterminal.
struct TtyEnd {
    pipe: String,
    endpoint: String,
    pty: Arc<Pty>,
}

struct Running {
    plan: Plan,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What is connected to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// The port listens at this URI.
    Listen {
        epoch: Epoch,
        service: String,
    },
    Dial {
        epoch: Epoch,
        destination: Destination,
    },
    Write {
        epoch: Epoch,
        path: String,
    },
    /// The other end of the port's pipe is the pseudoterminal that is this port.
    Pipe {
        other: PortId,
    },
}

/// The incarnation of a machine, and how often it was powered off, suspended or reverted.
type Epoch = (u64, u64);

impl Switchboard {
    /// A switchboard without tasks.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            seen: 0,
            reserved: BTreeMap::new(),
            ttys: BTreeMap::new(),
            running: BTreeMap::new(),
            stopped: BTreeMap::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Follows the world until `stop` is cancelled. Then all connections end.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.shared.changes();
        loop {
            changes.borrow_and_update();
            self.reconcile();
            tokio::select! {
                () = stop.cancelled() => break,
                result = changes.changed() => if result.is_err() { break },
            }
        }
        for running in self.running.values() {
            running.stop.cancel();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Brings the tasks up to the world.
    pub fn reconcile(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let state = &mut *state;
        if state.world.revision() == self.seen {
            return;
        }
        let mut machines = self.changed_machines(&state.world);
        for machine in &machines {
            self.reserve(&mut state.world, &mut state.serial, machine);
        }
        if self.open_ttys(&state.world, &mut state.serial, &machines) {
            // A pipe of any machine may lead to the new pseudoterminal.
            machines = all_machines(&state.world);
        }
        for machine in &machines {
            let plans = self.plans(&state.world, machine);
            self.carry_out(&mut state.serial, machine, plans);
        }
        self.seen = state.world.revision();
    }

    /// The machines that have changed since the last time, and those that are gone.
    fn changed_machines(&self, world: &World) -> BTreeSet<String> {
        if let Some(changed) = world.changed_since(self.seen) {
            let machines = changed.into_iter().filter(|object| is_machine(object));
            machines.map(|object| object.id.clone()).collect()
        } else {
            let known = self.running.keys().chain(self.reserved.keys()).chain(self.ttys.keys());
            let mut machines = all_machines(world);
            machines.extend(known.map(|port| port.machine.clone()));
            machines
        }
    }

    /// Takes the ports on loopback at which a machine listens, and writes them into its URIs.
    fn reserve(&mut self, world: &mut World, serial: &mut SerialPorts, machine: &str) {
        let mut wanted = BTreeMap::new();
        for port in ports_of(world, machine) {
            let id = PortId { machine: machine.to_owned(), key: port.key };
            if let SerialBacking::Uri { service, direction, proxy: None } = &port.backing
                && direction == "server"
                && !port.is_foreign
            {
                wanted.insert(id, service.clone());
            }
        }
        self.reserved.retain(|id, held| {
            id.machine != machine || wanted.get(id).is_some_and(|service| *service == held.service)
        });
        for (id, service) in wanted {
            if self.reserved.contains_key(&id) {
                continue;
            }
            let uri = PortUri::read(&service);
            let port = uri.and_then(|uri| Some((uri.protocol, ReservedPort::take(uri.port).ok()?)));
            let address = port.as_ref().map(|(_, port)| port.address());
            let service =
                address.map_or(service.clone(), |own| PortUri::with_port(&service, own.port()));
            serial.ports.entry(id.clone()).or_default().address = address;
            set_service(world, &id, &service);
            let port = port.map(|(protocol, port)| (protocol, Arc::new(port)));
            self.reserved.insert(id, Reservation { service, port });
        }
        self.mark_dead_ports(world, machine);
    }

    /// Marks the ports whose backing the host cannot use.
    fn mark_dead_ports(&self, world: &mut World, machine: &str) {
        let is_dead = |SerialPort { key, backing, is_foreign, .. }: &SerialPort| match backing {
            SerialBacking::Uri { proxy: Some(proxy), .. } => PortUri::read(proxy).is_none(),
            SerialBacking::Uri { service, direction, proxy: None } if direction == "client" => {
                PortUri::read(service).is_none()
            }
            SerialBacking::Uri { .. } => {
                let id = PortId { machine: machine.to_owned(), key: *key };
                !is_foreign && self.reserved.get(&id).is_none_or(|held| held.port.is_none())
            }
            SerialBacking::Pipe { .. }
            | SerialBacking::File { .. }
            | SerialBacking::Device { .. } => false,
        };
        let changed: Vec<(i32, bool)> = ports_of(world, machine)
            .iter()
            .map(|port| (port.key, port.is_dead, is_dead(port)))
            .filter(|(_, before, after)| before != after)
            .map(|(key, _, after)| (key, after))
            .collect();
        for (key, is_dead) in changed {
            let ports = world.machine_mut(machine).map(|machine| &mut machine.serial_ports);
            if let Some(port) = ports.into_iter().flatten().find(|port| port.key == key) {
                port.is_dead = is_dead;
            }
        }
    }

    /// Makes the pseudoterminals of these machines. Returns whether one was made or removed.
    fn open_ttys(
        &mut self,
        world: &World,
        serial: &mut SerialPorts,
        machines: &BTreeSet<String>,
    ) -> bool {
        let mut wanted = BTreeMap::new();
        for machine in machines.iter().filter_map(|id| world.machine(id)) {
            for port in &machine.serial_ports {
                if let (SerialBacking::Pipe { name, endpoint }, Some(link)) =
                    (&port.backing, &port.tty)
                {
                    let id = PortId { machine: machine.id.clone(), key: port.key };
                    wanted.insert(id, (name.clone(), endpoint.clone(), link.clone()));
                }
            }
        }
        let before = self.ttys.len();
        self.ttys.retain(|id, end| {
            let same = wanted
                .get(id)
                .is_some_and(|(name, endpoint, _)| (name, endpoint) == (&end.pipe, &end.endpoint));
            same || !machines.contains(&id.machine)
        });
        let mut has_changed = self.ttys.len() != before;
        for (id, (pipe, endpoint, link)) in wanted {
            if self.ttys.contains_key(&id) {
                continue;
            }
            match Pty::open(&link) {
                Ok(pty) => {
                    let state = serial.ports.entry(id.clone()).or_default();
                    state.tty = Some(pty.path().to_owned());
                    self.ttys.insert(id, TtyEnd { pipe, endpoint, pty: Arc::new(pty) });
                    has_changed = true;
                }
                Err(error) => {
                    let link = link.display();
                    tracing::warn!(%link, %error, "a simulated serial port has no pseudoterminal");
                }
            }
        }
        has_changed
    }

    /// The plans of the ports of a machine. A port that is connected to nothing has none.
    fn plans(&self, world: &World, id: &str) -> BTreeMap<PortId, Plan> {
        let mut plans = BTreeMap::new();
        let Some(machine) = world.machine(id) else { return plans };
        let incarnation = world.incarnation(&Moref::new("VirtualMachine", id));
        let epoch = (incarnation, machine.console_epoch);
        let is_on = machine.power == PowerState::On;
        for port in &machine.serial_ports {
            let port_id = PortId { machine: id.to_owned(), key: port.key };
            let plan = match &port.backing {
                SerialBacking::Pipe { name, endpoint } => {
                    self.other_end(&port_id, name, endpoint).map(|other| Plan::Pipe { other })
                }
                _ if !is_on || port.is_foreign => None,
                SerialBacking::File { path } => Some(Plan::Write { epoch, path: path.clone() }),
                SerialBacking::Uri { service, direction, proxy: None } if direction == "server" => {
                    Some(Plan::Listen { epoch, service: service.clone() })
                }
                SerialBacking::Uri { service, direction, proxy } => {
                    destination(machine, service, direction, proxy.as_deref())
                        .map(|destination| Plan::Dial { epoch, destination })
                }
                SerialBacking::Device { .. } => None,
            };
            plans.extend(plan.map(|plan| (port_id, plan)));
        }
        plans
    }

    /// The pseudoterminal at the other end of a pipe.
    fn other_end(&self, port: &PortId, name: &str, endpoint: &str) -> Option<PortId> {
        let is_other = |(id, end): &(&PortId, &TtyEnd)| {
            *id != port && end.pipe == name && end.endpoint != endpoint
        };
        self.ttys.iter().find(is_other).map(|(id, _)| id.clone())
    }

    /// Ends the tasks of a machine that have other plans, and begins those that are missing.
    fn carry_out(
        &mut self,
        serial: &mut SerialPorts,
        machine: &str,
        mut plans: BTreeMap<PortId, Plan>,
    ) {
        let first = PortId { machine: machine.to_owned(), key: i32::MIN };
        let last = PortId { machine: machine.to_owned(), key: i32::MAX };
        let running: Vec<PortId> =
            self.running.range(first..=last).map(|(port, _)| port.clone()).collect();
        for port in running {
            let is_same = self.running.get(&port).map(|running| &running.plan) == plans.get(&port);
            if is_same {
                plans.remove(&port);
            } else if let Some(Running { stop, task, .. }) = self.running.remove(&port) {
                stop.cancel();
                self.stopped.insert(port, task);
            }
        }
        for (port, plan) in plans {
            let (stop, earlier) = (CancellationToken::new(), self.stopped.remove(&port));
            let work = self.work(serial, &port, &plan);
            let task = self.tasks.spawn({
                let stop = stop.clone();
                async move {
                    if let Some(earlier) = earlier {
                        // A panic of the task is ignored, because the task has ended either way.
                        drop(earlier.await);
                    }
                    let _: Option<()> = stop.run_until_cancelled(work).await;
                }
            });
            self.running.insert(port, Running { plan, stop, task });
        }
    }

    /// What the task of a plan does.
    fn work(&self, serial: &mut SerialPorts, port: &PortId, plan: &Plan) -> BoxFuture<'static, ()> {
        let state = serial.ports.entry(port.clone()).or_default();
        let line = Line {
            shared: Arc::clone(&self.shared),
            port: port.clone(),
            changed: state.changed.subscribe(),
        };
        match plan {
            Plan::Listen { .. } => {
                let reserved = self.reserved.get(port).and_then(|held| held.port.clone());
                match reserved {
                    Some((protocol, reserved)) => listener::run(line, reserved, protocol).boxed(),
                    // The port is dead.
                    None => std::future::ready(()).boxed(),
                }
            }
            Plan::Dial { destination, .. } => dialler::run(line, destination.clone()).boxed(),
            Plan::Write { path, .. } => file_writer::run(line, path.clone()).boxed(),
            Plan::Pipe { other } => {
                let pty = self.ttys.get(other).map(|end| Arc::clone(&end.pty));
                async move {
                    if let Some(Ok((receiver, sender))) = pty.map(|pty| pty.streams()) {
                        line.serve_tty(receiver, sender).await;
                    }
                }
                .boxed()
            }
        }
    }
}

fn is_machine(object: &Moref) -> bool {
    object.kind == "VirtualMachine"
}

fn ports_of<'w>(world: &'w World, machine: &str) -> &'w [SerialPort] {
    world.machine(machine).map(|machine| machine.serial_ports.as_slice()).unwrap_or_default()
}

fn all_machines(world: &World) -> BTreeSet<String> {
    world.machines().map(|machine| machine.id.clone()).collect()
}

/// Writes a URI into the world, unless it has it.
fn set_service(world: &mut World, port: &PortId, uri: &str) {
    let known = world.machine(&port.machine).and_then(|machine| {
        let found = machine.serial_ports.iter().find(|known| known.key == port.key)?;
        match &found.backing {
            SerialBacking::Uri { service, .. } => Some(service == uri),
            _ => None,
        }
    });
    if known == Some(false)
        && let Some(machine) = world.machine_mut(&port.machine)
    {
        for changed in machine.serial_ports.iter_mut().filter(|known| known.key == port.key) {
            if let SerialBacking::Uri { service, .. } = &mut changed.backing {
                uri.clone_into(service);
            }
        }
    }
}

/// What a machine dials for a port. `None` if the URI is malformed.
fn destination(
    machine: &Machine,
    service: &str,
    direction: &str,
    proxy: Option<&str>,
) -> Option<Destination> {
    let identity = proxy.map(|_| Identity {
        name: machine.name.clone(),
        instance_uuid: machine.instance_uuid.clone(),
        bios_uuid: machine.bios_uuid.clone(),
        direction: if direction == "client" { 'C' } else { 'S' },
        service: service.to_owned(),
    });
    Some(Destination { uri: PortUri::read(proxy.unwrap_or(service))?, identity })
}
