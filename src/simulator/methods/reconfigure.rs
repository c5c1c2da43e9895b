//! `ReconfigVM_Task`: reads a `VirtualMachineConfigSpec`. A field that the simulated host cannot
//! change is `NotSupported`, so that no change is lost in silence.

use crate::domain::names::unescape_vim;
use crate::esx::soap::xml::Element;
use crate::simulator::schema;
use crate::simulator::soap::{self, Request};
use crate::simulator::vim_fault::Fault;
use crate::simulator::world::{
    BootChange, BootDevice, CardNetwork, CdBacking, ConfigChange, ConnectionChange, DeviceChange,
    DeviceOperation, DeviceSpec, Operation, SerialBacking,
};

/// The operation of a call.
///
/// # Errors
/// `InvalidArgument` if a value is malformed, `NotSupported` if a field cannot be changed.
pub fn operation(request: &Request) -> Result<Operation, Fault> {
    let spec = request.call().child("spec").ok_or_else(|| Fault::invalid_argument("spec"))?;
    let mut change = ConfigChange::default();
    for field in spec.children() {
        let text = || field.text().to_owned();
        match field.name() {
            "changeVersion" => change.change_version = Some(text()),
            "name" => change.name = Some(unescape_vim(field.text())),
            "annotation" => change.annotation = Some(text()),
            "guestId" => change.guest_id = Some(text()),
            "uuid" => change.bios_uuid = Some(text()),
            "instanceUuid" => change.instance_uuid = Some(text()),
            "numCPUs" => change.cpu_count = Some(number(field)?),
            "memoryMB" => change.memory_mb = Some(number(field)?),
            "nestedHVEnabled" => change.nested_virtualization = Some(soap::is_true(field.text())),
            "maxMksConnections" => change.max_mks_connections = Some(number(field)?),
            "extraConfig" => {
                let option = |name| field.child_text(name).unwrap_or_default().to_owned();
                change.options.push((option("key"), option("value")));
            }
            "bootOptions" => change.boot = boot_change(field)?,
            "deviceChange" => change.devices.push(device_change(field)?),
            _ => return Err(Fault::not_supported()),
        }
    }
    Ok(Operation::Reconfigure(Box::new(change)))
}

fn number<T: std::str::FromStr>(field: Element<'_>) -> Result<T, Fault> {
    let parsed = field.text().trim().parse();
    parsed.map_err(|_| Fault::invalid_argument(&format!("spec.{}", field.name())))
}

/// The number of a child element. `None` if there is no such child.
fn optional<T: std::str::FromStr>(parent: Element<'_>, name: &str) -> Result<Option<T>, Fault> {
    parent.child(name).map(number).transpose()
}

fn boot_change(options: Element<'_>) -> Result<BootChange, Fault> {
    let flag = |name: &str| options.child_text(name).map(soap::is_true);
    let entries: Vec<Element<'_>> = options.children_named("bootOrder").collect();
    let mut order = (!entries.is_empty()).then(Vec::new);
    for entry in entries {
        let key = || {
            let key = optional(entry, "deviceKey")?;
            key.ok_or_else(|| Fault::invalid_argument("spec.bootOptions.bootOrder"))
        };
        let kind = entry.type_name().unwrap_or_default();
        let device = match kind.strip_prefix("VirtualMachineBootOptionsBootable") {
            Some("CdromDevice") => BootDevice::Cdrom,
            Some("FloppyDevice") => BootDevice::Floppy,
            Some("DiskDevice") => BootDevice::Disk(key()?),
            Some("EthernetDevice") => BootDevice::Network(key()?),
            // An entry of the base type stands for an empty order.
            _ => continue,
        };
        order.get_or_insert_default().push(device);
    }
    Ok(BootChange {
        order,
        delay_ms: optional(options, "bootDelay")?,
        enters_setup: flag("enterBIOSSetup"),
        retries: flag("bootRetryEnabled"),
        retry_delay_ms: optional(options, "bootRetryDelay")?,
    })
}

fn device_change(change: Element<'_>) -> Result<DeviceChange, Fault> {
    let operation = match change.child_text("operation") {
        Some("add") => DeviceOperation::Add,
        Some("remove") => DeviceOperation::Remove,
        Some("edit") => DeviceOperation::Edit,
        _ => return Err(Fault::invalid_argument("spec.deviceChange.operation")),
    };
    let device = change.child("device");
    let device = device.ok_or_else(|| Fault::invalid_argument("spec.deviceChange.device"))?;
    let flag =
        |connection: Element<'_>, name| connection.child_text(name).is_some_and(soap::is_true);
    let connection = device.child("connectable").map(|connection| ConnectionChange {
        connected: flag(connection, "connected"),
        start_connected: flag(connection, "startConnected"),
        allows_guest_control: flag(connection, "allowGuestControl"),
    });
    Ok(DeviceChange {
        operation,
        with_file: change.child("fileOperation").is_some(),
        key: optional(device, "key")?.unwrap_or(0),
        controller: optional(device, "controllerKey")?.filter(|key| *key != 0),
        unit: optional(device, "unitNumber")?,
        connection,
        device: device_spec(device)?,
    })
}

fn device_spec(device: Element<'_>) -> Result<DeviceSpec, Fault> {
    let kind = device.type_name().and_then(schema::known_type_name).unwrap_or_default();
    let backing = device.child("backing");
    let is_a = |base| schema::is_a(kind, base);
    Ok(if kind == "VirtualCdrom" {
        DeviceSpec::Cdrom { backing: backing.map(cd_backing).transpose()? }
    } else if is_a("VirtualEthernetCard") && kind != "VirtualEthernetCard" {
        DeviceSpec::Card {
            kind,
            mac_address: device.child_text("macAddress").map(str::to_owned),
            network: backing.map(card_network).transpose()?,
        }
    } else if kind == "VirtualSerialPort" {
        DeviceSpec::Serial { backing: backing.map(serial_backing).transpose()? }
    } else if kind == "VirtualDisk" {
        let bytes: Option<i64> = optional(device, "capacityInBytes")?;
        let kilobytes: Option<i64> = optional(device, "capacityInKB")?;
        let path = backing.and_then(|backing| backing.child_text("fileName"));
        DeviceSpec::Disk {
            bytes: bytes.or(kilobytes.map(|size| size.saturating_mul(1_024))),
            path: path.map(str::to_owned),
        }
    } else if is_a("VirtualSCSIController") && kind != "VirtualSCSIController"
        || kind == "VirtualAHCIController"
    {
        DeviceSpec::Controller { kind, bus: optional(device, "busNumber")? }
    } else {
        DeviceSpec::Unknown
    })
}

fn invalid_backing() -> Fault {
    Fault::invalid_argument("spec.deviceChange.device.backing")
}

fn cd_backing(backing: Element<'_>) -> Result<CdBacking, Fault> {
    let text = |name| backing.child_text(name).unwrap_or_default().to_owned();
    let kind = backing.type_name().and_then(schema::known_type_name).unwrap_or_default();
    if kind == "VirtualCdromIsoBackingInfo" {
        return Ok(CdBacking::Iso(text("fileName")));
    }
    let is_device = ["VirtualDeviceDeviceBackingInfo", "VirtualDeviceRemoteDeviceBackingInfo"]
        .iter()
        .any(|base| schema::is_a(kind, base));
    if !kind.starts_with("VirtualCdrom") || !is_device {
        return Err(invalid_backing());
    }
    let exclusive = schema::field(kind, "exclusive")
        .map(|_| backing.child_text("exclusive").is_some_and(soap::is_true));
    Ok(CdBacking::Device { kind, name: text("deviceName"), exclusive })
}

fn card_network(backing: Element<'_>) -> Result<CardNetwork, Fault> {
    let text = |path: &[&str]| backing.descend(path).map(|found| found.text().to_owned());
    let network = match backing.type_name().unwrap_or_default() {
        "VirtualEthernetCardNetworkBackingInfo" => text(&["deviceName"]).map(CardNetwork::Standard),
        "VirtualEthernetCardDistributedVirtualPortBackingInfo" => {
            text(&["port", "portgroupKey"]).map(CardNetwork::PortGroup)
        }
        "VirtualEthernetCardOpaqueNetworkBackingInfo" => {
            text(&["opaqueNetworkId"]).map(CardNetwork::Opaque)
        }
        _ => None,
    };
    network.ok_or_else(invalid_backing)
}

fn serial_backing(backing: Element<'_>) -> Result<SerialBacking, Fault> {
    let text = |name| backing.child_text(name).unwrap_or_default().to_owned();
    Ok(match backing.type_name().unwrap_or_default() {
        "VirtualSerialPortPipeBackingInfo" => {
            SerialBacking::Pipe { name: text("pipeName"), endpoint: text("endpoint") }
        }
        "VirtualSerialPortURIBackingInfo" => SerialBacking::Uri {
            service: text("serviceURI"),
            direction: text("direction"),
            proxy: backing.child_text("proxyURI").map(str::to_owned),
        },
        "VirtualSerialPortFileBackingInfo" => SerialBacking::File { path: text("fileName") },
        "VirtualSerialPortDeviceBackingInfo" => SerialBacking::Device { name: text("deviceName") },
        _ => return Err(invalid_backing()),
    })
}
