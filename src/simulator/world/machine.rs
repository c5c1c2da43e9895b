//! A machine of the simulated host as plain data. Its names are not escaped.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::super::guest_screen::{GuestScreen, ScreenStage};
use super::super::vim_fault::Fault;
use super::drives::{AddedDisk, BootSettings, CdDrive, Controller};
use super::file_content::FileContent;

/// The power state of a machine: a value of `VirtualMachinePowerState`, or any other text that a
/// test sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PowerState {
    On,
    Off,
    Suspended,
    Other(String),
}

impl PowerState {
    /// The value in vim25, for example `poweredOn`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::On => "poweredOn",
            Self::Off => "poweredOff",
            Self::Suspended => "suspended",
            Self::Other(text) => text,
        }
    }
}

/// A virtual machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The moid of the machine. On ESX it is a number.
    pub id: String,
    pub name: String,
    /// The connection state, for example `connected` or `inaccessible`. The property `config` has a
    /// value only if the state is `connected` or `disconnected`.
    pub connection_state: String,
    pub power: PowerState,
    pub template: bool,
    pub guest_id: String,
    pub guest_full_name: String,
    pub annotation: String,
    pub cpu_count: i32,
    pub memory_mb: i32,
    /// The size of the first disk. 0: the machine does not have it.
    pub disk_bytes: i64,
    /// The disks that clients have added.
    pub added_disks: Vec<AddedDisk>,
    /// The controllers that clients have added.
    pub controllers: Vec<Controller>,
    pub cd_drives: Vec<CdDrive>,
    pub boot: BootSettings,
    /// The options that clients have set in the configuration (`extraConfig`).
    pub extra_config: BTreeMap<String, String>,
    pub nested_virtualization: bool,
    pub bios_uuid: String,
    pub instance_uuid: String,
    /// The datastore path of the machine's configuration file, for example `[datastore1]
    /// name/name.vmx`.
    pub path: String,
    /// The moid of the datastore that holds `path`.
    pub datastore: String,
    pub network_cards: Vec<NetworkCard>,
    pub serial_ports: Vec<SerialPort>,
    /// The answer in the configuration to the question about files of serial ports. `None`: the
    /// host asks.
    pub serial_file_answer: Option<SerialFileAnswer>,
    /// The answer that somebody has given for the power-on that runs.
    pub chosen_serial_file_answer: Option<SerialFileAnswer>,
    pub guest: Guest,
    /// The snapshots of the machine. Each parent comes before its children.
    pub snapshots: Vec<Snapshot>,
    pub current_snapshot: Option<String>,
    /// The number that the next snapshot of the machine gets.
    pub next_snapshot: i32,
    /// The question that waits for an answer now.
    pub question: Option<Question>,
    /// The question that the next power-on raises.
    pub question_at_power_on: Option<Question>,
    /// The question that each power-on raises, unless `question_at_power_on` holds another
    /// question.
    pub question_at_each_power_on: Option<Question>,
    pub created_at: Timestamp,
    pub booted_at: Option<Timestamp>,
    pub suspended_at: Option<Timestamp>,
    pub consolidation_needed: bool,
    /// The number of the guest's current run. It grows with each start, stop and revert of the
    /// machine, so that events of an earlier run are recognised and dropped.
    pub run: u64,
    pub screen: GuestScreen,
    /// What the console shows.
    pub screen_source: ScreenSource,
    /// The maximum number of console connections.
    pub max_mks_connections: i32,
    /// The number of console connections, with those that clients left without a close.
    pub mks_connections: i32,
    /// Counts the power-offs, suspends and reverts, which end all consoles.
    pub console_epoch: u64,
    /// The files that `CreateScreenshot_Task` has written.
    pub screenshots: Vec<String>,
    /// The contents of `screenshots`.
    pub pictures: Vec<FileContent>,
    pub reconfigured_at: Option<Timestamp>,
    /// The lines of the log (`vmware.log`) since the last power-on from off.
    pub log: String,
}

/// The guest of a machine, and what the host reports of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Whether VMware Tools are installed in the guest. Without them the host reports nothing about
    /// the guest.
    pub tools_installed: bool,
    /// The address that the guest has when it runs.
    pub address: Option<String>,
    /// The address that VMware Tools report from their start until the guest has `address`, for
    /// example a link-local one. `None` if they report no address until then.
    pub first_address: Option<String>,
    /// Further addresses of the first network card. The host reports these addresses in the
    /// property `guest.net` only.
    pub more_addresses: Vec<String>,
    /// The network interfaces of the guest in addition to the first network card.
    pub interfaces: Vec<GuestInterface>,
    pub tools_running: bool,
    /// Whether the guest was asked to shut down, while the machine is still on.
    pub is_shutting_down: bool,
    /// The address that the host reports now. It may be stale, because the host reports an address
    /// for a while after the guest stopped.
    pub reported_address: Option<String>,
    /// The time from the power-on until VMware Tools run, before the pace scales it.
    pub tools_after: Duration,
    /// The time from the power-on until the guest has its address, before the pace scales it.
    pub address_after: Duration,
}

/// A network interface of a guest in addition to the first network card: another card, or an
/// interface that exists only in the guest, such as a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestInterface {
    /// The MAC address of the interface. If a network card of the machine has this address, the
    /// interface is that card. Otherwise the interface exists only in the guest.
    pub mac_address: String,
    pub addresses: Vec<String>,
}

/// A network card of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkCard {
    pub key: i32,
    /// The vim25 type of the card, for example `VirtualE1000`.
    pub kind: &'static str,
    pub mac_address: String,
    pub network: CardNetwork,
    pub connected: bool,
}

/// How a card refers to its network. A card refers to a network of a distributed switch only by the
/// key of its port group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CardNetwork {
    /// A network of a standard switch, by its name.
    Standard(String),
    /// A port group of a distributed switch, by its key.
    PortGroup(String),
    /// An opaque network, which another system such as NSX manages, by its id.
    Opaque(String),
}

/// A serial port of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialPort {
    pub key: i32,
    pub backing: SerialBacking,
    /// If it is set, the device of the port in the guest is a pseudoterminal of this computer, and
    /// a link at this path leads to it. So a program of this computer is as if in the machine.
    pub tty: Option<PathBuf>,
    /// Whether another program of this computer listens at the URI, instead of the simulator.
    pub is_foreign: bool,
    /// Whether the host cannot use the backing, for example because its URI is malformed.
    pub is_dead: bool,
}

/// What a serial port is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialBacking {
    Pipe { name: String, endpoint: String },
    Uri { service: String, direction: String, proxy: Option<String> },
    File { path: String },
    Device { name: String },
}

/// What becomes of the content of a port's file at a power-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SerialFileAnswer {
    Append,
    Replace,
}

impl SerialFileAnswer {
    /// The option of a machine's configuration that has the answer.
    pub const OPTION: &str = "answer.msg.serial.file.open";

    /// The value of the option [`OPTION`](Self::OPTION).
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Append => "Append",
            Self::Replace => "Replace",
        }
    }
}

/// What the console of a machine shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ScreenSource {
    /// The simulated guest.
    #[default]
    Guest,
    /// A real RFB server, `HOST:PORT`.
    Bridge(String),
}

/// A snapshot of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The moid of the snapshot, for example `16-snapshot-3`.
    pub id: String,
    pub number: i32,
    pub parent: Option<String>,
    pub name: String,
    pub description: String,
    pub created_at: Timestamp,
    /// The power state that the machine has after a revert to this snapshot. It is on only if the
    /// snapshot holds the memory of the machine.
    pub state: PowerState,
    pub quiesced: bool,
    /// The screen of a snapshot with memory.
    pub screen: Option<Box<GuestScreen>>,
    /// The drives of the machine, which a revert brings back.
    pub cd_drives: Vec<CdDrive>,
    /// How the machine booted, which a revert brings back.
    pub boot: BootSettings,
}

/// A question of a machine (`VirtualMachineQuestionInfo`).
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub id: String,
    /// The id of the message, for example `msg.uuid.altered`.
    pub message_id: String,
    pub text: String,
    pub choices: Vec<Choice>,
    pub default_choice: Option<i32>,
}

/// A possible answer to a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The key by which `AnswerVM` names this answer: a number as text.
    pub key: String,
    /// The id of the button for this answer, for example `button.uuid.copiedTheVM`.
    pub label: String,
    pub summary: String,
    /// The fault with which this answer ends the waiting task. `None` means that the task goes on.
    pub fails_with: Option<Fault>,
}

impl SerialPort {
    /// A port with this backing.
    #[must_use]
    pub const fn new(key: i32, backing: SerialBacking) -> Self {
        Self { key, backing, tty: None, is_foreign: false, is_dead: false }
    }
}

impl Machine {
    /// The network interfaces that VMware Tools report now, with their addresses. Empty if they
    /// report no address.
    #[must_use]
    pub fn reported_interfaces(&self) -> Vec<GuestInterface> {
        let Guest { reported_address, more_addresses, interfaces, .. } = &self.guest;
        let Some(reported) = reported_address else { return Vec::new() };
        let elsewhere = interfaces.iter().any(|other| other.addresses.contains(reported));
        let first = self.network_cards.first().map(|card| GuestInterface {
            mac_address: card.mac_address.clone(),
            // The further addresses come first, as some real guests report them before the address
            // that the host shows as the guest's.
            addresses: more_addresses
                .iter()
                .chain([reported].into_iter().filter(|_| !elsewhere))
                .cloned()
                .collect(),
        });
        // The first network card comes last, because real guests report interfaces in their own
        // order, not in that of the cards.
        interfaces.iter().cloned().chain(first).collect()
    }

    /// The options of the configuration (`extraConfig`) with their values.
    #[must_use]
    pub fn options(&self) -> Vec<(String, String)> {
        let mut options = BTreeMap::from([
            ("nvram".to_owned(), format!("{}.nvram", self.name)),
            ("svga.present".to_owned(), "TRUE".to_owned()),
            ("tools.guest.desktop.autolock".to_owned(), "FALSE".to_owned()),
        ]);
        options.extend(self.extra_config.clone());
        if self.nested_virtualization {
            options.insert("vhv.enable".to_owned(), "TRUE".to_owned());
        }
        if let Some(answer) = self.serial_file_answer {
            options.insert(SerialFileAnswer::OPTION.to_owned(), answer.as_str().to_owned());
        }
        options.into_iter().collect()
    }

    /// Whether the host can read the configuration file of the machine.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        matches!(self.connection_state.as_str(), "connected" | "disconnected")
    }

    /// The snapshot with this moid. `None` if the machine has no such snapshot.
    #[must_use]
    pub fn snapshot(&self, id: &str) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.id == id)
    }

    /// Adds a snapshot below `parent` and returns its moid. The current snapshot stays the same. A
    /// snapshot with memory shows the desktop.
    pub fn add_snapshot(
        &mut self,
        parent: Option<&str>,
        name: &str,
        state: PowerState,
        at: Timestamp,
    ) -> String {
        let number = self.next_snapshot;
        self.next_snapshot += 1;
        let has_memory = matches!(state, PowerState::On | PowerState::Suspended);
        let screen = has_memory.then(|| {
            let mut screen = GuestScreen::new(self.screen.layout());
            screen.show(ScreenStage::Desktop, Duration::ZERO);
            Box::new(screen)
        });
        let id = format!("{}-snapshot-{number}", self.id);
        self.snapshots.push(Snapshot {
            id: id.clone(),
            number,
            parent: parent.map(str::to_owned),
            name: name.to_owned(),
            description: String::new(),
            created_at: at,
            state,
            quiesced: false,
            screen,
            cd_drives: self.cd_drives.clone(),
            boot: self.boot.clone(),
        });
        id
    }

    /// Removes a snapshot. Its children are removed too if `with_children` is set; otherwise they
    /// move to the parent of the removed snapshot. If the current snapshot is removed, its parent
    /// becomes the current one.
    pub fn remove_snapshot(&mut self, id: &str, with_children: bool) {
        let Some(removed) = self.snapshot(id).cloned() else { return };
        let mut gone = vec![removed.id.clone()];
        for snapshot in &mut self.snapshots {
            if snapshot.parent.as_ref().is_some_and(|parent| gone.contains(parent)) {
                if with_children {
                    gone.push(snapshot.id.clone());
                } else {
                    snapshot.parent.clone_from(&removed.parent);
                }
            }
        }
        self.snapshots.retain(|snapshot| !gone.contains(&snapshot.id));
        if self.current_snapshot.as_ref().is_some_and(|current| gone.contains(current)) {
            self.current_snapshot = removed.parent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let scenario = crate::simulator::Scenario::lab().unwrap();
        scenario.machines.into_iter().find(|machine| machine.id == "16").unwrap()
    }

    #[test]
    fn children_of_a_removed_snapshot_move_up_and_the_current_one_is_its_parent() {
        let mut machine = machine();
        machine.remove_snapshot("16-snapshot-2", false);
        assert_eq!(
            machine.snapshot("16-snapshot-3").unwrap().parent.as_deref(),
            Some("16-snapshot-1")
        );
        machine.remove_snapshot("16-snapshot-3", false);
        assert_eq!(machine.current_snapshot.as_deref(), Some("16-snapshot-1"));
    }

    #[test]
    fn a_snapshot_is_removed_with_all_descendants() {
        let mut machine = machine();
        machine.remove_snapshot("16-snapshot-4", true);
        let left: Vec<i32> = machine.snapshots.iter().map(|snapshot| snapshot.number).collect();
        assert_eq!(left, [1, 2, 3]);
        machine.remove_snapshot("16-snapshot-1", true);
        assert_eq!((machine.snapshots.len(), machine.current_snapshot), (0, None));
    }
}
