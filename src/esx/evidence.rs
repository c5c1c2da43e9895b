//! Reads the evidence of whether a call ran directly from the host: the state of machines, their
//! recent tasks, and the boot time of their host.
//!
//! One read of a machine returns its state, the references to its recent tasks, and its host. Then
//! otter reads, in one call, those tasks that it has not yet seen as ended. After that it reads the
//! machine once more, so that the tasks are always older than the state of the machine. Therefore,
//! if a task is seen as ended, the state of the machine shows the effect of the task.

use std::collections::HashMap;
use std::sync::Arc;

use super::connections::Lane;
use super::ended_tasks::EndedTasks;
use super::machine::{GuestProperties, power_state, question, snapshots};
use super::property_reader::{Contents, read_checked, read_once};
use super::session::{Login, Session, session_lost};
use super::soap::Reference;
use super::soap::property::{ObjectContent, boolean, references};
use super::soap::request::{PropertySpec, Selection};
use super::soap::xml::Element;
use super::task_info::{TaskInfo, TaskState};
use crate::domain::call::{Evidence, RecentTask, SnapshotEvidence};
use crate::domain::ids::{MachineId, TaskId};
use crate::domain::machine::MachineIdentity;
use crate::domain::media::BootMedia;
use crate::domain::snapshot::{Snapshot, Snapshots};
use crate::hypervisor::{HostError, HostErrorKind};

/// The properties of a machine that count as evidence.
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

/// The maximum number of times that a machine is read. A machine is read again if its `recentTask`
/// refers to a task that was not read yet.
const TRIES: usize = 5;

/// The maximum number of tasks that one call reads.
const TASKS_PER_READ: usize = 500;

/// Reads the evidence of one machine.
///
/// # Errors
/// `NotFound` if the host does not know the machine; otherwise the errors of
/// [`read_object`](super::property_reader::read_object).
pub async fn read_evidence(
    session: &Session,
    ended_tasks: &EndedTasks,
    machine: &MachineId,
    lane: Lane,
) -> Result<Evidence, HostError> {
    let machines = std::slice::from_ref(machine);
    let mut evidence = read_evidence_of_many(session, ended_tasks, machines, lane).await?;
    evidence.remove(machine).ok_or_else(|| {
        HostError::new(HostErrorKind::NotFound, format!("The host has no machine {machine}."))
    })
}

/// Reads the evidence of several machines together. If the host does not return a machine, the
/// result has no entry for it.
///
/// # Errors
/// Fails if one of the reads fails, even if the evidence of some of the machines could be read.
pub async fn read_evidence_of_many(
    session: &Session,
    ended_tasks: &EndedTasks,
    machines: &[MachineId],
    lane: Lane,
) -> Result<HashMap<MachineId, Evidence>, HostError> {
    let mut found = HashMap::new();
    // The tasks that this function has read. `None` stands for a task that the host no longer
    // knows.
    let mut seen: HashMap<TaskId, Option<RecentTask>> = HashMap::new();
    let mut open = machines.to_vec();
    for last_try in (0..TRIES).map(|tried| tried + 1 == TRIES) {
        let (login, contents) = read_machines(session, &open, lane).await?;
        let objects = by_reference(&contents);
        let is_unknown =
            |task: &TaskId| !seen.contains_key(task) && ended_tasks.get(&login, task).is_none();
        let mut unread: Vec<TaskId> = Vec::new();
        let mut incomplete = Vec::new();
        for machine in &open {
            let tasks = objects.get(&reference(machine)).map(recent_tasks).unwrap_or_default();
            let before = unread.len();
            unread.extend(tasks.into_iter().filter(is_unknown));
            if unread.len() > before {
                incomplete.push(machine.clone());
            }
        }
        if !unread.is_empty() {
            read_tasks(session, ended_tasks, &unread, &mut seen, lane).await?;
        }
        for machine in open.iter().filter(|machine| last_try || !incomplete.contains(machine)) {
            let Some(object) = objects.get(&reference(machine)) else { continue };
            let known = |task: &TaskId| match seen.get(task) {
                Some(task) => task.clone(),
                None => ended_tasks.get(&login, task),
            };
            let tasks = recent_tasks(object).iter().filter_map(known).collect();
            found.insert(machine.clone(), evidence(machine, object, tasks, &objects));
        }
        open = incomplete;
        if open.is_empty() {
            break;
        }
    }
    Ok(found)
}

/// Reads machines together with their hosts. If the session looks lost, a read of a single machine
/// is repeated on a new session. A read of several machines fails, because each machine can be read
/// alone afterwards.
async fn read_machines(
    session: &Session,
    machines: &[MachineId],
    lane: Lane,
) -> Result<(Arc<Login>, Contents), HostError> {
    let properties = [
        PropertySpec { object_type: "VirtualMachine", paths: PATHS.to_vec() },
        PropertySpec { object_type: "HostSystem", paths: vec!["runtime.bootTime"] },
    ];
    let objects: Vec<Reference> = machines.iter().map(reference).collect();
    let selection = Selection::ObjectsAndReferenced {
        objects: &objects,
        object_type: "VirtualMachine",
        path: "runtime.host",
    };
    if let [machine] = machines {
        let name = format!("machine {machine}");
        return read_checked(session, &properties, selection, &name, lane).await;
    }
    let login = session.current_login().await?;
    let contents = read_once(session, &login, &properties, selection, lane)
        .await
        .map_err(|error| error.into_error("The host refused to read machines"))?;
    if contents.looks_unauthenticated() {
        return Err(session_lost());
    }
    Ok((login, contents))
}

/// Reads tasks in as few calls as possible. If the host no longer knows all tasks of a call, reads
/// the tasks of this call one by one.
async fn read_tasks(
    session: &Session,
    ended_tasks: &EndedTasks,
    tasks: &[TaskId],
    seen: &mut HashMap<TaskId, Option<RecentTask>>,
    lane: Lane,
) -> Result<(), HostError> {
    for part in tasks.chunks(TASKS_PER_READ) {
        if read_tasks_at_once(session, ended_tasks, part, seen, lane).await? {
            continue;
        }
        for task in part {
            let one = std::slice::from_ref(task);
            if !read_tasks_at_once(session, ended_tasks, one, seen, lane).await? {
                seen.insert(task.clone(), None);
            }
        }
    }
    Ok(())
}

/// Reads tasks in one call. Returns `false` if the host no longer knows one of the tasks.
async fn read_tasks_at_once(
    session: &Session,
    ended_tasks: &EndedTasks,
    tasks: &[TaskId],
    seen: &mut HashMap<TaskId, Option<RecentTask>>,
    lane: Lane,
) -> Result<bool, HostError> {
    let properties = [PropertySpec { object_type: "Task", paths: vec!["info"] }];
    let objects: Vec<Reference> =
        tasks.iter().map(|task| Reference::new("Task", task.backend_text())).collect();
    let name = match tasks {
        [task] => format!("task {task}"),
        _ => "recent tasks".to_owned(),
    };
    let selection = Selection::Objects(&objects);
    let read = read_checked(session, &properties, selection, &name, lane).await;
    let (login, contents) = match read {
        Ok(read) => read,
        Err(error) if error.kind == HostErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut number = 0;
    for object in contents.objects() {
        let id = TaskId::from_backend(&object.object.value);
        let info = value(&object, "info").map(TaskInfo::from_element);
        let task = info.map(|info| {
            ended_tasks.note(&login, &id, &info);
            RecentTask {
                id: id.clone(),
                call: info.call(),
                by_us: info.user.as_deref().is_some_and(|user| login.is_own_account(user)),
                running: info.state == TaskState::Running,
            }
        });
        seen.insert(id, task);
        number += 1;
    }
    Ok(number == tasks.len())
}

fn evidence(
    machine: &MachineId,
    object: &ObjectContent<'_>,
    recent_tasks: Vec<RecentTask>,
    objects: &HashMap<Reference, ObjectContent<'_>>,
) -> Evidence {
    let value = |path| value(object, path);
    let text =
        |path| value(path).map(Element::text).filter(|text| !text.is_empty()).map(str::to_owned);
    let Snapshots { current, items } = value("snapshot").map(snapshots).unwrap_or_default();
    let mut guest = GuestProperties::default();
    for path in ["guest.toolsRunningStatus", "guest.toolsStatus"] {
        guest.assign(path, value(path));
    }
    let host = value("runtime.host").and_then(Reference::from_element);
    let host = host.and_then(|host| objects.get(&host));
    let boot_time = host.and_then(|host| self::value(host, "runtime.bootTime"));
    Evidence {
        identity: MachineIdentity {
            id: machine.clone(),
            instance_uuid: text("config.instanceUuid"),
            path: text("config.files.vmPathName"),
        },
        power_state: value("runtime.powerState").and_then(power_state),
        current_snapshot: current,
        snapshots: items.into_iter().map(snapshot_evidence).collect(),
        tools_running: guest.guest().tools_running,
        question: value("runtime.question").and_then(question).map(|question| question.id),
        consolidation_needed: value("runtime.consolidationNeeded").and_then(boolean),
        host_boot_time: boot_time.map(|time| time.text().trim().to_owned()),
        recent_tasks,
        media: BootMedia::default(),
    }
}

fn by_reference(contents: &Contents) -> HashMap<Reference, ObjectContent<'_>> {
    contents.objects().map(|object| (object.object.clone(), object)).collect()
}

fn recent_tasks(object: &ObjectContent<'_>) -> Vec<TaskId> {
    let tasks = value(object, "recentTask").map(references).unwrap_or_default();
    tasks.into_iter().map(|task| TaskId::from_backend(task.value)).collect()
}

fn value<'c>(object: &ObjectContent<'c>, path: &str) -> Option<Element<'c>> {
    object.properties.iter().find(|(name, _)| *name == path).map(|(_, value)| *value)
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
