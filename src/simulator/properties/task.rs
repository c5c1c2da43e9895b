//! `TaskInfo`.

use super::super::value::{Moref, Object, word};
use super::super::world::Task;
use crate::domain::names::escape_vim;

pub fn info(task: &Task) -> Object {
    Object::new("TaskInfo")
        .with("key", &task.id)
        .with("task", task.moref())
        .with("name", task.operation.method())
        .with("descriptionId", task.operation.description_id())
        .with("entity", Moref::new("VirtualMachine", task.machine.clone()))
        .with("entityName", escape_vim(&task.machine_name))
        .with("state", word("TaskInfoState", task.state.as_str()))
        .with("cancelled", task.cancelled)
        .with("cancelable", task.operation.cancelable() && !task.state.is_end())
        .with("error", task.error.as_ref().map(super::super::fault::Fault::localized))
        .with("result", task.result.clone())
        .with("progress", task.progress.filter(|_| !task.state.is_end() || task.error.is_none()))
        .with("reason", Object::new("TaskReasonUser").with("userName", &task.user))
        .with("queueTime", task.queued_at)
        .with("startTime", task.started_at)
        .with("completeTime", task.completed_at)
        .with("eventChainId", task.number)
}
