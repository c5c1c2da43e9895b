//! A machine of the simulated host: plain data with unescaped names.

use std::time::Duration;

use jiff::Timestamp;

use super::super::guest_screen::{GuestScreen, ScreenStage};
use super::super::vim_fault::Fault;

/// `VirtualMachinePowerState`, and any other text that a test sets.
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
    /// The moid. On ESX it is a number.
    pub id: String,
    pub name: String,
    /// `connected`, `inaccessible`, … `config` is unset unless it is `connected` or `disconnected`.
    pub connection_state: String,
    pub power: PowerState,
    pub template: bool,
    pub guest_id: String,
    pub guest_full_name: String,
    pub annotation: String,
    pub cpu_count: i32,
    pub memory_mb: i32,
    pub disk_bytes: i64,
    pub nested_virtualization: bool,
    pub bios_uuid: String,
    pub instance_uuid: String,
    /// The configuration file, for example `[datastore1] name/name.vmx`.
    pub path: String,
    /// The moid of the datastore that holds `path`.
    pub datastore: String,
    pub network_cards: Vec<NetworkCard>,
    pub serial_ports: Vec<SerialPort>,
    pub guest: Guest,
    /// The snapshots, parents before children.
    pub snapshots: Vec<Snapshot>,
    pub current_snapshot: Option<String>,
    /// The number of the next snapshot.
    pub next_snapshot: i32,
    /// The pending question.
    pub question: Option<Question>,
    /// The question that the next power-on raises.
    pub question_at_power_on: Option<Question>,
    /// The question that each power-on raises, if no other question comes first.
    pub question_at_each_power_on: Option<Question>,
    pub created_at: Timestamp,
    pub booted_at: Option<Timestamp>,
    pub suspended_at: Option<Timestamp>,
    pub consolidation_needed: bool,
    /// Counts the starts, stops and reverts. Guest events of an earlier run are dropped.
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
}

/// The guest of a machine, and what the host reports of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Whether VMware Tools are installed. Without them the host reports nothing about the guest.
    pub tools_installed: bool,
    /// The address of the guest when it runs.
    pub address: Option<String>,
    /// The address that the tools report from their start until `address` arrives, for example a
    /// link-local one. `None` if they report none until then.
    pub first_address: Option<String>,
    /// Further addresses of the first network card. The host reports them in `guest.net` only.
    pub more_addresses: Vec<String>,
    /// Further network interfaces of the guest.
    pub interfaces: Vec<GuestInterface>,
    pub tools_running: bool,
    /// Whether the guest was asked to shut down and is still on.
    pub is_shutting_down: bool,
    /// The address that the host reports now, possibly a stale one.
    pub reported_address: Option<String>,
    /// The time from power-on to running tools, unscaled.
    pub tools_after: Duration,
    /// The time from power-on to the address, unscaled.
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

/// A network adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkCard {
    pub key: i32,
    /// The vim25 type, for example `VirtualE1000`.
    pub kind: &'static str,
    pub mac_address: String,
    pub network: CardNetwork,
    pub connected: bool,
}

/// The network of a card. A card names a network of a distributed switch only by a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CardNetwork {
    /// A network of a standard switch, by its name.
    Standard(String),
    /// A port group of a distributed switch, by its key.
    PortGroup(String),
    /// An opaque network, which another system such as NSX manages, by its id.
    Opaque(String),
}

/// A serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialPort {
    pub key: i32,
    pub backing: SerialBacking,
}

/// What a serial port is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialBacking {
    Pipe { name: String, endpoint: String },
    Uri { service: String, direction: String, proxy: Option<String> },
    File { path: String },
    Device { name: String },
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

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The moid, for example `16-snapshot-3`.
    pub id: String,
    pub number: i32,
    pub parent: Option<String>,
    pub name: String,
    pub description: String,
    pub created_at: Timestamp,
    /// The power state after a revert. It is on only if the snapshot holds memory.
    pub state: PowerState,
    pub quiesced: bool,
    /// The screen of a snapshot with memory.
    pub screen: Option<Box<GuestScreen>>,
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
    /// The key that `AnswerVM` takes, a number as text.
    pub key: String,
    /// The id of the button, for example `button.uuid.copiedTheVM`.
    pub label: String,
    pub summary: String,
    /// The fault with which the waiting task ends. `None`: the task goes on.
    pub fails_with: Option<Fault>,
}

impl Machine {
    /// The network interfaces that the tools report now, with their addresses. Empty if they report
    /// no address.
    #[must_use]
    pub fn reported_interfaces(&self) -> Vec<GuestInterface> {
        let Guest { reported_address, more_addresses, interfaces, .. } = &self.guest;
        let Some(reported) = reported_address else { return Vec::new() };
        let elsewhere = interfaces.iter().any(|other| other.addresses.contains(reported));
        let first = self.network_cards.first().map(|card| GuestInterface {
            mac_address: card.mac_address.clone(),
            // Some guests report their other addresses first.
            addresses: more_addresses
                .iter()
                .chain([reported].into_iter().filter(|_| !elsewhere))
                .cloned()
                .collect(),
        });
        // The order is that of the guest, not that of the cards.
        interfaces.iter().cloned().chain(first).collect()
    }

    /// Whether the host can read the configuration file.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        matches!(self.connection_state.as_str(), "connected" | "disconnected")
    }

    /// The snapshot with this moid. `None` if there is none.
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
        });
        id
    }

    /// Removes a snapshot. Its children are removed too, or move up to its parent. If the current
    /// snapshot is removed, the parent becomes the current one.
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
