//! The machines that dial otter for their serial ports, found by the UUID by which they name
//! themselves.

use uuid::Uuid;

use super::Serial;
use crate::domain::ids::MachineId;
use crate::domain::machine::{SerialBacking, SerialPort};
use crate::domain::machine_uuid::parse_uuid;
use crate::hypervisor::{DiallingPort, SerialDirectory};

impl SerialDirectory for Serial {
    fn dialling_ports(&self, instance_uuid: Uuid) -> Option<(MachineId, Vec<DiallingPort>)> {
        let contents = self.inventory.contents();
        let machine = contents.machines.iter().find(|machine| {
            machine.instance_uuid.as_deref().and_then(parse_uuid) == Some(instance_uuid)
        })?;
        let ports = machine.serial_ports.iter().filter_map(dialling_port).collect();
        Some((machine.id.clone(), ports))
    }
}

fn dialling_port(port: &SerialPort) -> Option<DiallingPort> {
    let SerialBacking::Network { service_uri, proxy_uri: Some(_), .. } = &port.backing else {
        return None;
    };
    Some(DiallingPort { key: port.key, service: service_uri.clone() })
}
