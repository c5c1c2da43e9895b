//! Direct reads of one machine: the addresses of the guest, and properties as JSON.

use serde_json::{Map, Value};

use super::machine::GuestProperties;
use super::property_reader::{permission_denied, read_object};
use super::session::Session;
use super::soap::{Reference, json};
use crate::domain::ids::MachineId;
use crate::hypervisor::{Fact, HostError};

/// Reads the guest's addresses and whether VMware Tools run, and returns them as a fact for the
/// observer.
///
/// # Errors
/// `NotFound` if the host does not know the machine; otherwise the errors of [`read_object`].
pub async fn read_guest(session: &Session, machine: &MachineId) -> Result<Fact, HostError> {
    let name = format!("machine {machine}");
    let contents = read_object(session, &reference(machine), GuestProperties::PATHS, &name).await?;
    let mut properties = GuestProperties::default();
    for (path, value) in contents.objects().flat_map(|object| object.properties) {
        properties.assign(path, Some(value));
    }
    let guest = properties.guest();
    Ok(Fact::GuestConfirmed {
        machine: machine.clone(),
        tools_running: guest.tools_running,
        ip_address: guest.ip_address,
        interfaces: guest.interfaces,
    })
}

/// Reads the properties of a machine at these paths as JSON. The value of a path is null if the
/// property has no value.
///
/// # Errors
/// `InvalidProperty` if a machine has no property at one of the paths, `Forbidden` if the account
/// may not read one; otherwise the errors of [`read_guest`].
pub async fn read_properties(
    session: &Session,
    machine: &MachineId,
    paths: &[String],
) -> Result<Map<String, Value>, HostError> {
    let mut values: Map<String, Value> =
        paths.iter().map(|path| (path.clone(), Value::Null)).collect();
    if values.is_empty() {
        return Ok(values);
    }
    let name = format!("machine {machine}");
    let path_names: Vec<&str> = paths.iter().map(String::as_str).collect();
    let contents = read_object(session, &reference(machine), &path_names, &name).await?;
    for object in contents.objects() {
        if let Some(missing) = object.missing.into_iter().next() {
            let prefix = format!("The host refused to read {} of {name}", missing.path);
            return Err(if missing.fault.is_not_authenticated() {
                permission_denied(missing.fault, &prefix)
            } else {
                missing.fault.into_error(&prefix)
            });
        }
        for (path, value) in object.properties {
            values.insert(path.to_owned(), json::to_json(value));
        }
    }
    Ok(values)
}

fn reference(machine: &MachineId) -> Reference {
    Reference::new("VirtualMachine", machine.backend_text())
}
