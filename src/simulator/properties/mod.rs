//! The properties of managed objects, as typed values. A read makes the complete value of a
//! top-level property, and then takes the part at the requested path out of that value.
//!
//! The objects of the host:
//!
//! ```text
//! ha-folder-root ─ ha-datacenter ─┬ ha-folder-vm ── machines ── snapshots, tasks
//!                                 ├ ha-folder-host ── ha-compute-res ─┬ ha-host
//!                                 │                                   └ ha-root-pool
//!                                 ├ ha-folder-datastore ── datastores ── browsers
//!                                 └ ha-folder-network ── networks
//! ```

mod devices;
mod event;
mod host;
mod inventory;
mod machine;
mod network;
mod service;
mod task;

use super::read_scope::ReadScope;
use super::schema::{self, Occurs};
use super::value::{Moref, Object, Value, enum_value, list, references};
use super::world::{HostEvent, Network, World};

/// The moid of the environment browser, which all machines share.
const ENVIRONMENT_BROWSER: &str = "ha-env-browser";

/// The name of a managed type as a `'static` string. `None` if no object of the host has this type.
#[must_use]
pub fn managed_type(name: &str) -> Option<&'static str> {
    service::SINGLETONS
        .iter()
        .chain(service::GUEST_MANAGERS)
        .chain(host::MANAGERS)
        .map(|singleton| singleton.kind)
        .chain([
            "VirtualMachine",
            "VirtualMachineSnapshot",
            "Task",
            "Datastore",
            "HostDatastoreBrowser",
            "PropertyFilter",
            "ContainerView",
            "ListView",
            "EventHistoryCollector",
            "Folder",
            "Datacenter",
            "ComputeResource",
            "ResourcePool",
            "HostSystem",
            "Network",
            "DistributedVirtualPortgroup",
            "OpaqueNetwork",
            "EnvironmentBrowser",
        ])
        .find(|known| *known == name)
}

/// Whether the object exists for the caller of the read: on the host, or as an object that the
/// caller's session has made.
#[must_use]
pub fn exists(scope: ReadScope<'_>, object: &Moref) -> bool {
    let id = object.id.as_str();
    match object.kind {
        "VirtualMachine" => scope.world.machine(id).is_some(),
        "VirtualMachineSnapshot" => scope.world.machine_of_snapshot(id).is_some(),
        "Task" => scope.world.task(id).is_some(),
        "Datastore" => scope.world.datastore(id).is_some(),
        "HostDatastoreBrowser" => {
            id == "ha-host-datastorebrowser"
                || id
                    .strip_suffix("-datastorebrowser")
                    .is_some_and(|store| scope.world.datastore(store).is_some())
        }
        "ContainerView" | "ListView" | "EventHistoryCollector" | "PropertyFilter" => {
            scope.session.is_some_and(|session| session.has(object))
        }
        "PropertyCollector" if id != "ha-property-collector" => {
            scope.session.is_some_and(|session| session.has(object))
        }
        "Folder" => matches!(
            id,
            "ha-folder-root"
                | "ha-folder-vm"
                | "ha-folder-host"
                | "ha-folder-datastore"
                | "ha-folder-network"
        ),
        "Datacenter" => id == "ha-datacenter",
        "ComputeResource" => id == "ha-compute-res",
        "ResourcePool" => id == "ha-root-pool",
        "HostSystem" => id == "ha-host",
        "Network" | "DistributedVirtualPortgroup" | "OpaqueNetwork" => {
            network::find(scope.world, object).is_some()
        }
        "EnvironmentBrowser" => id == ENVIRONMENT_BROWSER,
        kind => service::SINGLETONS
            .iter()
            .chain(service::GUEST_MANAGERS)
            .chain(host::MANAGERS)
            .any(|known| known.kind == kind && known.id == id),
    }
}

/// The value of a top-level property of an existing object. `None` if the property has no value.
#[must_use]
pub fn property(scope: ReadScope<'_>, object: &Moref, name: &str) -> Option<Value> {
    if name == "effectiveRole" && schema::is_a(object.kind, "ManagedEntity") {
        return Some(Value::List("int", vec![Value::Int(scope.world.role())]));
    }
    match object.kind {
        "VirtualMachine" => machine::property(scope.world, scope.world.machine(&object.id)?, name),
        "VirtualMachineSnapshot" => machine::snapshot_property(scope.world, &object.id, name),
        "Task" => match name {
            "info" => Some(Value::Object(task::info(scope.world.task(&object.id)?))),
            "availableField" => Some(list("CustomFieldDef", Vec::new())),
            "value" => Some(list("CustomFieldValue", Vec::new())),
            _ => None,
        },
        "ContainerView"
        | "ListView"
        | "EventHistoryCollector"
        | "PropertyFilter"
        | "PropertyCollector" => scope.session?.property(scope.world, object, name),
        "Network" | "DistributedVirtualPortgroup" | "OpaqueNetwork" => {
            network::property(scope.world, network::find(scope.world, object)?, name)
        }
        "HostSystem" => host::property(scope.world, name),
        "HostNetworkSystem" | "HostDatastoreSystem" => {
            host::manager_property(scope.world, object.kind, name)
        }
        "Folder"
        | "Datacenter"
        | "ComputeResource"
        | "ResourcePool"
        | "Datastore"
        | "HostDatastoreBrowser"
        | "EnvironmentBrowser" => inventory::property(scope.world, object, name),
        _ => service::property(scope, object, name),
    }
}

/// The names of the properties of a managed type.
pub fn names(kind: &str) -> impl Iterator<Item = &'static str> {
    schema::fields(kind).unwrap_or_default().iter().map(|field| field.name)
}

/// The objects in a container that have one of these types, in the order of the inventory. If
/// `types` is empty, every type counts. If `recursive` is false, only the direct children count.
#[must_use]
pub fn contained(
    world: &World,
    container: &Moref,
    types: &[String],
    recursive: bool,
) -> Vec<Moref> {
    let mut found = Vec::new();
    let mut open = vec![container.clone()];
    while let Some(at) = open.pop() {
        for child in children(world, &at) {
            if types.is_empty() || types.iter().any(|type_name| schema::is_a(child.kind, type_name))
            {
                found.push(child.clone());
            }
            if recursive && !matches!(child.kind, "VirtualMachine" | "Datastore" | "Network") {
                open.push(child);
            }
        }
    }
    found
}

/// The direct children of a container, in the order of the inventory.
#[must_use]
pub fn children(world: &World, parent: &Moref) -> Vec<Moref> {
    let machines =
        || world.machines().map(|machine| Moref::new("VirtualMachine", machine.id.clone()));
    match parent.id.as_str() {
        "ha-folder-root" => vec![Moref::new("Datacenter", "ha-datacenter")],
        "ha-datacenter" => {
            ["ha-folder-vm", "ha-folder-host", "ha-folder-datastore", "ha-folder-network"]
                .map(|id| Moref::new("Folder", id))
                .to_vec()
        }
        "ha-folder-vm" => machines().collect(),
        "ha-folder-host" => vec![Moref::new("ComputeResource", "ha-compute-res")],
        "ha-folder-datastore" => inventory::datastores(world).collect(),
        "ha-folder-network" => world.networks().map(Network::moref).collect(),
        "ha-compute-res" => {
            vec![Moref::new("HostSystem", "ha-host"), Moref::new("ResourcePool", "ha-root-pool")]
        }
        _ => Vec::new(),
    }
}

/// The name of a managed entity, escaped as the host writes names. `None` if the entity does not
/// exist.
#[must_use]
pub fn entity_name(world: &World, entity: &Moref) -> Option<String> {
    let name = match entity.kind {
        "VirtualMachine" => machine::property(world, world.machine(&entity.id)?, "name"),
        _ => match network::find(world, entity) {
            Some(network) => network::property(world, network, "name"),
            None => inventory::property(world, entity, "name"),
        },
    };
    match name? {
        Value::Text(name) => Some(name),
        _ => None,
    }
}

/// The `ServiceContent` of the host.
#[must_use]
pub fn content(world: &World) -> Value {
    Value::Object(service::content(world))
}

/// The events as a vim25 list of `Event`.
pub fn events<'e>(world: &World, events: impl IntoIterator<Item = &'e HostEvent>) -> Value {
    list("Event", events.into_iter().map(|host_event| event::object(world, host_event)).collect())
}

/// The vim25 type of an event.
#[must_use]
pub const fn event_type(event: &HostEvent) -> &'static str {
    event::type_name(&event.detail)
}

/// The category of an event: `info`, `warning`, `error` or `user`.
#[must_use]
pub fn event_category(event: &HostEvent) -> &'static str {
    event::category(&event.detail)
}

/// The value of a property that every managed entity has, such as `name` and `parent`. `None` for
/// other properties.
fn entity_property(name: &str, own_name: &str, parent: Option<Moref>) -> Option<Value> {
    let empty = |item_type| Some(list(item_type, Vec::new()));
    match name {
        "name" => Some(Value::Text(crate::domain::names::escape_vim(own_name))),
        "parent" => parent.map(Value::Reference),
        "overallStatus" | "configStatus" => Some(enum_value("ManagedEntityStatus", "green")),
        "configIssue" => empty("Event"),
        "permission" => empty("Permission"),
        "disabledMethod" => empty("string"),
        "recentTask" => Some(references([])),
        "declaredAlarmState" | "triggeredAlarmState" => empty("AlarmState"),
        "tag" => empty("Tag"),
        "value" | "customValue" => empty("CustomFieldValue"),
        "availableField" => empty("CustomFieldDef"),
        _ => None,
    }
}

/// The reference to the datastore browser, which all datastores of the host share.
fn datastore_browser() -> Value {
    Value::Reference(Moref::new("HostDatastoreBrowser", "ha-host-datastorebrowser"))
}

/// The reference to the environment browser, which all machines share.
fn environment_browser() -> Value {
    Value::Reference(Moref::new("EnvironmentBrowser", ENVIRONMENT_BROWSER))
}

/// A data object of the type `type_name` in which each required boolean field is true, except the
/// fields in `lacking`.
fn supported_features(type_name: &'static str, lacking: &[&str]) -> Object {
    let declared = schema::fields(type_name).unwrap_or_default();
    let features = declared
        .iter()
        .filter(|field| field.occurs == Occurs::Once && field.type_name == "boolean");
    features.fold(Object::new(type_name), |object, field| {
        object.with(field.name, !lacking.contains(&field.name))
    })
}

fn description(label: impl Into<String>, summary: impl Into<String>) -> Object {
    Object::new("Description").with("label", label.into()).with("summary", summary.into())
}
