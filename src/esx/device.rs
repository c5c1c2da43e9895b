//! Decodes the virtual devices of a machine (`config.hardware.device`): network cards, serial
//! ports, CD drives and disks. And its boot options, which name devices.

use std::time::Duration;

use super::soap::property::{boolean, number};
use super::soap::xml::Element;
use crate::domain::machine::{NetworkCard, SerialBacking, SerialPort};
use crate::domain::media::{BootDevice, BootEntry, BootOptions, CdDrive};

/// Reads a network card. `None` if the device is not a network card. Every device with a MAC
/// address counts as a network card, so that a card of a class unknown to otter is not left out.
#[must_use]
pub fn network_card(device: Element<'_>) -> Option<NetworkCard> {
    let address = device.child("macAddress");
    let class = device.type_name().unwrap_or_default();
    let known = [
        "E1000",
        "E1000e",
        "PCNet32",
        "Vmxnet",
        "Vmxnet2",
        "Vmxnet3",
        "SriovEthernetCard",
        "EthernetCard",
    ];
    let short = class.strip_prefix("Virtual").unwrap_or(class);
    if address.is_none() && !known.contains(&short) {
        return None;
    }
    let name = device.child("backing").and_then(|backing| backing.child_text("deviceName"));
    Some(NetworkCard {
        key: device.child("key").and_then(number).unwrap_or_default(),
        label: label(device),
        kind: short.to_lowercase(),
        mac_address: address.and_then(|address| address.text().trim().parse().ok()),
        connected: device.descend(&["connectable", "connected"]).and_then(boolean) == Some(true),
        network: name
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .or_else(|| network_key(device)),
    })
}

/// The key of the network to which a card is connected, if the card does not give the network's
/// name: the key of a port group of a distributed switch, or the id of an opaque network.
#[must_use]
pub fn network_key(device: Element<'_>) -> Option<String> {
    let backing = device.child("backing")?;
    let port_group = backing.descend(&["port", "portgroupKey"]).map(Element::text);
    let key = port_group.or_else(|| backing.child_text("opaqueNetworkId"))?;
    Some(key).filter(|key| !key.is_empty()).map(str::to_owned)
}

/// Reads a serial port. `None` if the device is not a serial port.
#[must_use]
pub fn serial_port(device: Element<'_>) -> Option<SerialPort> {
    if device.type_name() != Some("VirtualSerialPort") {
        return None;
    }
    let key: i32 = device.child("key").and_then(number).unwrap_or_default();
    let label = label(device);
    let field = |name: &str| {
        let value = device.child("backing").and_then(|backing| backing.child_text(name));
        value.filter(|value| !value.is_empty()).map(str::to_owned)
    };
    // The fields decide which kind of backing the port has, because a host may leave out the type.
    let backing = if let Some(name) = field("pipeName") {
        SerialBacking::Pipe { name, endpoint: field("endpoint") }
    } else if let Some(service_uri) = field("serviceURI") {
        SerialBacking::Network {
            service_uri,
            direction: field("direction"),
            proxy_uri: field("proxyURI"),
        }
    } else if let Some(path) = field("fileName") {
        SerialBacking::File { path }
    } else {
        SerialBacking::Device { name: field("deviceName") }
    };
    let number =
        label.strip_prefix("Serial port ").and_then(|number| number.trim().parse::<u32>().ok());
    let linux_device =
        number.and_then(|number| number.checked_sub(1)).map(|index| format!("ttyS{index}"));
    Some(SerialPort { key, label, backing, linux_device })
}

/// Reads a CD drive. `None` if the device is not a CD drive.
#[must_use]
pub fn cd_drive(device: Element<'_>) -> Option<CdDrive> {
    if device.type_name() != Some("VirtualCdrom") {
        return None;
    }
    let flag = |name| device.descend(&["connectable", name]).and_then(boolean) == Some(true);
    // Only an ISO has a path; the backings of other drives name a device.
    let iso = device.child("backing").and_then(|backing| backing.child_text("fileName"));
    Some(CdDrive {
        key: device.child("key").and_then(number).unwrap_or_default(),
        label: label(device),
        controller: device.child("controllerKey").and_then(number),
        unit: device.child("unitNumber").and_then(number),
        iso: iso.filter(|path| !path.is_empty()).map(str::to_owned),
        connected: flag("connected"),
        connects_at_power_on: flag("startConnected"),
    })
}

/// The key of a disk. `None` if the device is not a disk.
#[must_use]
pub fn disk_key(device: Element<'_>) -> Option<i32> {
    if device.type_name() != Some("VirtualDisk") {
        return None;
    }
    device.child("key").and_then(number)
}

/// Reads a `VirtualMachineBootOptions`. Entries of kinds unknown to otter are left out.
#[must_use]
pub fn boot_options(options: Element<'_>) -> BootOptions {
    let entry = |entry: Element<'_>| {
        let device = match entry.type_name()? {
            "VirtualMachineBootOptionsBootableCdromDevice" => BootDevice::Cdrom,
            "VirtualMachineBootOptionsBootableDiskDevice" => BootDevice::Disk,
            "VirtualMachineBootOptionsBootableEthernetDevice" => BootDevice::Network,
            "VirtualMachineBootOptionsBootableFloppyDevice" => BootDevice::Floppy,
            _ => return None,
        };
        Some(BootEntry { device, key: entry.child("deviceKey").and_then(number) })
    };
    let delay: u64 = options.child("bootDelay").and_then(number).unwrap_or_default();
    BootOptions {
        order: options.children_named("bootOrder").filter_map(entry).collect(),
        delay: Duration::from_millis(delay),
    }
}

fn label(device: Element<'_>) -> String {
    device.descend(&["deviceInfo", "label"]).map(Element::text).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esx::soap::xml::Document;

    const XSI: &str = r#"xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance""#;

    #[test]
    fn every_kind_of_card_and_port_is_read() {
        let text = format!(
            r#"<val {XSI}>
               <VirtualDevice xsi:type="VirtualPCIController"><key>100</key></VirtualDevice>
               <VirtualDevice xsi:type="VirtualVmxnet3"><key>4000</key>
                 <deviceInfo><label>Network adapter 1</label></deviceInfo>
                 <backing><port><portgroupKey>dvportgroup-7</portgroupKey></port></backing>
                 <connectable><connected>true</connected></connectable>
                 <macAddress>00:50:56:AB:CD:EF</macAddress></VirtualDevice>
               <VirtualDevice xsi:type="VirtualToCome"><key>4001</key>
                 <macAddress>nonsense</macAddress></VirtualDevice>
               <VirtualDevice xsi:type="VirtualSerialPort"><key>9000</key>
                 <deviceInfo><label>Serial port 1</label></deviceInfo>
                 <backing><pipeName>/p</pipeName><endpoint>server</endpoint></backing>
                 </VirtualDevice>
               <VirtualDevice xsi:type="VirtualSerialPort"><key>9001</key>
                 <deviceInfo><label>Serial port 2</label></deviceInfo><backing>
                 <serviceURI>tcp://:1</serviceURI><direction>server</direction></backing>
                 </VirtualDevice>
               <VirtualDevice xsi:type="VirtualSerialPort"><key>9002</key><backing/>
                 </VirtualDevice></val>"#
        );
        let document = Document::parse(text.as_bytes()).unwrap();
        let devices = || document.root().children();
        let cards: Vec<NetworkCard> = devices().filter_map(network_card).collect();
        let ports: Vec<SerialPort> = devices().filter_map(serial_port).collect();
        let [known, to_come] = cards.as_slice() else { panic!("{cards:?}") };
        assert_eq!((known.kind.as_str(), known.connected), ("vmxnet3", true));
        assert_eq!(known.network.as_deref(), Some("dvportgroup-7"));
        assert_eq!(known.mac_address.unwrap().to_string(), "00:50:56:ab:cd:ef");
        assert_eq!((to_come.kind.as_str(), to_come.mac_address), ("tocome", None));
        let [pipe, network, bare] = ports.as_slice() else { panic!("{ports:?}") };
        assert_eq!(
            pipe.backing,
            SerialBacking::Pipe { name: "/p".into(), endpoint: Some("server".into()) }
        );
        assert_eq!(pipe.linux_device.as_deref(), Some("ttyS0"));
        assert!(matches!(network.backing, SerialBacking::Network { .. }));
        assert_eq!(
            (&bare.backing, &bare.linux_device),
            (&SerialBacking::Device { name: None }, &None)
        );
    }

    #[test]
    fn drives_disks_and_boot_options_are_read() {
        let text = format!(
            r#"<val {XSI}>
               <VirtualDevice xsi:type="VirtualDisk"><key>2000</key>
                 <backing><fileName>[a] m/m.vmdk</fileName></backing></VirtualDevice>
               <VirtualDevice xsi:type="VirtualCdrom"><key>3000</key>
                 <deviceInfo><label>CD/DVD drive 1</label></deviceInfo>
                 <backing xsi:type="VirtualCdromIsoBackingInfo">
                   <fileName>[isos] a.iso</fileName></backing>
                 <connectable><startConnected>true</startConnected>
                   <connected>false</connected></connectable>
                 <controllerKey>200</controllerKey><unitNumber>0</unitNumber></VirtualDevice>
               <VirtualDevice xsi:type="VirtualCdrom"><key>3001</key>
                 <backing><deviceName/></backing></VirtualDevice>
               <options><bootDelay>5000</bootDelay>
                 <bootOrder xsi:type="VirtualMachineBootOptionsBootableCdromDevice"/>
                 <bootOrder xsi:type="VirtualMachineBootOptionsBootableDiskDevice">
                   <deviceKey>2000</deviceKey></bootOrder>
                 <bootOrder xsi:type="VirtualMachineBootOptionsBootableToCome"/></options></val>"#
        );
        let document = Document::parse(text.as_bytes()).unwrap();
        let devices = || document.root().children();
        let drives: Vec<CdDrive> = devices().filter_map(cd_drive).collect();
        let [with_iso, without] = drives.as_slice() else { panic!("{drives:?}") };
        assert_eq!(with_iso.iso.as_deref(), Some("[isos] a.iso"));
        assert_eq!((with_iso.controller, with_iso.unit), (Some(200), Some(0)));
        assert!(with_iso.connects_at_power_on && !with_iso.connected);
        assert_eq!((without.key, &without.iso), (3001, &None));
        assert_eq!(devices().filter_map(disk_key).collect::<Vec<_>>(), [2000]);
        let boot = boot_options(document.root().child("options").unwrap());
        assert_eq!(boot.delay, Duration::from_secs(5));
        let disk = BootEntry { device: BootDevice::Disk, key: Some(2000) };
        assert_eq!(boot.order, [BootEntry { device: BootDevice::Cdrom, key: None }, disk]);
    }
}
