//! A machine as the host tells of it, and who it is beyond its reusable moid.

use super::ids::{DatastoreId, MachineId, QuestionId};
use super::mac::MacAddress;
use super::power::PowerState;
use super::snapshot::Snapshots;

/// One virtual machine, as of the host's last word on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub id: MachineId,
    /// Unescaped: a `%2f` of the wire is a `/` here.
    pub name: String,
    pub power_state: Option<PowerState>,
    pub template: bool,
    /// The host's own word: `connected`, `disconnected`, `inaccessible`, `invalid`, `orphaned` or
    /// one to come.
    pub connection_state: String,
    /// Where its configuration file is, `[datastore1] name/name.vmx`.
    pub path: Option<String>,
    pub guest_os: Option<String>,
    pub instance_uuid: Option<String>,
    pub bios_uuid: Option<String>,
    pub annotation: Option<String>,
    pub cpu_count: Option<u32>,
    pub memory_bytes: Option<u64>,
    pub storage_bytes: Option<u64>,
    pub nested_virtualization: Option<bool>,
    pub guest: Guest,
    pub network_cards: Vec<NetworkCard>,
    pub serial_ports: Vec<SerialPort>,
    pub snapshots: Snapshots,
    pub question: Option<Question>,
    pub datastores: Vec<DatastoreId>,
}

impl Machine {
    /// A machine of which only the id is known, which is its name as well.
    #[must_use]
    pub fn new(id: MachineId) -> Self {
        Self {
            name: id.backend_text().to_owned(),
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
            guest: Guest::default(),
            network_cards: Vec::new(),
            serial_ports: Vec::new(),
            snapshots: Snapshots::default(),
            question: None,
            datastores: Vec::new(),
        }
    }

    /// Who this machine is, for binding a job to it.
    #[must_use]
    pub fn identity(&self) -> MachineIdentity {
        MachineIdentity {
            id: self.id.clone(),
            instance_uuid: self.instance_uuid.clone(),
            path: self.path.clone(),
        }
    }
}

/// What the guest tools say. Hosts go on repeating an address after the guest that had it is gone,
/// so these are claims: `service::inventory` decides which of them count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guest {
    pub tools_running: bool,
    /// `running`, `starting`, `not_running`, `not_installed`, or `None` where the host says
    /// nothing.
    pub tools_status: Option<String>,
    /// `guest.ipAddress`: the one that the host prefers.
    pub ip_address: Option<String>,
    /// Every address of every card, the preferred one first.
    pub ip_addresses: Vec<String>,
}

/// A virtual network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkCard {
    pub key: i32,
    pub label: String,
    /// The device's class without its `Virtual`, lower-cased: `vmxnet3`, `e1000`, `e1000e`, …
    pub kind: String,
    /// `None` where the host says nothing that can be read as one.
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
    /// `ttyS0` and so on; `None` where the label has no number.
    pub linux_device: Option<String>,
}

/// What is at the other end of a serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialBacking {
    Pipe { name: String, endpoint: Option<String> },
    Network { service_uri: String, direction: Option<String>, proxy_uri: Option<String> },
    File { path: String },
    Device { name: Option<String> },
}

/// A question that the machine waits on; nothing else happens to it until it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub id: QuestionId,
    pub text: String,
    pub choices: Vec<Choice>,
}

/// One answer that a question takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What `AnswerVM` wants: a number as text, not necessarily counted from 0.
    pub key: String,
    pub label: String,
    pub summary: String,
    pub default: bool,
}

/// Which machine a job means. A moid alone is not enough: hosts use moids again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineIdentity {
    pub id: MachineId,
    pub instance_uuid: Option<String>,
    /// Stands in for the instance UUID where that is unknown.
    pub path: Option<String>,
}

impl MachineIdentity {
    /// The key by which facts about the machine are stored. It does not change if the machine gets
    /// another moid, as long as its instance UUID (else its path) is known.
    #[must_use]
    pub fn key(&self) -> String {
        let Self { id, instance_uuid, path } = self;
        match (instance_uuid, path) {
            (Some(uuid), _) => format!("uuid:{}", uuid.to_ascii_lowercase()),
            (None, Some(path)) => format!("path:{path}"),
            (None, None) => format!("id:{id}"),
        }
    }

    /// Whether `other`, read now, is the machine that was meant: the same moid and the same
    /// instance UUID, or the same path where either UUID is unknown.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.id == other.id
            && match (&self.instance_uuid, &other.instance_uuid) {
                (Some(ours), Some(theirs)) => ours.eq_ignore_ascii_case(theirs),
                _ => self.path == other.path,
            }
    }
}
