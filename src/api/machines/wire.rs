//! Machines and snapshots on the wire.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::duration;
use crate::domain::lease;
use crate::domain::machine::{self, SerialBacking};
use crate::domain::media;
use crate::domain::power::PowerState;
use crate::domain::snapshot;
use crate::service::machines::{HoldingLease, MachineView};

/// A virtual machine. Every field is present; a field without a value is null.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Machine {
    /// An opaque id: the managed object id that the host gives to the machine. A host can use the
    /// id of a removed machine again.
    #[schema(example = "16")]
    pub id: String,
    pub name: String,
    /// The power state of the machine. Null if the host does not report it.
    #[schema(required)]
    pub power_state: Option<PowerStateName>,
    /// Whether the machine can be leased. If it can, `not_free_because` is empty.
    pub free: bool,
    #[schema(extensions(("x-extensible-enum" = json!([
        "powered_on", "suspended", "power_unknown", "template", "not_connected", "question",
        "leased", "quarantined", "releasing", "job", "host_task", "self", "protected"
    ]))))]
    pub not_free_because: Vec<String>,
    pub template: bool,
    /// The connection state of the machine, as the host reports it: connected, disconnected,
    /// inaccessible, invalid, orphaned.
    pub connection_state: String,
    /// The path of the machine's configuration file on its datastore.
    #[schema(required, example = "[datastore1] sd-dev/sd-dev.vmx")]
    pub path: Option<String>,
    #[schema(required)]
    pub guest_os: Option<String>,
    /// The instance UUID of the machine.
    #[schema(required)]
    pub uuid: Option<String>,
    #[schema(required)]
    pub bios_uuid: Option<String>,
    #[schema(required)]
    pub annotation: Option<String>,
    #[schema(required)]
    pub cpu_count: Option<u32>,
    #[schema(required)]
    pub memory_bytes: Option<u64>,
    /// The space that the files of the machine use on datastores.
    #[schema(required)]
    pub storage_bytes: Option<u64>,
    #[schema(required)]
    pub nested_virtualization: Option<bool>,
    /// Whether a removal of snapshots left disks that must be consolidated
    /// (`POST …/consolidate`). Null if the host does not report it.
    #[schema(required)]
    pub consolidation_needed: Option<bool>,
    /// The IP address of the guest: the first of `ip_addresses`. If the machine is leased with
    /// `prepare.cidr`, the first one in that network. Null if there is none.
    #[schema(required)]
    pub ip_address: Option<String>,
    /// The IP addresses of the guest that other machines can reach: the global and private ones of
    /// the machine's network cards, first the one that the host prefers, then by card. Link-local,
    /// 6to4 and Teredo addresses do not count, nor those of an interface whose MAC address no card
    /// has, such as the bridge of Docker. Empty while they may be from before the last start or
    /// revert.
    pub ip_addresses: Vec<String>,
    /// The state of VMware Tools: `running`, `starting`, `not_running`, `not_installed`.
    #[schema(required, extensions(("x-extensible-enum" = json!([
        "running", "starting", "not_running", "not_installed"
    ]))))]
    pub tools_status: Option<String>,
    pub network_cards: Vec<NetworkCard>,
    pub serial_ports: Vec<SerialPort>,
    pub cdroms: Vec<CdDrive>,
    pub boot: Boot,
    pub snapshot_count: u32,
    /// The id of the current snapshot, on which the disks of the machine are based.
    #[schema(required)]
    pub current_snapshot: Option<String>,
    /// The pending question of ESX about the machine. Null if there is none.
    #[schema(required)]
    pub question: Option<Question>,
    /// Whether otter refuses all changes of this machine.
    pub protected: bool,
    /// The names of the pools that the machine is in.
    pub pools: Vec<String>,
    /// The quarantine of the machine. Null if there is none.
    #[schema(required)]
    pub quarantine: Option<Quarantine>,
    /// The lease on the machine. Null if there is none.
    #[schema(required)]
    pub lease: Option<MachineLease>,
    /// The id of the running job of the machine, else of the first queued one. Null if there is
    /// none.
    #[schema(required)]
    pub active_job: Option<String>,
}

/// The power state of a machine. This list will never grow.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PowerState)]
pub enum PowerStateName {
    On,
    Off,
    Suspended,
}

/// A virtual network card.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NetworkCard {
    pub key: i32,
    #[schema(example = "Network adapter 1")]
    pub label: String,
    #[serde(rename = "type")]
    #[schema(example = "vmxnet3", extensions(("x-extensible-enum" = json!([
        "e1000", "e1000e", "pcnet32", "vmxnet2", "vmxnet3", "sriovethernetcard"
    ]))))]
    pub card_type: String,
    #[schema(required, example = "00:50:56:ab:cd:ef")]
    pub mac_address: Option<String>,
    pub connected: bool,
    /// The name of the network or of the port group. If the host does not show the port group of a
    /// distributed switch, its key, such as `dvportgroup-12`.
    #[schema(required, example = "VM Network")]
    pub network: Option<String>,
}

/// A virtual CD drive.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CdDrive {
    pub key: i32,
    #[schema(example = "CD/DVD drive 1")]
    pub label: String,
    /// The name of the datastore of the ISO in the drive. Null if there is no ISO.
    #[schema(required, example = "isos")]
    pub datastore: Option<String>,
    /// The path of the ISO in the drive, with the name of its datastore. Null if there is no ISO.
    #[schema(required, example = "[isos] iso/qubes.iso")]
    pub path: Option<String>,
    /// Whether the drive is connected now. Only a machine that is on has connected drives.
    pub connected: bool,
}

/// What a machine boots from.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Boot {
    /// The kinds of devices from which the firmware tries to boot, in this order. Empty if the
    /// firmware decides.
    #[schema(example = json!(["cdrom", "disk"]))]
    pub order: Vec<String>,
    /// How long the firmware waits before it boots.
    #[schema(example = "5s")]
    pub delay: String,
}

/// A virtual serial port. "Serial port N" is `ttyS(N-1)` in a Linux guest.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SerialPort {
    pub key: i32,
    #[schema(example = "Serial port 1")]
    pub label: String,
    #[serde(rename = "type")]
    #[schema(extensions(("x-extensible-enum" = json!(["pipe", "network", "file", "device"]))))]
    pub port_type: String,
    #[schema(required)]
    pub pipe_name: Option<String>,
    #[schema(required, extensions(("x-extensible-enum" = json!(["server", "client"]))))]
    pub endpoint: Option<String>,
    #[schema(required, example = "tcp://:2001")]
    pub service_uri: Option<String>,
    #[schema(required, extensions(("x-extensible-enum" = json!(["server", "client"]))))]
    pub direction: Option<String>,
    #[schema(required)]
    pub proxy_uri: Option<String>,
    #[schema(required)]
    pub file_path: Option<String>,
    #[schema(required)]
    pub device_name: Option<String>,
    #[schema(required, example = "ttyS0")]
    pub linux_device: Option<String>,
}

/// A pending question of ESX about a machine. ESX does nothing else with the machine until the
/// question is answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Question {
    pub id: String,
    /// The id of the question's message, by which the rules in `[answers]` of the configuration
    /// recognise the question. Null if the host names none.
    #[schema(required, example = "msg.uuid.altered")]
    pub message_id: Option<String>,
    pub text: String,
    pub choices: Vec<QuestionChoice>,
}

/// A possible answer to a question.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct QuestionChoice {
    /// The value to send as `choice` to give this answer.
    pub key: String,
    pub label: String,
    pub summary: String,
    /// Whether the host proposes this answer.
    pub default: bool,
}

/// The quarantine of a machine.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Quarantine {
    pub reason: String,
    pub by: String,
    pub since: Timestamp,
    pub automatic: bool,
    #[schema(required)]
    pub job: Option<String>,
}

/// The lease on a machine.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MachineLease {
    pub id: String,
    #[schema(required)]
    pub holder: Option<String>,
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
}

/// A page of machines, sorted by name.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MachineList {
    pub items: Vec<Machine>,
    /// The cursor of the next page. Null if this is the last.
    #[schema(required)]
    pub next: Option<String>,
    /// The version at which the list is valid, for `since` of `/v1/events`.
    pub version: String,
}

/// A snapshot of a machine.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Snapshot {
    #[schema(example = "16-snapshot-2")]
    pub id: String,
    /// The id of the machine to which the snapshot belongs.
    pub machine: String,
    #[schema(example = "kickstart")]
    pub name: String,
    pub description: String,
    #[schema(required)]
    pub created_at: Option<Timestamp>,
    /// The power state of the machine after a revert. A snapshot without memory has `off`.
    #[schema(required)]
    pub power_state: Option<PowerStateName>,
    pub quiesced: bool,
    #[schema(required)]
    pub parent: Option<String>,
    pub children: Vec<String>,
    /// The names of the snapshots from the root to this one, separated by `/`. A `/` in a name
    /// becomes `%2F`, and a `%` becomes `%25`.
    #[schema(example = "base/updated/kickstart")]
    pub path: String,
    /// Whether this is the current snapshot, on which the disks of the machine are based.
    pub current: bool,
}

/// All snapshots of a machine, parents first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SnapshotList {
    pub items: Vec<Snapshot>,
    /// Always null, because the list has all snapshots.
    #[schema(required)]
    pub next: Option<String>,
    /// The version at which the list is valid, for `since` of `/v1/events`.
    pub version: String,
}

impl Machine {
    /// The machine on the wire.
    #[must_use]
    pub fn from_view(view: &MachineView) -> Self {
        let MachineView {
            machine,
            // Not shown. The methods of the view that return addresses use it.
            addresses_trusted: _,
            protected,
            active_job,
            pools,
            lease,
            quarantine,
            not_free_because,
        } = view;
        let machine::Machine {
            id,
            name,
            power_state,
            template,
            connection_state,
            path,
            guest_os,
            instance_uuid,
            bios_uuid,
            annotation,
            cpu_count,
            memory_bytes,
            storage_bytes,
            nested_virtualization,
            consolidation_needed,
            guest,
            network_cards,
            serial_ports,
            cdroms,
            boot,
            // Not shown. Only a boot order names disks by their keys.
            disk_keys: _,
            snapshots,
            question,
            // Not shown. Only datastores show which machines have files on them, as a number.
            datastores: _,
        } = &**machine;
        Self {
            id: id.to_string(),
            name: name.clone(),
            power_state: power_state.map(Into::into),
            free: not_free_because.is_empty(),
            not_free_because: not_free_because
                .iter()
                .map(|reason| reason.as_str().to_owned())
                .collect(),
            template: *template,
            connection_state: connection_state.clone(),
            path: path.clone(),
            guest_os: guest_os.clone(),
            uuid: instance_uuid.clone(),
            bios_uuid: bios_uuid.clone(),
            annotation: annotation.clone(),
            cpu_count: *cpu_count,
            memory_bytes: *memory_bytes,
            storage_bytes: *storage_bytes,
            nested_virtualization: *nested_virtualization,
            consolidation_needed: *consolidation_needed,
            ip_address: view.ip_address().map(|address| address.to_string()),
            ip_addresses: view.ip_addresses().iter().map(ToString::to_string).collect(),
            tools_status: guest.tools_status.clone(),
            network_cards: network_cards.iter().map(NetworkCard::from_domain).collect(),
            serial_ports: serial_ports.iter().map(SerialPort::from_domain).collect(),
            cdroms: cdroms.iter().map(CdDrive::from_domain).collect(),
            boot: Boot::from_domain(boot),
            snapshot_count: u32::try_from(snapshots.items.len()).unwrap_or(u32::MAX),
            current_snapshot: snapshots.current.as_ref().map(ToString::to_string),
            question: question.as_ref().map(Question::from_domain),
            protected: *protected,
            pools: pools.clone(),
            quarantine: quarantine.as_ref().map(Quarantine::from_domain),
            lease: lease.as_ref().map(MachineLease::from_domain),
            active_job: active_job.map(|job| job.to_string()),
        }
    }
}

impl Quarantine {
    fn from_domain(quarantine: &lease::Quarantine) -> Self {
        let lease::Quarantine { reason, by, since, automatic, job } = quarantine;
        Self {
            reason: reason.clone(),
            by: by.clone(),
            since: *since,
            automatic: *automatic,
            job: job.map(|job| job.to_string()),
        }
    }
}

impl MachineLease {
    fn from_domain(holder: &HoldingLease) -> Self {
        // The response does not show the network `cidr`, which only selects the `ip_address` of the
        // machine.
        let HoldingLease { lease, holder, expires_at, cidr: _ } = holder;
        Self { id: lease.to_string(), holder: Some(holder.clone()), expires_at: *expires_at }
    }
}

impl From<PowerState> for PowerStateName {
    fn from(state: PowerState) -> Self {
        match state {
            PowerState::On => Self::On,
            PowerState::Off => Self::Off,
            PowerState::Suspended => Self::Suspended,
        }
    }
}

impl NetworkCard {
    fn from_domain(card: &machine::NetworkCard) -> Self {
        let machine::NetworkCard { key, label, kind, mac_address, connected, network } = card;
        Self {
            key: *key,
            label: label.clone(),
            card_type: kind.clone(),
            mac_address: mac_address.map(|address| address.to_string()),
            connected: *connected,
            network: network.clone(),
        }
    }
}

impl CdDrive {
    fn from_domain(drive: &media::CdDrive) -> Self {
        let media::CdDrive {
            key,
            label,
            // Not shown, because only the host needs them: where the drive is attached.
            controller: _,
            unit: _,
            iso,
            connected,
            connects_at_power_on: _,
        } = drive;
        let datastore = |path: &String| {
            let (name, _) = path.strip_prefix('[')?.split_once(']')?;
            Some(name.to_owned())
        };
        Self {
            key: *key,
            label: label.clone(),
            datastore: iso.as_ref().and_then(datastore),
            path: iso.clone(),
            connected: *connected,
        }
    }
}

impl Boot {
    fn from_domain(boot: &media::BootOptions) -> Self {
        Self {
            order: boot.devices().iter().map(|device| device.as_str().to_owned()).collect(),
            delay: duration::format(boot.delay),
        }
    }
}

impl SerialPort {
    fn from_domain(port: &machine::SerialPort) -> Self {
        let machine::SerialPort { key, label, backing, linux_device } = port;
        let mut wire = Self {
            key: *key,
            label: label.clone(),
            port_type: String::new(),
            pipe_name: None,
            endpoint: None,
            service_uri: None,
            direction: None,
            proxy_uri: None,
            file_path: None,
            device_name: None,
            linux_device: linux_device.clone(),
        };
        match backing {
            SerialBacking::Pipe { name, endpoint } => {
                "pipe".clone_into(&mut wire.port_type);
                wire.pipe_name = Some(name.clone());
                wire.endpoint.clone_from(endpoint);
            }
            SerialBacking::Network { service_uri, direction, proxy_uri } => {
                "network".clone_into(&mut wire.port_type);
                wire.service_uri = Some(service_uri.clone());
                wire.direction.clone_from(direction);
                wire.proxy_uri.clone_from(proxy_uri);
            }
            SerialBacking::File { path } => {
                "file".clone_into(&mut wire.port_type);
                wire.file_path = Some(path.clone());
            }
            SerialBacking::Device { name } => {
                "device".clone_into(&mut wire.port_type);
                wire.device_name.clone_from(name);
            }
        }
        wire
    }
}

impl Question {
    fn from_domain(question: &machine::Question) -> Self {
        let machine::Question { id, message_ids, text, choices } = question;
        let choice = |choice: &machine::Choice| {
            let machine::Choice { key, label, summary, default } = choice;
            QuestionChoice {
                key: key.clone(),
                label: label.clone(),
                summary: summary.clone(),
                default: *default,
            }
        };
        Self {
            id: id.to_string(),
            message_id: message_ids.first().cloned(),
            text: text.clone(),
            choices: choices.iter().map(choice).collect(),
        }
    }
}

impl Snapshot {
    /// All snapshots of a machine, parents first.
    #[must_use]
    pub fn all(view: &MachineView) -> Vec<Self> {
        let snapshots = &view.machine.snapshots;
        let paths = snapshots.paths();
        snapshots
            .items
            .iter()
            .zip(paths)
            .map(|(snapshot, path)| Self::from_parts(view, snapshot, path))
            .collect()
    }

    /// One snapshot of a machine.
    #[must_use]
    pub fn from_view(view: &MachineView, snapshot: &snapshot::Snapshot) -> Self {
        let snapshots = &view.machine.snapshots;
        Self::from_parts(view, snapshot, snapshots.path(snapshot))
    }

    fn from_parts(view: &MachineView, snapshot: &snapshot::Snapshot, path: String) -> Self {
        let snapshot::Snapshot {
            id,
            name,
            description,
            created_at,
            power_state,
            quiesced,
            parent,
            children,
        } = snapshot;
        let machine = &view.machine;
        Self {
            id: id.to_string(),
            machine: machine.id.to_string(),
            name: name.clone(),
            description: description.clone(),
            created_at: created_at.map(microseconds),
            power_state: power_state.map(Into::into),
            quiesced: *quiesced,
            parent: parent.as_ref().map(ToString::to_string),
            children: children.iter().map(ToString::to_string).collect(),
            path,
            current: machine.snapshots.current.as_ref() == Some(id),
        }
    }
}

/// Rounds a time down to microseconds, the precision of otter's own times. Some hosts send
/// nanoseconds.
fn microseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_time_has_six_fraction_digits_at_most() {
        let nine: Timestamp = "2026-11-25T01:04:13.197025695Z".parse().unwrap();
        assert_eq!(microseconds(nine).to_string(), "2026-11-25T01:04:13.197025Z");
    }
}
