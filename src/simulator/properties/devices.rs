//! The virtual devices of a machine, with the keys that ESX uses.

use super::super::value::{Moref, Object, Value, enum_value};
use super::super::world::{
    AddedDisk, CardNetwork, CdBacking, CdDrive, Controller, DISK_CONTROLLER, DRIVE_CONTROLLERS,
    FIRST_DISK, FilePath, Machine, Network, NetworkCard, PowerState, SerialBacking, SerialPort,
    World,
};
use super::description;

/// The UUID of the distributed switch to which port groups belong.
const SWITCH_UUID: &str = "50 2e 6b 1f 0c 1d 4a 55-9c 11 7d 0e 21 4b 8a 37";
/// The type of every opaque network of the simulated host.
pub const OPAQUE_KIND: &str = "nsx.LogicalSwitch";

/// All virtual devices of a machine, in the order in which ESX lists them.
pub fn virtual_devices(world: &World, machine: &Machine) -> Vec<Object> {
    let keys = |keys: Vec<i32>| Value::List("int", keys.into_iter().map(Value::Int).collect());
    let controller = |kind, key: i32, label: &str, bus: i32| {
        Object::new(kind)
            .with("key", key)
            .with("deviceInfo", description(label, label))
            .with("busNumber", bus)
    };
    let on_pci = [500, 12_000, DISK_CONTROLLER]
        .into_iter()
        .chain(machine.network_cards.iter().map(|card| card.key))
        .chain(machine.controllers.iter().map(|controller| controller.key));
    let on_sio = machine.serial_ports.iter().map(|port| port.key);
    let mut devices = vec![
        controller("VirtualIDEController", DRIVE_CONTROLLERS[0], "IDE 0", 0)
            .with("device", attached_to(machine, DRIVE_CONTROLLERS[0])),
        controller("VirtualIDEController", DRIVE_CONTROLLERS[1], "IDE 1", 1)
            .with("device", attached_to(machine, DRIVE_CONTROLLERS[1])),
        controller("VirtualPS2Controller", 300, "PS2 controller 0", 0)
            .with("device", keys(vec![600, 700])),
        controller("VirtualPCIController", 100, "PCI controller 0", 0)
            .with("device", keys(on_pci.collect())),
        controller("VirtualSIOController", 400, "SIO controller 0", 0)
            .with("device", keys(on_sio.collect())),
        attached("VirtualKeyboard", 600, "Keyboard", None, 300, 0),
        attached("VirtualPointingDevice", 700, "Pointing device", Some(pointing_backing()), 300, 1),
        attached("VirtualMachineVideoCard", 500, "Video card ", None, 100, 0)
            .with("videoRamSizeInKB", 16_384_i64)
            .with("numDisplays", 1)
            .with("useAutoDetect", false)
            .with("enable3DSupport", false),
        attached("VirtualMachineVMCIDevice", 12_000, "VMCI device", None, 100, 17)
            .with("allowUnrestrictedCommunication", false)
            .with("filterEnable", true),
        as_scsi(
            controller("VirtualLsiLogicController", DISK_CONTROLLER, "SCSI controller 0", 0)
                .with("device", attached_to(machine, DISK_CONTROLLER)),
        ),
    ];
    devices.extend(machine.controllers.iter().map(|added| added_controller(machine, added)));
    devices.extend(disks(world, machine));
    devices.extend(
        machine.cd_drives.iter().enumerate().map(|(at, drive)| cd_drive(world, machine, at, drive)),
    );
    devices.extend(
        machine
            .network_cards
            .iter()
            .enumerate()
            .map(|(at, card)| network_card(world, machine, at, card)),
    );
    devices.extend(
        machine
            .serial_ports
            .iter()
            .enumerate()
            .map(|(at, port)| serial_port(world, machine, at, port)),
    );
    devices
}

fn attached(
    kind: &'static str,
    key: i32,
    label: &str,
    backing: Option<Object>,
    controller: i32,
    unit: i32,
) -> Object {
    Object::new(kind)
        .with("key", key)
        .with("deviceInfo", description(label, label))
        .with("backing", backing)
        .with("controllerKey", controller)
        .with("unitNumber", unit)
}

fn pointing_backing() -> Object {
    Object::new("VirtualPointingDeviceDeviceBackingInfo")
        .with("deviceName", "")
        .with("useAutoDetect", false)
        .with("hostPointingDevice", "autodetect")
}

/// The keys of the disks and drives at a controller. `None` if there are none.
fn attached_to(machine: &Machine, controller: i32) -> Option<Value> {
    let first = (machine.disk_bytes > 0).then_some((FIRST_DISK, DISK_CONTROLLER));
    let disks = machine.added_disks.iter().map(|disk| (disk.key, disk.controller));
    let drives = machine.cd_drives.iter().map(|drive| (drive.key, drive.controller));
    let all = first.into_iter().chain(disks).chain(drives);
    let here = all.filter(|(_, at)| *at == controller).map(|(key, _)| Value::Int(key));
    let here: Vec<Value> = here.collect();
    (!here.is_empty()).then_some(Value::List("int", here))
}

/// Adds the fields that only SCSI controllers have.
fn as_scsi(controller: Object) -> Object {
    controller
        .with("hotAddRemove", true)
        .with("sharedBus", enum_value("VirtualSCSISharing", "noSharing"))
        .with("scsiCtlrUnitNumber", 7)
}

fn added_controller(machine: &Machine, added: &Controller) -> Object {
    let Controller { kind, key, bus } = added;
    let is_sata = *kind == "VirtualAHCIController";
    let label = format!("{} controller {bus}", if is_sata { "SATA" } else { "SCSI" });
    let controller = Object::new(kind)
        .with("key", *key)
        .with("deviceInfo", description(label.clone(), label))
        .with("controllerKey", 100)
        .with("busNumber", *bus)
        .with("device", attached_to(machine, *key));
    if is_sata { controller } else { as_scsi(controller) }
}

fn cd_drive(world: &World, machine: &Machine, at: usize, drive: &CdDrive) -> Object {
    let (summary, backing) = match &drive.backing {
        CdBacking::Iso(path) => (
            format!("ISO {path}"),
            Object::new("VirtualCdromIsoBackingInfo")
                .with("fileName", path)
                .with("datastore", datastore_of(world, path)),
        ),
        CdBacking::Device { kind, name, exclusive } => (
            "Remote device".to_owned(),
            Object::new(kind)
                .with("deviceName", name)
                .with("useAutoDetect", false)
                .with("exclusive", *exclusive),
        ),
    };
    let status = match (drive.is_broken, machine.power == PowerState::On && drive.connected) {
        (true, _) => "unrecoverableError",
        (false, true) => "ok",
        (false, false) => "untried",
    };
    let connectable = Object::new("VirtualDeviceConnectInfo")
        .with("startConnected", drive.start_connected)
        .with("allowGuestControl", drive.allows_guest_control)
        .with("connected", drive.connected && machine.power == PowerState::On)
        .with("status", status);
    Object::new("VirtualCdrom")
        .with("key", drive.key)
        .with("deviceInfo", description(format!("CD/DVD drive {}", at + 1), summary))
        .with("backing", backing)
        .with("connectable", connectable)
        .with("controllerKey", drive.controller)
        .with("unitNumber", drive.unit)
}

fn connectable(connected: bool, start_connected: bool) -> Object {
    connection(connected, start_connected, if connected { "ok" } else { "untried" })
}

fn connection(connected: bool, start_connected: bool, status: &str) -> Object {
    Object::new("VirtualDeviceConnectInfo")
        .with("startConnected", start_connected)
        .with("allowGuestControl", true)
        .with("connected", connected)
        .with("status", status)
}

fn disks(world: &World, machine: &Machine) -> Vec<Object> {
    let first = AddedDisk {
        key: FIRST_DISK,
        controller: DISK_CONTROLLER,
        unit: 0,
        bytes: machine.disk_bytes,
        path: format!("{}.vmdk", machine.base_path()),
    };
    let first = (machine.disk_bytes > 0).then_some(first);
    let all = first.iter().chain(&machine.added_disks).enumerate();
    all.map(|(at, disk)| virtual_disk(world, at, disk)).collect()
}

fn virtual_disk(world: &World, at: usize, disk: &AddedDisk) -> Object {
    let kilobytes = disk.bytes / 1024;
    let backing = Object::new("VirtualDiskFlatVer2BackingInfo")
        .with("fileName", &disk.path)
        .with("datastore", datastore_of(world, &disk.path))
        .with("diskMode", "persistent")
        .with("split", false)
        .with("writeThrough", false)
        .with("thinProvisioned", true);
    Object::new("VirtualDisk")
        .with("key", disk.key)
        .with("deviceInfo", description(format!("Hard disk {}", at + 1), format!("{kilobytes} KB")))
        .with("backing", backing)
        .with("controllerKey", disk.controller)
        .with("unitNumber", disk.unit)
        .with("capacityInKB", kilobytes)
        .with("capacityInBytes", disk.bytes)
}

fn network_card(world: &World, machine: &Machine, at: usize, card: &NetworkCard) -> Object {
    let (summary, backing) = match &card.network {
        CardNetwork::Standard(name) => (
            name.clone(),
            Object::new("VirtualEthernetCardNetworkBackingInfo")
                .with("deviceName", name)
                .with("useAutoDetect", false)
                .with("network", world.network(&card.network).map(Network::moref)),
        ),
        CardNetwork::PortGroup(key) => {
            let port = Object::new("DistributedVirtualSwitchPortConnection")
                .with("switchUuid", SWITCH_UUID)
                .with("portgroupKey", key)
                .with("portKey", card.key.to_string());
            let backing = Object::new("VirtualEthernetCardDistributedVirtualPortBackingInfo");
            (format!("DVSwitch: {SWITCH_UUID}"), backing.with("port", port))
        }
        CardNetwork::Opaque(id) => (
            format!("{OPAQUE_KIND}: {id}"),
            Object::new("VirtualEthernetCardOpaqueNetworkBackingInfo")
                .with("opaqueNetworkId", id)
                .with("opaqueNetworkType", OPAQUE_KIND),
        ),
    };
    let generated = card.mac_address.starts_with("00:0c:29");
    Object::new(card.kind)
        .with("key", card.key)
        .with("deviceInfo", description(format!("Network adapter {}", at + 1), summary))
        .with("backing", backing)
        .with(
            "connectable",
            connectable(card.connected && machine.power == PowerState::On, card.connected),
        )
        .with("controllerKey", 100)
        .with("unitNumber", card.key - 4_000 + 7)
        .with("addressType", if generated { "generated" } else { "manual" })
        .with("macAddress", &card.mac_address)
        .with("wakeOnLanEnabled", true)
}

fn serial_port(world: &World, machine: &Machine, at: usize, port: &SerialPort) -> Object {
    let (summary, backing) = match &port.backing {
        SerialBacking::Pipe { name, endpoint } => (
            format!("Pipe {name}"),
            Object::new("VirtualSerialPortPipeBackingInfo")
                .with("pipeName", name)
                .with("endpoint", endpoint)
                .with("noRxLoss", true),
        ),
        SerialBacking::Uri { service, direction, proxy } => (
            format!("Remote {service}"),
            Object::new("VirtualSerialPortURIBackingInfo")
                .with("serviceURI", service)
                .with("direction", direction)
                .with("proxyURI", proxy.as_ref()),
        ),
        SerialBacking::File { path } => (
            format!("File {path}"),
            Object::new("VirtualSerialPortFileBackingInfo")
                .with("fileName", path)
                .with("datastore", datastore_of(world, path)),
        ),
        SerialBacking::Device { name } => (
            format!("Device {name}"),
            Object::new("VirtualSerialPortDeviceBackingInfo")
                .with("deviceName", name)
                .with("useAutoDetect", false),
        ),
    };
    let is_on = machine.power == PowerState::On;
    let connectable = if is_on && port.is_dead {
        connection(false, true, "unrecoverableError")
    } else {
        connectable(is_on, true)
    };
    Object::new("VirtualSerialPort")
        .with("key", port.key)
        .with("deviceInfo", description(format!("Serial port {}", at + 1), summary))
        .with("backing", backing)
        .with("connectable", connectable)
        .with("controllerKey", 400)
        .with("unitNumber", port.key - 9_000)
        .with("yieldOnPoll", true)
}

/// The datastore of a datastore path. `None` if the host has no such datastore.
fn datastore_of(world: &World, path: &str) -> Option<Moref> {
    world.datastore_moref(&FilePath::parse(path).ok()?)
}
