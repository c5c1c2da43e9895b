//! The tasks that callers of `Hypervisor::follow` follow, and the changes that the host's
//! `ListView` of tasks needs to contain exactly these.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::task_info::{TaskInfo, TaskState};
use crate::domain::ids::TaskId;
use crate::hypervisor::TaskStatus;

/// The followed tasks and their followers.
#[derive(Debug, Default)]
pub struct TaskFollowers {
    table: Mutex<TaskTable>,
    list_changed: Notify,
}

#[derive(Debug, Default)]
struct TaskTable {
    followed: HashMap<TaskId, Followed>,
    /// Tasks without followers that the `ListView` still has. They are removed with the next
    /// addition.
    to_remove: HashSet<TaskId>,
    /// `run` has ended: no status will come.
    closed: bool,
}

#[derive(Debug)]
struct Followed {
    sender: watch::Sender<TaskStatus>,
    /// Whether the `ListView` has the task.
    in_list_view: bool,
    /// Whether the host has reported the task since it was added.
    is_reported: bool,
    /// Whether the task must be read when it is added, because the `ListView` may have it already.
    /// In that case the host does not report the task.
    must_read: bool,
}

/// The tasks to add to the `ListView` and to remove from it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListViewChanges {
    pub add: Vec<TaskId>,
    pub remove: Vec<TaskId>,
    /// The tasks of `add` that must be read, because the host does not report them.
    pub read: Vec<TaskId>,
}

impl TaskFollowers {
    /// Follows a task. Several callers can follow the same task. After [`close`](Self::close), the
    /// receiver is closed.
    #[must_use]
    pub fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus> {
        let new = || watch::Sender::new(TaskStatus::Running { progress: None });
        let mut table = self.table();
        if table.closed {
            return new().subscribe();
        }
        let followed = table.followed.entry(task.clone()).or_insert_with(|| Followed::new(new()));
        let receiver = followed.sender.subscribe();
        drop(table);
        self.list_changed.notify_one();
        receiver
    }

    /// Waits until [`take_list_changes`](Self::take_list_changes) may have a change.
    pub async fn list_changed(&self) {
        self.list_changed.notified().await;
    }

    /// Takes the changes that the `ListView` needs; they count as made. `None` if there is nothing
    /// to add and few tasks to remove.
    #[must_use]
    pub fn take_list_changes(&self) -> Option<ListViewChanges> {
        /// From this number of tasks on, their removal gets a call of its own. Fewer tasks cost the
        /// host little.
        const MANY: usize = 200;
        let mut guard = self.table();
        let table = &mut *guard;
        let to_remove = &mut table.to_remove;
        table.followed.retain(|task, followed| {
            let is_followed = !followed.sender.is_closed();
            if !is_followed && followed.in_list_view {
                to_remove.insert(task.clone());
            }
            is_followed
        });
        let (mut add, mut read) = (Vec::new(), Vec::new());
        for (task, followed) in &mut table.followed {
            if !std::mem::replace(&mut followed.in_list_view, true) {
                followed.is_reported = false;
                if std::mem::take(&mut followed.must_read) || to_remove.contains(task) {
                    read.push(task.clone());
                }
                add.push(task.clone());
            }
        }
        if add.is_empty() && table.to_remove.len() < MANY {
            return None;
        }
        let to_remove = std::mem::take(&mut table.to_remove);
        // Keep a task that ended and is followed again.
        let mut remove: Vec<TaskId> =
            to_remove.into_iter().filter(|task| !table.followed.contains_key(task)).collect();
        for tasks in [&mut add, &mut read, &mut remove] {
            tasks.sort();
        }
        Some(ListViewChanges { add, remove, read })
    }

    /// The tasks among `tasks` that the host has not reported since they were added.
    #[must_use]
    pub fn unreported(&self, tasks: Vec<TaskId>) -> Vec<TaskId> {
        let table = self.table();
        let is_unreported =
            |task: &TaskId| table.followed.get(task).is_some_and(|task| !task.is_reported);
        tasks.into_iter().filter(is_unreported).collect()
    }

    /// Records that the `ListView` was created again and is empty.
    pub fn list_view_recreated(&self) {
        let mut table = self.table();
        table.to_remove.clear();
        for followed in table.followed.values_mut() {
            followed.in_list_view = false;
        }
        drop(table);
        self.list_changed.notify_one();
    }

    /// Adds a followed task to the `ListView` once more, and reads it.
    pub fn relist(&self, task: &TaskId) {
        if let Some(followed) = self.table().followed.get_mut(task) {
            followed.in_list_view = false;
            followed.must_read = true;
            self.list_changed.notify_one();
        }
    }

    /// Whether the task has followers.
    #[must_use]
    pub fn is_followed(&self, task: &TaskId) -> bool {
        self.table().followed.contains_key(task)
    }

    /// Sends the status of a task to its followers. Sends an end once, and never a lower progress
    /// than before. Returns whether followers received the end.
    pub fn report(&self, task: &TaskId, info: &TaskInfo) -> bool {
        if info.state == TaskState::Running {
            if let Some(followed) = self.table().followed.get_mut(task) {
                followed.is_reported = true;
                followed.sender.send_modify(|status| {
                    if let TaskStatus::Running { progress } = status {
                        *progress = info.progress.max(*progress);
                    }
                });
            }
            false
        } else {
            self.report_end(task, info.status())
        }
    }

    /// Ends a task that the host does not know.
    pub fn report_vanished(&self, task: &TaskId) {
        let _ = self.report_end(task, TaskStatus::Vanished);
    }

    /// Closes all receivers, also those of later followers.
    pub fn close(&self) {
        let mut table = self.table();
        table.closed = true;
        table.followed.clear();
    }

    fn report_end(&self, task: &TaskId, status: TaskStatus) -> bool {
        let mut table = self.table();
        let Some(followed) = table.followed.remove(task) else { return false };
        if followed.in_list_view {
            table.to_remove.insert(task.clone());
        }
        drop(table);
        followed.sender.send_replace(status);
        true
    }

    fn table(&self) -> MutexGuard<'_, TaskTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Followed {
    const fn new(sender: watch::Sender<TaskStatus>) -> Self {
        Self { sender, in_list_view: false, is_reported: false, must_read: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esx::soap::xml::Document;

    fn info(inside: &str) -> TaskInfo {
        let text = format!(
            r#"<info xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">{inside}</info>"#
        );
        TaskInfo::from_element(Document::parse(text.as_bytes()).unwrap().root())
    }

    #[test]
    fn the_list_view_contains_the_followed_tasks() {
        let followers = TaskFollowers::default();
        let [first, second] = ["a", "b"].map(TaskId::from_backend);
        let kept = followers.follow(&first);
        let dropped = followers.follow(&second);
        let changes = followers.take_list_changes().unwrap();
        assert_eq!(
            changes,
            ListViewChanges { add: vec![first.clone(), second.clone()], ..Default::default() }
        );
        assert_eq!(followers.take_list_changes(), None);
        drop(dropped);
        assert_eq!(followers.unreported(vec![first.clone()]), std::slice::from_ref(&first));
        assert!(!followers.report(&first, &info("<state>running</state>")));
        assert!(followers.unreported(vec![first.clone()]).is_empty());
        assert!(followers.report(&first, &info("<state>success</state>")));
        assert!(
            matches!(*kept.borrow(), TaskStatus::Succeeded { .. })
                && !followers.is_followed(&first)
        );
        // An end is final.
        assert!(!followers.report(&first, &info("<state>error</state>")));
        assert!(matches!(*kept.borrow(), TaskStatus::Succeeded { .. }));
        let third = TaskId::from_backend("c");
        let mut last = followers.follow(&third);
        let changes = followers.take_list_changes().unwrap();
        assert_eq!(
            changes,
            ListViewChanges {
                add: vec![third.clone()],
                remove: vec![first, second.clone()],
                read: vec![]
            }
        );
        // The progress of a host can decrease; the progress that followers see does not.
        for (reported, expected) in [("40", 40), ("30", 40), ("", 40), ("60", 60)] {
            followers.report(
                &third,
                &info(&format!("<state>running</state><progress>{reported}</progress>")),
            );
            let now = last.borrow_and_update().clone();
            let TaskStatus::Running { progress } = now else { panic!("{now:?}") };
            assert_eq!(progress, Some(expected));
        }
        // A task that the list may have already is read, because the host reports no addition.
        followers.relist(&third);
        let changes = followers.take_list_changes().unwrap();
        assert_eq!((changes.add, changes.read), (vec![third.clone()], vec![third.clone()]));
        followers.report(&third, &info("<state>success</state>"));
        let _again = followers.follow(&third);
        let changes = followers.take_list_changes().unwrap();
        assert_eq!((changes.read, changes.remove), (vec![third.clone()], vec![]));
        followers.close();
        assert!(last.has_changed().is_err() && followers.follow(&second).has_changed().is_err());
    }
}
