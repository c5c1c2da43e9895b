//! The vim25 objects `TaskInfo` (of a task) and `TaskDescription` (of the task manager).

use super::super::value::{Moref, Object, enum_value, list};
use super::super::world::Task;
use crate::domain::names::escape_vim;

/// The `TaskInfo` of a task.
pub fn info(task: &Task) -> Object {
    // A task of files names no entity, as on a real host.
    let is_of_machine = !task.machine.is_empty();
    Object::new("TaskInfo")
        .with("key", &task.id)
        .with("task", task.moref())
        .with("name", task.operation.method())
        .with("descriptionId", task.operation.description_id())
        .with("entity", is_of_machine.then(|| Moref::new("VirtualMachine", &*task.machine)))
        .with("entityName", is_of_machine.then(|| escape_vim(&task.machine_name)))
        .with("state", enum_value("TaskInfoState", task.state.as_str()))
        .with("cancelled", task.cancelled)
        .with("cancelable", task.operation.cancelable() && !task.state.is_end())
        .with("error", task.error.as_ref().map(super::super::vim_fault::Fault::localized))
        .with("result", task.result.clone())
        .with("progress", task.progress.filter(|_| !task.state.is_end() || task.error.is_none()))
        .with("reason", Object::new("TaskReasonUser").with("userName", &task.user))
        .with("queueTime", task.queued_at)
        .with("startTime", task.started_at)
        .with("completeTime", task.completed_at)
        .with("eventChainId", task.number)
}

/// `TaskDescription`: the descriptions of the methods, states and reasons of tasks.
pub fn description() -> Object {
    const METHODS: [(&str, &str); 17] = [
        ("VirtualMachine.powerOn", "Power on a machine"),
        ("VirtualMachine.powerOff", "Power off a machine"),
        ("VirtualMachine.reset", "Reset a machine"),
        ("VirtualMachine.suspend", "Suspend a machine"),
        ("VirtualMachine.createSnapshot", "Create a snapshot"),
        ("VirtualMachine.removeAllSnapshots", "Remove all snapshots"),
        ("VirtualMachine.consolidateDisks", "Consolidate the disks of a machine"),
        ("VirtualMachine.createScreenshot", "Save a picture of the screen of a machine"),
        ("VirtualMachine.reconfigure", "Change a machine"),
        ("VirtualMachine.revertToCurrentSnapshot", "Revert to the current snapshot"),
        ("vm.Snapshot.revert", "Revert to a snapshot"),
        ("vm.Snapshot.remove", "Remove a snapshot"),
        ("vm.Snapshot.rename", "Rename a snapshot"),
        ("HostDatastoreBrowser.search", "Search a datastore"),
        ("FileManager.deleteFile", "Delete a file"),
        ("FileManager.moveFile", "Move a file"),
        ("FileManager.copyFile", "Copy a file"),
    ];
    let element = |type_name, (key, label): (&str, &str)| {
        Object::new(type_name).with("label", label).with("summary", label).with("key", key)
    };
    let states = ["queued", "running", "success", "error"].map(|state| (state, state));
    let reasons = [("TaskReasonUser", "A user"), ("TaskReasonSystem", "The host")];
    Object::new("TaskDescription")
        .with(
            "methodInfo",
            list(
                "ElementDescription",
                METHODS.map(|method| element("ElementDescription", method)).to_vec(),
            ),
        )
        .with(
            "state",
            list(
                "ElementDescription",
                states.map(|state| element("ElementDescription", state)).to_vec(),
            ),
        )
        .with(
            "reason",
            list(
                "TypeDescription",
                reasons.map(|reason| element("TypeDescription", reason)).to_vec(),
            ),
        )
}
