//! Decodes the properties of machines. Nothing in this file fails: if a property has no usable
//! value, only the field of this property stays empty.

use std::sync::Arc;

use super::device::{boot_options, cd_drive, disk_key, network_card, network_key, serial_port};
use super::network::NetworkNames;
use super::soap::Reference;
use super::soap::property::{boolean, number, references, text, timestamp};
use super::soap::xml::Element;
use crate::domain::ids::{DatastoreId, MachineId, QuestionId, SnapshotId};
use crate::domain::machine::{Choice, Guest, GuestInterface, Machine, Question};
use crate::domain::names::unescape_vim;
use crate::domain::power::PowerState;
use crate::domain::snapshot::{Snapshot, Snapshots};

/// The properties of machines that otter follows. Each is a single small property, because
/// following the whole `config` or `summary` would flood the stream of updates with changes.
pub const MACHINE_PATHS: &[&str] = &[
    "name",
    "config.template",
    "config.uuid",
    "config.instanceUuid",
    "config.guestFullName",
    "config.guestId",
    "config.annotation",
    "config.files.vmPathName",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.hardware.device",
    "config.bootOptions",
    "config.nestedHVEnabled",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.question",
    "runtime.consolidationNeeded",
    "guest.ipAddress",
    "guest.net",
    "guest.toolsRunningStatus",
    "guest.toolsStatus",
    "guest.toolsVersionStatus2",
    "snapshot",
    "summary.storage.committed",
    "datastore",
];

/// A machine, decoded from the properties that the host has sent so far. An update contains single
/// properties, so this type also keeps properties that only together make up one field of the
/// domain's `Machine`.
#[derive(Clone, Debug)]
pub struct MachineProperties {
    machine: Arc<Machine>,
    /// For each network card, the key of its network. `None` if the card gives the name of its
    /// network.
    network_keys: Vec<Option<String>>,
    guest: GuestProperties,
    /// The values of `config.guestFullName` and `config.guestId`. The first one that has a value is
    /// shown.
    guest_os_names: [Option<String>; 2],
}

/// The properties of a guest that together make up the domain's [`Guest`].
#[derive(Clone, Debug, Default)]
pub struct GuestProperties {
    ip_address: Option<String>,
    interfaces: Vec<GuestInterface>,
    running_status: Option<String>,
    tools_status: Option<String>,
    version_status: Option<String>,
}

impl MachineProperties {
    /// Makes a machine of which no property is known yet.
    #[must_use]
    pub fn new(id: MachineId) -> Self {
        Self {
            machine: Arc::new(Machine::new(id)),
            network_keys: Vec::new(),
            guest: GuestProperties::default(),
            guest_os_names: [None, None],
        }
    }

    /// Sets the property at `path`, or unsets it if `value` is `None`. Returns whether the path is
    /// one of [`MACHINE_PATHS`].
    pub fn assign(&mut self, path: &str, value: Option<Element<'_>>) -> bool {
        let machine = Arc::make_mut(&mut self.machine);
        match path {
            "name" => {
                let name = value.and_then(text).map(|name| unescape_vim(&name));
                machine.name = name.unwrap_or_else(|| machine.id.backend_text().to_owned());
            }
            "config.template" => machine.template = value.and_then(boolean) == Some(true),
            "config.uuid" => machine.bios_uuid = value.and_then(text),
            "config.instanceUuid" => machine.instance_uuid = value.and_then(text),
            "config.guestFullName" | "config.guestId" => {
                let index = usize::from(path == "config.guestId");
                self.guest_os_names[index] = value.and_then(text);
                machine.guest_os = self.guest_os_names.iter().flatten().next().cloned();
            }
            "config.annotation" => machine.annotation = value.and_then(text),
            "config.files.vmPathName" => machine.path = value.and_then(text),
            "config.hardware.numCPU" => machine.cpu_count = value.and_then(number),
            "config.hardware.memoryMB" => {
                let megabytes: Option<u64> = value.and_then(number);
                machine.memory_bytes = megabytes.and_then(|size| size.checked_mul(1 << 20));
            }
            "config.hardware.device" => {
                let devices = || value.into_iter().flat_map(Element::children);
                let cards = devices()
                    .filter_map(|device| Some((network_card(device)?, network_key(device))));
                (machine.network_cards, self.network_keys) = cards.unzip();
                machine.serial_ports = devices().filter_map(serial_port).collect();
                machine.cdroms = devices().filter_map(cd_drive).collect();
                machine.disk_keys = devices().filter_map(disk_key).collect();
            }
            "config.bootOptions" => machine.boot = value.map(boot_options).unwrap_or_default(),
            "config.nestedHVEnabled" => machine.nested_virtualization = value.and_then(boolean),
            "runtime.powerState" => machine.power_state = value.and_then(power_state),
            "runtime.connectionState" => {
                machine.connection_state =
                    value.and_then(text).unwrap_or_else(|| "unknown".to_owned());
            }
            "runtime.question" => machine.question = value.and_then(question),
            "runtime.consolidationNeeded" => {
                machine.consolidation_needed = value.and_then(boolean);
            }
            "snapshot" => machine.snapshots = value.map(snapshots).unwrap_or_default(),
            "summary.storage.committed" => machine.storage_bytes = value.and_then(number),
            "datastore" => {
                let morefs = value.map(references).unwrap_or_default().into_iter();
                machine.datastores =
                    morefs.map(|moref| DatastoreId::from_backend(moref.value)).collect();
            }
            path => {
                let is_known = self.guest.assign(path, value);
                if is_known {
                    machine.guest = self.guest.guest();
                }
                return is_known;
            }
        }
        true
    }

    /// The machine as the domain's value, made from the properties that are known now. `networks`
    /// has the names of networks by their keys; a card whose network is not in it shows the key.
    #[must_use]
    pub fn machine(&self, networks: &NetworkNames) -> Arc<Machine> {
        let mut machine = Arc::clone(&self.machine);
        for (at, key) in self.network_keys.iter().enumerate() {
            if let Some(name) = key.as_ref().and_then(|key| networks.get(key)) {
                Arc::make_mut(&mut machine).network_cards[at].network = Some(name.clone());
            }
        }
        machine
    }

    /// The keys of the networks that the machine's cards refer to only by a key.
    pub fn network_keys(&self) -> impl Iterator<Item = &str> {
        self.network_keys.iter().flatten().map(String::as_str)
    }

    /// Whether the machine has the snapshot with this id.
    #[must_use]
    pub fn has_snapshot(&self, id: &str) -> bool {
        self.machine.snapshots.items.iter().any(|snapshot| snapshot.id.backend_text() == id)
    }
}

impl GuestProperties {
    /// The paths that a direct read of the guest reads. The path `name` is among them because it
    /// always has a value, so that a valid answer is never empty.
    pub const PATHS: &'static [&'static str] = &[
        "name",
        "guest.ipAddress",
        "guest.net",
        "guest.toolsRunningStatus",
        "guest.toolsStatus",
        "guest.toolsVersionStatus2",
    ];

    /// Sets the property at `path`, or unsets it if `value` is `None`. Returns whether the path is
    /// a property of the guest.
    pub fn assign(&mut self, path: &str, value: Option<Element<'_>>) -> bool {
        match path {
            "guest.ipAddress" => self.ip_address = value.and_then(text),
            "guest.net" => {
                let cards = value.into_iter().flat_map(Element::children);
                self.interfaces = cards.map(guest_interface).collect();
            }
            "guest.toolsRunningStatus" => self.running_status = value.and_then(text),
            "guest.toolsStatus" => self.tools_status = value.and_then(text),
            "guest.toolsVersionStatus2" => self.version_status = value.and_then(text),
            _ => return false,
        }
        true
    }

    /// The guest as VMware Tools report it.
    #[must_use]
    pub fn guest(&self) -> Guest {
        let Self { ip_address, interfaces, running_status, tools_status, version_status } = self;
        let installed = version_status.as_deref() != Some("guestToolsNotInstalled")
            && tools_status.as_deref() != Some("toolsNotInstalled");
        // `toolsStatus` is deprecated, but old hosts report no other status of the tools.
        let status = match (running_status.as_deref(), tools_status.as_deref()) {
            (Some("guestToolsRunning"), _) | (None, Some("toolsOk" | "toolsOld")) => {
                Some("running")
            }
            (Some("guestToolsExecutingScripts"), _) => Some("starting"),
            (Some("guestToolsNotRunning") | None, _) if !installed => Some("not_installed"),
            (Some("guestToolsNotRunning"), _) | (None, Some("toolsNotRunning")) => {
                Some("not_running")
            }
            _ => None,
        };
        Guest {
            tools_running: status == Some("running"),
            tools_status: status.map(str::to_owned),
            ip_address: ip_address.clone(),
            interfaces: interfaces.clone(),
        }
    }
}

/// Reads a `VirtualMachinePowerState`. `None` if otter does not know the value.
#[must_use]
pub fn power_state(element: Element<'_>) -> Option<PowerState> {
    match element.text().trim() {
        "poweredOn" => Some(PowerState::On),
        "poweredOff" => Some(PowerState::Off),
        "suspended" => Some(PowerState::Suspended),
        _ => None,
    }
}

/// Reads a `VirtualMachineQuestionInfo`. `None` if the question has no id.
#[must_use]
pub fn question(element: Element<'_>) -> Option<Question> {
    let choices = element.child("choice");
    let default: Option<usize> =
        choices.and_then(|choice| choice.child("defaultIndex")).and_then(number);
    let choices = choices
        .into_iter()
        .flat_map(|choice| choice.children_named("choiceInfo").collect::<Vec<_>>())
        .enumerate()
        .map(|(index, choice)| Choice {
            key: choice.child_text("key").unwrap_or_default().to_owned(),
            label: choice.child_text("label").unwrap_or_default().to_owned(),
            summary: choice.child_text("summary").unwrap_or_default().to_owned(),
            default: default == Some(index),
        })
        .collect();
    let text = element.child_text("text").unwrap_or_default();
    let messages = element.children_named("message");
    let mut message_ids: Vec<String> = messages
        .filter_map(|message| message.child_text("id"))
        .filter(|id| !id.is_empty())
        .map(str::to_owned)
        .collect();
    if message_ids.is_empty() {
        message_ids.extend(text.lines().filter_map(message_id_in));
    }
    Some(Question {
        id: QuestionId::from_backend(element.child_text("id")?),
        message_ids,
        text: text.to_owned(),
        choices,
    })
}

/// Finds the id of a message at the beginning of a line, as in `msg.uuid.altered:This virtual
/// machine …`. A host that cannot localize messages sends the id only in this form.
fn message_id_in(line: &str) -> Option<String> {
    let (id, _) = line.split_once(':')?;
    let id = id.trim();
    let is_id = id.starts_with("msg.") && !id.contains(char::is_whitespace);
    is_id.then(|| id.to_owned())
}

/// Reads a `VirtualMachineSnapshotInfo`: the snapshots of the whole tree, parents before children.
/// The function is not recursive, because a tree can be deep.
#[must_use]
pub fn snapshots(info: Element<'_>) -> Snapshots {
    let mut items = Vec::new();
    // A stack of the snapshots that are still to read. The first sibling is at its end, so that it
    // is read first.
    let mut open: Vec<(Element<'_>, Option<SnapshotId>)> =
        info.children_named("rootSnapshotList").map(|root| (root, None)).collect();
    open.reverse();
    while let Some((tree, parent)) = open.pop() {
        let Some(id) = Reference::in_child(tree, "snapshot")
            .map(|moref| SnapshotId::from_backend(moref.value))
        else {
            continue;
        };
        let below: Vec<Element<'_>> = tree.children_named("childSnapshotList").collect();
        let children = below.iter().filter_map(|child| Reference::in_child(*child, "snapshot"));
        items.push(Snapshot {
            id: id.clone(),
            name: unescape_vim(tree.child_text("name").unwrap_or_default()),
            description: tree.child_text("description").unwrap_or_default().to_owned(),
            created_at: tree.child("createTime").and_then(timestamp),
            power_state: tree.child("state").and_then(power_state),
            quiesced: tree.child("quiesced").and_then(boolean) == Some(true),
            parent,
            children: children.map(|moref| SnapshotId::from_backend(moref.value)).collect(),
        });
        open.extend(below.into_iter().rev().map(|child| (child, Some(id.clone()))));
    }
    let current = Reference::in_child(info, "currentSnapshot")
        .map(|moref| SnapshotId::from_backend(moref.value));
    // A current snapshot that is not in the tree is ignored: govmomi's simulator can report a
    // removed snapshot as the current one.
    let current = current.filter(|current| items.iter().any(|snapshot| snapshot.id == *current));
    Snapshots { current, items }
}

/// Reads a `GuestNicInfo` with those of its addresses that the guest can use now.
fn guest_interface(nic: Element<'_>) -> GuestInterface {
    let mut addresses = Vec::new();
    match nic.child("ipConfig") {
        Some(config) => {
            for address in config.children_named("ipAddress") {
                // A tentative address does not count, because the guest still checks whether
                // another machine uses it.
                let unusable = matches!(
                    address.child_text("state"),
                    Some("invalid" | "inaccessible" | "duplicate" | "tentative")
                );
                addresses.extend(address.child("ipAddress").and_then(text).filter(|_| !unusable));
            }
        }
        None => addresses.extend(nic.children_named("ipAddress").filter_map(text)),
    }
    let key: Option<i32> = nic.child("deviceConfigId").and_then(number);
    GuestInterface {
        mac_address: nic.child("macAddress").and_then(text).and_then(|mac| mac.parse().ok()),
        // The key is -1 if the interface exists only in the guest, and then no card belongs to it.
        card_key: key.filter(|key| *key >= 0),
        addresses,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esx::soap::xml::Document;

    const XSI: &str = r#"xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance""#;

    fn machine(properties: &[(&str, &str)]) -> Machine {
        let mut machine = MachineProperties::new(MachineId::from_backend("16"));
        for (path, inside) in properties {
            let document =
                Document::parse(format!("<val {XSI}>{inside}</val>").as_bytes()).unwrap();
            assert!(machine.assign(path, Some(document.root())), "{path}");
        }
        Arc::unwrap_or_clone(machine.machine)
    }

    #[test]
    fn every_followed_path_can_be_set_and_unset() {
        let document = Document::parse(b"<val/>").unwrap();
        for path in MACHINE_PATHS {
            let mut machine = MachineProperties::new(MachineId::from_backend("16"));
            assert!(
                machine.assign(path, Some(document.root())) && machine.assign(path, None),
                "{path}"
            );
        }
        let mut machine = MachineProperties::new(MachineId::from_backend("16"));
        assert!(!machine.assign("snapshot.currentSnapshot", None));
    }

    #[test]
    fn a_machine_without_properties_has_its_id_as_name() {
        let machine = machine(&[]);
        assert_eq!((machine.name.as_str(), machine.connection_state.as_str()), ("16", "unknown"));
        assert_eq!(
            (machine.power_state, machine.cpu_count, machine.guest.tools_status),
            (None, None, None)
        );
    }

    #[test]
    fn an_unusable_value_leaves_its_own_field_empty() {
        let machine = machine(&[
            ("name", "a%2fb%25%5c%zz"),
            ("runtime.powerState", ""),
            ("config.hardware.numCPU", "many"),
            ("config.hardware.memoryMB", "18446744073709551615"),
            ("summary.storage.committed", "9007199254740993"),
        ]);
        assert_eq!(machine.name, "a/b%\\%zz");
        assert_eq!(
            (machine.power_state, machine.cpu_count, machine.memory_bytes),
            (None, None, None)
        );
        assert_eq!(machine.storage_bytes, Some(9_007_199_254_740_993));
    }

    #[test]
    fn the_tools_status_and_addresses_are_read() {
        let table = [
            (Some("guestToolsRunning"), None, None, Some("running")),
            (Some("guestToolsExecutingScripts"), None, None, Some("starting")),
            (Some("guestToolsNotRunning"), None, None, Some("not_running")),
            (
                Some("guestToolsNotRunning"),
                None,
                Some("guestToolsNotInstalled"),
                Some("not_installed"),
            ),
            (None, Some("toolsOld"), None, Some("running")),
            (None, Some("toolsNotInstalled"), None, Some("not_installed")),
            (None, Some("toolsNotRunning"), None, Some("not_running")),
            (Some("toCome"), None, None, None),
            (None, None, None, None),
        ];
        for (running, tools, version, expected) in table {
            let properties: Vec<(&str, &str)> = [
                ("guest.toolsRunningStatus", running),
                ("guest.toolsStatus", tools),
                ("guest.toolsVersionStatus2", version),
            ]
            .into_iter()
            .filter_map(|(path, value)| Some((path, value?)))
            .collect();
            assert_eq!(
                machine(&properties).guest.tools_status.as_deref(),
                expected,
                "{properties:?}"
            );
        }
        let guest = machine(&[
            ("guest.ipAddress", "10.0.0.2"),
            (
                "guest.net",
                "<GuestNicInfo><macAddress>00:50:56:00:00:01</macAddress>\
                 <deviceConfigId>4000</deviceConfigId><ipConfig>\
                 <ipAddress><ipAddress>fe80::1</ipAddress><state>preferred</state></ipAddress>\
                 <ipAddress><ipAddress>10.0.0.8</ipAddress><state>tentative</state></ipAddress>\
                 <ipAddress><ipAddress>10.0.0.9</ipAddress><state>duplicate</state></ipAddress>\
                 <ipAddress><ipAddress>10.0.0.2</ipAddress></ipAddress></ipConfig></GuestNicInfo>\
                 <GuestNicInfo><macAddress>02:42:AC:11:00:01</macAddress>\
                 <deviceConfigId>-1</deviceConfigId>\
                 <ipAddress>172.17.0.1</ipAddress></GuestNicInfo>",
            ),
        ])
        .guest;
        let interface = |mac: &str, card_key, addresses: &[&str]| GuestInterface {
            mac_address: Some(mac.parse().unwrap()),
            card_key,
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
        };
        assert_eq!(guest.ip_address.as_deref(), Some("10.0.0.2"));
        let expected = [
            interface("00:50:56:00:00:01", Some(4000), &["fe80::1", "10.0.0.2"]),
            interface("02:42:ac:11:00:01", None, &["172.17.0.1"]),
        ];
        assert_eq!(guest.interfaces, expected);
    }

    #[test]
    fn a_question_keeps_the_keys_of_its_choices() {
        let question = machine(&[(
            "runtime.question",
            "<id>7</id><text>Moved?</text><choice>\
             <choiceInfo><label>button.cancel</label><summary>Cancel</summary><key>4</key>\
             </choiceInfo><choiceInfo><label>b</label><summary>I _moved it</summary>\
             <key>1</key></choiceInfo><defaultIndex>1</defaultIndex></choice>",
        )])
        .question
        .unwrap();
        let choices: Vec<(&str, bool)> =
            question.choices.iter().map(|choice| (choice.key.as_str(), choice.default)).collect();
        assert_eq!((question.id.backend_text(), choices), ("7", vec![("4", false), ("1", true)]));
    }

    #[test]
    fn the_message_ids_of_a_question_are_those_of_its_messages_or_of_its_text() {
        let message_ids = |inside: &str| {
            let question = machine(&[("runtime.question", &format!("<id>7</id>{inside}"))]);
            question.question.unwrap().message_ids
        };
        let message = |id: &str| format!("<message><id>{id}</id><text>t</text></message>");
        let both = [message("msg.disk.notThere"), message("msg.retry")].concat();
        assert_eq!(message_ids(&both), ["msg.disk.notThere", "msg.retry"]);
        let altered = "<text>msg.uuid.altered:This virtual machine might: have moved.</text>";
        assert_eq!(message_ids(altered), ["msg.uuid.altered"]);
        assert_eq!(message_ids(&[altered, &message("msg.other")].concat()), ["msg.other"]);
        for none in ["", "<text>Moved?</text>", "<text>Go on: msg.a</text>", "<text>msg</text>"] {
            assert_eq!(message_ids(none), [""; 0], "{none}");
        }
    }
}
