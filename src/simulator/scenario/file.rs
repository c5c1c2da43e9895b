//! The TOML file of a scenario, and how it becomes a scenario.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use uuid::Uuid;

use super::drives::{BootEntry, CdromEntry, cd_drives};
use super::generate::{default_machine, derived_uuid};
use super::question::{QuestionEntry, ScenarioQuestion};
use super::screen::{LayoutEntry, StageEntry, screen_source};
use super::{DEFAULT_NETWORK, HostSettings, Scenario, ScenarioError};
use crate::simulator::fault_config::FaultEntry;
use crate::simulator::files_entry::FileEntry;
use crate::simulator::guest_screen::GuestScreen;
use crate::simulator::world::{
    CardNetwork, Datastore, Guest, GuestInterface, Machine, Network, NetworkCard, PowerState,
    SerialBacking, SerialFileAnswer, SerialPort,
};

/// The content of the TOML file of a scenario.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioFile {
    #[serde(default)]
    host: HostSettings,
    datastores: Vec<DatastoreEntry>,
    #[serde(default)]
    networks: Vec<NetworkEntry>,
    #[serde(default)]
    machines: Vec<MachineEntry>,
    #[serde(default)]
    faults: Vec<FaultEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DatastoreEntry {
    id: String,
    name: String,
    #[serde(default = "default_datastore_kind")]
    kind: String,
    capacity_gb: i64,
    free_gb: i64,
    #[serde(default)]
    uncommitted_gb: i64,
    #[serde(default = "default_true")]
    accessible: bool,
    remote_host: Option<String>,
    remote_path: Option<String>,
    /// Folders by their paths on the datastore.
    #[serde(default)]
    folders: Vec<String>,
    /// Files by their paths on the datastore. Their folders are made.
    #[serde(default)]
    files: Vec<FileEntry>,
}

/// A network of the host. Only networks of distributed switches and opaque networks need an entry:
/// the host gets each standard network that a card names.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkEntry {
    name: String,
    /// The key of the port group. It is set if the network is a port group of a distributed switch.
    port_group: Option<String>,
    /// The id of the network. It is set if the network is an opaque one, which a system such as NSX
    /// manages.
    opaque: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineEntry {
    id: String,
    name: String,
    /// The name of the datastore that holds the files of the machine.
    datastore: String,
    /// The directory of the machine on its datastore. The default is the name of the machine.
    directory: Option<String>,
    #[serde(default)]
    power: PowerEntry,
    #[serde(default = "default_connection_state")]
    connection_state: String,
    #[serde(default)]
    template: bool,
    #[serde(default = "default_guest_id")]
    guest_id: String,
    #[serde(default = "default_guest_name")]
    guest_name: String,
    #[serde(default)]
    annotation: String,
    #[serde(default = "default_cpus")]
    cpus: i32,
    #[serde(default = "default_memory_mb")]
    memory_mb: i32,
    #[serde(default = "default_disk_gb")]
    disk_gb: i64,
    #[serde(default)]
    nested_virtualization: bool,
    /// Whether an earlier removal of snapshots left disks behind.
    #[serde(default)]
    consolidation_needed: bool,
    bios_uuid: Option<Uuid>,
    instance_uuid: Option<Uuid>,
    #[serde(default)]
    network_cards: Vec<CardEntry>,
    #[serde(default)]
    serial_ports: Vec<SerialEntry>,
    /// The answer to the question about existing files of serial ports. If it is absent, the host
    /// asks at each power-on.
    serial_file_answer: Option<FileAnswerEntry>,
    /// At most four drives.
    #[serde(default)]
    cdroms: Vec<CdromEntry>,
    #[serde(default)]
    boot: BootEntry,
    tools: Option<ToolsEntry>,
    #[serde(default)]
    snapshots: Vec<SnapshotEntry>,
    question: Option<QuestionEntry>,
    /// What the console shows: `guest`, or `tcp:HOST:PORT` for a real RFB server.
    #[serde(default = "default_screen")]
    screen: String,
    /// What the guest shows at the start, if the machine is on or suspended.
    #[serde(default)]
    shows: StageEntry,
    /// The layout of the guest's keyboard.
    #[serde(default)]
    keyboard: LayoutEntry,
    /// The maximum number of console connections (`RemoteDisplay.maxConnections`).
    #[serde(default = "default_max_consoles")]
    max_consoles: i32,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PowerEntry {
    On,
    #[default]
    Off,
    Suspended,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CardEntry {
    #[serde(default)]
    kind: CardKind,
    mac: String,
    /// The name of the network to which the card is connected.
    network: Option<String>,
    /// The key of the port group to which the card is connected, if the host does not show that
    /// network.
    port_group: Option<String>,
    #[serde(default = "default_true")]
    connected: bool,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CardKind {
    E1000,
    #[default]
    E1000e,
    Vmxnet3,
    Pcnet32,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileAnswerEntry {
    Append,
    Replace,
}

/// A serial port. Exactly one of `pipe`, `uri`, `file` and `device` is set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SerialEntry {
    pipe: Option<String>,
    #[serde(default = "default_pipe_end")]
    endpoint: String,
    /// The path of a link to the pseudoterminal that is the device of this pipe in the guest.
    tty: Option<PathBuf>,
    uri: Option<String>,
    #[serde(default = "default_pipe_end")]
    direction: String,
    proxy: Option<String>,
    /// Whether another program of this computer listens at `uri`, instead of the simulator.
    #[serde(default)]
    foreign: bool,
    file: Option<String>,
    device: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolsEntry {
    address: Option<String>,
    /// The address that the tools report from their start until the guest has `address`.
    first_address: Option<String>,
    #[serde(default)]
    more_addresses: Vec<String>,
    #[serde(default)]
    interfaces: Vec<InterfaceEntry>,
    #[serde(default = "default_tools_after_ms")]
    tools_after_ms: u64,
    #[serde(default = "default_address_after_ms")]
    address_after_ms: u64,
}

/// A network interface of the guest in addition to the first card. If no card of the machine has
/// this hardware address, the interface exists only in the guest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InterfaceEntry {
    mac: String,
    addresses: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotEntry {
    number: i32,
    /// The number of the parent snapshot. A snapshot without a parent is a root.
    parent: Option<i32>,
    name: String,
    #[serde(default)]
    description: String,
    created_at: Option<String>,
    #[serde(default)]
    state: PowerEntry,
    #[serde(default)]
    quiesced: bool,
    #[serde(default)]
    current: bool,
    /// What the guest shows after a revert to a snapshot with memory; by default the desktop.
    shows: Option<StageEntry>,
}

impl ScenarioFile {
    /// Checks the content of the file, and turns it into a scenario.
    ///
    /// # Errors
    /// Fails if a value is invalid. The error names the path of the key.
    pub fn check(self) -> Result<Scenario, ScenarioError> {
        let Self { host, datastores, networks, machines, faults } = self;
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        for (at, entry) in datastores.iter().enumerate() {
            folders.extend(entry.folders.iter().map(|path| format!("[{}] {path}", entry.name)));
            for (number, file) in entry.files.iter().enumerate() {
                let path = format!("datastores[{at}].files[{number}]");
                let file = file.clone().on(&entry.name).check();
                files.push(file.map_err(|message| invalid(path, message))?);
            }
        }
        let datastores: Vec<Datastore> =
            datastores.into_iter().map(DatastoreEntry::convert).collect();
        let mut known_networks: Vec<Network> = Vec::with_capacity(networks.len());
        for (at, entry) in networks.into_iter().enumerate() {
            known_networks.push(entry.convert(&format!("networks[{at}]"))?);
        }
        let mut checked: Vec<Machine> = Vec::with_capacity(machines.len());
        for (at, entry) in machines.into_iter().enumerate() {
            let path = format!("machines[{at}]");
            if checked.iter().any(|known| known.id == entry.id) {
                return Err(invalid(
                    format!("{path}.id"),
                    format!("the id {:?} is used twice", entry.id),
                ));
            }
            checked.push(entry.convert(&path, &datastores, &known_networks)?);
        }
        let mut checked_faults = Vec::with_capacity(faults.len());
        for (at, entry) in faults.into_iter().enumerate() {
            checked_faults
                .push(entry.check().map_err(|message| invalid(format!("faults[{at}]"), message))?);
        }
        Ok(Scenario {
            host,
            datastores,
            networks: known_networks,
            machines: checked,
            folders,
            files,
            faults: checked_faults,
        })
    }
}

impl DatastoreEntry {
    fn convert(self) -> Datastore {
        let Self {
            id,
            name,
            kind,
            capacity_gb,
            free_gb,
            uncommitted_gb,
            accessible,
            remote_host,
            remote_path,
            folders: _,
            files: _,
        } = self;
        Datastore {
            url: format!("/vmfs/volumes/{id}"),
            id,
            name,
            kind,
            capacity_bytes: capacity_gb << 30,
            free_bytes: free_gb << 30,
            unreported_bytes: 0,
            refreshed_at: None,
            uncommitted_bytes: uncommitted_gb << 30,
            accessible,
            remote: remote_host.zip(remote_path),
        }
    }
}

impl NetworkEntry {
    fn convert(self, path: &str) -> Result<Network, ScenarioError> {
        let Self { name, port_group, opaque } = self;
        let reference = match (port_group, opaque) {
            (None, None) => CardNetwork::Standard(name.clone()),
            (Some(key), None) => CardNetwork::PortGroup(key),
            (None, Some(id)) => CardNetwork::Opaque(id),
            (Some(_), Some(_)) => {
                let message = "set one of port_group and opaque".to_owned();
                return Err(invalid(path.to_owned(), message));
            }
        };
        Ok(Network { name, reference })
    }
}

impl MachineEntry {
    fn convert(
        self,
        path: &str,
        datastores: &[Datastore],
        networks: &[Network],
    ) -> Result<Machine, ScenarioError> {
        let Self {
            id,
            name,
            datastore,
            directory,
            power,
            connection_state,
            template,
            guest_id,
            guest_name,
            annotation,
            cpus,
            memory_mb,
            disk_gb,
            nested_virtualization,
            consolidation_needed,
            bios_uuid,
            instance_uuid,
            network_cards,
            serial_ports,
            serial_file_answer,
            cdroms,
            boot,
            tools,
            snapshots,
            question,
            screen,
            shows,
            keyboard,
            max_consoles,
        } = self;
        let Some(known_datastore) = datastores.iter().find(|known| known.name == datastore) else {
            return Err(invalid(
                format!("{path}.datastore"),
                format!("there is no datastore {datastore:?}"),
            ));
        };
        let directory = directory.unwrap_or_else(|| name.clone());
        let file = name.replace('/', "_");
        let mut machine = Machine {
            path: format!("[{datastore}] {}/{file}.vmx", directory.replace('/', "_")),
            datastore: known_datastore.id.clone(),
            connection_state,
            power: power.convert(),
            template,
            guest_id,
            guest_full_name: guest_name,
            annotation,
            cpu_count: cpus,
            memory_mb,
            disk_bytes: disk_gb << 30,
            nested_virtualization,
            consolidation_needed,
            bios_uuid: bios_uuid.unwrap_or_else(|| derived_uuid("bios", &id)).to_string(),
            instance_uuid: instance_uuid
                .unwrap_or_else(|| derived_uuid("instance", &id))
                .to_string(),
            serial_file_answer: serial_file_answer.map(FileAnswerEntry::convert),
            cd_drives: cd_drives(cdroms)
                .map_err(|message| invalid(format!("{path}.cdroms"), message))?,
            guest: tools.map_or_else(Guest::without_tools, ToolsEntry::convert),
            screen: GuestScreen::new(keyboard.convert()),
            screen_source: screen_source(&screen)
                .map_err(|message| invalid(format!("{path}.screen"), message))?,
            max_mks_connections: max_consoles,
            ..default_machine(&id, &name)
        };
        if machine.power != PowerState::Off {
            machine.screen.show(shows.convert(), Duration::ZERO);
        }
        for (at, (entry, key)) in network_cards.into_iter().zip(4000..).enumerate() {
            let path = format!("{path}.network_cards[{at}]");
            machine.network_cards.push(entry.convert(&path, key, networks)?);
        }
        for (at, (entry, key)) in serial_ports.into_iter().zip(9000..).enumerate() {
            let port = entry.convert(key, &format!("{path}.serial_ports[{at}]"))?;
            machine.serial_ports.push(port);
        }
        machine.boot =
            boot.convert(&machine).map_err(|message| invalid(format!("{path}.boot"), message))?;
        for (at, entry) in snapshots.into_iter().enumerate() {
            entry.add_to(&mut machine, &format!("{path}.snapshots[{at}]"))?;
        }
        if let Some(entry) = question {
            add_question(&mut machine, entry);
        }
        Ok(machine)
    }
}

fn add_question(machine: &mut Machine, entry: QuestionEntry) {
    let ScenarioQuestion { question, pending, repeats } = entry.convert();
    if repeats {
        machine.question_at_each_power_on = Some(question.clone());
    }
    if pending {
        machine.question = Some(question);
    } else if !repeats {
        machine.question_at_power_on = Some(question);
    }
}

impl FileAnswerEntry {
    const fn convert(self) -> SerialFileAnswer {
        match self {
            Self::Append => SerialFileAnswer::Append,
            Self::Replace => SerialFileAnswer::Replace,
        }
    }
}

impl PowerEntry {
    const fn convert(self) -> PowerState {
        match self {
            Self::On => PowerState::On,
            Self::Off => PowerState::Off,
            Self::Suspended => PowerState::Suspended,
        }
    }
}

impl CardEntry {
    fn convert(
        self,
        path: &str,
        key: i32,
        networks: &[Network],
    ) -> Result<NetworkCard, ScenarioError> {
        let Self { kind, mac, network, port_group, connected } = self;
        let kind = match kind {
            CardKind::E1000 => "VirtualE1000",
            CardKind::E1000e => "VirtualE1000e",
            CardKind::Vmxnet3 => "VirtualVmxnet3",
            CardKind::Pcnet32 => "VirtualPCNet32",
        };
        let network = match (network, port_group) {
            (Some(_), Some(_)) => {
                let message = "set one of network and port_group".to_owned();
                return Err(invalid(path.to_owned(), message));
            }
            (None, Some(key)) => CardNetwork::PortGroup(key),
            (name, None) => {
                let name = name.unwrap_or_else(|| DEFAULT_NETWORK.to_owned());
                let known = networks.iter().find(|network| network.name == name);
                known.map_or(CardNetwork::Standard(name), |network| network.reference.clone())
            }
        };
        Ok(NetworkCard { key, kind, mac_address: mac, network, connected })
    }
}

impl SerialEntry {
    fn convert(self, key: i32, path: &str) -> Result<SerialPort, ScenarioError> {
        let Self { pipe, endpoint, tty, uri, direction, proxy, foreign, file, device } = self;
        let can_be_foreign = uri.is_some() && proxy.is_none() && direction == "server";
        let backing = match (pipe, uri, file, device) {
            (Some(name), None, None, None) => SerialBacking::Pipe { name, endpoint },
            (None, Some(service), None, None) => SerialBacking::Uri { service, direction, proxy },
            (None, None, Some(path), None) => SerialBacking::File { path },
            (None, None, None, Some(name)) => SerialBacking::Device { name },
            _ => {
                let message = "set one of pipe, uri, file and device".to_owned();
                return Err(invalid(path.to_owned(), message));
            }
        };
        if tty.is_some() && !matches!(backing, SerialBacking::Pipe { .. }) {
            let message = "only a pipe can have a tty".to_owned();
            return Err(invalid(format!("{path}.tty"), message));
        }
        if foreign && !can_be_foreign {
            let message = "only a port that listens at a uri can be foreign".to_owned();
            return Err(invalid(format!("{path}.foreign"), message));
        }
        Ok(SerialPort { tty, is_foreign: foreign, ..SerialPort::new(key, backing) })
    }
}

impl ToolsEntry {
    fn convert(self) -> Guest {
        let Self {
            address,
            first_address,
            more_addresses,
            interfaces,
            tools_after_ms,
            address_after_ms,
        } = self;
        let interface =
            |InterfaceEntry { mac, addresses }| GuestInterface { mac_address: mac, addresses };
        Guest {
            tools_installed: true,
            address,
            first_address,
            more_addresses,
            interfaces: interfaces.into_iter().map(interface).collect(),
            tools_running: false,
            is_shutting_down: false,
            reported_address: None,
            tools_after: Duration::from_millis(tools_after_ms),
            address_after: Duration::from_millis(address_after_ms),
        }
    }
}

impl SnapshotEntry {
    fn add_to(self, machine: &mut Machine, path: &str) -> Result<(), ScenarioError> {
        let Self {
            number,
            parent,
            name,
            description,
            created_at,
            state,
            quiesced,
            current,
            shows: shown,
        } = self;
        let parent = match parent {
            Some(parent) => {
                let id = format!("{}-snapshot-{parent}", machine.id);
                let message = "no snapshot before this one has this number";
                machine
                    .snapshot(&id)
                    .ok_or_else(|| invalid(format!("{path}.parent"), message.to_owned()))?;
                Some(id)
            }
            None => None,
        };
        if machine.snapshots.iter().any(|known| known.number == number) {
            return Err(invalid(
                format!("{path}.number"),
                format!("the number {number} is used twice"),
            ));
        }
        let at = match created_at {
            Some(text) => text.parse().map_err(|error: jiff::Error| {
                invalid(format!("{path}.created_at"), error.to_string())
            })?,
            None => machine.created_at,
        };
        machine.next_snapshot = number;
        let id = machine.add_snapshot(parent.as_deref(), &name, state.convert(), at);
        if let Some(snapshot) = machine.snapshots.last_mut() {
            snapshot.description = description;
            snapshot.quiesced = quiesced;
            if let (Some(screen), Some(shown)) = (&mut snapshot.screen, shown) {
                screen.show(shown.convert(), Duration::ZERO);
            }
        }
        machine.next_snapshot =
            machine.snapshots.iter().map(|known| known.number).max().unwrap_or(0) + 1;
        if current {
            machine.current_snapshot = Some(id);
        }
        Ok(())
    }
}

const fn invalid(path: String, message: String) -> ScenarioError {
    ScenarioError::Invalid { path, message }
}

fn default_datastore_kind() -> String {
    "VMFS".to_owned()
}
fn default_connection_state() -> String {
    "connected".to_owned()
}
fn default_pipe_end() -> String {
    "server".to_owned()
}
fn default_screen() -> String {
    "guest".to_owned()
}
fn default_guest_id() -> String {
    "otherGuest".to_owned()
}
fn default_guest_name() -> String {
    "Other (32-bit)".to_owned()
}
const fn default_true() -> bool {
    true
}
const fn default_max_consoles() -> i32 {
    40
}
const fn default_cpus() -> i32 {
    2
}
const fn default_memory_mb() -> i32 {
    4096
}
const fn default_disk_gb() -> i64 {
    20
}
const fn default_tools_after_ms() -> u64 {
    2_000
}
const fn default_address_after_ms() -> u64 {
    3_000
}
