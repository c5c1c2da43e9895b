//! Tests that every property of the simulated host conforms to the schema: fields in their order
//! and of their types, and no required field missing.

use std::time::Duration;

use jiff::Timestamp;

use super::properties;
use super::read_scope::ReadScope;
use super::schema::{self, Occurs};
use super::session::Sessions;
use super::value::{Forest, Object, Value};
use super::world::{self, Moment};
use super::{Fault, Moref, Pace, Scenario};

#[test]
fn every_property_of_every_object_conforms_to_the_schema() {
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
    ] {
        objects.push(Moref::new(kind, id));
    }
    let mut wrong = Vec::new();
    let mut checked = 0;
    for object in objects {
        assert!(properties::exists(scope, &object), "{object:?}");
        for field in schema::fields(object.kind).unwrap() {
            if let Some(value) = properties::property(scope, &object, field.name) {
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
    let text_like = matches!(declared, "TypeName" | "MethodName" | "PropertyPath" | "anyURI")
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
