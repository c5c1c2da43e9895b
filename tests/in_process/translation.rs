//! The translation between the simulated world and the hypervisor contract: machines and datastores
//! as facts, evidence for jobs, faults as errors, and calls as operations of the world. The test in
//! `wire_comparison.rs` compares it with the vim25 backend.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use otter::domain::call::{CallKind, Evidence, HostCall, RecentTask, SnapshotEvidence};
use otter::domain::datastore::Datastore;
use otter::domain::ids::{DatastoreId, MachineId, QuestionId, SnapshotId, TaskId};
use otter::domain::machine::{
    Choice, Guest, GuestInterface, Machine, MachineIdentity, NetworkCard, Question, SerialBacking,
    SerialPort,
};
use otter::domain::media::{BootDevice, BootEntry, BootMedia, BootOptions, CdDrive};
use otter::domain::power::PowerState;
use otter::domain::snapshot::{Snapshot, Snapshots};
use otter::esx::soap::fault::VimFault;
use otter::hypervisor::{Accepted, GuestRestart, HostError, TaskStatus};
use otter::simulator::world::{
    self, BootChange, ConfigChange, ConnectionChange, DeviceChange, DeviceOperation, DeviceSpec,
    Operation, TaskState, World,
};
use otter::simulator::{Fault, Moref, Value};
use serde_json::json;

/// The account of otter on the host.
pub const OTTER_ACCOUNT: &str = "root";

/// A machine as the inventory reports it.
pub fn machine(world: &World, machine: &world::Machine) -> Machine {
    let config = machine.is_readable();
    Machine {
        id: MachineId::from_backend(&machine.id),
        name: machine.name.clone(),
        power_state: power_state(&machine.power),
        template: machine.template && config,
        connection_state: machine.connection_state.clone(),
        path: config.then(|| machine.path.clone()),
        guest_os: config.then(|| machine.guest_full_name.clone()),
        instance_uuid: config.then(|| machine.instance_uuid.clone()),
        bios_uuid: config.then(|| machine.bios_uuid.clone()),
        annotation: Some(machine.annotation.clone()).filter(|text| config && !text.is_empty()),
        cpu_count: u32::try_from(machine.cpu_count).ok().filter(|_| config),
        memory_bytes: u64::try_from(machine.memory_mb)
            .ok()
            .map(|megabytes| megabytes << 20)
            .filter(|_| config),
        storage_bytes: u64::try_from(machine.disk_bytes).ok(),
        nested_virtualization: config.then_some(machine.nested_virtualization),
        consolidation_needed: Some(machine.consolidation_needed),
        guest: guest(machine),
        network_cards: machine
            .network_cards
            .iter()
            .enumerate()
            .map(|(at, card)| network_card(world, machine, at, card))
            .collect(),
        serial_ports: machine
            .serial_ports
            .iter()
            .enumerate()
            .map(|(at, port)| serial_port(at, port))
            .collect(),
        cdroms: machine
            .cd_drives
            .iter()
            .enumerate()
            .filter(|_| config)
            .map(|(at, drive)| cd_drive(machine, at, drive))
            .collect(),
        boot: if config { boot(&machine.boot) } else { BootOptions::default() },
        disk_keys: if config { machine.disk_keys() } else { Vec::new() },
        snapshots: snapshots(machine),
        question: machine.question.as_ref().map(question),
        datastores: vec![DatastoreId::from_backend(&machine.datastore)],
    }
}

/// A datastore as the inventory reports it.
pub fn datastore(world: &World, datastore: &world::Datastore) -> Datastore {
    let bytes = |bytes: i64| u64::try_from(bytes).ok();
    let machines = world.machines().filter(|machine| machine.datastore == datastore.id).count();
    Datastore {
        id: DatastoreId::from_backend(&datastore.id),
        name: datastore.name.clone(),
        kind: datastore.kind.clone(),
        capacity_bytes: bytes(datastore.capacity_bytes),
        free_bytes: bytes(datastore.free_bytes),
        free_bytes_at: datastore.refreshed_at,
        uncommitted_bytes: bytes(datastore.uncommitted_bytes),
        accessible: datastore.accessible,
        url: Some(datastore.url.clone()),
        machine_count: u32::try_from(machines).unwrap_or(u32::MAX),
    }
}

/// The guest as VMware Tools report it.
pub fn guest(machine: &world::Machine) -> Guest {
    let guest = &machine.guest;
    let status = match (guest.tools_installed, guest.tools_running) {
        (false, _) => "not_installed",
        (true, false) => "not_running",
        (true, true) => "running",
    };
    let interface = |interface: world::GuestInterface| {
        let world::GuestInterface { mac_address, addresses } = interface;
        let card = machine.network_cards.iter().find(|card| card.mac_address == mac_address);
        GuestInterface {
            mac_address: mac_address.parse().ok(),
            card_key: card.map(|card| card.key),
            addresses,
        }
    };
    Guest {
        tools_running: guest.tools_installed && guest.tools_running,
        tools_status: Some(status.to_owned()),
        ip_address: guest.reported_address.clone(),
        interfaces: machine.reported_interfaces().into_iter().map(interface).collect(),
    }
}

/// The machine with this id. Fails with `ManagedObjectNotFound` if there is none.
pub fn find_machine<'w>(world: &'w World, id: &MachineId) -> Result<&'w world::Machine, Fault> {
    let not_found = || Fault::not_found(&Moref::new("VirtualMachine", id.backend_text()));
    world.machine(id.backend_text()).ok_or_else(not_found)
}

/// Runs a call: completes it at once, or starts its task.
pub fn call(
    world: &mut World,
    machine: &MachineId,
    call: &HostCall,
    user: &str,
) -> Result<Accepted, Fault> {
    let id = machine.backend_text();
    let operation = match call.clone() {
        HostCall::ShutdownGuest => return world.shut_down_guest(id).map(|()| Accepted::Done),
        HostCall::RebootGuest => return world.reboot_guest(id).map(|()| Accepted::Done),
        HostCall::Answer { question, choice } => {
            return world.answer(id, question.backend_text(), &choice).map(|()| Accepted::Done);
        }
        HostCall::RenameSnapshot { snapshot, name, description } => {
            return world
                .rename_snapshot(snapshot.backend_text(), name, description)
                .map(|()| Accepted::Done);
        }
        HostCall::PowerOn => Operation::PowerOn,
        HostCall::PowerOff => Operation::PowerOff,
        HostCall::Reset => Operation::Reset,
        HostCall::Suspend => Operation::Suspend,
        HostCall::RemoveAllSnapshots => Operation::RemoveAllSnapshots,
        HostCall::ConsolidateDisks => Operation::ConsolidateDisks,
        HostCall::CreateSnapshot { name, description, memory, quiesce } => {
            Operation::CreateSnapshot { name, description, memory, quiesce }
        }
        HostCall::RevertToSnapshot { snapshot, suppress_power_on } => Operation::RevertToSnapshot {
            snapshot: snapshot.backend_text().to_owned(),
            suppress_power_on,
        },
        HostCall::RemoveSnapshot { snapshot, children } => {
            Operation::RemoveSnapshot { snapshot: snapshot.backend_text().to_owned(), children }
        }
        HostCall::SetMedia { drive } => {
            let devices = vec![drive_change(drive)];
            Operation::Reconfigure(Box::new(ConfigChange { devices, ..ConfigChange::default() }))
        }
        HostCall::SetBoot { boot } => {
            let boot = boot_change(&boot);
            Operation::Reconfigure(Box::new(ConfigChange { boot, ..ConfigChange::default() }))
        }
    };
    // In vim25, the target of these two operations is the snapshot.
    let target = match &operation {
        Operation::RevertToSnapshot { snapshot, .. }
        | Operation::RemoveSnapshot { snapshot, .. } => {
            let owner = world.machine_of_snapshot(snapshot).map(|owner| owner.id.clone());
            let moref = Moref::new("VirtualMachineSnapshot", snapshot);
            owner.ok_or_else(|| Fault::not_found(&moref))?
        }
        _ => id.to_owned(),
    };
    Ok(Accepted::Task(TaskId::from_backend(world.start_task(&target, operation, user)?.id)))
}

/// The evidence that a job reads of a machine, without the recent tasks, and the ids of the recent
/// tasks. These tasks are read in a separate request.
pub fn evidence(world: &World, id: &MachineId) -> Result<(Evidence, Vec<String>), Fault> {
    let read = machine(world, find_machine(world, id)?);
    let seen = |snapshot: Snapshot| {
        let Snapshot { id, name, description, parent, .. } = snapshot;
        SnapshotEvidence { id, parent, name, description }
    };
    let evidence = Evidence {
        identity: MachineIdentity {
            id: read.id,
            instance_uuid: read.instance_uuid,
            path: read.path,
        },
        power_state: read.power_state,
        current_snapshot: read.snapshots.current,
        snapshots: read.snapshots.items.into_iter().map(seen).collect(),
        tools_running: read.guest.tools_running,
        question: read.question.map(|question| question.id),
        consolidation_needed: read.consolidation_needed,
        host_boot_time: Some(world.host.booted_at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()),
        recent_tasks: Vec::new(),
        media: BootMedia::default(),
    };
    Ok((evidence, world.recent_tasks(id.backend_text()).map(|task| task.id.clone()).collect()))
}

/// The tasks of these ids that the host still knows, as a direct read reports them.
pub fn recent_tasks(world: &World, tasks: &[String]) -> Vec<RecentTask> {
    let known = tasks.iter().filter_map(|task| world.task(task));
    let recent = known.map(|task| RecentTask {
        id: TaskId::from_backend(&task.id),
        call: call_kind(&task.operation),
        by_us: task.user == OTTER_ACCOUNT,
        running: !task.state.is_end(),
    });
    recent.collect()
}

/// The status of a task.
pub fn status(task: &world::Task) -> TaskStatus {
    match task.state {
        TaskState::Queued | TaskState::Running => TaskStatus::Running {
            progress: task.progress.and_then(|percent| u8::try_from(percent).ok()),
        },
        TaskState::Success => TaskStatus::Succeeded { snapshot: made_snapshot(task) },
        TaskState::Error => {
            let fault = task.error.clone().unwrap_or_else(|| Fault::new("", ""));
            let lead = format!("The host's task {} failed", task.operation.description_id());
            TaskStatus::Failed(Arc::new(error(&fault, &lead)))
        }
    }
}

/// How the task has restarted the guest. `None` if it has not.
pub fn guest_restart(task: &world::Task) -> Option<GuestRestart> {
    if task.state != TaskState::Success {
        return None;
    }
    match task.operation {
        Operation::PowerOn => Some(GuestRestart::PowerOn),
        Operation::Reset => Some(GuestRestart::Reset),
        Operation::RevertToSnapshot { .. } | Operation::RevertToCurrentSnapshot { .. } => {
            Some(GuestRestart::Revert)
        }
        _ => None,
    }
}

/// The snapshot that a task created. `None` if it created none.
fn made_snapshot(task: &world::Task) -> Option<SnapshotId> {
    match &task.result {
        Some(Value::Reference(moref)) if moref.kind == "VirtualMachineSnapshot" => {
            Some(SnapshotId::from_backend(&moref.id))
        }
        _ => None,
    }
}

/// A fault as an error of the backend. `lead` begins its message.
pub fn error(fault: &Fault, lead: &str) -> HostError {
    let text = |value: &Value| match value {
        Value::Text(text) | Value::Enum(_, text) => Some(text.clone()),
        Value::Reference(moref) => Some(moref.id.clone()),
        _ => None,
    };
    let details = fault
        .fields
        .iter()
        .filter_map(|(name, value)| Some(((*name).to_owned(), text(value)?)))
        .collect();
    let fault =
        VimFault { name: fault.type_name.to_owned(), message: fault.message.clone(), details };
    fault.into_error(lead)
}

/// The value at a vim25 path of a machine. `None` for a path that the tests do not use.
pub fn property(machine: &Machine, path: &str) -> Option<serde_json::Value> {
    let power = machine.power_state.map(|state| match state {
        PowerState::On => "poweredOn",
        PowerState::Off => "poweredOff",
        PowerState::Suspended => "suspended",
    });
    Some(match path {
        "name" => json!(machine.name),
        "runtime.powerState" => json!(power),
        "runtime.question" => json!(machine.question.as_ref().map(|question| &question.text)),
        "config.annotation" => json!(machine.annotation),
        "config.version" => json!("vmx-19"),
        _ => return None,
    })
}

fn call_kind(operation: &Operation) -> Option<CallKind> {
    Some(match operation {
        Operation::PowerOn => CallKind::PowerOn,
        Operation::PowerOff => CallKind::PowerOff,
        Operation::Reset => CallKind::Reset,
        Operation::Suspend => CallKind::Suspend,
        Operation::CreateSnapshot { .. } => CallKind::CreateSnapshot,
        Operation::RevertToSnapshot { .. } => CallKind::RevertToSnapshot,
        Operation::RevertToCurrentSnapshot { .. }
        | Operation::CreateScreenshot
        | Operation::SearchFiles(_)
        | Operation::DeleteFile(_)
        | Operation::MoveFile { .. }
        | Operation::CopyFile { .. } => return None,
        Operation::RemoveSnapshot { .. } => CallKind::RemoveSnapshot,
        Operation::RemoveAllSnapshots => CallKind::RemoveAllSnapshots,
        Operation::ConsolidateDisks => CallKind::ConsolidateDisks,
        Operation::Reconfigure(_) => CallKind::SetMedia,
    })
}

fn cd_drive(machine: &world::Machine, at: usize, drive: &world::CdDrive) -> CdDrive {
    CdDrive {
        key: drive.key,
        label: format!("CD/DVD drive {}", at + 1),
        controller: Some(drive.controller),
        unit: Some(drive.unit),
        iso: drive.iso().map(str::to_owned),
        connected: drive.connected && machine.power == world::PowerState::On,
        connects_at_power_on: drive.start_connected,
    }
}

fn boot(boot: &world::BootSettings) -> BootOptions {
    let entry = |device: &world::BootDevice| match device {
        world::BootDevice::Cdrom => BootEntry { device: BootDevice::Cdrom, key: None },
        world::BootDevice::Floppy => BootEntry { device: BootDevice::Floppy, key: None },
        world::BootDevice::Disk(key) => BootEntry { device: BootDevice::Disk, key: Some(*key) },
        world::BootDevice::Network(key) => {
            BootEntry { device: BootDevice::Network, key: Some(*key) }
        }
    };
    BootOptions {
        order: boot.order.iter().map(entry).collect(),
        delay: Duration::from_millis(u64::try_from(boot.delay_ms).unwrap_or_default()),
    }
}

fn drive_change(drive: CdDrive) -> DeviceChange {
    let backing = drive.iso.map_or_else(
        || world::CdBacking::Device {
            kind: "VirtualCdromRemotePassthroughBackingInfo",
            name: String::new(),
            exclusive: Some(false),
        },
        world::CdBacking::Iso,
    );
    DeviceChange {
        operation: DeviceOperation::Edit,
        with_file: false,
        key: drive.key,
        controller: drive.controller,
        unit: drive.unit,
        connection: Some(ConnectionChange {
            connected: drive.connected,
            start_connected: drive.connects_at_power_on,
            allows_guest_control: true,
        }),
        device: DeviceSpec::Cdrom { backing: Some(backing) },
    }
}

fn boot_change(boot: &BootOptions) -> BootChange {
    let device = |BootEntry { device, key }: &BootEntry| match device {
        BootDevice::Cdrom => world::BootDevice::Cdrom,
        BootDevice::Floppy => world::BootDevice::Floppy,
        BootDevice::Disk => world::BootDevice::Disk(key.unwrap_or_default()),
        BootDevice::Network => world::BootDevice::Network(key.unwrap_or_default()),
    };
    BootChange {
        order: Some(boot.order.iter().map(device).collect()),
        delay_ms: i64::try_from(boot.delay.as_millis()).ok(),
        ..BootChange::default()
    }
}

const fn power_state(state: &world::PowerState) -> Option<PowerState> {
    match state {
        world::PowerState::On => Some(PowerState::On),
        world::PowerState::Off => Some(PowerState::Off),
        world::PowerState::Suspended => Some(PowerState::Suspended),
        world::PowerState::Other(_) => None,
    }
}

/// The snapshots in depth-first order, parents before children.
fn snapshots(machine: &world::Machine) -> Snapshots {
    let mut below: BTreeMap<Option<&str>, Vec<&world::Snapshot>> = BTreeMap::new();
    for snapshot in &machine.snapshots {
        below.entry(snapshot.parent.as_deref()).or_default().push(snapshot);
    }
    let mut open: Vec<&world::Snapshot> =
        below.get(&None).into_iter().flatten().rev().copied().collect();
    let mut items = Vec::with_capacity(machine.snapshots.len());
    while let Some(snapshot) = open.pop() {
        let children = below.get(&Some(snapshot.id.as_str())).cloned().unwrap_or_default();
        items.push(Snapshot {
            id: SnapshotId::from_backend(&snapshot.id),
            name: snapshot.name.clone(),
            description: snapshot.description.clone(),
            created_at: Some(snapshot.created_at),
            power_state: power_state(&snapshot.state),
            quiesced: snapshot.quiesced,
            parent: snapshot.parent.as_ref().map(SnapshotId::from_backend),
            children: children.iter().map(|child| SnapshotId::from_backend(&child.id)).collect(),
        });
        open.extend(children.into_iter().rev());
    }
    let current = machine
        .current_snapshot
        .as_ref()
        .filter(|_| !items.is_empty())
        .map(SnapshotId::from_backend);
    Snapshots { current, items }
}

fn question(question: &world::Question) -> Question {
    let default = question.default_choice.and_then(|index| usize::try_from(index).ok());
    let choices = question.choices.iter().enumerate().map(|(index, choice)| Choice {
        key: choice.key.clone(),
        label: choice.label.clone(),
        summary: choice.summary.clone(),
        default: default == Some(index),
    });
    Question {
        id: QuestionId::from_backend(&question.id),
        message_ids: vec![question.message_id.clone()],
        text: format!("{}: {}", question.message_id, question.text),
        choices: choices.collect(),
    }
}

fn network_card(
    world: &World,
    machine: &world::Machine,
    at: usize,
    card: &world::NetworkCard,
) -> NetworkCard {
    NetworkCard {
        key: card.key,
        label: format!("Network adapter {}", at + 1),
        kind: card.kind.strip_prefix("Virtual").unwrap_or(card.kind).to_lowercase(),
        mac_address: card.mac_address.parse().ok(),
        connected: card.connected && machine.power == world::PowerState::On,
        network: Some(world.network_name(&card.network).to_owned()),
    }
}

fn serial_port(at: usize, port: &world::SerialPort) -> SerialPort {
    let backing = match port.backing.clone() {
        world::SerialBacking::Pipe { name, endpoint } => {
            SerialBacking::Pipe { name, endpoint: Some(endpoint) }
        }
        world::SerialBacking::Uri { service, direction, proxy } => SerialBacking::Network {
            service_uri: service,
            direction: Some(direction),
            proxy_uri: proxy,
        },
        world::SerialBacking::File { path } => SerialBacking::File { path },
        world::SerialBacking::Device { name } => SerialBacking::Device { name: Some(name) },
    };
    SerialPort {
        key: port.key,
        label: format!("Serial port {}", at + 1),
        backing,
        linux_device: Some(format!("ttyS{at}")),
    }
}
