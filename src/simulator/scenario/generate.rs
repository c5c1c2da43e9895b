//! Machines that are not read from a file: bare machines for tests, and the generated scenario.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::DEFAULT_NETWORK;
use crate::simulator::guest_screen::{GuestScreen, Layout};
use crate::simulator::world::{
    BootSettings, CardNetwork, Datastore, Guest, Machine, NetworkCard, PowerState, ScreenSource,
    SerialBacking, SerialPort,
};

impl Machine {
    /// A machine on this datastore that is powered off and has no devices, no tools and no
    /// snapshots. Tests add to it what they need.
    #[must_use]
    pub fn bare(id: &str, name: &str, datastore: &Datastore) -> Self {
        Self {
            path: format!("[{}] {name}/{name}.vmx", datastore.name),
            datastore: datastore.id.clone(),
            ..default_machine(id, name)
        }
    }
}

/// A machine with default values. Its path and its datastore are empty, and the caller sets them.
pub(super) fn default_machine(id: &str, name: &str) -> Machine {
    Machine {
        id: id.to_owned(),
        name: name.to_owned(),
        connection_state: "connected".to_owned(),
        power: PowerState::Off,
        template: false,
        guest_id: "otherGuest".to_owned(),
        guest_full_name: "Other (32-bit)".to_owned(),
        annotation: String::new(),
        cpu_count: 2,
        memory_mb: 4096,
        disk_bytes: 20 << 30,
        added_disks: Vec::new(),
        controllers: Vec::new(),
        cd_drives: Vec::new(),
        boot: BootSettings::default(),
        extra_config: BTreeMap::new(),
        nested_virtualization: false,
        bios_uuid: derived_uuid("bios", id).to_string(),
        instance_uuid: derived_uuid("instance", id).to_string(),
        path: String::new(),
        datastore: String::new(),
        network_cards: Vec::new(),
        serial_ports: Vec::new(),
        serial_file_answer: None,
        chosen_serial_file_answer: None,
        guest: Guest::without_tools(),
        snapshots: Vec::new(),
        current_snapshot: None,
        next_snapshot: 1,
        question: None,
        question_at_power_on: None,
        question_at_each_power_on: None,
        created_at: Timestamp::constant(1_700_000_000, 0),
        booted_at: None,
        suspended_at: None,
        consolidation_needed: false,
        run: 0,
        screen: GuestScreen::new(Layout::Us),
        screen_source: ScreenSource::Guest,
        max_mks_connections: 40,
        mks_connections: 0,
        console_epoch: 0,
        screenshots: Vec::new(),
        pictures: Vec::new(),
        reconfigured_at: None,
        log: String::new(),
    }
}

/// The machine number `number` of the generated scenario.
pub(super) fn machine(number: usize, datastore: &Datastore) -> Machine {
    let runner = number.is_multiple_of(3);
    let name = if runner { format!("runner-{number:04}") } else { format!("qubes-{number:04}") };
    let mut machine = Machine::bare(&number.to_string(), &name, datastore);
    let [.., high, low] = number.to_be_bytes();
    machine.network_cards.push(NetworkCard {
        key: 4000,
        kind: "VirtualE1000e",
        mac_address: format!("00:0c:29:00:{high:02x}:{low:02x}"),
        network: CardNetwork::Standard(DEFAULT_NETWORK.to_owned()),
        connected: true,
    });
    if runner {
        machine.guest = Guest {
            tools_installed: true,
            address: Some(format!("10.137.{high}.{low}")),
            tools_after: Duration::from_secs(2),
            address_after: Duration::from_secs(3),
            ..Guest::without_tools()
        };
        "debian11_64Guest".clone_into(&mut machine.guest_id);
        "Debian GNU/Linux 11 (64-bit)".clone_into(&mut machine.guest_full_name);
    } else {
        machine.nested_virtualization = true;
        machine.memory_mb = 16_384;
        let pipe =
            SerialBacking::Pipe { name: format!("/tmp/{name}"), endpoint: "server".to_owned() };
        machine.serial_ports.push(SerialPort::new(9000, pipe));
    }
    if number.is_multiple_of(10) {
        machine.power = PowerState::On;
    }
    let at = machine.created_at;
    let base = machine.add_snapshot(None, "base", PowerState::Off, at);
    machine.current_snapshot =
        Some(machine.add_snapshot(Some(&base), "kickstart", PowerState::Off, at));
    machine
}

/// A VMFS datastore of 4 TiB.
pub(super) fn datastore(id: &str, name: &str) -> Datastore {
    Datastore {
        id: id.to_owned(),
        name: name.to_owned(),
        kind: "VMFS".to_owned(),
        capacity_bytes: 4 << 40,
        free_bytes: 1 << 40,
        unreported_bytes: 0,
        refreshed_at: None,
        uncommitted_bytes: 0,
        accessible: true,
        url: format!("/vmfs/volumes/{id}"),
        remote: None,
    }
}

impl Guest {
    /// A guest without VMware Tools, such as dom0 of Qubes OS. The host learns nothing from such a
    /// guest.
    #[must_use]
    pub const fn without_tools() -> Self {
        Self {
            tools_installed: false,
            address: None,
            first_address: None,
            more_addresses: Vec::new(),
            interfaces: Vec::new(),
            tools_running: false,
            is_shutting_down: false,
            reported_address: None,
            tools_after: Duration::ZERO,
            address_after: Duration::ZERO,
        }
    }
}

/// The UUID of a machine for a purpose, such as its BIOS UUID. The UUID is the same at each start
/// of the simulator.
pub(super) fn derived_uuid(purpose: &str, id: &str) -> Uuid {
    let digest = Sha256::digest(format!("{purpose}:{id}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}
