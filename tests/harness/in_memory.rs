//! The host in memory as tests have it: five machines of known parts.

use crate::memory::{Asset, MemoryHost, Pace};
use jiff::Timestamp;
use otter::clock::Clock;
use otter::domain::datastore::Datastore;
use otter::domain::ids::{DatastoreId, MachineId, SnapshotId};
use otter::domain::machine::{Guest, Machine, NetworkCard};
use otter::domain::power::PowerState;
use otter::domain::snapshot::{Snapshot, Snapshots};
use secrecy::SecretString;

/// The machines by their ids, which are their names: one with a chain of snapshots, one that is on, one that is on
/// with tools, one that is off, and one more.
pub const MACHINES: [&str; 5] =
    ["memory-reverted", "memory-running", "memory-tools", "memory-off", "memory-steady"];

/// The hardware address of the machine that is on with tools.
pub const RUNNING_MAC: &str = "00:50:56:00:00:02";

/// The snapshots of the first machine, each below the one before.
const CHAIN: [&str; 3] = ["base", "updated", "kickstart"];

pub fn password() -> SecretString {
    SecretString::from("otter")
}

/// The host, running since before anybody came.
pub fn host(clock: Clock, pace: Pace) -> MemoryHost {
    let host = MemoryHost::new(clock, pace, password());
    host.add_datastore(Datastore {
        id: DatastoreId::new("memory-datastore"),
        name: "memory".to_owned(),
        kind: "OTHER".to_owned(),
        capacity_bytes: Some(1 << 40),
        free_bytes: Some(1 << 39),
        uncommitted_bytes: None,
        accessible: true,
        url: Some("memory://datastore".to_owned()),
        machine_count: 0,
    });
    for (number, name) in MACHINES.into_iter().enumerate() {
        let mut asset = asset(name, name, (number == 2).then_some("10.0.0.3"));
        let machine = &mut asset.machine;
        machine.network_cards[0].mac_address = format!("00:50:56:00:00:{number:02x}").parse().ok();
        match number {
            0 => machine.snapshots = chain(),
            1 | 2 => machine.power_state = Some(PowerState::On),
            _ => {}
        }
        if let Some(address) = &asset.address {
            machine.guest = Guest {
                tools_running: true,
                tools_status: Some("running".to_owned()),
                ip_address: Some(address.clone()),
                ip_addresses: vec![address.clone()],
            };
        }
        host.add(asset);
    }
    host
}

/// A machine that is off, whose guest takes this address when it runs.
pub fn asset(id: &str, name: &str, address: Option<&str>) -> Asset {
    let machine = Machine {
        id: MachineId::new(id),
        name: name.to_owned(),
        power_state: Some(PowerState::Off),
        template: false,
        connection_state: "connected".to_owned(),
        path: Some(format!("[memory] {id}/{id}.vmx")),
        guest_os: Some("Other".to_owned()),
        instance_uuid: Some(format!("instance-{id}")),
        bios_uuid: Some(format!("bios-{id}")),
        annotation: None,
        cpu_count: Some(2),
        memory_bytes: Some(4 << 30),
        storage_bytes: Some(20 << 30),
        nested_virtualization: Some(true),
        guest: Guest::default(),
        network_cards: vec![NetworkCard {
            key: 4000,
            label: "Network adapter 1".to_owned(),
            kind: "vmxnet3".to_owned(),
            mac_address: None,
            connected: true,
            network: Some("VM Network".to_owned()),
        }],
        serial_ports: Vec::new(),
        snapshots: Snapshots::default(),
        question: None,
        datastores: vec![DatastoreId::new("memory-datastore")],
    };
    Asset { machine, address: address.map(str::to_owned), run: 0 }
}

fn chain() -> Snapshots {
    let id = |name: &str| SnapshotId::new(format!("snapshot-{name}"));
    let items = CHAIN.iter().enumerate().map(|(place, name)| Snapshot {
        id: id(name),
        name: (*name).to_owned(),
        description: format!("the {name} state"),
        created_at: Some(Timestamp::constant(1_700_000_000, 0)),
        power_state: Some(PowerState::Off),
        quiesced: false,
        parent: place.checked_sub(1).map(|above| id(CHAIN[above])),
        children: CHAIN.get(place + 1).map(|below| id(below)).into_iter().collect(),
    });
    Snapshots { current: CHAIN.last().map(|last| id(last)), items: items.collect() }
}
