//! A caller's references to one machine: an id, or a name, UUID or hardware address with a prefix.

use std::fmt;
use std::str::FromStr;

use super::ids::{EmptyId, MachineId};
use super::mac::{InvalidMacAddress, MacAddress};
use super::machine::{Machine, MachineIdentity};
use super::machine_uuid::parse_uuid;
use super::names::{is_name, unescape_vim};

/// A caller's reference to a machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MachineReference {
    Id(MachineId),
    /// `name:…`: the complete name of the machine, as the host sends it or unescaped (see
    /// [`is_name`]). Upper and lower case differ.
    Name(String),
    /// `uuid:…`: the instance UUID of the machine, or its BIOS UUID if no machine has that instance
    /// UUID. Upper and lower case do not matter, and dashes may be left out.
    Uuid(String),
    /// `mac:…`: the hardware address of one of the machine's network cards.
    Mac(MacAddress),
}

/// Why a text is not a reference to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMachineReference {
    #[error("empty")]
    Empty,
    #[error(transparent)]
    Mac(InvalidMacAddress),
}

/// The properties by which a reference can select a machine.
pub trait ReferencedMachine {
    fn id(&self) -> &MachineId;
    fn name(&self) -> &str;
    fn instance_uuid(&self) -> Option<&str>;
    fn bios_uuid(&self) -> Option<&str>;
    fn has_mac(&self, address: MacAddress) -> bool;
}

/// The properties of a machine by which references and patterns select it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineKeys {
    pub id: MachineId,
    pub name: String,
    pub instance_uuid: Option<String>,
    pub bios_uuid: Option<String>,
    pub macs: Vec<MacAddress>,
}

impl MachineReference {
    /// Whether the reference is an id, and not a name, a UUID or a hardware address.
    #[must_use]
    pub const fn is_id(&self) -> bool {
        matches!(self, Self::Id(_))
    }

    /// The machines of `machines` that match the reference, in the same order. If several match,
    /// the reference is ambiguous.
    pub fn matching<'m, M: ReferencedMachine>(
        &self,
        machines: impl Iterator<Item = &'m M> + Clone,
    ) -> Vec<&'m M> {
        let same = |own: Option<&str>, given: &str| {
            let parsed = parse_uuid(given);
            own.is_some_and(|own| {
                own.eq_ignore_ascii_case(given) || (parsed.is_some() && parse_uuid(own) == parsed)
            })
        };
        match self {
            Self::Id(id) => {
                // An id may be escaped as names are, because some proxies refuse `%2F` in a URL and
                // clients write `%252F` instead.
                let unescaped = unescape_vim(&id.to_string());
                let has_id = |machine: &&M| machine.id() == id || *machine.id() == *unescaped;
                machines.filter(has_id).collect()
            }
            Self::Name(name) => machines.filter(|machine| is_name(name, machine.name())).collect(),
            Self::Uuid(uuid) => {
                let by_instance: Vec<&M> = machines
                    .clone()
                    .filter(|machine| same(machine.instance_uuid(), uuid))
                    .collect();
                if by_instance.is_empty() {
                    machines.filter(|machine| same(machine.bios_uuid(), uuid)).collect()
                } else {
                    by_instance
                }
            }
            Self::Mac(address) => machines.filter(|machine| machine.has_mac(*address)).collect(),
        }
    }
}

impl FromStr for MachineReference {
    type Err = InvalidMachineReference;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (prefix, value) = match text.split_once(':') {
            Some((prefix @ ("name" | "uuid" | "mac"), value)) => (prefix, value),
            _ => ("", text),
        };
        if value.is_empty() {
            return Err(InvalidMachineReference::Empty);
        }
        Ok(match prefix {
            "name" => Self::Name(value.to_owned()),
            "uuid" => Self::Uuid(value.to_owned()),
            "mac" => Self::Mac(value.parse().map_err(InvalidMachineReference::Mac)?),
            _ => Self::Id(value.parse().map_err(|EmptyId| InvalidMachineReference::Empty)?),
        })
    }
}

impl fmt::Display for MachineReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(formatter, "{id}"),
            Self::Name(name) => write!(formatter, "name:{name}"),
            Self::Uuid(uuid) => write!(formatter, "uuid:{uuid}"),
            Self::Mac(address) => write!(formatter, "mac:{address}"),
        }
    }
}

impl MachineKeys {
    /// The properties of a machine that the host has.
    #[must_use]
    pub fn new(machine: &Machine) -> Self {
        Self {
            id: machine.id.clone(),
            name: machine.name.clone(),
            instance_uuid: machine.instance_uuid.clone(),
            bios_uuid: machine.bios_uuid.clone(),
            macs: machine.network_cards.iter().filter_map(|card| card.mac_address).collect(),
        }
    }

    /// The number of bytes of memory that the contents take.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        let Self { id, name, instance_uuid, bios_uuid, macs } = self;
        let uuids = [instance_uuid, bios_uuid].into_iter().flatten().map(String::len);
        id.size() + name.len() + uuids.sum::<usize>() + size_of_val(macs.as_slice())
    }

    /// The properties that are known of a machine that the host no longer has.
    #[must_use]
    pub fn from_identity(identity: &MachineIdentity, last_name: &str) -> Self {
        Self {
            id: identity.id.clone(),
            name: last_name.to_owned(),
            instance_uuid: identity.instance_uuid.clone(),
            bios_uuid: None,
            macs: Vec::new(),
        }
    }
}

impl ReferencedMachine for MachineKeys {
    fn id(&self) -> &MachineId {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn instance_uuid(&self) -> Option<&str> {
        self.instance_uuid.as_deref()
    }

    fn bios_uuid(&self) -> Option<&str> {
        self.bios_uuid.as_deref()
    }

    fn has_mac(&self, address: MacAddress) -> bool {
        self.macs.contains(&address)
    }
}

impl ReferencedMachine for Machine {
    fn id(&self) -> &MachineId {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn instance_uuid(&self) -> Option<&str> {
        self.instance_uuid.as_deref()
    }

    fn bios_uuid(&self) -> Option<&str> {
        self.bios_uuid.as_deref()
    }

    fn has_mac(&self, address: MacAddress) -> bool {
        self.network_cards.iter().any(|card| card.mac_address == Some(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Named(MachineId, &'static str, &'static str, &'static str, MacAddress);

    impl ReferencedMachine for Named {
        fn id(&self) -> &MachineId {
            &self.0
        }

        fn name(&self) -> &str {
            self.1
        }

        fn instance_uuid(&self) -> Option<&str> {
            Some(self.2)
        }

        fn bios_uuid(&self) -> Option<&str> {
            Some(self.3)
        }

        fn has_mac(&self, address: MacAddress) -> bool {
            self.4 == address
        }
    }

    /// Makes two machines with the same name. The BIOS UUID of the first one is the instance UUID
    /// of the second one.
    fn machines() -> [Named; 2] {
        let address = |last| MacAddress::new([0, 0x50, 0x56, 0, 0, last]);
        [
            Named(MachineId::from_backend("16"), "staging", "aa-1", "bb-1", address(1)),
            Named(MachineId::from_backend("17"), "staging", "bb-1", "cc-1", address(2)),
        ]
    }

    #[test]
    fn a_reference_selects_by_id_name_uuid_and_address() {
        let machines = machines();
        for (text, ids) in [
            ("16", vec!["16"]),
            ("18", vec![]),
            ("odd:16", vec![]),
            ("name:staging", vec!["16", "17"]),
            ("name:Staging", vec![]),
            ("name:16", vec![]),
            ("uuid:AA-1", vec!["16"]),
            ("uuid:bb-1", vec!["17"]),
            ("uuid:cc-1", vec!["17"]),
            ("uuid:16", vec![]),
            ("mac:0-50-56-0-0-1", vec!["16"]),
            ("mac:00:50:56:00:00:03", vec![]),
        ] {
            let reference: MachineReference = text.parse().unwrap();
            let found: Vec<&str> = reference
                .matching(machines.iter())
                .iter()
                .map(|machine| machine.0.backend_text())
                .collect();
            assert_eq!(found, ids, "{text}");
        }
    }

    #[test]
    fn a_uuid_is_found_in_each_spelling() {
        let (own, bios) =
            ("52a1b2c3-0000-1111-2222-333344445555", "564d4f5c1f3a4b608a657d2c6a1e0b42");
        let machine = Named(MachineId::from_backend("16"), "a", own, bios, MacAddress::new([0; 6]));
        for text in [
            "uuid:52A1B2C3-0000-1111-2222-333344445555",
            "uuid:52a1b2c3000011112222333344445555",
            "uuid:564D4F5C-1F3A-4B60-8A65-7D2C6A1E0B42",
            "uuid:56 4d 4f 5c 1f 3a 4b 60-8a 65 7d 2c 6a 1e 0b 42",
        ] {
            let reference: MachineReference = text.parse().unwrap();
            assert_eq!(reference.matching([&machine].into_iter()).len(), 1, "{text}");
        }
    }

    #[test]
    fn a_name_and_an_id_are_found_with_the_escapes_of_names() {
        let address = MacAddress::new([0; 6]);
        let named = |id, name| Named(MachineId::from_backend(id), name, "-", "-", address);
        let machines = [named("a/1", "11%2f13"), named("2", "11/13"), named("3", "11/14")];
        for (text, ids) in [
            ("a/1", vec!["a/1"]),
            ("a%2f1", vec!["a/1"]),
            ("a%2F1", vec!["a/1"]),
            ("a%252f1", vec![]),
            ("name:11/14", vec!["3"]),
            ("name:11%2f14", vec!["3"]),
            ("name:11/13", vec!["a/1", "2"]),
            ("name:11%2f13", vec!["a/1", "2"]),
            ("name:11%252f13", vec!["a/1"]),
        ] {
            let reference: MachineReference = text.parse().unwrap();
            let found: Vec<&str> = reference
                .matching(machines.iter())
                .iter()
                .map(|machine| machine.0.backend_text())
                .collect();
            assert_eq!(found, ids, "{text}");
        }
    }

    #[test]
    fn a_parsed_reference_is_formatted_unchanged() {
        for text in ["16", "odd:16", "name:a:b", "uuid:AA-1", "mac:00:50:56:00:00:01"] {
            assert_eq!(text.parse::<MachineReference>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_empty_or_broken_reference_is_refused() {
        for text in ["", "name:", "uuid:", "mac:"] {
            assert_eq!(
                text.parse::<MachineReference>(),
                Err(InvalidMachineReference::Empty),
                "{text}"
            );
        }
        let broken = Err(InvalidMachineReference::Mac(InvalidMacAddress));
        assert_eq!("mac:zz".parse::<MachineReference>(), broken);
    }
}
