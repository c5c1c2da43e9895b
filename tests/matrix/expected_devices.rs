//! The serial ports, drives and boot options of a machine as otter must report them, made from the
//! state of the simulated host.

use otter::simulator::world::{BootDevice, Machine, PowerState, SerialBacking};
use serde_json::{Value, json};

pub fn serial_ports(machine: &Machine) -> Vec<Value> {
    let shown = machine.serial_ports.iter().enumerate().map(|(number, port)| {
        let mut shown = json!({
            "key": port.key,
            "label": format!("Serial port {}", number + 1),
            "linux_device": format!("ttyS{number}"),
            "type": "pipe",
            "pipe_name": null,
            "endpoint": null,
            "service_uri": null,
            "direction": null,
            "proxy_uri": null,
            "file_path": null,
            "device_name": null,
        });
        let of_backing = match &port.backing {
            SerialBacking::Pipe { name, endpoint } => {
                json!({"type": "pipe", "pipe_name": name, "endpoint": endpoint})
            }
            SerialBacking::Uri { service, direction, proxy } => json!({
                "type": "network",
                "service_uri": service,
                "direction": direction,
                "proxy_uri": proxy,
            }),
            SerialBacking::File { path } => json!({"type": "file", "file_path": path}),
            SerialBacking::Device { name } => json!({"type": "device", "device_name": name}),
        };
        shown.as_object_mut().unwrap().extend(of_backing.as_object().unwrap().clone());
        shown
    });
    shown.collect()
}

pub fn drives(machine: &Machine) -> Vec<Value> {
    let on = machine.power == PowerState::On;
    let shown = machine.cd_drives.iter().enumerate().map(|(number, drive)| {
        let datastore = drive.iso().map(|path| {
            path.trim_start_matches('[').split(']').next().unwrap_or_default().to_owned()
        });
        json!({
            "key": drive.key,
            "label": format!("CD/DVD drive {}", number + 1),
            "datastore": datastore,
            "path": drive.iso(),
            "connected": drive.connected && on,
        })
    });
    shown.collect()
}

pub fn boot(machine: &Machine) -> Value {
    let name = |device: &BootDevice| match device {
        BootDevice::Cdrom => "cdrom",
        BootDevice::Floppy => "floppy",
        BootDevice::Disk(_) => "disk",
        BootDevice::Network(_) => "network",
    };
    let order: Vec<&str> = machine.boot.order.iter().map(name).collect();
    json!({"order": order, "delay": format!("{}s", machine.boot.delay_ms / 1000)})
}
