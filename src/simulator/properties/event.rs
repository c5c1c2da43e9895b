//! `Event` and its kin: what a happening is on the wire, and the table of all that there may be.

use super::super::value::{Moref, Object, list};
use super::super::world::{Happening, HostEvent, MachineEvent, Subject, World};
use super::task;
use crate::domain::names::escape_vim;

/// One type of event.
struct Kind {
    name: &'static str,
    description: &'static str,
    /// `info`, `warning`, `error` or `user`.
    category: &'static str,
    /// What is said of it, in the template language of event descriptions.
    format: &'static str,
}

const fn kind(
    name: &'static str,
    description: &'static str,
    category: &'static str,
    format: &'static str,
) -> Kind {
    Kind { name, description, category, format }
}

/// Every type of event that this host knows.
const KINDS: &[Kind] = &[
    kind(
        "UserLoginSessionEvent",
        "Login",
        "info",
        "User {userName}@{ipAddress} logged in as {userAgent}",
    ),
    kind("UserLogoutSessionEvent", "Logout", "info", "User {userName}@{ipAddress} logged out"),
    kind(
        "BadUsernameSessionEvent",
        "Refused login",
        "error",
        "Cannot log in {userName}@{ipAddress}",
    ),
    kind("TaskEvent", "Task", "info", "Task: {info.descriptionId}"),
    kind("VmStartingEvent", "Machine starts", "info", "{vm.name} on {host.name} is starting"),
    kind("VmPoweredOnEvent", "Machine on", "info", "{vm.name} on {host.name} is powered on"),
    kind("VmStoppingEvent", "Machine stops", "info", "{vm.name} on {host.name} is stopping"),
    kind("VmPoweredOffEvent", "Machine off", "info", "{vm.name} on {host.name} is powered off"),
    kind("VmResettingEvent", "Machine reset", "info", "{vm.name} on {host.name} is reset"),
    kind(
        "VmSuspendingEvent",
        "Machine going to sleep",
        "info",
        "{vm.name} on {host.name} is being suspended",
    ),
    kind("VmSuspendedEvent", "Machine asleep", "info", "{vm.name} on {host.name} is suspended"),
    kind("VmResumingEvent", "Machine waking", "info", "{vm.name} on {host.name} is being resumed"),
    kind(
        "VmGuestShutdownEvent",
        "Guest shut down",
        "info",
        "The guest of {vm.name} is asked to shut down",
    ),
    kind(
        "VmGuestRebootEvent",
        "Guest restarted",
        "info",
        "The guest of {vm.name} is asked to restart",
    ),
    kind(
        "VmMessageEvent",
        "Message of a machine",
        "info",
        "Message on {vm.name} on {host.name}: {message}",
    ),
    kind("VmRemovedEvent", "Machine removed", "info", "{vm.name} on {host.name} is removed"),
];

/// The type of a happening.
pub const fn type_name(what: &Happening) -> &'static str {
    match what {
        Happening::LoggedIn { .. } => "UserLoginSessionEvent",
        Happening::LoggedOut { .. } => "UserLogoutSessionEvent",
        Happening::LoginRefused { .. } => "BadUsernameSessionEvent",
        Happening::Asked { .. } => "VmMessageEvent",
        Happening::Task(_) => "TaskEvent",
        Happening::Machine(event) => match event {
            MachineEvent::Starting => "VmStartingEvent",
            MachineEvent::PoweredOn => "VmPoweredOnEvent",
            MachineEvent::Stopping => "VmStoppingEvent",
            MachineEvent::PoweredOff => "VmPoweredOffEvent",
            MachineEvent::Resetting => "VmResettingEvent",
            MachineEvent::Suspending => "VmSuspendingEvent",
            MachineEvent::Suspended => "VmSuspendedEvent",
            MachineEvent::Resuming => "VmResumingEvent",
            MachineEvent::GuestShutDown => "VmGuestShutdownEvent",
            MachineEvent::GuestRebooted => "VmGuestRebootEvent",
            MachineEvent::Removed => "VmRemovedEvent",
        },
    }
}

/// The category of a happening.
pub fn category(what: &Happening) -> &'static str {
    kind_of(what).map_or("info", |kind| kind.category)
}

/// A happening as an event.
pub fn object(world: &World, event: &HostEvent) -> Object {
    let HostEvent { key, chain, at, user, machine, what } = event;
    let is_of_session = matches!(
        what,
        Happening::LoggedIn { .. } | Happening::LoggedOut { .. } | Happening::LoginRefused { .. }
    );
    let place = |type_name, field, name: &str, moref: Moref| {
        (!is_of_session).then(|| Object::new(type_name).with("name", name).with(field, moref))
    };
    let host = world.host.name.as_str();
    let datacenter = Moref::new("Datacenter", "ha-datacenter");
    let resource = Moref::new("ComputeResource", "ha-compute-res");
    let object = Object::new(type_name(what))
        .with("key", *key)
        .with("chainId", *chain)
        .with("createdTime", *at)
        .with("userName", user)
        .with(
            "datacenter",
            place("DatacenterEventArgument", "datacenter", "ha-datacenter", datacenter),
        )
        .with(
            "computeResource",
            place("ComputeResourceEventArgument", "computeResource", host, resource),
        )
        .with("host", place("HostEventArgument", "host", host, Moref::new("HostSystem", "ha-host")))
        .with("vm", machine.as_ref().map(subject))
        .with("fullFormattedMessage", message(world, event));
    with_details(object, machine.as_ref(), what)
}

/// `EventDescription`: the categories, and the types with what is said of them.
pub fn description() -> Object {
    let categories = ["info", "warning", "error", "user"].map(|key| {
        Object::new("ElementDescription").with("label", key).with("summary", key).with("key", key)
    });
    let details = KINDS.iter().map(|kind| {
        Object::new("EventDescriptionEventDetail")
            .with("key", kind.name)
            .with("description", kind.description)
            .with("category", kind.category)
            .with("formatOnDatacenter", kind.format)
            .with("formatOnComputeResource", kind.format)
            .with("formatOnHost", kind.format)
            .with("formatOnVm", kind.format)
            .with("fullFormat", kind.format)
    });
    Object::new("EventDescription")
        .with("category", list("ElementDescription", categories.to_vec()))
        .with("eventInfo", list("EventDescriptionEventDetail", details.collect()))
}

fn kind_of(what: &Happening) -> Option<&'static Kind> {
    let name = type_name(what);
    KINDS.iter().find(|kind| kind.name == name)
}

fn subject(machine: &Subject) -> Object {
    Object::new("VmEventArgument")
        .with("name", escape_vim(&machine.name))
        .with("vm", Moref::new("VirtualMachine", machine.id.clone()))
}

/// The fields that only this type has.
fn with_details(object: Object, machine: Option<&Subject>, what: &Happening) -> Object {
    let template = machine.is_some_and(|machine| machine.template);
    match what {
        Happening::LoggedIn { session, address, agent } => object
            .with("ipAddress", address)
            .with("userAgent", agent)
            .with("locale", "en")
            .with("sessionId", session),
        Happening::LoggedOut { session, address, agent, calls, login_at } => object
            .with("ipAddress", address)
            .with("userAgent", agent)
            .with("callCount", *calls)
            .with("sessionId", session)
            .with("loginTime", *login_at),
        Happening::LoginRefused { address } => object.with("ipAddress", address),
        Happening::Machine(_) => object.with("template", template),
        Happening::Asked { message_id, text } => {
            let asked =
                Object::new("VirtualMachineMessage").with("id", message_id).with("text", text);
            object
                .with("template", template)
                .with("message", text)
                .with("messageInfo", list("VirtualMachineMessage", vec![asked]))
        }
        Happening::Task(begun) => object.with("info", task::info(begun)),
    }
}

/// The format of the type, filled in.
fn message(world: &World, event: &HostEvent) -> String {
    let format = kind_of(&event.what).map_or("", |kind| kind.format);
    let mut filled =
        format.replace("{userName}", &event.user).replace("{host.name}", &world.host.name);
    if let Some(machine) = &event.machine {
        filled = filled.replace("{vm.name}", &escape_vim(&machine.name));
    }
    match &event.what {
        Happening::LoggedIn { address, agent, .. }
        | Happening::LoggedOut { address, agent, .. } => {
            filled.replace("{ipAddress}", address).replace("{userAgent}", agent)
        }
        Happening::LoginRefused { address } => filled.replace("{ipAddress}", address),
        Happening::Asked { text, .. } => filled.replace("{message}", text),
        Happening::Task(task) => {
            filled.replace("{info.descriptionId}", task.operation.description_id())
        }
        Happening::Machine(_) => filled,
    }
}
