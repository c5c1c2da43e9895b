//! Following tasks: who watches which, what `TaskInfo` means, and which ends start a guest anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::soap::Reference;
use super::soap::fault::VimFault;
use super::soap::property::number;
use super::soap::xml::Element;
use crate::domain::call::CallKind;
use crate::domain::ids::{SnapshotId, TaskId};
use crate::hypervisor::{HostError, HostErrorKind, TaskStatus};

/// `TaskInfo`, as far as it matters here.
#[derive(Clone, Debug)]
pub struct TaskInfo {
    pub state: TaskState,
    pub progress: Option<u8>,
    pub error: Option<VimFault>,
    pub cancelled: bool,
    /// The result, where it is a reference.
    pub result: Option<Reference>,
    pub description_id: String,
    pub entity: Option<Reference>,
    /// The account that started it, where a person or program did.
    pub user: Option<String>,
}

/// `TaskInfoState`; a word to come counts as running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    Running,
    Success,
    Error,
}

impl TaskInfo {
    /// Reads `Task.info`.
    #[must_use]
    pub fn read(info: Element<'_>) -> Self {
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

    /// Which of otter's calls made it: by the words of ESX, of vCenter, and of govmomi's simulator.
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
            "vm.Snapshot.rename" | "VirtualMachineSnapshot.rename" => {
                Some(CallKind::RenameSnapshot)
            }
            "vm.Snapshot.revert"
            | "VirtualMachineSnapshot.revert"
            | "VirtualMachineSnapshot.revertToSnapshot" => Some(CallKind::RevertToSnapshot),
            _ => None,
        }
    }

    /// Whether its success means that another guest runs than before.
    #[must_use]
    pub fn restarts_guest(&self) -> bool {
        self.state == TaskState::Success
            && (matches!(
                self.call(),
                Some(CallKind::PowerOn | CallKind::Reset | CallKind::RevertToSnapshot)
            ) || matches!(
                self.description_id.as_str(),
                "VirtualMachine.revertToCurrentSnapshot" | "VirtualMachine.revertSnapshot"
            ))
    }

    fn status(&self) -> TaskStatus {
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
        let lead = match self.description_id.as_str() {
            "" => "The host's task failed".to_owned(),
            description => format!("The host's task {description} failed"),
        };
        match &self.error {
            Some(fault) => fault.clone().into_error(&lead),
            None if self.cancelled => {
                HostError::new(HostErrorKind::Cancelled, format!("{lead}: it was cancelled."))
            }
            None => HostError::new(HostErrorKind::Rejected, format!("{lead}, without a reason.")),
        }
    }
}

/// The tasks that somebody follows.
#[derive(Debug, Default)]
pub struct Followers {
    book: Mutex<Book>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Book {
    followed: HashMap<TaskId, Followed>,
    /// Ended or left by all, and still on the host's list: taken off along with the next addition.
    leftover: Vec<TaskId>,
    /// Nothing will be told any more.
    closed: bool,
}

#[derive(Debug)]
struct Followed {
    sender: watch::Sender<TaskStatus>,
    /// Whether it was put on the host's list.
    listed: bool,
}

/// What the host's list of watched tasks lacks and has too much.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListChanges {
    pub add: Vec<TaskId>,
    pub remove: Vec<TaskId>,
}

impl Followers {
    /// Follows a task; several may follow one.
    #[must_use]
    pub fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus> {
        let new = || watch::Sender::new(TaskStatus::Running { progress: None });
        let mut book = self.book();
        if book.closed {
            return new().subscribe();
        }
        let followed = book
            .followed
            .entry(task.clone())
            .or_insert_with(|| Followed { sender: new(), listed: false });
        let receiver = followed.sender.subscribe();
        drop(book);
        self.added.notify_one();
        receiver
    }

    /// Waits until there may be something for [`take_changes`](Self::take_changes).
    pub async fn added(&self) {
        self.added.notified().await;
    }

    /// What to change on the host's list; afterwards it counts as changed. Nothing where nothing is
    /// to be added and the leftovers are few.
    #[must_use]
    pub fn take_changes(&self) -> Option<ListChanges> {
        /// Leftovers cost the host little; so many are worth a call of their own.
        const MANY: usize = 200;
        let mut guard = self.book();
        let book = &mut *guard;
        let leftover = &mut book.leftover;
        book.followed.retain(|task, followed| {
            let wanted = !followed.sender.is_closed();
            if !wanted && followed.listed {
                leftover.push(task.clone());
            }
            wanted
        });
        let mut add = Vec::new();
        for (task, followed) in &mut book.followed {
            if !std::mem::replace(&mut followed.listed, true) {
                add.push(task.clone());
            }
        }
        if add.is_empty() && book.leftover.len() < MANY {
            return None;
        }
        add.sort();
        let remove = std::mem::take(&mut book.leftover);
        // One that ended and is followed again stays.
        let remove = remove.into_iter().filter(|task| !book.followed.contains_key(task)).collect();
        Some(ListChanges { add, remove })
    }

    /// The host's list was made anew and is empty.
    pub fn list_is_new(&self) {
        let mut book = self.book();
        book.leftover.clear();
        for followed in book.followed.values_mut() {
            followed.listed = false;
        }
        drop(book);
        self.added.notify_one();
    }

    /// A followed task has to be put on the host's list, and read, once more.
    pub fn list_again(&self, task: &TaskId) {
        if let Some(followed) = self.book().followed.get_mut(task) {
            followed.listed = false;
            self.added.notify_one();
        }
    }

    /// Whether anybody follows it.
    #[must_use]
    pub fn follows(&self, task: &TaskId) -> bool {
        self.book().followed.contains_key(task)
    }

    /// Tells those who follow a task where it is; an end is told once. A percentage that falls is
    /// left out.
    pub fn tell(&self, task: &TaskId, info: &TaskInfo) {
        if info.state == TaskState::Running {
            if let Some(followed) = self.book().followed.get(task) {
                followed.sender.send_modify(|status| {
                    if let TaskStatus::Running { progress } = status {
                        *progress = info.progress.max(*progress);
                    }
                });
            }
        } else {
            self.end(task, info.status());
        }
    }

    /// The host no longer knows it.
    pub fn vanished(&self, task: &TaskId) {
        self.end(task, TaskStatus::Vanished);
    }

    /// Lets all go: nothing is told any more.
    pub fn close(&self) {
        let mut book = self.book();
        book.closed = true;
        book.followed.clear();
    }

    fn end(&self, task: &TaskId, status: TaskStatus) {
        let mut book = self.book();
        if let Some(followed) = book.followed.remove(task) {
            if followed.listed {
                book.leftover.push(task.clone());
            }
            drop(book);
            followed.sender.send_replace(status);
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
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
        TaskInfo::read(Document::parse(text.as_bytes()).unwrap().root())
    }

    #[test]
    fn a_task_is_read_by_the_words_of_every_peer() {
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
            ("vm.Snapshot.rename", Some(CallKind::RenameSnapshot)),
            ("VirtualMachine.reconfigure", None),
            ("", None),
        ] {
            assert_eq!(info(&format!("<descriptionId>{description}</descriptionId>")).call(), call);
        }
        let made = info(
            r#"<state>success</state><result xsi:type="ManagedObjectReference" type="VirtualMachineSnapshot">s</result>"#,
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

    #[test]
    fn the_hosts_list_follows_who_follows() {
        let followers = Followers::default();
        let [first, second] = ["a", "b"].map(TaskId::from_backend);
        let kept = followers.follow(&first);
        let dropped = followers.follow(&second);
        let changes = followers.take_changes().unwrap();
        assert_eq!(
            changes,
            ListChanges { add: vec![first.clone(), second.clone()], remove: vec![] }
        );
        assert_eq!(followers.take_changes(), None);
        drop(dropped);
        followers.tell(&first, &info("<state>success</state>"));
        assert!(
            matches!(*kept.borrow(), TaskStatus::Succeeded { .. }) && !followers.follows(&first)
        );
        // An end is never taken back.
        followers.tell(&first, &info("<state>running</state>"));
        assert!(matches!(*kept.borrow(), TaskStatus::Succeeded { .. }));
        let third = TaskId::from_backend("c");
        let mut last = followers.follow(&third);
        let mut changes = followers.take_changes().unwrap();
        changes.remove.sort();
        assert_eq!(
            changes,
            ListChanges { add: vec![third.clone()], remove: vec![first, second.clone()] }
        );
        // Hosts' percentages can go back; what is told does not.
        for (told, shown) in [("40", 40), ("30", 40), ("", 40), ("60", 60)] {
            followers
                .tell(&third, &info(&format!("<state>running</state><progress>{told}</progress>")));
            let now = last.borrow_and_update().clone();
            assert!(
                matches!(now, TaskStatus::Running { progress: Some(percent) } if percent == shown)
            );
        }
        followers.close();
        assert!(last.has_changed().is_err() && followers.follow(&second).has_changed().is_err());
    }
}
