//! Direct reads of one machine: the evidence of whether a call ran, the addresses of the guest, and
//! properties as JSON.

use serde_json::{Map, Value};

use super::machine::{GuestProperties, power_state, question, snapshots};
use super::property_reader::{Contents, first_value, permission_denied, read_object};
use super::session::Session;
use super::soap::property::{boolean, references};
use super::soap::xml::Element;
use super::soap::{Reference, json};
use super::task_info::{TaskInfo, TaskState};
use crate::domain::call::{Evidence, RecentTask, SnapshotEvidence};
use crate::domain::ids::{MachineId, TaskId};
use crate::domain::machine::MachineIdentity;
use crate::domain::snapshot::{Snapshot, Snapshots};
use crate::hypervisor::{Fact, HostError, HostErrorKind};

/// The properties that [`read_evidence`] reads.
const PATHS: [&str; 10] = [
    "runtime.powerState",
    "snapshot",
    "guest.toolsRunningStatus",
    "guest.toolsStatus",
    "runtime.question",
    "runtime.consolidationNeeded",
    "runtime.host",
    "recentTask",
    "config.instanceUuid",
    "config.files.vmPathName",
];

/// The most times that the tasks are read again because `recentTask` changed meanwhile.
const TRIES: usize = 4;

/// Reads a machine, its recent tasks, and the boot time of its host. The tasks are read before the
/// machine. If a task is seen as ended, its effect is therefore visible in the machine.
///
/// # Errors
/// `NotFound` if the host does not know the machine; otherwise as [`read_object`].
pub async fn read_evidence(session: &Session, machine: &MachineId) -> Result<Evidence, HostError> {
    let (object, name) = (reference(machine), format!("machine {machine}"));
    let read = || read_object(session, &object, &PATHS, &name);
    let recent_task_references = |contents: &Contents| {
        first_value(contents, "recentTask").map(references).unwrap_or_default()
    };
    let mut contents = read().await?;
    let mut recent_tasks = Vec::new();
    for _ in 0..TRIES {
        let tasks = recent_task_references(&contents);
        recent_tasks.clear();
        if tasks.is_empty() {
            break;
        }
        for task in &tasks {
            recent_tasks.extend(recent_task(session, task).await?);
        }
        contents = read().await?;
        if recent_task_references(&contents) == tasks {
            break;
        }
    }
    let value = |path| first_value(&contents, path);
    let text =
        |path| value(path).map(Element::text).filter(|text| !text.is_empty()).map(str::to_owned);
    let Snapshots { current, items } = value("snapshot").map(snapshots).unwrap_or_default();
    let identity = MachineIdentity {
        id: machine.clone(),
        instance_uuid: text("config.instanceUuid"),
        path: text("config.files.vmPathName"),
    };
    let mut guest = GuestProperties::default();
    for path in ["guest.toolsRunningStatus", "guest.toolsStatus"] {
        guest.assign(path, value(path));
    }
    let question = value("runtime.question").and_then(question).map(|question| question.id);
    let host_boot_time = match value("runtime.host").and_then(Reference::from_element) {
        Some(host) => boot_time(session, &host).await?,
        None => None,
    };
    Ok(Evidence {
        identity,
        power_state: value("runtime.powerState").and_then(power_state),
        current_snapshot: current,
        snapshots: items.into_iter().map(snapshot_evidence).collect(),
        tools_running: guest.guest().tools_running,
        question,
        consolidation_needed: value("runtime.consolidationNeeded").and_then(boolean),
        host_boot_time,
        recent_tasks,
    })
}

/// Reads the guest's addresses and whether its tools run, as a fact for the observer.
///
/// # Errors
/// As [`read_evidence`].
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

/// Reads properties by their paths as JSON, null if a property has no value.
///
/// # Errors
/// `InvalidProperty` if a machine has no property of a path, `Forbidden` if the account may not
/// read one; otherwise as [`read_evidence`].
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

fn snapshot_evidence(snapshot: Snapshot) -> SnapshotEvidence {
    let Snapshot {
        id,
        name,
        description,
        parent,
        created_at: _,
        power_state: _,
        quiesced: _,
        children: _,
    } = snapshot;
    SnapshotEvidence { id, parent, name, description }
}

fn reference(machine: &MachineId) -> Reference {
    Reference::new("VirtualMachine", machine.backend_text())
}

/// Reads one recent task. `None` if the host no longer knows it.
async fn recent_task(session: &Session, task: &Reference) -> Result<Option<RecentTask>, HostError> {
    let contents =
        match read_object(session, task, &["info"], &format!("task {}", task.value)).await {
            Ok(contents) => contents,
            Err(error) if error.kind == HostErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
    let Some(info) = first_value(&contents, "info").map(TaskInfo::from_element) else {
        return Ok(None);
    };
    let login = session.current_login().await?;
    Ok(Some(RecentTask {
        id: TaskId::from_backend(&task.value),
        call: info.call(),
        by_us: info.user.as_deref().is_some_and(|user| login.is_own_account(user)),
        running: info.state == TaskState::Running,
    }))
}

/// Reads when the host was booted. `None` if the host does not report it.
async fn boot_time(session: &Session, host: &Reference) -> Result<Option<String>, HostError> {
    let contents =
        match read_object(session, host, &["runtime.bootTime"], &format!("host {}", host.value))
            .await
        {
            Ok(contents) => contents,
            Err(error) if error.kind == HostErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
    Ok(first_value(&contents, "runtime.bootTime").map(|time| time.text().trim().to_owned()))
}
