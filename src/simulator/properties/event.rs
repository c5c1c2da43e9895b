//! The vim25 objects for events (`Event` and its subtypes), and the table of all event types of the
//! host.

use super::super::value::{Moref, Object, list};
use super::super::world::{EventDetail, EventMachine, HostEvent, MachineEvent, World};
use super::task;
use crate::domain::names::escape_vim;

/// A type of event that the host can record.
struct EventKind {
    name: &'static str,
    description: &'static str,
    /// The category of the events: `info`, `warning`, `error` or `user`.
    category: &'static str,
    /// The text of the event message with placeholders, in the template language of
    /// `EventDescription`.
    format: &'static str,
}

const fn kind(
    name: &'static str,
    description: &'static str,
    category: &'static str,
    format: &'static str,
) -> EventKind {
    EventKind { name, description, category, format }
}

/// The event types of the host.
const EVENT_KINDS: &[EventKind] = &[
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

/// The vim25 type of an event.
pub const fn type_name(detail: &EventDetail) -> &'static str {
    match detail {
        EventDetail::LoggedIn { .. } => "UserLoginSessionEvent",
        EventDetail::LoggedOut { .. } => "UserLogoutSessionEvent",
        EventDetail::LoginRefused { .. } => "BadUsernameSessionEvent",
        EventDetail::QuestionAsked { .. } => "VmMessageEvent",
        EventDetail::Task(_) => "TaskEvent",
        EventDetail::Machine(event) => match event {
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

/// The category of an event.
pub fn category(detail: &EventDetail) -> &'static str {
    event_kind(detail).map_or("info", |kind| kind.category)
}

/// The event as a data object.
pub fn object(world: &World, event: &HostEvent) -> Object {
    let HostEvent { key, chain, at, user, machine, detail } = event;
    let is_session_event = matches!(
        detail,
        EventDetail::LoggedIn { .. }
            | EventDetail::LoggedOut { .. }
            | EventDetail::LoginRefused { .. }
    );
    let place = |type_name, field, name: &str, moref: Moref| {
        (!is_session_event).then(|| Object::new(type_name).with("name", name).with(field, moref))
    };
    let host = world.host.name.as_str();
    let datacenter = Moref::new("Datacenter", "ha-datacenter");
    let resource = Moref::new("ComputeResource", "ha-compute-res");
    let object = Object::new(type_name(detail))
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
        .with("vm", machine.as_ref().map(machine_argument))
        .with("fullFormattedMessage", message(world, event));
    with_details(object, machine.as_ref(), detail)
}

/// `EventDescription`: the categories and the event types.
pub fn description() -> Object {
    let categories = ["info", "warning", "error", "user"].map(|key| {
        Object::new("ElementDescription").with("label", key).with("summary", key).with("key", key)
    });
    let details = EVENT_KINDS.iter().map(|kind| {
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

fn event_kind(detail: &EventDetail) -> Option<&'static EventKind> {
    let name = type_name(detail);
    EVENT_KINDS.iter().find(|kind| kind.name == name)
}

fn machine_argument(machine: &EventMachine) -> Object {
    Object::new("VmEventArgument")
        .with("name", escape_vim(&machine.name))
        .with("vm", Moref::new("VirtualMachine", machine.id.clone()))
}

/// Adds the fields that only events of this type have.
fn with_details(object: Object, machine: Option<&EventMachine>, detail: &EventDetail) -> Object {
    let template = machine.is_some_and(|machine| machine.template);
    match detail {
        EventDetail::LoggedIn { session, address, agent } => object
            .with("ipAddress", address)
            .with("userAgent", agent)
            .with("locale", "en")
            .with("sessionId", session),
        EventDetail::LoggedOut { session, address, agent, calls, login_at } => object
            .with("ipAddress", address)
            .with("userAgent", agent)
            .with("callCount", *calls)
            .with("sessionId", session)
            .with("loginTime", *login_at),
        EventDetail::LoginRefused { address } => object.with("ipAddress", address),
        EventDetail::Machine(_) => object.with("template", template),
        EventDetail::QuestionAsked { message_id, text } => {
            let asked =
                Object::new("VirtualMachineMessage").with("id", message_id).with("text", text);
            object
                .with("template", template)
                .with("message", text)
                .with("messageInfo", list("VirtualMachineMessage", vec![asked]))
        }
        EventDetail::Task(begun) => object.with("info", task::info(begun)),
    }
}

/// The message of the event: the template of its type, with the placeholders replaced by values.
fn message(world: &World, event: &HostEvent) -> String {
    let format = event_kind(&event.detail).map_or("", |kind| kind.format);
    let mut filled =
        format.replace("{userName}", &event.user).replace("{host.name}", &world.host.name);
    if let Some(machine) = &event.machine {
        filled = filled.replace("{vm.name}", &escape_vim(&machine.name));
    }
    match &event.detail {
        EventDetail::LoggedIn { address, agent, .. }
        | EventDetail::LoggedOut { address, agent, .. } => {
            filled.replace("{ipAddress}", address).replace("{userAgent}", agent)
        }
        EventDetail::LoginRefused { address } => filled.replace("{ipAddress}", address),
        EventDetail::QuestionAsked { text, .. } => filled.replace("{message}", text),
        EventDetail::Task(task) => {
            filled.replace("{info.descriptionId}", task.operation.description_id())
        }
        EventDetail::Machine(_) => filled,
    }
}
