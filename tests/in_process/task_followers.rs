//! The tasks whose status is followed, and the channels of their followers.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use otter::domain::ids::TaskId;
use otter::hypervisor::TaskStatus;
use tokio::sync::{Notify, watch};

/// The followed tasks.
pub struct TaskFollowers {
    /// `None` once the backend has stopped.
    tasks: Mutex<Option<BTreeMap<TaskId, FollowedTask>>>,
    task_added: Notify,
}

struct FollowedTask {
    sender: watch::Sender<TaskStatus>,
    /// Whether the task was read after it was followed. After that read, its changes are enough.
    is_read: bool,
}

impl Default for TaskFollowers {
    fn default() -> Self {
        Self { tasks: Mutex::new(Some(BTreeMap::new())), task_added: Notify::new() }
    }
}

impl TaskFollowers {
    /// Follows a task. A task may have several followers.
    pub fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus> {
        let new = || watch::Sender::new(TaskStatus::Running { progress: None });
        let receiver = match &mut *self.lock() {
            Some(tasks) => tasks
                .entry(task.clone())
                .or_insert_with(|| FollowedTask { sender: new(), is_read: false })
                .sender
                .subscribe(),
            None => new().subscribe(),
        };
        self.task_added.notify_one();
        receiver
    }

    /// Waits until there may be a task for [`take_unread`](Self::take_unread).
    pub async fn task_added(&self) {
        self.task_added.notified().await;
    }

    /// Returns the followed tasks that were not read yet, and marks them as read.
    pub fn take_unread(&self) -> Vec<TaskId> {
        let mut tasks = self.lock();
        let Some(tasks) = tasks.as_mut() else { return Vec::new() };
        tasks.retain(|_, followed| !followed.sender.is_closed());
        let unread = tasks.iter_mut().filter(|(_, followed)| !followed.is_read);
        unread
            .map(|(task, followed)| {
                followed.is_read = true;
                task.clone()
            })
            .collect()
    }

    /// Marks every task as unread, because updates may have been missed.
    pub fn mark_all_unread(&self) {
        if let Some(tasks) = self.lock().as_mut() {
            for followed in tasks.values_mut() {
                followed.is_read = false;
            }
        }
    }

    /// Whether the task has followers.
    pub fn is_followed(&self, task: &TaskId) -> bool {
        self.lock().as_ref().is_some_and(|tasks| tasks.contains_key(task))
    }

    /// Publishes the status of a task. The end is published once. A lower percentage than the last
    /// one is ignored.
    pub fn publish(&self, task: &TaskId, status: TaskStatus) {
        let mut tasks = self.lock();
        let Some(tasks) = tasks.as_mut() else { return };
        let TaskStatus::Running { progress: reported } = status else {
            if let Some(followed) = tasks.remove(task) {
                followed.sender.send_replace(status);
            }
            return;
        };
        if let Some(followed) = tasks.get(task) {
            followed.sender.send_modify(|status| {
                if let TaskStatus::Running { progress } = status {
                    *progress = reported.max(*progress);
                }
            });
        }
    }

    /// Closes the channels of all followers.
    pub fn close(&self) {
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeMap<TaskId, FollowedTask>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
