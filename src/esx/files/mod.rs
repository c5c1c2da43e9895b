//! The files on the datastores of a host. `browser` lists folders, `transfer` sends and receives
//! bytes over connections of its own, `changes` moves and deletes, and `space` measures.
//! `folder_url` has the addresses of files, and `late_errors` lets an early answer be read.

mod browser;
mod changes;
pub mod folder_url;
mod late_errors;
mod space;
mod transfer;

use std::sync::Arc;

use async_trait::async_trait;

use super::session::Session;
use super::task_followers::TaskFollowers;
use crate::clock::Clock;
use crate::domain::byte_range::ByteRange;
use crate::domain::file_entry::{FileEntry, FileKind};
use crate::domain::file_job::{FileFact, FileTarget};
use crate::domain::file_path::FilePath;
use crate::domain::ids::{DatastoreId, JobId, TaskId};
use crate::domain::names::escape_vim;
use crate::hypervisor::{
    CallError, DatastoreFiles, DatastoreSpace, FileBody, FileChange, FileRead, FolderPlace,
    HostError, HostErrorKind, TaskStatus,
};

/// The files on the datastores of one host.
#[derive(Clone, Debug)]
pub struct EsxFiles {
    session: Arc<Session>,
    followers: Arc<TaskFollowers>,
    clock: Clock,
}

/// How a task of the host ended.
enum TaskEnd {
    Succeeded,
    /// The host says why. The flag says whether the call may have run nevertheless.
    Failed(HostError, bool),
    /// The host does not know the task any more.
    Vanished,
}

impl EsxFiles {
    #[must_use]
    pub const fn new(session: Arc<Session>, followers: Arc<TaskFollowers>, clock: Clock) -> Self {
        Self { session, followers, clock }
    }

    /// Waits for the end of a task.
    async fn task_end(&self, task: &TaskId) -> TaskEnd {
        let mut status = self.followers.follow(task);
        loop {
            match &*status.borrow_and_update() {
                TaskStatus::Running { .. } => {}
                TaskStatus::Succeeded { .. } => return TaskEnd::Succeeded,
                TaskStatus::Failed(error) => {
                    let copy = HostError::new(error.kind, error.message.clone());
                    let copy = match error.fault.clone() {
                        Some(fault) => copy.with_fault(fault),
                        None => copy,
                    };
                    return TaskEnd::Failed(of_files(copy), error.outcome_uncertain);
                }
                TaskStatus::Vanished => return TaskEnd::Vanished,
            }
            if status.changed().await.is_err() {
                return TaskEnd::Vanished;
            }
        }
    }

    /// Refuses a vCenter, whose files are on other servers and need other tickets.
    fn require_standalone(&self, is_standalone: bool) -> Result<(), HostError> {
        if is_standalone {
            return Ok(());
        }
        let message = format!(
            "The host {} is a vCenter, whose files otter does not transfer. Connect otter to the \
             ESX host itself.",
            self.session.address()
        );
        Err(HostError::new(HostErrorKind::NotSupported, message))
    }
}

#[async_trait]
impl DatastoreFiles for EsxFiles {
    async fn list(&self, folder: &FolderPlace) -> Result<Vec<FileEntry>, HostError> {
        self.search(folder, None).await
    }

    async fn look(&self, file: &FileTarget) -> Result<Option<FileFact>, HostError> {
        let folder = folder_of(file);
        let listed = match self.search(&folder, Some(file.path.name())).await {
            Ok(entries) => entries.into_iter().find(|entry| entry.name == file.path.name()),
            Err(error) if error.kind == HostErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some(FileEntry { kind: FileKind::Folder, modified_at, .. }) = listed {
            let is_empty = self.search(&as_folder(file), None).await?.is_empty();
            return Ok(Some(FileFact { bytes: 0, modified_at, is_folder: true, is_empty }));
        }
        // The browser of a host hides some files, and a listing can be older than a file, so a read
        // of the file decides whether it is there.
        match (self.length(file).await, listed) {
            (Ok(length), listed) => {
                let modified_at = listed.and_then(|entry| entry.modified_at);
                let is_empty = length == 0;
                Ok(Some(FileFact { bytes: length, modified_at, is_folder: false, is_empty }))
            }
            (Err(error), _) if error.kind == HostErrorKind::NotFound => Ok(None),
            // The host has the file and does not let anybody read it.
            (Err(error), Some(entry)) if error.kind == HostErrorKind::FileInUse => {
                let (bytes, modified_at) = (entry.bytes.unwrap_or(0), entry.modified_at);
                Ok(Some(FileFact { bytes, modified_at, is_folder: false, is_empty: bytes == 0 }))
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn read(
        &self,
        file: &FileTarget,
        range: Option<ByteRange>,
    ) -> Result<FileRead, HostError> {
        self.get(file, range).await
    }

    async fn write(&self, file: &FileTarget, length: u64, body: FileBody) -> Result<(), HostError> {
        self.put(file, length, body).await
    }

    async fn change(&self, change: &FileChange, job: JobId) -> Result<(), CallError> {
        self.make_change(change, job).await
    }

    async fn measure(&self, datastore: &DatastoreId) -> Result<DatastoreSpace, HostError> {
        space::measure(&self.session, datastore).await
    }
}

/// The folder that has a file.
fn folder_of(file: &FileTarget) -> FolderPlace {
    FolderPlace {
        datastore: file.datastore.clone(),
        datastore_name: file.datastore_name.clone(),
        path: file.path.parent(),
    }
}

/// The folder at the path of a file.
fn as_folder(file: &FileTarget) -> FolderPlace {
    let path = Some(file.path.clone());
    FolderPlace { path, ..folder_of(file) }
}

/// A place as vim25 writes it. Names of datastores are escaped there, and paths are not.
fn vim_path(datastore_name: &str, path: Option<&FilePath>) -> String {
    let datastore = escape_vim(datastore_name);
    match path {
        Some(path) => format!("[{datastore}] {path}"),
        None => format!("[{datastore}]"),
    }
}

/// Gives an error of a call on files the kind that its fault has for files. For calls on machines,
/// the same faults mean other things.
fn of_files(mut error: HostError) -> HostError {
    if let Some(fault) = &error.fault {
        error.kind = match fault.name.as_str() {
            "FileNotFound" => HostErrorKind::NotFound,
            "FileAlreadyExists" => HostErrorKind::FileExists,
            "FileLocked" | "CannotDeleteFile" => HostErrorKind::FileInUse,
            "NoDiskSpace" => HostErrorKind::InsufficientResources,
            _ => error.kind,
        };
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_the_escaped_name_of_its_datastore() {
        let path = FilePath::parse("linux/a.iso").unwrap();
        assert_eq!(vim_path("isos", Some(&path)), "[isos] linux/a.iso");
        assert_eq!(vim_path("isos/10.0.0.5", None), "[isos%2f10.0.0.5]");
    }
}
