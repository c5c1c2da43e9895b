//! The tasks that callers of `Hypervisor::follow` follow. The host's `ListView` of tasks should
//! contain exactly these, so this file also keeps the changes that the `ListView` still needs.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::task_info::{TaskInfo, TaskState};
use crate::domain::ids::TaskId;
use crate::hypervisor::TaskStatus;

/// The followed tasks, each with its followers.
#[derive(Debug, Default)]
pub struct TaskFollowers {
    table: Mutex<TaskTable>,
    list_changed: Notify,
}

#[derive(Debug, Default)]
struct TaskTable {
    followed: HashMap<TaskId, Followed>,
    /// Tasks that the `ListView` still contains but that have no followers. The next call that adds
    /// tasks removes them.
    to_remove: HashSet<TaskId>,
    /// Whether `Hypervisor::run` has ended, so that no status will come any more.
    closed: bool,
}

#[derive(Debug)]
struct Followed {
    sender: watch::Sender<TaskStatus>,
    /// Whether the `ListView` contains the task.
    in_list_view: bool,
    /// Whether the host has reported the task since it was added to the `ListView`.
    is_reported: bool,
    /// Whether otter must read the task when it adds the task to the `ListView`. This is so if the
    /// `ListView` may already contain the task, because the host does not report it then.
    must_read: bool,
}

/// The tasks that otter must add to the `ListView`, and those that it must remove.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListViewChanges {
    pub add: Vec<TaskId>,
    pub remove: Vec<TaskId>,
    /// The tasks of `add` that otter must also read, because the host does not report them.
    pub read: Vec<TaskId>,
}

impl TaskFollowers {
    /// Follows a task. Several callers can follow the same task. After [`close`](Self::close) has
    /// been called, the returned receiver is closed from the start.
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

    /// Waits until [`take_list_changes`](Self::take_list_changes) may return changes.
    pub async fn list_changed(&self) {
        self.list_changed.notified().await;
    }

    /// Takes the changes that the `ListView` needs. From now on the changes count as made. `None`
    /// if no task must be added and few must be removed.
    #[must_use]
    pub fn take_list_changes(&self) -> Option<ListViewChanges> {
        /// From this number of tasks on, otter removes tasks with a call of its own. Fewer tasks
        /// cost the host little, so otter removes them together with the next addition.
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
        // A task that had lost its followers but is followed again stays in the `ListView`.
        let mut remove: Vec<TaskId> =
            to_remove.into_iter().filter(|task| !table.followed.contains_key(task)).collect();
        for tasks in [&mut add, &mut read, &mut remove] {
            tasks.sort();
        }
        Some(ListViewChanges { add, remove, read })
    }

    /// The tasks in `tasks` that the host has not reported since they were added to the `ListView`.
    #[must_use]
    pub fn unreported(&self, tasks: Vec<TaskId>) -> Vec<TaskId> {
        let table = self.table();
        let is_unreported =
            |task: &TaskId| table.followed.get(task).is_some_and(|task| !task.is_reported);
        tasks.into_iter().filter(is_unreported).collect()
    }

    /// Records that the `ListView` was created again, so that it is empty.
    pub fn list_view_recreated(&self) {
        let mut table = self.table();
        table.to_remove.clear();
        for followed in table.followed.values_mut() {
            followed.in_list_view = false;
        }
        drop(table);
        self.list_changed.notify_one();
    }

    /// Requests that a followed task is added to the `ListView` once more and read.
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

    /// Sends the status of a task to its followers. Followers get the end of a task only once, and
    /// they never see the progress decrease. Returns whether followers got the end.
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

    /// Reports to the followers of a task that the host does not know the task, which ends it for
    /// them.
    pub fn report_vanished(&self, task: &TaskId) {
        let _ = self.report_end(task, TaskStatus::Vanished);
    }

    /// Closes the receivers of all followers. Callers that follow a task later get a closed
    /// receiver.
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
        // The end of a task is final: a later report of another end changes nothing.
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
        // A host can report a lower progress than before, but followers must not see it decrease.
        for (reported, expected) in [("40", 40), ("30", 40), ("", 40), ("60", 60)] {
            followers.report(
                &third,
                &info(&format!("<state>running</state><progress>{reported}</progress>")),
            );
            let now = last.borrow_and_update().clone();
            let TaskStatus::Running { progress } = now else { panic!("{now:?}") };
            assert_eq!(progress, Some(expected));
        }
        // The `ListView` may still contain a task that is added to it again. otter must read such a
        // task, because the host does not report it.
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
