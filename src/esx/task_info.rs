//! `TaskInfo` of vim25: its fields, the call that started the task, and what the task's state means
//! for its followers.

use std::sync::Arc;

use super::soap::Reference;
use super::soap::fault::VimFault;
use super::soap::property::number;
use super::soap::xml::Element;
use crate::domain::call::CallKind;
use crate::domain::ids::SnapshotId;
use crate::hypervisor::{GuestRestart, HostError, HostErrorKind, TaskStatus};

/// The fields of `TaskInfo` that otter uses.
#[derive(Clone, Debug)]
pub struct TaskInfo {
    pub state: TaskState,
    pub progress: Option<u8>,
    pub error: Option<VimFault>,
    pub cancelled: bool,
    /// The result of the task, if the result is a reference.
    pub result: Option<Reference>,
    pub description_id: String,
    pub entity: Option<Reference>,
    /// The account that started the task (`TaskReasonUser`). `None` if the host started it.
    pub user: Option<String>,
}

/// The state of a task (`TaskInfoState`). `queued` and states unknown to otter count as running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    Running,
    Success,
    Error,
}

impl TaskInfo {
    /// Reads the property `info` of a task.
    #[must_use]
    pub fn from_element(info: Element<'_>) -> Self {
        let result = info.child("result").filter(|result| result.attribute("type").is_some());
        Self {
            state: match info.child_text("state") {
                Some("success") => TaskState::Success,
                Some("error") => TaskState::Error,
                _ => TaskState::Running,
            },
            progress: info.child("progress").and_then(number::<u8>).map(|percent| percent.min(100)),
            error: info.child("error").map(VimFault::from_localized),
            cancelled: info.child_text("cancelled") == Some("true"),
            result: result.and_then(Reference::from_element),
            description_id: info.child_text("descriptionId").unwrap_or_default().to_owned(),
            entity: Reference::in_child(info, "entity"),
            user: info.descend(&["reason", "userName"]).map(|user| user.text().to_owned()),
        }
    }

    /// The kind of call that started the task, as its `descriptionId` says. ESX, vCenter and
    /// govmomi's simulator write it in different forms. `None` if otter makes no such call.
    #[must_use]
    pub fn call(&self) -> Option<CallKind> {
        match self.description_id.as_str() {
            "VirtualMachine.powerOn" => Some(CallKind::PowerOn),
            "VirtualMachine.powerOff" => Some(CallKind::PowerOff),
            "VirtualMachine.reset" => Some(CallKind::Reset),
            "VirtualMachine.suspend" => Some(CallKind::Suspend),
            "VirtualMachine.createSnapshot" => Some(CallKind::CreateSnapshot),
            "vm.Snapshot.remove"
            | "VirtualMachineSnapshot.remove"
            | "VirtualMachineSnapshot.removeSnapshot" => Some(CallKind::RemoveSnapshot),
            "VirtualMachine.removeAllSnapshots" | "VirtualMachine.RemoveAllSnapshots" => {
                Some(CallKind::RemoveAllSnapshots)
            }
            "VirtualMachine.consolidateDisks" => Some(CallKind::ConsolidateDisks),
            // It stands for every change of the configuration (`CallKind::shares_task_with`).
            "VirtualMachine.reconfigure" => Some(CallKind::SetMedia),
            "vm.Snapshot.rename" | "VirtualMachineSnapshot.rename" => {
                Some(CallKind::RenameSnapshot)
            }
            "vm.Snapshot.revert"
            | "VirtualMachineSnapshot.revert"
            | "VirtualMachineSnapshot.revertToSnapshot" => Some(CallKind::RevertToSnapshot),
            _ => None,
        }
    }

    /// How the task restarted the guest of its machine. `None` if it has not succeeded, or is of
    /// another kind.
    #[must_use]
    pub fn guest_restart(&self) -> Option<GuestRestart> {
        if self.state != TaskState::Success {
            return None;
        }
        if self.reverts() {
            return Some(GuestRestart::Revert);
        }
        match self.call()? {
            CallKind::PowerOn => Some(GuestRestart::PowerOn),
            CallKind::Reset => Some(GuestRestart::Reset),
            _ => None,
        }
    }

    /// Whether the task reverts its machine to a snapshot.
    fn reverts(&self) -> bool {
        self.call() == Some(CallKind::RevertToSnapshot)
            || matches!(
                self.description_id.as_str(),
                "VirtualMachine.revertToCurrentSnapshot" | "VirtualMachine.revertSnapshot"
            )
    }

    /// The status that the followers of the task get.
    #[must_use]
    pub fn status(&self) -> TaskStatus {
        match self.state {
            TaskState::Running => TaskStatus::Running { progress: self.progress },
            TaskState::Success => TaskStatus::Succeeded {
                snapshot: self
                    .result
                    .as_ref()
                    .filter(|result| result.kind == "VirtualMachineSnapshot")
                    .map(|result| SnapshotId::from_backend(&result.value)),
            },
            TaskState::Error => TaskStatus::Failed(Arc::new(self.failure())),
        }
    }

    fn failure(&self) -> HostError {
        let prefix = match self.description_id.as_str() {
            "" => "The host's task failed".to_owned(),
            description => format!("The host's task {description} failed"),
        };
        match &self.error {
            Some(fault) => fault.clone().into_error(&prefix),
            None if self.cancelled => {
                HostError::new(HostErrorKind::Cancelled, format!("{prefix}: it was cancelled."))
            }
            None => HostError::new(HostErrorKind::Rejected, format!("{prefix}, without a reason.")),
        }
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
    fn the_call_is_read_from_the_description_id_of_every_peer() {
        for (description, call) in [
            ("VirtualMachine.powerOn", Some(CallKind::PowerOn)),
            ("VirtualMachine.powerOff", Some(CallKind::PowerOff)),
            ("VirtualMachine.reset", Some(CallKind::Reset)),
            ("vm.Snapshot.revert", Some(CallKind::RevertToSnapshot)),
            ("VirtualMachineSnapshot.revertToSnapshot", Some(CallKind::RevertToSnapshot)),
            ("VirtualMachine.suspend", Some(CallKind::Suspend)),
            ("VirtualMachine.createSnapshot", Some(CallKind::CreateSnapshot)),
            ("vm.Snapshot.remove", Some(CallKind::RemoveSnapshot)),
            ("VirtualMachineSnapshot.removeSnapshot", Some(CallKind::RemoveSnapshot)),
            ("VirtualMachine.removeAllSnapshots", Some(CallKind::RemoveAllSnapshots)),
            ("VirtualMachine.RemoveAllSnapshots", Some(CallKind::RemoveAllSnapshots)),
            ("VirtualMachine.consolidateDisks", Some(CallKind::ConsolidateDisks)),
            ("vm.Snapshot.rename", Some(CallKind::RenameSnapshot)),
            ("VirtualMachine.reconfigure", Some(CallKind::SetMedia)),
            ("", None),
        ] {
            assert_eq!(info(&format!("<descriptionId>{description}</descriptionId>")).call(), call);
        }
        let made = info(
            r#"<state>success</state>
               <result xsi:type="ManagedObjectReference" type="VirtualMachineSnapshot">s</result>"#,
        );
        let TaskStatus::Succeeded { snapshot } = made.status() else { panic!() };
        assert_eq!(snapshot, Some(SnapshotId::from_backend("s")));
        assert_eq!(
            info("<state>to-come</state><progress>250</progress>").state,
            TaskState::Running
        );
        let TaskStatus::Failed(error) =
            info("<state>error</state><cancelled>true</cancelled>").status()
        else {
            panic!()
        };
        assert_eq!(error.kind, HostErrorKind::Cancelled);
    }
}
