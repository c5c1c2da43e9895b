//! The host's list of the tasks that it reports on: what is put on it is also read once, directly.

use super::reader::read_once;
use super::session::{ExchangeError, Live, Session, lost};
use super::soap::Reference;
use super::soap::request::{self, Properties, Selection};
use super::task::{ListChanges, TaskInfo};
use crate::domain::ids::TaskId;

/// Tasks read in one call.
const TASKS_PER_READ: usize = 50;

/// What a direct read said of tasks; none where the host does not know one.
pub type TaskNews = Vec<(TaskId, Option<TaskInfo>)>;

/// Puts tasks on the host's list of those that it reports on, then reads each once: it may have
/// ended before, and not every host tells the first state of what is added during a wait. None for
/// a task that the host does not know.
pub async fn list_and_read(
    session: &Session,
    live: &Live,
    list: &Reference,
    changes: ListChanges,
) -> Result<TaskNews, ExchangeError> {
    let reference = |task: &TaskId| Reference::new("Task", task.backend_text());
    let add: Vec<Reference> = changes.add.iter().map(reference).collect();
    let remove: Vec<Reference> = changes.remove.iter().map(reference).collect();
    // Some hosts name what they do not know in the answer, some refuse the whole call: then one by
    // one.
    if !modify_list(session, live, list, &add, &remove).await? {
        for task in &remove {
            modify_list(session, live, list, &[], std::slice::from_ref(task)).await?;
        }
        for task in &add {
            modify_list(session, live, list, std::slice::from_ref(task), &[]).await?;
        }
    }
    let mut news = TaskNews::new();
    for tasks in add.chunks(TASKS_PER_READ) {
        match read_tasks(session, live, tasks).await? {
            Some(mut read) => news.append(&mut read),
            None => {
                for task in tasks {
                    let read = read_tasks(session, live, std::slice::from_ref(task)).await?;
                    news.extend(
                        read.unwrap_or_else(|| vec![(TaskId::from_backend(&task.value), None)]),
                    );
                }
            }
        }
    }
    // Without a session every task looks unknown.
    if news.iter().any(|(_, info)| info.is_none())
        && !session.is_alive(live).await.map_err(ExchangeError::Broken)?
    {
        return Err(ExchangeError::Broken(lost()));
    }
    Ok(news)
}

/// `ModifyListView`. False where the host does not know a task; an error where it is the list that
/// it does not know.
async fn modify_list(
    session: &Session,
    live: &Live,
    list: &Reference,
    add: &[Reference],
    remove: &[Reference],
) -> Result<bool, ExchangeError> {
    let request = request::modify_list_view(list, add, remove);
    match session.send_repeatable(live, request).await {
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

/// Reads tasks in one call; none where the host does not know one of them.
async fn read_tasks(
    session: &Session,
    live: &Live,
    tasks: &[Reference],
) -> Result<Option<TaskNews>, ExchangeError> {
    let properties = [Properties { of_type: "Task", paths: vec!["info"] }];
    match read_once(session, live, &properties, Selection::Objects(tasks)).await {
        Ok(contents) => {
            let news: TaskNews = contents
                .objects()
                .map(|object| {
                    let info = object.properties.iter().find(|(path, _)| *path == "info");
                    (
                        TaskId::from_backend(object.object.value),
                        info.map(|(_, info)| TaskInfo::read(*info)),
                    )
                })
                .collect();
            Ok((news.len() == tasks.len()).then_some(news))
        }
        Err(error) if error.is_fault("ManagedObjectNotFound") => Ok(None),
        Err(error) => Err(error),
    }
}
