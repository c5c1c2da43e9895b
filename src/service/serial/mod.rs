//! Serial ports of machines: what they output is kept with offsets that only grow, for any number
//! of readers, and one writer at a time sends input.
//!
//! `registry` opens one connection for each port on demand, `port_task` keeps it, and `port_log`
//! keeps the output: in memory (`ring`), in files (`segments`), with its gaps (`gap_list`).
//! `keeper` holds the ports of leased machines open. `ways` says how otter reaches a port, and
//! `directory` whose machine dials otter. `wait` and `prepare_wait` wait for output that
//! `conditions` find, `input_calls` and `input_run` send input, and `streams` and `stream` serve
//! terminals. Who may read and who may write follows the rights on the screen of the machine.

pub mod conditions;
mod directory;
mod gap_list;
mod hold;
pub mod input_call;
pub mod input_calls;
mod input_run;
mod keeper;
pub mod plain_text;
mod port_log;
#[cfg(test)]
mod port_log_tests;
mod port_task;
mod prepare_wait;
mod reader;
mod registry;
mod ring;
mod segments;
mod shared_port;
pub mod stream;
pub mod streams;
pub mod wait;
mod ways;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::domain::machine::{Machine, SerialPort};
use crate::domain::serial::{Gap, PortAccess, PortName};
use crate::hypervisor::Capability;
use crate::service::audit::Audit;
use crate::service::hosts::Hosts;
use crate::service::inventory::Inventory;
use crate::service::leases::published::PublishedLeases;
use crate::service::live_settings::LiveSettings;
use crate::service::machines::shorten;
use crate::service::screens::{DriverInfo, Screens};
use crate::service::storage_watch::store_failure;
use crate::storage::SerialStorage;
use crate::supervisor::Supervisor;
use crate::telemetry::serial::SerialMetrics;

pub use self::hold::SerialHold;
pub use self::port_log::Bounds;
pub use self::reader::{SerialPiece, SerialReader};
pub use self::shared_port::{InputLost, PortStatus, PortUse};

use self::registry::{Registry, RegistryParts};
use self::streams::OpenStreams;
use self::ways::{NoWay, Ways};
use self::writer::Writers;

/// `[serial]` of the configuration, and what else decides about serial ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialSettings {
    /// The folder of the files with output. `None` without a state directory: otter keeps the
    /// newest 1 MiB of each port in memory.
    pub directory: Option<PathBuf>,
    /// `serial.log_bytes`: the most bytes of one port in files.
    pub log_bytes: u64,
    /// `serial.retention_days`: how long the output of a port that is not used is kept in files.
    pub retention: Duration,
    /// `serial.max_open`: the most ports that otter is connected to at the same time.
    pub max_open: usize,
    /// Whether otter listens for machines that dial it (`serial.listen`).
    pub listens: bool,
    /// The port of the host's API, which otter never dials for a serial port.
    pub api_port: u16,
}

impl Default for SerialSettings {
    fn default() -> Self {
        Self {
            directory: None,
            log_bytes: 16 * 1024 * 1024,
            retention: Duration::from_hours(14 * 24),
            max_open: 512,
            listens: false,
            api_port: 443,
        }
    }
}

/// What [`Serial`] is made of.
pub struct SerialParts {
    pub hosts: Hosts,
    pub inventory: Arc<Inventory>,
    pub leases: Arc<PublishedLeases>,
    pub live: LiveSettings,
    pub screens: Arc<Screens>,
    pub storage: Arc<dyn SerialStorage>,
    pub audit: Arc<Audit>,
    pub supervisor: Supervisor,
    pub clock: Clock,
    pub metrics: SerialMetrics,
    pub settings: SerialSettings,
}

/// The serial ports of all machines.
pub struct Serial {
    hosts: Hosts,
    inventory: Arc<Inventory>,
    leases: Arc<PublishedLeases>,
    live: LiveSettings,
    /// Knows who may look and who may drive.
    screens: Arc<Screens>,
    audit: Arc<Audit>,
    supervisor: Supervisor,
    clock: Clock,
    metrics: SerialMetrics,
    storage: Arc<dyn SerialStorage>,
    settings: SerialSettings,
    ways: Ways,
    registry: Registry,
    writers: Writers,
    streams: Arc<OpenStreams>,
}

/// The state of one port.
#[derive(Clone, Debug)]
pub struct PortState {
    pub port: SerialPort,
    pub access: PortAccess,
    /// Why otter is not connected. `None` while it is.
    pub reason: Option<String>,
    pub bounds: Bounds,
    /// The gaps in what is kept, the oldest first.
    pub gaps: Vec<Gap>,
    pub writer: Option<DriverInfo>,
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// The first byte that is kept.
    First,
    Offset(u64),
    /// This many bytes before the end, or the first byte that is kept. Zero: what comes from now
    /// on.
    BeforeEnd(u64),
}

impl Serial {
    /// The ports of the machines of the inventory. None is open yet.
    #[must_use]
    pub fn new(parts: SerialParts) -> Self {
        let SerialParts {
            hosts,
            inventory,
            leases,
            live,
            screens,
            storage,
            audit,
            supervisor,
            clock,
            metrics,
            settings,
        } = parts;
        let ways = Ways {
            inventory: Arc::clone(&inventory),
            live: live.clone(),
            listens: settings.listens,
            api_port: settings.api_port,
        };
        let registry = Registry::new(RegistryParts {
            hosts: hosts.clone(),
            ways: ways.clone(),
            storage: Arc::clone(&storage),
            supervisor: supervisor.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            settings: settings.clone(),
        });
        Self {
            hosts,
            inventory,
            leases,
            live,
            screens,
            audit,
            supervisor,
            clock,
            metrics,
            storage,
            settings,
            ways,
            registry,
            writers: Writers::default(),
            streams: Arc::default(),
        }
    }

    /// The state of all ports of a machine. Opens none.
    ///
    /// # Errors
    /// `not-supported` if the host gives no access to serial ports, `internal` if the storage
    /// cannot be read.
    pub async fn states(&self, machine: &Machine) -> Result<Vec<PortState>, Failure> {
        self.hosts.with_capability(Capability::Serial, machine)?;
        let mut states = Vec::with_capacity(machine.serial_ports.len());
        for port in &machine.serial_ports {
            let log = self.registry.log(machine, port.key);
            log.load().await.map_err(|error| store_failure(&error))?;
            let (access, reason) = self.access(machine, port);
            states.push(PortState {
                port: port.clone(),
                access,
                reason,
                bounds: log.bounds(),
                gaps: log.gaps(),
                writer: self.writers.of(&machine.id, port.key).map(|writer| writer.driver),
            });
        }
        Ok(states)
    }

    /// Opens a port, or joins the users of its open connection. Does not wait for the connection.
    /// Dropping the use ends it.
    ///
    /// # Errors
    /// `not-supported`, `too-many-consoles`, `shutting-down`.
    pub fn join(&self, machine: &Machine, port: i32) -> Result<PortUse, Failure> {
        self.hosts.with_capability(Capability::Serial, machine)?;
        self.registry.join(machine, port)
    }

    /// A reader of the output of a port, from a position on. While it exists, otter stays connected
    /// to the port.
    ///
    /// # Parameters
    /// - `port`: the key of the port.
    ///
    /// # Errors
    /// `offset-out-of-range` if there is no such offset, and as [`Serial::join`] and
    /// [`PortUse::loaded`].
    pub async fn subscribe(
        &self,
        machine: &Machine,
        port: i32,
        from: ReadFrom,
    ) -> Result<SerialReader, Failure> {
        let usage = self.join(machine, port)?;
        usage.loaded().await?;
        let bounds = usage.port().log.bounds();
        let position = position(from, bounds)
            .map_err(|failure| failure.with_machine(&machine.id, &machine.name))?;
        Ok(SerialReader::new(usage, position))
    }

    /// Keeps otter connected to ports of a machine until the result is dropped.
    ///
    /// # Parameters
    /// - `ports`: their keys.
    /// - `user`: for whom, for the log.
    pub fn hold_open(&self, machine: &Machine, ports: &[i32], user: &str) -> SerialHold {
        SerialHold::new(ports.iter().filter_map(|port| match self.join(machine, *port) {
            Ok(usage) => Some(usage),
            Err(failure) => {
                tracing::debug!(machine = %machine.id, port, user, %failure, "a port is not held");
                None
            }
        }))
    }

    /// Whether otter is connected to a port, and if not, why.
    fn access(&self, machine: &Machine, port: &SerialPort) -> (PortAccess, Option<String>) {
        if let Some(status) = self.registry.status(machine, port.key) {
            return (status.access, status.reason);
        }
        match self.ways.to(machine, port) {
            Ok(_) => {
                let reason = "No one uses the port, so otter is not connected to it.";
                (PortAccess::Closed, Some(reason.to_owned()))
            }
            Err(NoWay { access, reason }) => (access, Some(reason)),
        }
    }
}

/// The port of a machine with this name: its key, or its name in Linux.
///
/// # Errors
/// `not-found`, which lists the ports of the machine.
pub fn find_port<'m>(machine: &'m Machine, name: &str) -> Result<&'m SerialPort, Failure> {
    let found = name.parse::<PortName>().ok().and_then(|name| name.find(machine));
    found.ok_or_else(|| {
        let known = PortName::all_of(machine);
        let known = if known.is_empty() {
            "It has no serial port.".to_owned()
        } else {
            format!("Known: {}.", known.join(", "))
        };
        let detail = format!("{} has no serial port {}. {known}", machine.name, shorten(name));
        Failure::new(FailureKind::NotFound, detail).with_machine(&machine.id, &machine.name)
    })
}

/// The offset at which a reader begins.
fn position(from: ReadFrom, bounds: Bounds) -> Result<u64, Failure> {
    let Bounds { first, next } = bounds;
    let offset = match from {
        ReadFrom::First => return Ok(first),
        ReadFrom::BeforeEnd(bytes) => return Ok(next.saturating_sub(bytes).max(first)),
        ReadFrom::Offset(offset) => offset,
    };
    if (first..=next).contains(&offset) {
        return Ok(offset);
    }
    let detail = format!(
        "The offset {offset} is not one of this port: otter keeps its output from {first} on, and \
         the next byte gets {next}."
    );
    Err(Failure::new(FailureKind::OffsetOutOfRange, detail.clone()).with_error(InputError {
        pointer: None,
        parameter: Some("since".to_owned()),
        code: "out-of-range".into(),
        detail,
    }))
}
