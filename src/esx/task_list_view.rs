//! Changes the `ListView` of followed tasks on the host, and reads each added task once.

use super::property_reader::read_once;
use super::session::{ExchangeError, Login, Session, session_lost};
use super::soap::Reference;
use super::soap::request::{self, PropertySpec, Selection};
use super::task_followers::ListViewChanges;
use super::task_info::TaskInfo;
use crate::domain::ids::TaskId;

/// The most tasks that one call reads.
const TASKS_PER_READ: usize = 50;

/// Tasks with their `info`, `None` if the host does not know the task.
pub type TaskUpdates = Vec<(TaskId, Option<TaskInfo>)>;

/// Applies `changes` to the `ListView` and reads each added task once. The read is needed because
/// the task may have ended before, and because not every host reports the first state of an object
/// that is added during a wait.
///
/// # Errors
/// `NoAnswer` if the session is lost, because every task looks unknown then; otherwise as
/// [`Session::send_repeatable`].
pub async fn update_and_read(
    session: &Session,
    login: &Login,
    list: &Reference,
    changes: ListViewChanges,
) -> Result<TaskUpdates, ExchangeError> {
    let reference = |task: &TaskId| Reference::new("Task", task.backend_text());
    let add: Vec<Reference> = changes.add.iter().map(reference).collect();
    let remove: Vec<Reference> = changes.remove.iter().map(reference).collect();
    // A host lists unknown tasks in its answer, or refuses the whole call. After a refusal the
    // tasks are changed one by one.
    if !modify_list(session, login, list, &add, &remove).await? {
        for task in &remove {
            modify_list(session, login, list, &[], std::slice::from_ref(task)).await?;
        }
        for task in &add {
            modify_list(session, login, list, std::slice::from_ref(task), &[]).await?;
        }
    }
    let mut updates = TaskUpdates::new();
    for tasks in add.chunks(TASKS_PER_READ) {
        match read_tasks(session, login, tasks).await? {
            Some(mut read) => updates.append(&mut read),
            None => {
                for task in tasks {
                    let read = read_tasks(session, login, std::slice::from_ref(task)).await?;
                    updates.extend(
                        read.unwrap_or_else(|| vec![(TaskId::from_backend(&task.value), None)]),
                    );
                }
            }
        }
    }
    // On a lost session every task looks unknown.
    if updates.iter().any(|(_, info)| info.is_none())
        && !session.is_valid(login).await.map_err(ExchangeError::NoAnswer)?
    {
        return Err(ExchangeError::NoAnswer(session_lost()));
    }
    Ok(updates)
}

/// Calls `ModifyListView`. Returns `false` if the host does not know a task.
///
/// # Errors
/// Fails if the host does not know the `ListView`; otherwise as [`Session::send_repeatable`].
async fn modify_list(
    session: &Session,
    login: &Login,
    list: &Reference,
    add: &[Reference],
    remove: &[Reference],
) -> Result<bool, ExchangeError> {
    let request = request::modify_list_view(list, add, remove);
    match session.send_repeatable(login, request).await {
        Ok(_) => Ok(true),
        Err(ExchangeError::Fault(fault))
            if fault.name == "ManagedObjectNotFound"
                && fault.details.get("obj") != Some(&list.value) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Reads tasks in one call. `None` if the host does not know one of them.
async fn read_tasks(
    session: &Session,
    login: &Login,
    tasks: &[Reference],
) -> Result<Option<TaskUpdates>, ExchangeError> {
    let properties = [PropertySpec { object_type: "Task", paths: vec!["info"] }];
    match read_once(session, login, &properties, Selection::Objects(tasks)).await {
        Ok(contents) => {
            let updates: TaskUpdates = contents
                .objects()
                .map(|object| {
                    let info = object.properties.iter().find(|(path, _)| *path == "info");
                    (
                        TaskId::from_backend(object.object.value),
                        info.map(|(_, info)| TaskInfo::from_element(*info)),
                    )
                })
                .collect();
            Ok((updates.len() == tasks.len()).then_some(updates))
        }
        Err(error) if error.is_fault("ManagedObjectNotFound") => Ok(None),
        Err(error) => Err(error),
    }
}
