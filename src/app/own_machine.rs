//! The virtual machine in which otter itself may run, as far as the operating system knows it: its
//! hardware addresses, and its UUID in the DMI table of the firmware. A container with a network of
//! its own sees other addresses, and only root can read the UUID.

use std::path::Path;

use uuid::Uuid;

use crate::domain::mac::MacAddress;
use crate::domain::machine_uuid::{parse_serial_number, parse_uuid, with_swapped_fields};

/// The name of the vendor in the DMI table of a VMware machine.
const VMWARE: &str = "VMware, Inc.";

/// The machine in which otter runs, as far as the operating system knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnMachine {
    /// The hardware addresses of all network interfaces of the machine.
    pub addresses: Vec<MacAddress>,
    /// The BIOS UUID of the machine, with both byte orders of its first three fields.
    pub uuids: Vec<Uuid>,
    /// Whether the machine is a VMware machine.
    pub is_vmware: bool,
}

impl OwnMachine {
    /// Reads what the files below the directory `system`, usually `/sys`, say about the machine. If
    /// a file is missing or unreadable, only the field of this file stays empty.
    #[must_use]
    pub fn read(system: &Path) -> Self {
        let dmi = |name: &str| {
            let text = std::fs::read_to_string(system.join("class/dmi/id").join(name)).ok()?;
            Some(text.trim().to_owned())
        };
        let product = dmi("product_uuid").and_then(|text| parse_uuid(&text));
        let serial = dmi("product_serial").and_then(|text| parse_serial_number(&text));
        let is_real = |uuid: &Uuid| !uuid.is_nil() && !uuid.is_max();
        let mut uuids: Vec<Uuid> = [product, serial]
            .into_iter()
            .flatten()
            .filter(is_real)
            .flat_map(|uuid| [uuid, with_swapped_fields(uuid)])
            .collect();
        uuids.sort_unstable();
        uuids.dedup();
        Self {
            addresses: addresses(&system.join("class/net")),
            uuids,
            is_vmware: dmi("sys_vendor").as_deref() == Some(VMWARE),
        }
    }
}

fn addresses(interfaces: &Path) -> Vec<MacAddress> {
    let Ok(interfaces) = std::fs::read_dir(interfaces) else { return Vec::new() };
    let address = |interface: std::fs::DirEntry| {
        let text = std::fs::read_to_string(interface.path().join("address")).ok()?;
        text.trim().parse().ok()
    };
    // An address of zeros does not count. Loopback, some tunnels, and interfaces without an address
    // report it.
    let is_real = |address: &MacAddress| *address != MacAddress::new([0; 6]);
    interfaces.flatten().filter_map(address).filter(is_real).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A BIOS UUID as the host reports it. `GUEST` is the same UUID as a guest with SMBIOS 2.6 sees
    /// it.
    const HOST: &str = "564d4f5c-1f3a-4b60-8a65-7d2c6a1e0b42";
    const GUEST: &str = "5c4f4d56-3a1f-604b-8a65-7d2c6a1e0b42";

    fn read(files: &[(&str, &str)]) -> OwnMachine {
        let system = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = system.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{text}\n")).unwrap();
        }
        OwnMachine::read(system.path())
    }

    #[test]
    fn the_uuid_is_read_in_both_byte_orders_from_the_uuid_and_the_serial_number() {
        let (host, guest) = (Uuid::parse_str(HOST).unwrap(), Uuid::parse_str(GUEST).unwrap());
        let serial = "VMware-56 4d 4f 5c 1f 3a 4b 60-8a 65 7d 2c 6a 1e 0b 42";
        let uuid = "class/dmi/id/product_uuid";
        for files in [
            vec![(uuid, HOST)],
            vec![(uuid, GUEST)],
            vec![("class/dmi/id/product_serial", serial)],
            vec![(uuid, GUEST), ("class/dmi/id/product_serial", serial)],
        ] {
            let own = read(&files);
            assert_eq!(own.uuids, [host, guest], "{files:?}");
            assert!(!own.is_vmware && own.addresses.is_empty());
        }
    }

    #[test]
    fn addresses_and_the_vendor_are_read_and_placeholders_are_not() {
        let own = read(&[
            ("class/net/eth0/address", "02:42:ac:11:00:02"),
            ("class/net/lo/address", "00:00:00:00:00:00"),
            ("class/net/tun0/mtu", "1500"),
            ("class/dmi/id/sys_vendor", "VMware, Inc."),
            ("class/dmi/id/product_uuid", "00000000-0000-0000-0000-000000000000"),
            ("class/dmi/id/product_serial", "None"),
        ]);
        let addresses = vec!["02:42:ac:11:00:02".parse().unwrap()];
        assert_eq!(own, OwnMachine { addresses, uuids: Vec::new(), is_vmware: true });
        assert_eq!(read(&[]), OwnMachine::default());
        assert!(!read(&[("class/dmi/id/sys_vendor", "QEMU")]).is_vmware);
    }
}
