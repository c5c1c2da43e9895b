//! The tasks that callers of `Hypervisor::follow` follow, and which of them the host's ListView
//! lacks or has too many.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::task_info::{TaskInfo, TaskState};
use crate::domain::ids::TaskId;
use crate::hypervisor::TaskStatus;

/// The tasks that somebody follows.
#[derive(Debug, Default)]
pub struct TaskFollowers {
    table: Mutex<TaskTable>,
    list_changed: Notify,
}

#[derive(Debug, Default)]
struct TaskTable {
    followed: HashMap<TaskId, Followed>,
    /// Ended or left by all, and still on the host's list: taken off along with the next addition.
    to_remove: Vec<TaskId>,
    /// Nothing will be told any more.
    closed: bool,
}

#[derive(Debug)]
struct Followed {
    sender: watch::Sender<TaskStatus>,
    /// Whether it was put on the host's list.
    in_list_view: bool,
}

/// What the host's list of watched tasks lacks and has too much.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListViewChanges {
    pub add: Vec<TaskId>,
    pub remove: Vec<TaskId>,
}

impl TaskFollowers {
    /// Follows a task; several may follow one.
    #[must_use]
    pub fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus> {
        let new = || watch::Sender::new(TaskStatus::Running { progress: None });
        let mut table = self.table();
        if table.closed {
            return new().subscribe();
        }
        let followed = table
            .followed
            .entry(task.clone())
            .or_insert_with(|| Followed { sender: new(), in_list_view: false });
        let receiver = followed.sender.subscribe();
        drop(table);
        self.list_changed.notify_one();
        receiver
    }

    /// Waits until there may be something for [`take_list_changes`](Self::take_changes).
    pub async fn list_changed(&self) {
        self.list_changed.notified().await;
    }

    /// What to change on the host's list; afterwards it counts as changed. Nothing where nothing is
    /// to be added and the leftovers are few.
    #[must_use]
    pub fn take_list_changes(&self) -> Option<ListViewChanges> {
        /// Leftovers cost the host little; so many are worth a call of their own.
        const MANY: usize = 200;
        let mut guard = self.table();
        let table = &mut *guard;
        let to_remove = &mut table.to_remove;
        table.followed.retain(|task, followed| {
            let is_followed = !followed.sender.is_closed();
            if !is_followed && followed.in_list_view {
                to_remove.push(task.clone());
            }
            is_followed
        });
        let mut add = Vec::new();
        for (task, followed) in &mut table.followed {
            if !std::mem::replace(&mut followed.in_list_view, true) {
                add.push(task.clone());
            }
        }
        if add.is_empty() && table.to_remove.len() < MANY {
            return None;
        }
        add.sort();
        let remove = std::mem::take(&mut table.to_remove);
        // One that ended and is followed again stays.
        let remove = remove.into_iter().filter(|task| !table.followed.contains_key(task)).collect();
        Some(ListViewChanges { add, remove })
    }

    /// The host's list was made anew and is empty.
    pub fn list_view_recreated(&self) {
        let mut table = self.table();
        table.to_remove.clear();
        for followed in table.followed.values_mut() {
            followed.in_list_view = false;
        }
        drop(table);
        self.list_changed.notify_one();
    }

    /// A followed task has to be put on the host's list, and read, once more.
    pub fn relist(&self, task: &TaskId) {
        if let Some(followed) = self.table().followed.get_mut(task) {
            followed.in_list_view = false;
            self.list_changed.notify_one();
        }
    }

    /// Whether anybody follows it.
    #[must_use]
    pub fn is_followed(&self, task: &TaskId) -> bool {
        self.table().followed.contains_key(task)
    }

    /// Tells those who follow a task where it is; an end is told once. A percentage that falls is
    /// left out.
    pub fn report(&self, task: &TaskId, info: &TaskInfo) {
        if info.state == TaskState::Running {
            if let Some(followed) = self.table().followed.get(task) {
                followed.sender.send_modify(|status| {
                    if let TaskStatus::Running { progress } = status {
                        *progress = info.progress.max(*progress);
                    }
                });
            }
        } else {
            self.report_end(task, info.status());
        }
    }

    /// The host no longer knows it.
    pub fn report_vanished(&self, task: &TaskId) {
        self.report_end(task, TaskStatus::Vanished);
    }

    /// Lets all go: nothing is told any more.
    pub fn close(&self) {
        let mut table = self.table();
        table.closed = true;
        table.followed.clear();
    }

    fn report_end(&self, task: &TaskId, status: TaskStatus) {
        let mut table = self.table();
        if let Some(followed) = table.followed.remove(task) {
            if followed.in_list_view {
                table.to_remove.push(task.clone());
            }
            drop(table);
            followed.sender.send_replace(status);
        }
    }

    fn table(&self) -> MutexGuard<'_, TaskTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn the_hosts_list_follows_who_follows() {
        let followers = TaskFollowers::default();
        let [first, second] = ["a", "b"].map(TaskId::from_backend);
        let kept = followers.follow(&first);
        let dropped = followers.follow(&second);
        let changes = followers.take_list_changes().unwrap();
        assert_eq!(
            changes,
            ListViewChanges { add: vec![first.clone(), second.clone()], remove: vec![] }
        );
        assert_eq!(followers.take_list_changes(), None);
        drop(dropped);
        followers.report(&first, &info("<state>success</state>"));
        assert!(
            matches!(*kept.borrow(), TaskStatus::Succeeded { .. })
                && !followers.is_followed(&first)
        );
        // An end is never taken back.
        followers.report(&first, &info("<state>running</state>"));
        assert!(matches!(*kept.borrow(), TaskStatus::Succeeded { .. }));
        let third = TaskId::from_backend("c");
        let mut last = followers.follow(&third);
        let mut changes = followers.take_list_changes().unwrap();
        changes.remove.sort();
        assert_eq!(
            changes,
            ListViewChanges { add: vec![third.clone()], remove: vec![first, second.clone()] }
        );
        // Hosts' percentages can go back; what is told does not.
        for (told, shown) in [("40", 40), ("30", 40), ("", 40), ("60", 60)] {
            followers.report(
                &third,
                &info(&format!("<state>running</state><progress>{told}</progress>")),
            );
            let now = last.borrow_and_update().clone();
            assert!(
                matches!(now, TaskStatus::Running { progress: Some(percent) } if percent == shown)
            );
        }
        followers.close();
        assert!(last.has_changed().is_err() && followers.follow(&second).has_changed().is_err());
    }
}
