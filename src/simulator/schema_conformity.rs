//! Tests that every property of the simulated host conforms to the schema: fields in their order
//! and of their types, no required field or property missing, and no reference to an object that
//! does not exist. Clients follow such fields and references without a check.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::properties;
use super::read_scope::ReadScope;
use super::schema::{self, Occurs};
use super::session::Sessions;
use super::value::{Forest, Object, Value};
use super::world::{self, Moment, World};
use super::{Fault, Moref, Pace, Scenario};

/// The required properties that the simulated host leaves unset: a deprecated property of licences,
/// and the configuration of a snapshot whose machine is unreadable.
const UNSET: [&str; 2] = ["LicenseManager.source", "VirtualMachineSnapshot.config"];

#[test]
fn every_property_of_every_object_conforms_to_the_schema() {
    let now = Moment { wall: Timestamp::constant(1_780_000_000, 0), elapsed: Duration::ZERO };
    let mut world = Scenario::lab().unwrap().build(Pace::Stepped, now);
    for (machine, reference) in [
        ("16", world::CardNetwork::PortGroup("dvportgroup-12".to_owned())),
        ("17", world::CardNetwork::Opaque("6c1f".to_owned())),
    ] {
        world.machine_mut(machine).unwrap().network_cards[0].network = reference.clone();
        world.add_network(world::Network { name: "lab".to_owned(), reference });
    }
    world.fail_next_task(
        "PowerOnVM_Task",
        Fault::new("NoDiskSpace", "none").with("file", "x").with("datastore", "datastore1"),
    );
    for machine in ["16", "17", "32"] {
        let task = world.start_task(machine, world::Operation::PowerOn, "root").unwrap();
        world.finish_task(&task.id);
    }
    add_devices(&mut world);
    search_files(&mut world);
    let sessions = Sessions::new("root", "otter".into(), None, 1);
    let scope = ReadScope { world: &world, sessions: &sessions, session: None };
    let mut objects =
        properties::contained(&world, &Moref::new("Folder", "ha-folder-root"), &[], true);
    objects.push(Moref::new("Folder", "ha-folder-root"));
    objects.extend(world.tasks().map(world::Task::moref));
    for machine in world.machines() {
        let snapshots = machine.snapshots.iter();
        objects.extend(
            snapshots.map(|snapshot| Moref::new("VirtualMachineSnapshot", snapshot.id.clone())),
        );
    }
    for (kind, id) in [
        ("ServiceInstance", "ServiceInstance"),
        ("SessionManager", "ha-sessionmgr"),
        ("TaskManager", "ha-taskmgr"),
        ("EventManager", "ha-eventmgr"),
        ("LicenseManager", "ha-license-manager"),
        ("GuestOperationsManager", "ha-guest-operations-manager"),
        ("EnvironmentBrowser", "ha-env-browser"),
        ("HostNetworkSystem", "networkSystem"),
        ("FileManager", "ha-nfc-file-manager"),
        ("HostDatastoreBrowser", "ha-host-datastorebrowser"),
    ] {
        objects.push(Moref::new(kind, id));
    }
    let mut wrong = Vec::new();
    let mut referred = BTreeSet::new();
    let mut checked = 0;
    for object in objects {
        assert!(properties::exists(scope, &object), "{object:?}");
        for field in schema::fields(object.kind).unwrap() {
            let path = format!("{}.{}", object.kind, field.name);
            let value = properties::property(scope, &object, field.name);
            if value.is_none() && field.occurs == Occurs::Once && !UNSET.contains(&&*path) {
                wrong.push(format!("{path} is missing"));
            }
            if let Some(value) = value {
                checked += 1;
                collect_references(&value, &mut referred);
                let declared = if field.reference { "" } else { field.type_name };
                check(&value, declared, &path, &mut wrong);
            }
        }
    }
    let dangling = referred.iter().filter(|object| !properties::exists(scope, object));
    wrong.extend(dangling.map(|object| format!("{object:?} does not exist")));
    check(&properties::events(&world, world.history().events()), "Event", "history", &mut wrong);
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(checked > 500);
}

/// Gives a machine each kind of drive, disk, controller and boot device.
fn add_devices(world: &mut World) {
    let controllers = ["VirtualAHCIController", "ParaVirtualSCSIController"];
    let machine = world.machine_mut("16").unwrap();
    machine.controllers = controllers
        .into_iter()
        .zip([15_000, 1_001])
        .map(|(kind, key)| world::Controller { kind, key, bus: key % 1_000 })
        .collect();
    machine.added_disks.push(world::AddedDisk {
        key: 2_016,
        controller: 1_001,
        unit: 0,
        bytes: 1 << 30,
        path: "[scratch] more.vmdk".to_owned(),
    });
    let host_drive = world::CdBacking::Device {
        kind: "VirtualCdromAtapiBackingInfo",
        name: "/vmfs/devices/cdrom".to_owned(),
        exclusive: None,
    };
    machine.cd_drives = vec![
        world::CdDrive::at(0),
        world::CdDrive::at(1).with_iso("[isos] a.iso"),
        world::CdDrive { backing: host_drive, ..world::CdDrive::new(16_000, 15_000, 0) },
    ];
    machine.boot.order = vec![
        world::BootDevice::Cdrom,
        world::BootDevice::Floppy,
        world::BootDevice::Disk(world::FIRST_DISK),
        world::BootDevice::Network(4_000),
    ];
}

/// Searches with all details, so that the results of the tasks have files of each type.
fn search_files(world: &mut World) {
    for name in ["a.iso", "a.flp", "a.vmtx", "a.txt"] {
        world.put_file(&format!("[datastore1] kinds/{name}"), world::FileContent::of(b"a"));
    }
    let details = world::SearchDetails {
        has_type: true,
        has_size: true,
        has_modification: true,
        has_owner: true,
        has_disk: true,
    };
    for with_sub_folders in [false, true] {
        let search = world::FileSearch {
            folder: world::FilePath::parse("[datastore1]").unwrap(),
            with_sub_folders,
            patterns: Vec::new(),
            ignores_case: false,
            types: Vec::new(),
            details,
            sorts_folders_first: true,
        };
        let operation = world::Operation::SearchFiles(Box::new(search));
        let task = world.start_file_task(operation, "root").unwrap();
        world.finish_task(&task.id);
        assert_eq!(world.task(&task.id).unwrap().error, None);
    }
}

fn collect_references(value: &Value, into: &mut BTreeSet<Moref>) {
    match value {
        Value::Reference(moref) => {
            into.insert(moref.clone());
        }
        Value::Object(object) => {
            object.fields.iter().for_each(|(_, field)| collect_references(field, into));
        }
        Value::List(_, items) => items.iter().for_each(|item| collect_references(item, into)),
        Value::Forest(Forest(trees)) => {
            let fields = trees.iter().flat_map(|(_, tree)| &tree.fields);
            fields.for_each(|(_, field)| collect_references(field, into));
        }
        _ => {}
    }
}

fn check(value: &Value, declared: &str, at: &str, wrong: &mut Vec<String>) {
    let found_type = match value {
        Value::Object(object) => {
            check_object(object, at, wrong);
            object.type_name
        }
        Value::List(_, items) => {
            for item in items {
                check(item, declared, at, wrong);
            }
            return;
        }
        Value::Forest(Forest(trees)) => {
            for (_, tree) in trees {
                check_object(tree, at, wrong);
            }
            return;
        }
        Value::Reference(_) => "",
        Value::Text(_) => "string",
        Value::Int(_) => "int",
        Value::Long(_) => "long",
        Value::Short(_) => "short",
        Value::Byte(_) => "byte",
        Value::Boolean(_) => "boolean",
        Value::Time(_) => "dateTime",
        Value::Enum(type_name, _) => type_name,
    };
    let text_like =
        matches!(declared, "TypeName" | "MethodName" | "PropertyPath" | "anyURI" | "Link")
            && found_type == "string";
    if declared != "anyType" && !text_like && !schema::is_a(found_type, declared) {
        wrong.push(format!("{at} is {found_type}, not {declared}"));
    }
}

fn check_object(object: &Object, at: &str, wrong: &mut Vec<String>) {
    let Some(fields) = schema::fields(object.type_name) else {
        if !object.fields.is_empty() {
            wrong.push(format!("{at}: {} is not declared", object.type_name));
        }
        return;
    };
    let mut next = 0;
    for (name, value) in &object.fields {
        match fields[next..].iter().position(|field| field.name == *name) {
            Some(ahead) => {
                let field = &fields[next + ahead];
                next += ahead + 1;
                let declared = if field.reference { "" } else { field.type_name };
                check(value, declared, &format!("{}.{name}", object.type_name), wrong);
            }
            None => wrong.push(format!("{}.{name} is out of place", object.type_name)),
        }
    }
    for field in fields.iter().filter(|field| field.occurs == Occurs::Once) {
        if object.get(field.name).is_none() {
            wrong.push(format!("{}.{} is missing", object.type_name, field.name));
        }
    }
}

/// Each field of a machine's `summary` that has the same name as a field of `guest`, `runtime` or
/// `config` must have the same value as that field, in each state of a machine.
#[test]
fn the_summary_of_a_machine_agrees_with_the_properties_that_it_repeats() {
    const CONFIG: [(&str, &str); 13] = [
        ("name", "name"),
        ("template", "template"),
        ("vmPathName", "files.vmPathName"),
        ("memorySizeMB", "hardware.memoryMB"),
        ("cpuReservation", "cpuAllocation.reservation"),
        ("memoryReservation", "memoryAllocation.reservation"),
        ("numCpu", "hardware.numCPU"),
        ("uuid", "uuid"),
        ("instanceUuid", "instanceUuid"),
        ("guestId", "guestId"),
        ("guestFullName", "guestFullName"),
        ("annotation", "annotation"),
        ("hwVersion", "version"),
    ];
    let now = Moment { wall: Timestamp::constant(1_780_000_000, 0), elapsed: Duration::ZERO };
    let world = Scenario::lab().unwrap().build(Pace::Stepped, now);
    let sessions = Sessions::new("root", "otter".into(), None, 1);
    let scope = ReadScope { world: &world, sessions: &sessions, session: None };
    let mut with_host_name = 0;
    for machine in world.machines() {
        let object = Moref::new("VirtualMachine", machine.id.clone());
        let property = |name: &str| properties::property(scope, &object, name);
        let summary = property("summary").unwrap();
        assert_eq!(summary.descend("runtime"), property("runtime"), "{object:?}");
        assert_eq!(summary.descend("config.name"), property("name"), "{object:?}");
        let guest = property("guest").unwrap();
        for field in schema::fields("VirtualMachineGuestSummary").unwrap() {
            let copy = summary.descend(&format!("guest.{}", field.name));
            assert_eq!(copy, guest.descend(field.name), "{object:?}: guest.{}", field.name);
            with_host_name += usize::from(field.name == "hostName" && copy.is_some());
        }
        let Some(config) = property("config") else { continue };
        let text = |value: Option<Value>| match value {
            Some(Value::Long(number)) => Some(number.to_string()),
            Some(Value::Int(number)) => Some(number.to_string()),
            other => other.map(|other| format!("{other:?}")),
        };
        for (copy, original) in CONFIG {
            let copied = text(summary.descend(&format!("config.{copy}")));
            assert!(copied.is_some(), "{object:?}: {copy}");
            assert_eq!(copied, text(config.descend(original)), "{object:?}: {copy}");
        }
    }
    assert!(with_host_name > 0);
}
