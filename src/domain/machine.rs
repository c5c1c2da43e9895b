//! A machine as the host reports it, and the identity of a machine beyond its reusable moid.

use std::net::IpAddr;

use super::ids::{DatastoreId, MachineId, QuestionId};
use super::mac::MacAddress;
use super::network::{Network, is_global_or_private};
use super::power::PowerState;
use super::snapshot::Snapshots;

/// One virtual machine, as the host last reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub id: MachineId,
    /// Unescaped: a `%2f` of the wire is a `/` here.
    pub name: String,
    pub power_state: Option<PowerState>,
    pub template: bool,
    /// `runtime.connectionState`: `connected`, `disconnected`, `inaccessible`, `invalid`,
    /// `orphaned`, or a word of a later API version.
    pub connection_state: String,
    /// The path of the configuration file, `[datastore1] name/name.vmx`.
    pub path: Option<String>,
    pub guest_os: Option<String>,
    pub instance_uuid: Option<String>,
    pub bios_uuid: Option<String>,
    pub annotation: Option<String>,
    pub cpu_count: Option<u32>,
    pub memory_bytes: Option<u64>,
    pub storage_bytes: Option<u64>,
    pub nested_virtualization: Option<bool>,
    /// Whether a removal of snapshots left disks that must be consolidated.
    pub consolidation_needed: Option<bool>,
    pub guest: Guest,
    pub network_cards: Vec<NetworkCard>,
    pub serial_ports: Vec<SerialPort>,
    pub snapshots: Snapshots,
    pub question: Option<Question>,
    pub datastores: Vec<DatastoreId>,
}

impl Machine {
    /// A machine whose id is the only known value. The id is also its name.
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
            snapshots: Snapshots::default(),
            question: None,
            datastores: Vec::new(),
        }
    }

    /// The addresses under which other machines can reach the guest: the global and private ones of
    /// the machine's own network cards. The address that the host prefers comes first, then those
    /// of the cards in their order. An interface of the guest that is no card of the machine, such
    /// as the bridge of a container engine, does not count.
    ///
    /// Old tools report only the preferred address, and no interfaces. Then this address counts if
    /// it is global or private.
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

    /// The first of [`Machine::addresses`], or the first that is inside this network.
    #[must_use]
    pub fn address_within(&self, network: Option<Network>) -> Option<IpAddr> {
        let is_inside = |address: &IpAddr| network.is_none_or(|network| network.contains(*address));
        self.addresses().into_iter().find(is_inside)
    }

    /// Keeps what was known of the machine before the host could no longer read its configuration.
    /// The host reports no `config` for a machine whose datastore is inaccessible, and can show the
    /// path of its file as its name. It is the same machine as long as its moid does not leave the
    /// host, so its identity, name, cards, template mark and annotation are kept: leases, pools and
    /// protection depend on them.
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

    /// Whether the host reports an identity beyond the moid. It does not for a machine whose
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

/// The values that the guest tools report. A host repeats an old address after the guest has
/// stopped. `service::inventory` decides whether otter trusts the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guest {
    pub tools_running: bool,
    /// `running`, `starting`, `not_running` or `not_installed`. `None` if the host reports nothing.
    pub tools_status: Option<String>,
    /// `guest.ipAddress`: the address that the host prefers. [`Machine::addresses`] says whether it
    /// counts.
    pub ip_address: Option<String>,
    /// `guest.net`: the network interfaces of the guest. Empty if the tools report none.
    pub interfaces: Vec<GuestInterface>,
}

/// A network interface of a guest (`GuestNicInfo`): a network card of the machine, or an interface
/// that exists only in the guest, such as a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestInterface {
    pub mac_address: Option<MacAddress>,
    /// The key of the network card. `None` if the host knows no card for the interface, and in
    /// reports of old tools.
    pub card_key: Option<i32>,
    /// The addresses that the guest can use, as text of the host.
    pub addresses: Vec<String>,
}

impl Guest {
    /// Whether the report has an address that an earlier report did not have: as the preferred
    /// address, or on the same interface.
    #[must_use]
    pub fn has_new_address_since(&self, earlier: &Self) -> bool {
        let is_preferred_new = self.ip_address.is_some() && self.ip_address != earlier.ip_address;
        is_preferred_new
            || self.interfaces.iter().any(|interface| {
                // Several interfaces can be equal here: a bridge in the guest has the hardware
                // address of its network card.
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
    /// Whether the interface is this network card. The hardware address decides, because old tools
    /// do not name the card.
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

/// Parses a guest's address. `None` if it is neither global nor private.
fn counting_address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.trim().parse().ok()?;
    is_global_or_private(address).then(|| address.to_canonical())
}

/// A virtual network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkCard {
    pub key: i32,
    pub label: String,
    /// The class of the device without `Virtual`, in lower case: `vmxnet3`, `e1000`, `e1000e`, …
    pub kind: String,
    /// `None` if the host reports no valid address.
    pub mac_address: Option<MacAddress>,
    pub connected: bool,
    pub network: Option<String>,
}

/// A virtual serial port. "Serial port N" of the host client is `ttyS(N-1)` of a Linux guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialPort {
    pub key: i32,
    pub label: String,
    pub backing: SerialBacking,
    /// The device in a Linux guest: `ttyS0` and so on. `None` if the label has no number.
    pub linux_device: Option<String>,
}

/// The backing of a serial port: the other end of the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialBacking {
    Pipe { name: String, endpoint: Option<String> },
    Network { service_uri: String, direction: Option<String>, proxy_uri: Option<String> },
    File { path: String },
    Device { name: Option<String> },
}

/// A pending question of a machine. The machine does nothing else until the question is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub id: QuestionId,
    /// The ids of its messages, such as `msg.uuid.altered`. Most questions have one message. Empty
    /// if the host names none.
    pub message_ids: Vec<String>,
    pub text: String,
    pub choices: Vec<Choice>,
}

/// One possible answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The value for `AnswerVM`: a number as text. The numbers need not be consecutive.
    pub key: String,
    pub label: String,
    pub summary: String,
    pub default: bool,
}

/// The identity of a machine. A moid is not sufficient, because hosts reuse moids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineIdentity {
    pub id: MachineId,
    pub instance_uuid: Option<String>,
    /// Identifies the machine if the instance UUID is not known.
    pub path: Option<String>,
}

impl MachineIdentity {
    /// The key of the machine's stored state. It does not change if the machine gets another moid,
    /// as long as its instance UUID, or otherwise its path, is known.
    #[must_use]
    pub fn key(&self) -> String {
        let Self { id, instance_uuid, path } = self;
        match (instance_uuid, path) {
            (Some(uuid), _) => format!("uuid:{}", uuid.to_ascii_lowercase()),
            (None, Some(path)) => format!("path:{path}"),
            (None, None) => format!("id:{id}"),
        }
    }

    /// Whether `other`, which was read from the host, is the same machine: it has the same moid,
    /// and the same instance UUID, or the same path if one of the UUIDs is not known. A moid alone
    /// confirms nothing.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.id == other.id
            && match (&self.instance_uuid, &other.instance_uuid) {
                (Some(ours), Some(theirs)) => ours.eq_ignore_ascii_case(theirs),
                _ => self.path.is_some() && self.path == other.path,
            }
    }

    /// Whether `other`, which was read from the host, can be the same machine: it agrees, or the
    /// host cannot read the configuration of this moid. Such a machine is neither gone nor free,
    /// but no call of the host may rely on it.
    #[must_use]
    pub fn can_be(&self, other: &Self) -> bool {
        self.agrees_with(other) || (self.id == other.id && !other.is_known())
    }

    /// Whether the identity has more than the moid.
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

    /// The result of [`Machine::addresses`] for a machine with two cards.
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
        // A bridge in the guest has the hardware address of its network card.
        assert_eq!(counting(None, vec![interface(FIRST, None, &["10.0.0.31"])]), ["10.0.0.31"]);
        // Without a hardware address the key of the card decides.
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
