//! Remembers the tasks that otter has seen as ended. An ended task never changes, so a read of a
//! machine's evidence does not need to read it again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::session::Login;
use super::task_info::{TaskInfo, TaskState};
use crate::domain::call::{CallKind, RecentTask};
use crate::domain::ids::TaskId;

/// The maximum number of tasks that are remembered. The host itself keeps an ended task for ten
/// minutes.
const MAX_TASKS: usize = 20_000;

/// The ended tasks that otter has seen on one login. A host that restarts may use task ids again,
/// but its restart ends every session, so the tasks of an earlier login no longer count.
#[derive(Debug, Default)]
pub struct EndedTasks(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// The generation of the login on which otter has seen the tasks.
    generation: u64,
    tasks: HashMap<TaskId, EndedTask>,
    /// The ids of the tasks, oldest first.
    order: VecDeque<TaskId>,
}

#[derive(Debug)]
struct EndedTask {
    call: Option<CallKind>,
    user: Option<String>,
}

impl EndedTasks {
    /// Remembers a task if it has ended. `login` is the login on which the task was read.
    pub fn note(&self, login: &Login, task: &TaskId, info: &TaskInfo) {
        if info.state == TaskState::Running {
            return;
        }
        let mut table = self.table();
        if login.generation() > table.generation {
            *table = Table { generation: login.generation(), ..Table::default() };
        } else if login.generation() < table.generation {
            return;
        }
        let ended = EndedTask { call: info.call(), user: info.user.clone() };
        if table.tasks.insert(task.clone(), ended).is_none() {
            table.order.push_back(task.clone());
            if table.order.len() > MAX_TASKS
                && let Some(oldest) = table.order.pop_front()
            {
                table.tasks.remove(&oldest);
            }
        }
    }

    /// The task, if otter has seen it as ended on `login`.
    #[must_use]
    pub fn get(&self, login: &Login, task: &TaskId) -> Option<RecentTask> {
        let table = self.table();
        if table.generation != login.generation() {
            return None;
        }
        let EndedTask { call, user } = table.tasks.get(task)?;
        let by_us = user.as_deref().is_some_and(|user| login.is_own_account(user));
        Some(RecentTask { id: task.clone(), call: *call, by_us, running: false })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
