//! Who follows which task.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use otter::domain::ids::TaskId;
use otter::hypervisor::TaskStatus;
use tokio::sync::{Notify, watch};

/// The followed tasks. None once it is closed.
#[derive(Debug)]
pub struct Followers {
    tasks: Mutex<Option<HashMap<TaskId, watch::Sender<TaskStatus>>>>,
    added: Notify,
}

impl Default for Followers {
    fn default() -> Self {
        Self { tasks: Mutex::new(Some(HashMap::new())), added: Notify::new() }
    }
}

impl Followers {
    /// Follows a task; several may follow one.
    pub fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus> {
        let new = || watch::Sender::new(TaskStatus::Running { progress: None });
        let receiver = match &mut *self.lock() {
            Some(tasks) => tasks.entry(task.clone()).or_insert_with(new).subscribe(),
            None => new().subscribe(),
        };
        self.added.notify_one();
        receiver
    }

    /// Returns once there may be a new one.
    pub async fn added(&self) {
        self.added.notified().await;
    }

    /// Tells all of where their tasks are. Who was told an end is told no more.
    pub fn tell(&self, status: impl Fn(&TaskId) -> TaskStatus) {
        let mut tasks = self.lock();
        let Some(tasks) = tasks.as_mut() else { return };
        tasks.retain(|task, sender| {
            let status = status(task);
            let runs = matches!(status, TaskStatus::Running { .. });
            sender.send_replace(status);
            runs && !sender.is_closed()
        });
    }

    /// Lets all go.
    pub fn close(&self) {
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<HashMap<TaskId, watch::Sender<TaskStatus>>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
