//! Changes the `ListView` of followed tasks on the host, and reads those added tasks that the
//! stream of updates does not report.

use std::collections::HashSet;

use super::connections::Lane;
use super::property_reader::read_once;
use super::session::{ExchangeError, Login, Session, session_lost};
use super::soap::Reference;
use super::soap::request::{self, PropertySpec, Selection};
use super::task_followers::ListViewChanges;
use super::task_info::TaskInfo;
use crate::domain::ids::TaskId;

/// The maximum number of tasks that one call reads.
const TASKS_PER_READ: usize = 50;

/// Tasks that were read, each with its `info`. `None` if the host does not know the task.
type TaskReadings = Vec<(TaskId, Option<TaskInfo>)>;

/// The result of a change of the `ListView`.
#[derive(Debug)]
pub struct ListUpdate {
    /// The added tasks that were read, because the stream of updates does not report them.
    pub read: TaskReadings,
    /// The added tasks that were not read, because the stream of updates will report them.
    pub listed: Vec<TaskId>,
}

/// Applies `changes` to the `ListView` on the host. Then reads the tasks of `changes.read`, and the
/// tasks that the host says it does not know, to find out whether they are really gone.
///
/// # Errors
/// `NoAnswer` if the session is lost, because the host then seems to know no task; otherwise the
/// errors of [`Session::send_repeatable`].
pub async fn update_and_read(
    session: &Session,
    login: &Login,
    list: &Reference,
    changes: ListViewChanges,
) -> Result<ListUpdate, ExchangeError> {
    let reference = |task: &TaskId| Reference::new("Task", task.backend_text());
    let add: Vec<Reference> = changes.add.iter().map(reference).collect();
    let remove: Vec<Reference> = changes.remove.iter().map(reference).collect();
    // A host either lists the tasks that it does not know in its answer, or refuses the whole call
    // because of them. After a refusal, the tasks are added and removed one by one.
    let all_at_once = modify_list(session, login, list, &add, &remove).await?;
    let unknown = if let Some(unknown) = all_at_once {
        unknown
    } else {
        for task in &remove {
            modify_list(session, login, list, &[], std::slice::from_ref(task)).await?;
        }
        let mut unknown = Vec::new();
        for task in &add {
            let one = std::slice::from_ref(task);
            let answer = modify_list(session, login, list, one, &[]).await?;
            if answer.is_none_or(|unknown| !unknown.is_empty()) {
                unknown.push(task.clone());
            }
        }
        unknown
    };
    let must_read: HashSet<Reference> = changes.read.iter().map(reference).chain(unknown).collect();
    let (to_read, listed): (Vec<Reference>, Vec<Reference>) =
        add.into_iter().partition(|task| must_read.contains(task));
    let mut updates = TaskReadings::new();
    for tasks in to_read.chunks(TASKS_PER_READ) {
        match read_tasks(session, login, tasks).await? {
            Some(mut readings) => updates.append(&mut readings),
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
    // If the session is lost, the host seems to know no task. So the session is checked before a
    // task counts as gone.
    if updates.iter().any(|(_, info)| info.is_none())
        && !session.is_valid(login).await.map_err(ExchangeError::NoAnswer)?
    {
        return Err(ExchangeError::NoAnswer(session_lost()));
    }
    let listed = listed.into_iter().map(|task| TaskId::from_backend(task.value)).collect();
    Ok(ListUpdate { read: updates, listed })
}

/// Calls `ModifyListView`. Returns those tasks of `add` that the host does not know. `None` if the
/// host refuses the whole call because it does not know a task.
///
/// # Errors
/// Fails if the host does not know the `ListView`; otherwise the errors of
/// [`Session::send_repeatable`].
async fn modify_list(
    session: &Session,
    login: &Login,
    list: &Reference,
    add: &[Reference],
    remove: &[Reference],
) -> Result<Option<Vec<Reference>>, ExchangeError> {
    let request = request::modify_list_view(list, add, remove);
    match session.send_repeatable(login, request, Lane::Reserved).await {
        Ok(reply) => {
            let unknown = reply.response().children_named("returnval");
            Ok(Some(unknown.filter_map(Reference::from_element).collect()))
        }
        Err(ExchangeError::Fault(fault))
            if fault.name == "ManagedObjectNotFound"
                && fault.details.get("obj") != Some(&list.value) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Reads tasks in one call. `None` if the host does not know one of the tasks.
async fn read_tasks(
    session: &Session,
    login: &Login,
    tasks: &[Reference],
) -> Result<Option<TaskReadings>, ExchangeError> {
    let properties = [PropertySpec { object_type: "Task", paths: vec!["info"] }];
    match read_once(session, login, &properties, Selection::Objects(tasks), Lane::Reserved).await {
        Ok(contents) => {
            let updates: TaskReadings = contents
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
