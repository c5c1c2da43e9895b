//! A machine of the simulated host, as the world keeps it: plain data, names unescaped.

use std::time::Duration;

use jiff::Timestamp;

use super::super::vim_fault::Fault;

/// Whether a machine runs, in the words of vim25, and any other word that a test puts there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PowerState {
    On,
    Off,
    Suspended,
    Other(String),
}

impl PowerState {
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::On => "poweredOn",
            Self::Off => "poweredOff",
            Self::Suspended => "suspended",
            Self::Other(word) => enum_value,
        }
    }
}

/// One machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The moid; numbers on ESX.
    pub id: String,
    pub name: String,
    /// `connected`, `inaccessible`, … `config` is null unless connected or disconnected.
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
    /// `[datastore1] name/name.vmx`
    pub path: String,
    /// The moref of the datastore that the path is on.
    pub datastore: String,
    pub network_cards: Vec<NetworkCard>,
    pub serial_ports: Vec<SerialPort>,
    pub guest: Guest,
    /// Parents before children.
    pub snapshots: Vec<Snapshot>,
    pub current_snapshot: Option<String>,
    /// The number of the next snapshot.
    pub next_snapshot: i32,
    /// What it asks now.
    pub question: Option<Question>,
    /// What it will ask when it is powered on next.
    pub question_at_power_on: Option<Question>,
    pub created_at: Timestamp,
    pub booted_at: Option<Timestamp>,
    pub suspended_at: Option<Timestamp>,
    pub consolidation_needed: bool,
    /// Counts starts, stops and reverts, so that what was planned for an earlier run is dropped.
    pub run: u64,
}

/// What a machine's guest has, and what the host knows of it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Whether tools are installed; without them nothing below is ever told.
    pub tools_installed: bool,
    /// The address that it takes when it runs.
    pub address: Option<String>,
    /// More addresses, such as a bridge's; told in `guest.net` only.
    pub more_addresses: Vec<String>,
    pub tools_running: bool,
    /// The address as the host tells it, which may be stale.
    pub reported_address: Option<String>,
    /// From power on to running tools, and to the address, before the pace's scale.
    pub tools_after: Duration,
    pub address_after: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkCard {
    pub key: i32,
    /// `VirtualE1000` and its kin.
    pub kind: &'static str,
    pub mac_address: String,
    pub network: String,
    pub connected: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialPort {
    pub key: i32,
    pub backing: SerialBacking,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialBacking {
    Pipe { name: String, endpoint: String },
    Uri { service: String, direction: String, proxy: Option<String> },
    File { path: String },
    Device { name: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The moref, `16-snapshot-3`.
    pub id: String,
    pub number: i32,
    pub parent: Option<String>,
    pub name: String,
    pub description: String,
    pub created_at: Timestamp,
    /// What the machine is after a revert: on only with memory.
    pub state: PowerState,
    pub quiesced: bool,
}

/// What a machine asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub id: String,
    /// `msg.uuid.altered`
    pub message_id: String,
    pub text: String,
    pub choices: Vec<Choice>,
    pub default_choice: Option<i32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// What `AnswerVM` takes: a number as text.
    pub key: String,
    /// The id of the button, `button.uuid.copiedTheVM`.
    pub label: String,
    pub summary: String,
    /// How the waiting task ends; `None`: it goes on.
    pub fails_with: Option<Fault>,
}

impl Machine {
    /// Whether the host can read its configuration.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        matches!(self.connection_state.as_str(), "connected" | "disconnected")
    }

    #[must_use]
    pub fn snapshot(&self, id: &str) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.id == id)
    }

    /// Adds a snapshot below `parent` and gives its moref. It does not become the current one.
    pub fn add_snapshot(
        &mut self,
        parent: Option<&str>,
        name: &str,
        state: PowerState,
        at: Timestamp,
    ) -> String {
        let number = self.next_snapshot;
        self.next_snapshot += 1;
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
        });
        id
    }

    /// Takes a snapshot away. Its children go too, or move up to its parent; the current one too.
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
    fn a_branch_goes_whole() {
        let mut machine = machine();
        machine.remove_snapshot("16-snapshot-4", true);
        let left: Vec<i32> = machine.snapshots.iter().map(|snapshot| snapshot.number).collect();
        assert_eq!(left, [1, 2, 3]);
        machine.remove_snapshot("16-snapshot-1", true);
        assert_eq!((machine.snapshots.len(), machine.current_snapshot), (0, None));
    }
}
