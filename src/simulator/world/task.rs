//! A task of the simulated host.
//!
//! ```text
//! queued ──► running ──► success | error
//!               └─ a question holds the task until it is answered or the task is cancelled
//! ```

use std::time::Duration;

use jiff::Timestamp;

use super::super::value::{Moref, Value};
use super::super::vim_fault::Fault;
use super::browse::FileSearch;
use super::files::FilePath;
use super::reconfigure::ConfigChange;

/// The operation that a task performs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    PowerOn,
    PowerOff,
    Reset,
    Suspend,
    CreateSnapshot { name: String, description: String, memory: bool, quiesce: bool },
    RevertToSnapshot { snapshot: String, suppress_power_on: bool },
    RevertToCurrentSnapshot { suppress_power_on: bool },
    RemoveSnapshot { snapshot: String, children: bool },
    RemoveAllSnapshots,
    ConsolidateDisks,
    CreateScreenshot,
    Reconfigure(Box<ConfigChange>),
    SearchFiles(Box<FileSearch>),
    DeleteFile(FilePath),
    MoveFile { from: FilePath, to: FilePath, force: bool },
    CopyFile { from: FilePath, to: FilePath, force: bool },
}

impl Operation {
    /// The name of the vim25 method that starts the operation.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self {
            Self::PowerOn => "PowerOnVM_Task",
            Self::PowerOff => "PowerOffVM_Task",
            Self::Reset => "ResetVM_Task",
            Self::Suspend => "SuspendVM_Task",
            Self::CreateSnapshot { .. } => "CreateSnapshot_Task",
            Self::RevertToSnapshot { .. } => "RevertToSnapshot_Task",
            Self::RevertToCurrentSnapshot { .. } => "RevertToCurrentSnapshot_Task",
            Self::RemoveSnapshot { .. } => "RemoveSnapshot_Task",
            Self::RemoveAllSnapshots => "RemoveAllSnapshots_Task",
            Self::ConsolidateDisks => "ConsolidateVMDisks_Task",
            Self::CreateScreenshot => "CreateScreenshot_Task",
            Self::Reconfigure(_) => "ReconfigVM_Task",
            Self::SearchFiles(search) if search.with_sub_folders => {
                "SearchDatastoreSubFolders_Task"
            }
            Self::SearchFiles(_) => "SearchDatastore_Task",
            Self::DeleteFile(_) => "DeleteDatastoreFile_Task",
            Self::MoveFile { .. } => "MoveDatastoreFile_Task",
            Self::CopyFile { .. } => "CopyDatastoreFile_Task",
        }
    }

    /// How long the operation takes at a scale of 1.0, which is about a tenth of the time on a real
    /// host.
    #[must_use]
    pub const fn duration(&self) -> Duration {
        Duration::from_millis(match self {
            Self::PowerOn => 1_200,
            Self::PowerOff => 400,
            Self::CreateScreenshot | Self::CopyFile { .. } => 200,
            Self::Reconfigure(_) => 300,
            Self::SearchFiles(_) | Self::DeleteFile(_) | Self::MoveFile { .. } => 40,
            Self::Reset => 600,
            Self::CreateSnapshot { .. } => 1_000,
            Self::Suspend
            | Self::RemoveSnapshot { .. }
            | Self::RevertToSnapshot { .. }
            | Self::RevertToCurrentSnapshot { .. } => 1_500,
            Self::RemoveAllSnapshots | Self::ConsolidateDisks => 2_000,
        })
    }

    /// The `descriptionId` that ESX writes into the task of the operation.
    #[must_use]
    pub const fn description_id(&self) -> &'static str {
        match self {
            Self::PowerOn => "VirtualMachine.powerOn",
            Self::PowerOff => "VirtualMachine.powerOff",
            Self::Reset => "VirtualMachine.reset",
            Self::Suspend => "VirtualMachine.suspend",
            Self::CreateSnapshot { .. } => "VirtualMachine.createSnapshot",
            Self::RevertToSnapshot { .. } => "vm.Snapshot.revert",
            Self::RevertToCurrentSnapshot { .. } => "VirtualMachine.revertToCurrentSnapshot",
            Self::RemoveSnapshot { .. } => "vm.Snapshot.remove",
            Self::RemoveAllSnapshots => "VirtualMachine.removeAllSnapshots",
            Self::ConsolidateDisks => "VirtualMachine.consolidateDisks",
            Self::CreateScreenshot => "VirtualMachine.createScreenshot",
            Self::Reconfigure(_) => "VirtualMachine.reconfigure",
            Self::SearchFiles(_) => "HostDatastoreBrowser.search",
            Self::DeleteFile(_) => "FileManager.deleteFile",
            Self::MoveFile { .. } => "FileManager.moveFile",
            Self::CopyFile { .. } => "FileManager.copyFile",
        }
    }

    /// Whether a task of this operation can be cancelled.
    #[must_use]
    pub const fn cancelable(&self) -> bool {
        matches!(
            self,
            Self::PowerOn
                | Self::CreateSnapshot { .. }
                | Self::SearchFiles(_)
                | Self::CopyFile { .. }
        )
    }

    /// Whether the operation works on files, and on no machine.
    #[must_use]
    pub const fn is_of_files(&self) -> bool {
        matches!(
            self,
            Self::SearchFiles(_)
                | Self::DeleteFile(_)
                | Self::MoveFile { .. }
                | Self::CopyFile { .. }
        )
    }
}

/// The state of a task (`TaskInfoState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    Queued,
    Running,
    Success,
    Error,
}

impl TaskState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Success => "success",
            Self::Error => "error",
        }
    }

    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Success | Self::Error)
    }
}

/// How far a task has come with the question that its machine asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuestionProgress {
    NotAsked,
    /// The machine asked its question. The task waits for the answer.
    Pending,
    /// The question is closed: it was answered, or the task was cancelled.
    Closed,
}

/// A task of the host: an operation on a machine or on files, with its state.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// The moid of the task, for example `haTask-16-vim.VirtualMachine.powerOn-123456`.
    pub id: String,
    pub operation: Operation,
    /// The moid of the machine on which the task works. Empty if it works on files.
    pub machine: String,
    pub machine_name: String,
    pub state: TaskState,
    pub cancelled: bool,
    pub progress: Option<i32>,
    pub error: Option<Fault>,
    pub result: Option<Value>,
    pub user: String,
    pub queued_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    pub number: i32,
    /// How many of the steps in [`PROGRESS_STEPS`] the task has taken.
    pub step: usize,
    pub question_progress: QuestionProgress,
    /// Whether hostd still knows the task. False if hostd has forgotten the task while its
    /// operation goes on.
    pub known_to_hostd: bool,
}

/// The steps of a task, with the progress in percent after each step. The first step only starts
/// the task.
pub const PROGRESS_STEPS: [Option<i32>; 4] = [None, Some(25), Some(50), Some(75)];

impl Task {
    /// The managed object reference to the task.
    #[must_use]
    pub fn moref(&self) -> Moref {
        Moref::new("Task", self.id.clone())
    }

    /// Whether the task waits for the answer to a question of its machine.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.question_progress == QuestionProgress::Pending
    }
}
