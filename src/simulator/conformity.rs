//! What the simulator tells is what vim25 declares: fields in their order, of their types, none
//! required missing.

use std::time::Duration;

use jiff::Timestamp;

use super::look::Look;
use super::properties;
use super::schema::{self, Occurs};
use super::session::Sessions;
use super::value::{Forest, Object, Value};
use super::world::{self, Moment, World};
use super::{Fault, Moref, Pace, Scenario};

#[test]
fn every_property_of_every_object_is_as_declared() {
    let now = Moment { wall: Timestamp::constant(1_780_000_000, 0), elapsed: Duration::ZERO };
    let mut world = Scenario::lab().unwrap().build(Pace::Stepped, now);
    world.fail_next_task(
        "PowerOnVM_Task",
        Fault::new("NoDiskSpace", "none").with("file", "x").with("datastore", "datastore1"),
    );
    for machine in ["16", "17", "32"] {
        let task = world.start_task(machine, world::Operation::PowerOn, "root").unwrap();
        world.finish_task(&task.id);
    }
    let sessions = Sessions::new("root", "otter".into(), None, 1);
    let look = Look { world: &world, sessions: &sessions, session: None };
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
    ] {
        objects.push(Moref::new(kind, id));
    }
    let mut wrong = Vec::new();
    let mut checked = 0;
    for object in objects {
        assert!(properties::exists(look, &object), "{object:?}");
        for field in schema::fields(object.kind).unwrap() {
            if let Some(value) = properties::property(look, &object, field.name) {
                checked += 1;
                let declared = if field.reference { "" } else { field.type_name };
                check(&value, declared, &format!("{}.{}", object.kind, field.name), &mut wrong);
            }
        }
    }
    check(&properties::events(&world, world.history().events()), "Event", "history", &mut wrong);
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(checked > 500);
}

fn check(value: &Value, declared: &str, at: &str, wrong: &mut Vec<String>) {
    let told = match value {
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
        Value::Word(type_name, _) => type_name,
    };
    let text_like = matches!(declared, "TypeName" | "MethodName" | "PropertyPath" | "anyURI")
        && told == "string";
    if declared != "anyType" && !text_like && !schema::is_a(told, declared) {
        wrong.push(format!("{at} is {told}, not {declared}"));
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

#[test]
fn a_scenario_says_where_it_is_wrong() {
    let with = |machine: &str| {
        let text = format!(
            "[[datastores]]\nid = \"d\"\nname = \"d\"\ncapacity_gb = 1\nfree_gb = 1\n[[machines]]\nid = \"1\"\n\
             name = \"m\"\ndatastore = \"d\"\n{machine}"
        );
        Scenario::from_toml(&text)
            .map(|scenario| scenario.machines.len())
            .map_err(|error| error.to_string())
    };
    assert_eq!(with(""), Ok(1));
    let wrong = |machine: &str, path: &str| {
        let error = with(machine).unwrap_err();
        assert!(error.contains(path), "{error}");
    };
    wrong("nmae = 1", "machines[0]");
    wrong("nmae = 1", "nmae");
    wrong("power = \"of\"", "machines[0].power");
    wrong("serial_ports = [{}]", "machines[0].serial_ports[0]");
    wrong(
        "snapshots = [{ number = 1, name = \"a\", parent = 7 }]",
        "machines[0].snapshots[0].parent",
    );
    wrong("[[machines]]\nid = \"1\"\nname = \"n\"\ndatastore = \"d\"", "machines[1].id");
    assert!(Scenario::from_toml("a = [").is_err());
    let many = Scenario::generated(1_000);
    assert_eq!(many.machines.len(), 1_000);
    let mut macs: Vec<&str> = many
        .machines
        .iter()
        .flat_map(|machine| &machine.network_cards)
        .map(|card| &*card.mac_address)
        .collect();
    macs.sort_unstable();
    macs.dedup();
    assert_eq!(macs.len(), 1_000);
}

#[test]
fn by_itself_the_host_takes_its_time() {
    use world::PowerState::{Off, On};
    let start = Timestamp::constant(1_780_000_000, 0);
    let moment = |milliseconds: u64| {
        let elapsed = Duration::from_millis(milliseconds);
        Moment { wall: start + elapsed, elapsed }
    };
    let mut world = Scenario::lab().unwrap().build(Pace::Auto { scale: 1.0 }, moment(0));
    let task = world.start_task("32", world::Operation::PowerOn, "root").unwrap();
    let progress_at = |world: &mut World, milliseconds| {
        world.advance(moment(milliseconds));
        let told = world.task(&task.id).unwrap();
        (told.state.as_str(), told.progress, world.machine("32").unwrap().power.clone())
    };
    assert_eq!(progress_at(&mut world, 0), ("running", None, Off));
    assert_eq!(progress_at(&mut world, 700), ("running", Some(50), Off));
    assert_eq!(progress_at(&mut world, 1_200), ("success", Some(100), On));
    let address = |world: &World| world.machine("32").unwrap().guest.told_address.clone();
    world.advance(moment(4_100));
    assert_eq!(address(&world), None);
    world.advance(moment(4_300));
    assert_eq!(address(&world).as_deref(), Some("10.0.0.32"));
    world.advance(moment(1_200 + 600_000));
    assert!(world.task(&task.id).is_none());
}
