//! A machine as the host reports it, and the identity of a machine beyond its reusable moid.

use super::ids::{DatastoreId, MachineId, QuestionId};
use super::mac::MacAddress;
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
            guest: Guest::default(),
            network_cards: Vec::new(),
            serial_ports: Vec::new(),
            snapshots: Snapshots::default(),
            question: None,
            datastores: Vec::new(),
        }
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
    /// `guest.ipAddress`: the address that the host prefers.
    pub ip_address: Option<String>,
    /// The addresses of all cards, the preferred one first.
    pub ip_addresses: Vec<String>,
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
    /// and the same instance UUID, or the same path if one of the UUIDs is not known.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.id == other.id
            && match (&self.instance_uuid, &other.instance_uuid) {
                (Some(ours), Some(theirs)) => ours.eq_ignore_ascii_case(theirs),
                _ => self.path == other.path,
            }
    }
}
