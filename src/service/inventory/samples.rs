//! Sample machines, snapshots and network cards for tests.

use crate::domain::ids::{MachineId, SnapshotId};
use crate::domain::machine::{Machine, NetworkCard};
use crate::domain::power::PowerState;
use crate::domain::snapshot::Snapshot;

#[must_use]
pub fn machine(id: &str, name: &str) -> Machine {
    Machine {
        name: name.to_owned(),
        power_state: Some(PowerState::Off),
        connection_state: "connected".to_owned(),
        path: Some(format!("[datastore1] {name}/{name}.vmx")),
        guest_os: Some("Other".to_owned()),
        instance_uuid: Some(format!("52000000-0000-0000-0000-{id:0>12}")),
        bios_uuid: Some(format!("42000000-0000-0000-0000-{id:0>12}")),
        cpu_count: Some(2),
        memory_bytes: Some(4 << 30),
        storage_bytes: Some(20 << 30),
        nested_virtualization: Some(true),
        ..Machine::new(MachineId::from_backend(id))
    }
}

#[must_use]
pub fn snapshot(id: &str, name: &str, parent: Option<&str>) -> Snapshot {
    Snapshot {
        id: SnapshotId::from_backend(id),
        name: name.to_owned(),
        description: String::new(),
        created_at: None,
        power_state: Some(PowerState::Off),
        quiesced: false,
        parent: parent.map(SnapshotId::from_backend),
        children: Vec::new(),
    }
}

#[must_use]
pub fn card(mac: &str) -> NetworkCard {
    NetworkCard {
        key: 4000,
        label: "Network adapter 1".to_owned(),
        kind: "vmxnet3".to_owned(),
        mac_address: mac.parse().ok(),
        connected: true,
        network: Some("VM Network".to_owned()),
    }
}
