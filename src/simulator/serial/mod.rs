//! The serial ports of the simulated host: listeners, connections to concentrators, pipes that end
//! in pseudoterminals, and files.
//!
//! ```text
//! switchboard ─┬─► listener ──┐
//!  (follows    ├─► dialler ───┼─► line ──── telnet | raw
//!   the world) ├─► pty ───────┘    │
//!              └─► file_writer ────┴─────► guest (pure, in the world)
//! network ports: one client; what is written while no client is connected is lost
//! power-off, suspend, revert ──► connections end; a reset leaves them open
//! ```
//! It shares no code with otter's own codecs, because an error in them would pass every test.

mod dialler;
mod entry;
mod file_writer;
mod flood;
mod line;
mod listener;
mod pty;
mod reserved_port;
mod switchboard;
mod telnet;
mod uri;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

pub use entry::SerialEntry;
pub use switchboard::Switchboard;

use super::world::{SerialPort, World};
use flood::Flood;

/// The maximum number of bytes that wait to be written by order of a test.
const MAX_ORDERED: usize = 1 << 20;

/// A change of the serial ports that a test or the admin endpoint orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialChange {
    /// A change of one port. `port` is its name in the guest, such as `ttyS0`, or its device key.
    /// A port that does not exist changes nothing.
    Port { machine: String, port: String, change: PortChange },
    /// What becomes of a second client of a port that has one.
    SecondClient(SecondClient),
    /// Where the URIs of concentrators lead that are not on loopback. `None`: nowhere.
    Concentrator(Option<SocketAddr>),
}

/// A change of one serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortChange {
    /// The open connection ends. With `reset` it ends without a proper close.
    Cut { reset: bool },
    /// Whether the port refuses connections, as behind a firewall. An open one stays.
    Refuse(bool),
    /// Writes bytes at a rate, `total` in all. A rate of 0 ends the flood.
    Flood { bytes_per_second: u64, total: Option<u64> },
    /// The guest writes these bytes. They are lost if no client is connected.
    Write(Vec<u8>),
    /// The machine sends a sub-option of VMware's telnet extension to the open connection.
    Suboption { code: u8, payload: Vec<u8> },
    /// The machine sends these bytes as they are to the open connection.
    Wire(Vec<u8>),
}

/// What becomes of a second client of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecondClient {
    /// Its connection is closed at once.
    #[default]
    Closed,
    /// Its connection waits, silent, until the first client is gone.
    Waits,
}

/// What a serial port is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialStatus {
    /// The name in the guest, such as `ttyS0`.
    pub name: String,
    /// The key of the device.
    pub key: i32,
    /// Where the port listens while its machine is on.
    pub address: Option<SocketAddr>,
    pub is_listening: bool,
    /// The pseudoterminal that is the device of the port in the guest.
    pub tty: Option<PathBuf>,
    /// Whether the host cannot use the backing.
    pub is_dead: bool,
    pub is_connected: bool,
    /// How many connections the port has had.
    pub connections: u64,
    /// How many bytes of the guest went to connections or to the file.
    pub written: u64,
    /// How many bytes came for the guest.
    pub received: u64,
}

/// A port of a machine. The machine is given by its moid, and the port by its device key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId {
    pub machine: String,
    pub key: i32,
}

/// The serial ports of the host.
#[derive(Debug, Default)]
pub struct SerialPorts {
    ports: BTreeMap<PortId, PortState>,
    second_client: SecondClient,
    concentrator: Option<SocketAddr>,
}

/// How an open connection ends by order of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    reset: bool,
}

/// Something that goes to the open connection and that is no output of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
enum WireOrder {
    Suboption { code: u8, payload: Vec<u8> },
    Bytes(Vec<u8>),
}

/// A port, apart from what the world knows about it.
#[derive(Debug, Default)]
struct PortState {
    address: Option<SocketAddr>,
    tty: Option<PathBuf>,
    is_listening: bool,
    is_connected: bool,
    is_refusing: bool,
    connections: u64,
    written: u64,
    received: u64,
    cut: Option<Cut>,
    flood: Option<Flood>,
    /// What the guest writes by order of a test.
    ordered: Vec<u8>,
    on_wire: Vec<WireOrder>,
    /// Wakes the tasks of the port after a change.
    changed: watch::Sender<u64>,
}

impl SerialPorts {
    /// Applies a change.
    pub fn apply(&mut self, world: &World, change: SerialChange) {
        match change {
            SerialChange::Port { machine, port, change } => {
                let now = world.now().elapsed;
                if let Some(key) = port_key(world, &machine, &port) {
                    let state = self.ports.entry(PortId { machine, key }).or_default();
                    state.apply(change, now);
                    state.wake();
                }
            }
            SerialChange::SecondClient(second_client) => {
                self.second_client = second_client;
                self.ports.values().for_each(PortState::wake);
            }
            SerialChange::Concentrator(address) => {
                self.concentrator = address;
                self.ports.values().for_each(PortState::wake);
            }
        }
    }

    /// What the ports of a machine are doing, in the order of the ports.
    pub fn statuses(&self, world: &World, machine: &str) -> Vec<SerialStatus> {
        let ports = world.machine(machine).into_iter().flat_map(|machine| &machine.serial_ports);
        let status = |(number, port): (usize, &SerialPort)| {
            let id = PortId { machine: machine.to_owned(), key: port.key };
            let state = self.ports.get(&id);
            SerialStatus {
                name: format!("ttyS{number}"),
                key: port.key,
                address: state.and_then(|state| state.address),
                is_listening: state.is_some_and(|state| state.is_listening),
                tty: state.and_then(|state| state.tty.clone()),
                is_dead: port.is_dead,
                is_connected: state.is_some_and(|state| state.is_connected),
                connections: state.map_or(0, |state| state.connections),
                written: state.map_or(0, |state| state.written),
                received: state.map_or(0, |state| state.received),
            }
        };
        ports.enumerate().map(status).collect()
    }

    /// What a port has to write: what the guest writes, what a test has ordered, and at most
    /// `limit` bytes of a flood. Also the host's time at which it has more.
    fn take_output(
        &mut self,
        world: &mut World,
        port: &PortId,
        limit: usize,
    ) -> (Vec<u8>, Option<Duration>) {
        let now = world.now().elapsed;
        let (mut output, mut next) = world.serial_output(&port.machine, port.key);
        let Some(state) = self.ports.get_mut(port) else { return (output, next) };
        output.append(&mut state.ordered);
        if let Some(flood) = &mut state.flood {
            flood.write_due(now, limit, &mut output);
            if flood.is_over() {
                state.flood = None;
            } else if limit > 0 {
                let soon = flood.next_write();
                next = Some(next.map_or(soon, |next| next.min(soon)));
            }
        }
        state.written += u64::try_from(output.len()).unwrap_or_default();
        (output, next)
    }

    /// What a port would have written until now is lost.
    fn lose_output(&mut self, world: &mut World, port: &PortId) {
        let now = world.now().elapsed;
        world.serial_output(&port.machine, port.key);
        if let Some(flood) = self.ports.get_mut(port).and_then(|state| state.flood.as_mut()) {
            flood.lose_due(now);
        }
    }
}

impl PortState {
    fn apply(&mut self, change: PortChange, now: Duration) {
        match change {
            PortChange::Refuse(is_refusing) => self.is_refusing = is_refusing,
            PortChange::Flood { bytes_per_second: 0, .. } => self.flood = None,
            PortChange::Flood { bytes_per_second, total } => {
                self.flood = Some(Flood::new(bytes_per_second, total, now));
            }
            // The rest is for a connection, and there is none.
            _ if !self.is_connected => {}
            PortChange::Cut { reset } => self.cut = Some(Cut { reset }),
            PortChange::Write(bytes) => {
                let free = MAX_ORDERED.saturating_sub(self.ordered.len());
                self.ordered.extend(bytes.into_iter().take(free));
            }
            PortChange::Suboption { code, payload } => {
                self.on_wire.push(WireOrder::Suboption { code, payload });
            }
            PortChange::Wire(bytes) => self.on_wire.push(WireOrder::Bytes(bytes)),
        }
    }

    /// The port has a connection, or a file, from now on.
    fn connect(&mut self) {
        self.is_connected = true;
        self.connections += 1;
        self.forget_orders();
    }

    fn disconnect(&mut self) {
        self.is_connected = false;
        self.forget_orders();
    }

    fn forget_orders(&mut self) {
        self.cut = None;
        self.ordered.clear();
        self.on_wire.clear();
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

/// The device key of a port with this name in the guest, or with this key.
fn port_key(world: &World, machine: &str, port: &str) -> Option<i32> {
    let ports = &world.machine(machine)?.serial_ports;
    match port.strip_prefix("ttyS") {
        Some(number) => ports.get(number.parse::<usize>().ok()?).map(|port| port.key),
        None => port.parse().ok().filter(|key| ports.iter().any(|port| port.key == *key)),
    }
}
