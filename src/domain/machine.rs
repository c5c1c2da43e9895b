//! A machine as the host reports it, and its identity, which says more than its moid, because a
//! host can use a moid again.

use std::net::IpAddr;

use super::ids::{DatastoreId, MachineId, QuestionId};
use super::mac::MacAddress;
use super::media::{BootMedia, BootOptions, CdDrive};
use super::network::{Network, is_global_or_private};
use super::power::PowerState;
use super::snapshot::Snapshots;

/// One virtual machine, as the host last reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub id: MachineId,
    /// The name of the machine without escapes: a `%2f` from the host is a `/` here.
    pub name: String,
    pub power_state: Option<PowerState>,
    pub template: bool,
    /// The connection state (`runtime.connectionState`): `connected`, `disconnected`,
    /// `inaccessible`, `invalid`, `orphaned`, or a word of a later API version.
    pub connection_state: String,
    /// The path of the machine's configuration file, for example `[datastore1] name/name.vmx`.
    pub path: Option<String>,
    pub guest_os: Option<String>,
    pub instance_uuid: Option<String>,
    pub bios_uuid: Option<String>,
    pub annotation: Option<String>,
    pub cpu_count: Option<u32>,
    pub memory_bytes: Option<u64>,
    pub storage_bytes: Option<u64>,
    pub nested_virtualization: Option<bool>,
    /// Whether a removal of snapshots has left disks that must be consolidated.
    pub consolidation_needed: Option<bool>,
    pub guest: Guest,
    pub network_cards: Vec<NetworkCard>,
    pub serial_ports: Vec<SerialPort>,
    pub cdroms: Vec<CdDrive>,
    pub boot: BootOptions,
    /// The keys of the disks.
    pub disk_keys: Vec<i32>,
    pub snapshots: Snapshots,
    pub question: Option<Question>,
    pub datastores: Vec<DatastoreId>,
}

impl Machine {
    /// Makes a machine of which only the id is known. The id also serves as its name.
    #[must_use]
    pub fn new(id: MachineId) -> Self {
        Self {
            name: id.to_string(),
            id,
            power_state: None,
            template: false,
            connection_state: "unknown".to_owned(),
            path: None,
            guest_os: None,
            instance_uuid: None,
            bios_uuid: None,
            annotation: None,
            cpu_count: None,
            memory_bytes: None,
            storage_bytes: None,
            nested_virtualization: None,
            consolidation_needed: None,
            guest: Guest::default(),
            network_cards: Vec::new(),
            serial_ports: Vec::new(),
            cdroms: Vec::new(),
            boot: BootOptions::default(),
            disk_keys: Vec::new(),
            snapshots: Snapshots::default(),
            question: None,
            datastores: Vec::new(),
        }
    }

    /// The addresses under which other machines can reach the guest: the global and private
    /// addresses of the machine's own network cards. The address that the host prefers comes first,
    /// then the addresses of the cards in the order of the cards. If an interface of the guest is
    /// no network card of the machine, such as the bridge of a container engine, its addresses do
    /// not count.
    ///
    /// Old VMware Tools report only the preferred address and no interfaces. In this case the
    /// preferred address counts if it is global or private.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let Guest { ip_address, interfaces, .. } = &self.guest;
        let preferred = ip_address.as_deref().and_then(counting_address);
        let of_cards = self
            .network_cards
            .iter()
            .flat_map(|card| interfaces.iter().filter(|interface| interface.is_of(card)));
        let of_cards: Vec<IpAddr> = of_cards
            .flat_map(|interface| &interface.addresses)
            .filter_map(|address| counting_address(address))
            .collect();
        let preferred =
            preferred.filter(|address| interfaces.is_empty() || of_cards.contains(address));
        let mut addresses = Vec::with_capacity(of_cards.len() + 1);
        for address in preferred.into_iter().chain(of_cards) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// The first of [`Machine::addresses`] that is inside `network`. If `network` is `None`, the
    /// first address.
    #[must_use]
    pub fn address_within(&self, network: Option<Network>) -> Option<IpAddr> {
        let is_inside = |address: &IpAddr| network.is_none_or(|network| network.contains(*address));
        self.addresses().into_iter().find(is_inside)
    }

    /// Keeps what was known of the machine before the host became unable to read its configuration.
    /// For a machine on an inaccessible datastore, the host reports no `config`, and it may show
    /// the path of the configuration file as the name. As long as the moid does not leave the host,
    /// the machine is the same. So its identity, name, cards, template mark and annotation are
    /// kept, because leases, pools and the protection of machines depend on them.
    ///
    /// # Parameters
    /// - `known`: the last report about the same moid.
    pub fn keep_identity(&mut self, known: &Self) {
        self.name.clone_from(&known.name);
        self.instance_uuid.clone_from(&known.instance_uuid);
        self.bios_uuid.clone_from(&known.bios_uuid);
        self.path.clone_from(&known.path);
        self.annotation.clone_from(&known.annotation);
        self.network_cards.clone_from(&known.network_cards);
        self.template = known.template;
    }

    /// The drives, the boot options, and the devices that a boot order can name.
    #[must_use]
    pub fn media(&self) -> BootMedia {
        BootMedia {
            drives: self.cdroms.clone(),
            boot: self.boot.clone(),
            disks: self.disk_keys.clone(),
            cards: self.network_cards.iter().map(|card| card.key).collect(),
        }
    }

    /// Whether the host reports an identity beyond the moid. It reports none for a machine whose
    /// configuration it cannot read.
    #[must_use]
    pub const fn has_known_identity(&self) -> bool {
        self.instance_uuid.is_some() || self.path.is_some()
    }

    /// The identity of this machine, which a job or a lease stores.
    #[must_use]
    pub fn identity(&self) -> MachineIdentity {
        MachineIdentity {
            id: self.id.clone(),
            instance_uuid: self.instance_uuid.clone(),
            path: self.path.clone(),
        }
    }
}

/// The values that VMware Tools report from the guest. A host goes on reporting an old address
/// after the guest has stopped, so `service::inventory` decides whether otter trusts the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guest {
    pub tools_running: bool,
    /// The state of VMware Tools: `running`, `starting`, `not_running` or `not_installed`. `None`
    /// if the host reports no state.
    pub tools_status: Option<String>,
    /// The address that the host prefers (`guest.ipAddress`). [`Machine::addresses`] says whether
    /// this address counts.
    pub ip_address: Option<String>,
    /// The network interfaces of the guest (`guest.net`). Empty if VMware Tools report no
    /// interfaces.
    pub interfaces: Vec<GuestInterface>,
}

/// A network interface of a guest (`GuestNicInfo`): a network card of the machine, or an interface
/// that exists only in the guest, such as a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestInterface {
    pub mac_address: Option<MacAddress>,
    /// The key of the network card. `None` if the host knows no card for the interface. Old VMware
    /// Tools never report a key.
    pub card_key: Option<i32>,
    /// The addresses of the interface that the guest can use, as the host writes them.
    pub addresses: Vec<String>,
}

impl Guest {
    /// Whether this report has an address that the earlier report did not have, as the preferred
    /// address or on the same interface.
    #[must_use]
    pub fn has_new_address_since(&self, earlier: &Self) -> bool {
        let is_preferred_new = self.ip_address.is_some() && self.ip_address != earlier.ip_address;
        is_preferred_new
            || self.interfaces.iter().any(|interface| {
                // A bridge in the guest can have the hardware address of its network card. So
                // several interfaces can count as the same interface.
                let same = || {
                    let all = earlier.interfaces.iter();
                    all.filter(|other| other.is_same_interface(interface))
                };
                let is_known =
                    |address: &String| same().any(|other| other.addresses.contains(address));
                !interface.addresses.iter().all(is_known)
            })
    }
}

impl GuestInterface {
    /// Whether the interface is this network card. The hardware addresses decide if both are known,
    /// because old VMware Tools do not report the key of the card.
    fn is_of(&self, card: &NetworkCard) -> bool {
        match (self.mac_address, card.mac_address) {
            (Some(own), Some(address)) => own == address,
            _ => self.card_key == Some(card.key),
        }
    }

    fn is_same_interface(&self, other: &Self) -> bool {
        (self.mac_address, self.card_key) == (other.mac_address, other.card_key)
    }
}

/// Parses an address of a guest. `None` if the text is no address, or if the address is neither
/// global nor private.
fn counting_address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.trim().parse().ok()?;
    is_global_or_private(address).then(|| address.to_canonical())
}

/// A virtual network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkCard {
    pub key: i32,
    pub label: String,
    /// The class of the device without the word `Virtual`, in lower case, for example `vmxnet3` or
    /// `e1000`.
    pub kind: String,
    /// The hardware address of the card. `None` if the host reports no valid address.
    pub mac_address: Option<MacAddress>,
    pub connected: bool,
    pub network: Option<String>,
}

/// A virtual serial port. The port that the host's user interface calls "Serial port N" is
/// `ttyS(N-1)` in a Linux guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialPort {
    pub key: i32,
    pub label: String,
    pub backing: SerialBacking,
    /// The name of the port in a Linux guest, for example `ttyS0`. `None` if the label of the port
    /// has no number.
    pub linux_device: Option<String>,
}

/// The backing of a serial port: what the port is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialBacking {
    Pipe { name: String, endpoint: Option<String> },
    Network { service_uri: String, direction: Option<String>, proxy_uri: Option<String> },
    File { path: String },
    Device { name: Option<String> },
}

/// A pending question of a machine. The machine does nothing else until someone answers the
/// question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub id: QuestionId,
    /// The ids of the question's messages, for example `msg.uuid.altered`. Most questions have one
    /// message. Empty if the host sends no ids.
    pub message_ids: Vec<String>,
    pub text: String,
    pub choices: Vec<Choice>,
}

/// One possible answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The key by which `AnswerVM` names this choice: a number as text. The numbers need not be
    /// consecutive.
    pub key: String,
    pub label: String,
    pub summary: String,
    pub default: bool,
}

/// The identity of a machine. The moid alone does not identify it, because hosts use moids again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineIdentity {
    pub id: MachineId,
    pub instance_uuid: Option<String>,
    /// The path of the configuration file. It identifies the machine if the instance UUID is not
    /// known.
    pub path: Option<String>,
}

impl MachineIdentity {
    /// The key under which the store keeps state about the machine. The key stays the same if the
    /// machine gets another moid, because it is made from the instance UUID, or from the path if
    /// the UUID is not known. Only if neither is known, it is made from the moid.
    #[must_use]
    pub fn key(&self) -> String {
        let Self { id, instance_uuid, path } = self;
        match (instance_uuid, path) {
            (Some(uuid), _) => format!("uuid:{}", uuid.to_ascii_lowercase()),
            (None, Some(path)) => format!("path:{path}"),
            (None, None) => format!("id:{id}"),
        }
    }

    /// Whether `other`, an identity read from the host, is certainly the same machine. Both must
    /// have the same moid and the same instance UUID. If one of the UUIDs is not known, both must
    /// have the same path. The moid alone proves nothing.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.id == other.id
            && match (&self.instance_uuid, &other.instance_uuid) {
                (Some(ours), Some(theirs)) => ours.eq_ignore_ascii_case(theirs),
                _ => self.path.is_some() && self.path == other.path,
            }
    }

    /// Whether `other`, an identity read from the host, can be the same machine: either the two
    /// agree, or the host cannot read the configuration of the machine with this moid. In the
    /// second case the machine is neither gone nor free, but otter must not call the host for it.
    #[must_use]
    pub fn can_be(&self, other: &Self) -> bool {
        self.agrees_with(other) || (self.id == other.id && !other.is_known())
    }

    /// Whether the identity has an instance UUID or a path, and not only the moid.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.instance_uuid.is_some() || self.path.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "00:50:56:00:00:01";
    const SECOND: &str = "00:50:56:00:00:02";
    const BRIDGE: &str = "02:42:ac:11:00:01";

    #[test]
    fn a_moid_alone_confirms_no_machine_but_can_be_it() {
        let identity = |id: &str, uuid: Option<&str>, path: Option<&str>| MachineIdentity {
            id: MachineId::from_backend(id),
            instance_uuid: uuid.map(str::to_owned),
            path: path.map(str::to_owned),
        };
        let known = identity("16", Some("aa-1"), Some("[a] a/a.vmx"));
        let unreadable = identity("16", None, None);
        for (bound, observed, agrees, can_be) in [
            (&known, identity("16", Some("AA-1"), None), true, true),
            (&known, identity("16", None, known.path.as_deref()), true, true),
            (&known, identity("16", Some("bb-1"), known.path.as_deref()), false, false),
            (&known, unreadable.clone(), false, true),
            (&known, identity("17", None, None), false, false),
            (&unreadable, unreadable.clone(), false, true),
            (&unreadable, known.clone(), false, false),
        ] {
            assert_eq!(bound.agrees_with(&observed), agrees, "{bound:?} {observed:?}");
            assert_eq!(bound.can_be(&observed), can_be, "{bound:?} {observed:?}");
        }
    }

    fn card(key: i32, mac: &str) -> NetworkCard {
        NetworkCard {
            key,
            label: String::new(),
            kind: "vmxnet3".to_owned(),
            mac_address: mac.parse().ok(),
            connected: true,
            network: None,
        }
    }

    fn interface(mac: &str, card_key: Option<i32>, addresses: &[&str]) -> GuestInterface {
        GuestInterface {
            mac_address: mac.parse().ok(),
            card_key,
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
        }
    }

    /// The result of [`Machine::addresses`] for a machine that has two network cards.
    fn counting(preferred: Option<&str>, interfaces: Vec<GuestInterface>) -> Vec<String> {
        let mut machine = Machine::new(MachineId::from_backend("1"));
        machine.network_cards = vec![card(4000, FIRST), card(4001, SECOND)];
        machine.guest.ip_address = preferred.map(str::to_owned);
        machine.guest.interfaces = interfaces;
        machine.addresses().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_preferred_address_comes_first_and_then_those_of_the_cards_in_their_order() {
        let second = || interface(SECOND, Some(4001), &["10.0.2.2", "fe80::2", "fd00::2"]);
        let first = || interface(FIRST, Some(4000), &["169.254.7.9", "10.0.1.1"]);
        let all = vec![second(), first()];
        assert_eq!(counting(None, all.clone()), ["10.0.1.1", "10.0.2.2", "fd00::2"]);
        assert_eq!(counting(Some("10.0.2.2"), all.clone()), ["10.0.2.2", "10.0.1.1", "fd00::2"]);
        assert_eq!(
            counting(Some("169.254.7.9"), all),
            ["10.0.1.1", "10.0.2.2", "fd00::2"],
            "a link-local address does not count"
        );
    }

    #[test]
    fn an_interface_that_is_no_card_of_the_machine_does_not_count() {
        let bridge = || interface(BRIDGE, None, &["172.17.0.1"]);
        assert_eq!(counting(Some("172.17.0.1"), vec![bridge()]), [""; 0]);
        let card = interface(FIRST, Some(4000), &["10.0.0.31"]);
        assert_eq!(counting(Some("172.17.0.1"), vec![bridge(), card]), ["10.0.0.31"]);
        // The interface is a bridge in the guest, which has the hardware address of its network
        // card.
        assert_eq!(counting(None, vec![interface(FIRST, None, &["10.0.0.31"])]), ["10.0.0.31"]);
        // If the interface has no hardware address, the key of the card decides.
        assert_eq!(counting(None, vec![interface("", Some(4001), &["10.0.0.9"])]), ["10.0.0.9"]);
        assert_eq!(counting(None, vec![interface("", None, &["10.0.0.9"])]), [""; 0]);
    }

    #[test]
    fn without_interfaces_the_preferred_address_counts_by_its_range() {
        assert_eq!(counting(Some("10.0.0.31"), Vec::new()), ["10.0.0.31"]);
        for other in ["169.254.7.9", "fe80::1", "2002:a00:1f::1", "fe80::1%eth0", "none"] {
            assert_eq!(counting(Some(other), Vec::new()), [""; 0], "{other}");
        }
        assert_eq!(counting(Some("::ffff:10.0.0.31"), Vec::new()), ["10.0.0.31"]);
    }

    #[test]
    fn a_network_selects_the_first_address_inside_it() {
        let mut machine = Machine::new(MachineId::from_backend("1"));
        machine.network_cards = vec![card(4000, FIRST)];
        machine.guest.ip_address = Some("10.0.0.1".to_owned());
        machine.guest.interfaces =
            vec![interface(FIRST, Some(4000), &["10.0.0.1", "192.168.4.4", "192.168.4.5"])];
        let within = |network: Option<&str>| {
            let network = network.map(|network| network.parse().unwrap());
            machine.address_within(network).map(|address| address.to_string())
        };
        assert_eq!(within(None).as_deref(), Some("10.0.0.1"));
        assert_eq!(within(Some("192.168.0.0/16")).as_deref(), Some("192.168.4.4"));
        assert_eq!(within(Some("172.16.0.0/12")), None);
    }
}
