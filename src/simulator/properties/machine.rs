//! The properties of a machine and of its snapshots.

use std::collections::{BTreeSet, HashMap};

use super::super::schema;
use super::super::value::{Forest, Moref, Object, Value, enum_value, list, references};
use super::super::world::{
    BootDevice, BootSettings, GuestInterface, Machine, Network, PowerState, Question, Snapshot,
    World,
};
use super::{devices, entity_property, environment_browser, supported_features};
use crate::domain::names::escape_vim;

/// The version of the virtual hardware that every machine has.
const HARDWARE_VERSION: &str = "vmx-19";

pub fn property(world: &World, machine: &Machine, name: &str) -> Option<Value> {
    match name {
        "config" => machine.is_readable().then(|| Value::Object(config(world, machine))),
        "runtime" => Some(Value::Object(runtime(machine))),
        "guest" => Some(Value::Object(guest(world, machine))),
        "summary" => Some(Value::Object(summary(world, machine))),
        "snapshot" => snapshot_info(machine).map(Value::Object),
        "rootSnapshot" => Some(references(
            machine
                .snapshots
                .iter()
                .filter(|snapshot| snapshot.parent.is_none())
                .map(snapshot_moref),
        )),
        "datastore" => Some(references([Moref::new("Datastore", machine.datastore.clone())])),
        "network" => Some(references(networks(world, machine))),
        "resourcePool" => Some(Value::Reference(Moref::new("ResourcePool", "ha-root-pool"))),
        "capability" => Some(Value::Object(capability())),
        "environmentBrowser" => Some(environment_browser()),
        "layoutEx" => machine.is_readable().then(|| Value::Object(layout(world, machine))),
        "storage" => Some(Value::Object(
            Object::new("VirtualMachineStorageInfo")
                .with(
                    "perDatastoreUsage",
                    list("VirtualMachineUsageOnDatastore", vec![usage(machine)]),
                )
                .with("timestamp", machine.created_at),
        )),
        "guestHeartbeatStatus" => Some(enum_value("ManagedEntityStatus", heartbeat(machine))),
        "recentTask" => {
            Some(references(world.recent_tasks(&machine.id).map(super::super::world::Task::moref)))
        }
        "name" | "parent" => {
            entity_property(name, &machine.name, Some(Moref::new("Folder", "ha-folder-vm")))
        }
        other => entity_property(other, &machine.name, None),
    }
}

/// The networks to which the network cards of the machine are connected. Each network occurs once.
fn networks(world: &World, machine: &Machine) -> BTreeSet<Moref> {
    let cards = machine.network_cards.iter();
    cards.filter_map(|card| world.network(&card.network)).map(Network::moref).collect()
}

pub fn snapshot_property(world: &World, id: &str, name: &str) -> Option<Value> {
    let machine = world.machine_of_snapshot(id)?;
    match name {
        "config" => machine.is_readable().then(|| Value::Object(config(world, machine))),
        "vm" => Some(Value::Reference(Moref::new("VirtualMachine", machine.id.clone()))),
        "childSnapshot" => {
            let below =
                machine.snapshots.iter().filter(|snapshot| snapshot.parent.as_deref() == Some(id));
            Some(references(below.map(snapshot_moref)))
        }
        "value" => Some(list("CustomFieldValue", Vec::new())),
        "availableField" => Some(list("CustomFieldDef", Vec::new())),
        _ => None,
    }
}

fn config(world: &World, machine: &Machine) -> Object {
    let directory = machine.path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let files = Object::new("VirtualMachineFileInfo")
        .with("vmPathName", &machine.path)
        .with("snapshotDirectory", format!("{directory}/"))
        .with("suspendDirectory", format!("{directory}/"))
        .with("logDirectory", format!("{directory}/"));
    let tools = Object::new("ToolsConfigInfo")
        .with("toolsVersion", if machine.guest.tools_installed { 12_389 } else { 0 })
        .with("afterPowerOn", true)
        .with("afterResume", true)
        .with("beforeGuestStandby", true)
        .with("beforeGuestShutdown", true)
        .with("toolsUpgradePolicy", "manual")
        .with("syncTimeWithHostAllowed", true)
        .with("syncTimeWithHost", false);
    let flags = Object::new("VirtualMachineFlagInfo")
        .with("disableAcceleration", false)
        .with("enableLogging", true)
        .with("useToe", false)
        .with("runWithDebugInfo", false)
        .with("monitorType", "release")
        .with("htSharing", "any")
        .with("snapshotDisabled", false)
        .with("snapshotLocked", false)
        .with("diskUuidEnabled", false)
        .with("virtualMmuUsage", "automatic")
        .with("virtualExecUsage", "hvAuto")
        .with("snapshotPowerOffBehavior", "powerOff")
        .with("recordReplayEnabled", false)
        .with("faultToleranceType", "unset");
    let power = Object::new("VirtualMachineDefaultPowerOpInfo")
        .with("powerOffType", "soft")
        .with("suspendType", "hard")
        .with("resetType", "soft")
        .with("defaultPowerOffType", "soft")
        .with("defaultSuspendType", "hard")
        .with("defaultResetType", "soft")
        .with("standbyAction", "checkpoint");
    let hardware = Object::new("VirtualHardware")
        .with("numCPU", machine.cpu_count)
        .with("numCoresPerSocket", 1)
        .with("memoryMB", machine.memory_mb)
        .with("virtualICH7MPresent", false)
        .with("virtualSMCPresent", false)
        .with("device", list("VirtualDevice", devices::virtual_devices(world, machine)));
    let url = world.datastore(&machine.datastore).map(|datastore| {
        let pair = Object::new("VirtualMachineConfigInfoDatastoreUrlPair")
            .with("name", &datastore.name)
            .with("url", &datastore.url);
        list("VirtualMachineConfigInfoDatastoreUrlPair", vec![pair])
    });
    Object::new("VirtualMachineConfigInfo")
        .with("changeVersion", machine.change_version())
        .with("modified", machine.reconfigured_at.unwrap_or(machine.created_at))
        .with("name", escape_vim(&machine.name))
        .with("guestFullName", &machine.guest_full_name)
        .with("version", HARDWARE_VERSION)
        .with("uuid", &machine.bios_uuid)
        .with("createDate", machine.created_at)
        .with("instanceUuid", &machine.instance_uuid)
        .with("npivTemporaryDisabled", true)
        .with("template", machine.template)
        .with("guestId", &machine.guest_id)
        .with("alternateGuestName", "")
        .with("annotation", &machine.annotation)
        .with("files", files)
        .with("tools", tools)
        .with("flags", flags)
        .with("defaultPowerOps", power)
        .with("hardware", hardware)
        .with("cpuAllocation", allocation(1_000 * machine.cpu_count))
        .with("memoryAllocation", allocation(10 * machine.memory_mb))
        .with(
            "latencySensitivity",
            Object::new("LatencySensitivity")
                .with("level", enum_value("LatencySensitivitySensitivityLevel", "normal")),
        )
        .with("memoryHotAddEnabled", false)
        .with("cpuHotAddEnabled", false)
        .with("cpuHotRemoveEnabled", false)
        .with("extraConfig", list("OptionValue", extra_config(machine)))
        .with("datastoreUrl", url)
        .with("swapPlacement", "inherit")
        .with("bootOptions", boot_options(&machine.boot))
        .with("vAssertsEnabled", false)
        .with("changeTrackingEnabled", false)
        .with("firmware", "efi")
        .with("maxMksConnections", machine.max_mks_connections)
        .with("guestAutoLockEnabled", false)
        .with("memoryReservationLockedToMax", false)
        .with("nestedHVEnabled", machine.nested_virtualization)
        .with("vPMCEnabled", false)
}

fn boot_options(boot: &BootSettings) -> Object {
    let device = |device: &BootDevice| match device {
        BootDevice::Cdrom => Object::new("VirtualMachineBootOptionsBootableCdromDevice"),
        BootDevice::Floppy => Object::new("VirtualMachineBootOptionsBootableFloppyDevice"),
        BootDevice::Disk(key) => {
            Object::new("VirtualMachineBootOptionsBootableDiskDevice").with("deviceKey", *key)
        }
        BootDevice::Network(key) => {
            Object::new("VirtualMachineBootOptionsBootableEthernetDevice").with("deviceKey", *key)
        }
    };
    let order: Vec<Object> = boot.order.iter().map(device).collect();
    let order = (!order.is_empty()).then(|| list("VirtualMachineBootOptionsBootableDevice", order));
    Object::new("VirtualMachineBootOptions")
        .with("bootDelay", boot.delay_ms)
        .with("enterBIOSSetup", boot.enters_setup)
        .with("efiSecureBootEnabled", false)
        .with("bootRetryEnabled", boot.retries)
        .with("bootRetryDelay", boot.retry_delay_ms)
        .with("bootOrder", order)
        .with("networkBootProtocol", "ipv4")
}

/// A `ResourceAllocationInfo` without reservation and limit, with these shares at level `normal`.
fn allocation(shares: i32) -> Object {
    let shares = Object::new("SharesInfo")
        .with("shares", shares)
        .with("level", enum_value("SharesLevel", "normal"));
    Object::new("ResourceAllocationInfo")
        .with("reservation", 0_i64)
        .with("expandableReservation", false)
        .with("limit", -1_i64)
        .with("shares", shares)
}

/// `VirtualMachineCapability`, which is the same for each machine. Every feature is supported,
/// except old features and features of devices that the machines do not have.
fn capability() -> Object {
    supported_features(
        "VirtualMachineCapability",
        &[
            "consolePreferencesSupported",
            "vmNpivWwnSupported",
            "npivWwnOnNonRdmVmSupported",
            "vmNpivWwnDisableSupported",
            "vmNpivWwnUpdateSupported",
            "recordReplaySupported",
            "hostBasedReplicationSupported",
            "seSparseDiskSupported",
        ],
    )
}

fn extra_config(machine: &Machine) -> Vec<Object> {
    let options = machine.options().into_iter();
    let options = options
        .map(|(key, value)| Object::new("OptionValue").with("key", key).with("value", value));
    options.collect()
}

fn runtime(machine: &Machine) -> Object {
    let on = machine.power == PowerState::On;
    Object::new("VirtualMachineRuntimeInfo")
        .with("host", Moref::new("HostSystem", "ha-host"))
        .with(
            "connectionState",
            enum_value("VirtualMachineConnectionState", &machine.connection_state),
        )
        .with("powerState", enum_value("VirtualMachinePowerState", machine.power.as_str()))
        .with(
            "faultToleranceState",
            enum_value("VirtualMachineFaultToleranceState", "notConfigured"),
        )
        .with("toolsInstallerMounted", false)
        .with("suspendTime", machine.suspended_at)
        .with("bootTime", machine.booted_at)
        .with("suspendInterval", 0_i64)
        .with("question", machine.question.as_ref().map(question))
        .with("memoryOverhead", on.then_some(40_710_144_i64))
        .with("maxCpuUsage", machine.cpu_count * 2_400)
        .with("maxMemoryUsage", machine.memory_mb)
        .with("numMksConnections", machine.mks_connections)
        .with("recordReplayState", enum_value("VirtualMachineRecordReplayState", "inactive"))
        .with("cleanPowerOff", (!on).then_some(false))
        .with("onlineStandby", false)
        .with("consolidationNeeded", machine.consolidation_needed)
}

fn question(question: &Question) -> Object {
    let choices = question.choices.iter().map(|choice| {
        Object::new("ElementDescription")
            .with("label", &choice.label)
            .with("summary", &choice.summary)
            .with("key", &choice.key)
    });
    let choice = Object::new("ChoiceOption")
        .with("choiceInfo", list("ElementDescription", choices.collect()))
        .with("defaultIndex", question.default_choice);
    let message = Object::new("VirtualMachineMessage")
        .with("id", &question.message_id)
        .with("text", &question.text);
    Object::new("VirtualMachineQuestionInfo")
        .with("id", &question.id)
        .with("text", format!("{}: {}", question.message_id, question.text))
        .with("choice", choice)
        .with("message", list("VirtualMachineMessage", vec![message]))
}

fn tools_status(machine: &Machine) -> (&'static str, &'static str, &'static str) {
    match (machine.guest.tools_installed, machine.guest.tools_running) {
        (false, _) => ("toolsNotInstalled", "guestToolsNotInstalled", "guestToolsNotRunning"),
        (true, false) => ("toolsNotRunning", "guestToolsUnmanaged", "guestToolsNotRunning"),
        (true, true) => ("toolsOk", "guestToolsUnmanaged", "guestToolsRunning"),
    }
}

fn guest(world: &World, machine: &Machine) -> Object {
    let (status, version_status, running) = tools_status(machine);
    let address = machine.guest.reported_address.as_ref();
    let up = machine.guest.tools_running;
    Object::new("GuestInfo")
        .with("toolsStatus", enum_value("VirtualMachineToolsStatus", status))
        .with("toolsVersionStatus", version_status)
        .with("toolsVersionStatus2", version_status)
        .with("toolsRunningStatus", running)
        .with("toolsVersion", if machine.guest.tools_installed { "12389" } else { "0" })
        .with("guestId", up.then_some(&machine.guest_id))
        .with("guestFamily", up.then_some("linuxGuest"))
        .with("guestFullName", up.then_some(&machine.guest_full_name))
        .with("hostName", up.then(|| machine.name.replace(['/', ' '], "-")))
        .with("ipAddress", address)
        .with("net", address.map(|_| list("GuestNicInfo", guest_net(world, machine))))
        .with("guestState", if up { "running" } else { "notRunning" })
        .with("appHeartbeatStatus", "appStatusGray")
        .with("guestOperationsReady", up)
        .with("interactiveGuestOperationsReady", false)
        .with("guestStateChangeSupported", up)
}

fn guest_net(world: &World, machine: &Machine) -> Vec<Object> {
    let nic = |interface: GuestInterface| {
        let GuestInterface { mac_address, addresses } = interface;
        let card = machine.network_cards.iter().find(|card| card.mac_address == mac_address);
        let configured = addresses.iter().map(|address| {
            Object::new("NetIpConfigInfoIpAddress")
                .with("ipAddress", address)
                .with("prefixLength", if address.contains(':') { 64 } else { 24 })
                .with("state", "preferred")
        });
        let ip_config = Object::new("NetIpConfigInfo")
            .with("ipAddress", list("NetIpConfigInfoIpAddress", configured.collect()));
        Object::new("GuestNicInfo")
            .with("network", card.map(|card| world.network_name(&card.network)))
            .with("ipAddress", super::super::value::texts(addresses.iter().map(String::as_str)))
            .with("macAddress", mac_address)
            .with("connected", card.is_none_or(|card| card.connected))
            // A host writes the key -1 for an interface that exists only in the guest.
            .with("deviceConfigId", card.map_or(-1, |card| card.key))
            .with("ipConfig", ip_config)
    };
    machine.reported_interfaces().into_iter().map(nic).collect()
}

fn summary(world: &World, machine: &Machine) -> Object {
    let readable = machine.is_readable();
    let cards = i32::try_from(machine.network_cards.len()).ok();
    let disks = i32::try_from(machine.disk_keys().len()).ok();
    let config = Object::new("VirtualMachineConfigSummary")
        .with("name", escape_vim(&machine.name))
        .with("template", machine.template)
        .with("vmPathName", &machine.path)
        .with("memorySizeMB", readable.then_some(machine.memory_mb))
        .with("cpuReservation", readable.then_some(0))
        .with("memoryReservation", readable.then_some(0))
        .with("numCpu", readable.then_some(machine.cpu_count))
        .with("numEthernetCards", cards.filter(|_| readable))
        .with("numVirtualDisks", disks.filter(|_| readable))
        .with("uuid", readable.then_some(&machine.bios_uuid))
        .with("instanceUuid", readable.then_some(&machine.instance_uuid))
        .with("guestId", readable.then_some(&machine.guest_id))
        .with("guestFullName", readable.then_some(&machine.guest_full_name))
        .with("annotation", readable.then_some(&machine.annotation))
        .with("installBootRequired", readable.then_some(false))
        .with("hwVersion", readable.then_some(HARDWARE_VERSION));
    let storage = Object::new("VirtualMachineStorageSummary")
        .with("committed", machine.all_disk_bytes())
        .with("uncommitted", 0_i64)
        .with("unshared", machine.all_disk_bytes())
        .with("timestamp", machine.created_at);
    let on = machine.power == PowerState::On;
    let uptime =
        machine.booted_at.map_or(0, |booted| world.now().wall.as_second() - booted.as_second());
    let quick = Object::new("VirtualMachineQuickStats")
        .with("overallCpuUsage", if on { 240 } else { 0 })
        .with("guestMemoryUsage", if on { machine.memory_mb / 8 } else { 0 })
        .with("hostMemoryUsage", if on { machine.memory_mb } else { 0 })
        .with("guestHeartbeatStatus", enum_value("ManagedEntityStatus", heartbeat(machine)))
        // The uptime is rounded to minutes, because a host updates the numbers of `quickStats` only
        // now and then.
        .with("uptimeSeconds", i32::try_from(uptime / 60 * 60).unwrap_or(i32::MAX));
    Object::new("VirtualMachineSummary")
        .with("vm", Moref::new("VirtualMachine", machine.id.clone()))
        .with("runtime", runtime(machine))
        .with("guest", guest_summary(world, machine))
        .with("config", config)
        .with("storage", storage)
        .with("quickStats", quick)
        .with("overallStatus", enum_value("ManagedEntityStatus", "green"))
}

/// `VirtualMachineGuestSummary`. Each field is a copy of the field of the same name in the
/// machine's property `guest`.
fn guest_summary(world: &World, machine: &Machine) -> Object {
    let guest = guest(world, machine);
    let copied = schema::fields("VirtualMachineGuestSummary").unwrap_or_default();
    copied.iter().fold(Object::new("VirtualMachineGuestSummary"), |summary, field| {
        summary.with(field.name, guest.get(field.name).cloned())
    })
}

const fn heartbeat(machine: &Machine) -> &'static str {
    if machine.guest.tools_running { "green" } else { "gray" }
}

fn usage(machine: &Machine) -> Object {
    Object::new("VirtualMachineUsageOnDatastore")
        .with("datastore", Moref::new("Datastore", machine.datastore.clone()))
        .with("committed", machine.all_disk_bytes())
        .with("uncommitted", 0_i64)
        .with("unshared", machine.all_disk_bytes())
}

fn layout(world: &World, machine: &Machine) -> Object {
    let base = machine.path.trim_end_matches(".vmx");
    let file = |key: i32, suffix: &str, kind: &str, size: i64| {
        Object::new("VirtualMachineFileLayoutExFileInfo")
            .with("key", key)
            .with("name", format!("{base}{suffix}"))
            .with("type", kind)
            .with("size", size)
            .with("uniqueSize", size)
            .with("accessible", true)
    };
    let mut files = vec![
        file(0, ".vmx", "config", 3_200),
        file(1, ".vmsd", "snapshotList", 512),
        file(2, ".nvram", "nvram", 270_840),
        file(3, ".vmdk", "diskDescriptor", 0),
        file(4, "-flat.vmdk", "diskExtent", machine.disk_bytes),
    ];
    let mut snapshots = Vec::new();
    for (key, snapshot) in (5..).zip(&machine.snapshots) {
        files.push(file(
            key,
            &format!("-Snapshot{}.vmsn", snapshot.number),
            "snapshotData",
            30_000,
        ));
        snapshots.push(
            Object::new("VirtualMachineFileLayoutExSnapshotLayout")
                .with("key", snapshot_moref(snapshot))
                .with("dataKey", key)
                .with("memoryKey", -1)
                .with("disk", list("VirtualMachineFileLayoutExDiskLayout", vec![disk_layout()])),
        );
    }
    let first_free = i32::try_from(files.len()).unwrap_or(i32::MAX);
    for (key, path) in (first_free..).zip(&machine.screenshots) {
        files.push(
            Object::new("VirtualMachineFileLayoutExFileInfo")
                .with("key", key)
                .with("name", path)
                .with("type", "screenshot")
                .with("size", 40_960_i64)
                .with("uniqueSize", 40_960_i64)
                .with("accessible", true),
        );
    }
    Object::new("VirtualMachineFileLayoutEx")
        .with("file", list("VirtualMachineFileLayoutExFileInfo", files))
        .with("disk", list("VirtualMachineFileLayoutExDiskLayout", vec![disk_layout()]))
        .with("snapshot", list("VirtualMachineFileLayoutExSnapshotLayout", snapshots))
        .with("timestamp", world.now().wall)
}

/// The layout of the machine's only disk. The keys are those of the disk's descriptor and of its
/// extent in the list of files (`VirtualMachineFileLayoutEx.file`).
fn disk_layout() -> Object {
    let files = Value::List("int", vec![Value::Int(3), Value::Int(4)]);
    let unit = Object::new("VirtualMachineFileLayoutExDiskUnit").with("fileKey", files);
    Object::new("VirtualMachineFileLayoutExDiskLayout")
        .with("key", 2_000)
        .with("chain", list("VirtualMachineFileLayoutExDiskUnit", vec![unit]))
}

fn snapshot_info(machine: &Machine) -> Option<Object> {
    if machine.snapshots.is_empty() {
        return None;
    }
    let mut below: HashMap<Option<&str>, Vec<&Snapshot>> = HashMap::new();
    for snapshot in &machine.snapshots {
        below.entry(snapshot.parent.as_deref()).or_default().push(snapshot);
    }
    // A stack of the snapshots that are still to visit, each with its depth in the tree. The last
    // entry is visited next.
    let mut open: Vec<(usize, &Snapshot)> = Vec::new();
    open.extend(below.get(&None).into_iter().flatten().rev().map(|root| (0, *root)));
    let mut flat = Vec::with_capacity(machine.snapshots.len());
    while let Some((depth, snapshot)) = open.pop() {
        flat.push((depth, tree(machine, snapshot)));
        let children = below.get(&Some(snapshot.id.as_str())).into_iter().flatten();
        open.extend(children.rev().map(|child| (depth + 1, *child)));
    }
    let current =
        machine.current_snapshot.clone().map(|id| Moref::new("VirtualMachineSnapshot", id));
    Some(
        Object::new("VirtualMachineSnapshotInfo")
            .with("currentSnapshot", current)
            .with("rootSnapshotList", Value::Forest(Forest(flat))),
    )
}

fn tree(machine: &Machine, snapshot: &Snapshot) -> Object {
    Object::new("VirtualMachineSnapshotTree")
        .with("snapshot", snapshot_moref(snapshot))
        .with("vm", Moref::new("VirtualMachine", machine.id.clone()))
        .with("name", escape_vim(&snapshot.name))
        .with("description", &snapshot.description)
        .with("id", snapshot.number)
        .with("createTime", snapshot.created_at)
        .with("state", enum_value("VirtualMachinePowerState", snapshot.state.as_str()))
        .with("quiesced", snapshot.quiesced)
}

fn snapshot_moref(snapshot: &Snapshot) -> Moref {
    Moref::new("VirtualMachineSnapshot", snapshot.id.clone())
}
