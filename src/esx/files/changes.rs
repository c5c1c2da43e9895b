//! The calls of the host's `FileManager`, each with the wait for the end of its task.

use super::{EsxFiles, TaskEnd, of_files, vim_path};
use crate::domain::file_job::FileTarget;
use crate::domain::ids::{JobId, TaskId};
use crate::esx::calls::send_authenticated;
use crate::esx::connections::Lane;
use crate::esx::soap::{Reference, request};
use crate::hypervisor::{CallError, FileChange, HostError, HostErrorKind};

impl EsxFiles {
    /// Makes one call and waits until it is done.
    ///
    /// # Errors
    /// As [`DatastoreFiles::change`](crate::hypervisor::DatastoreFiles::change).
    pub(super) async fn make_change(
        &self,
        change: &FileChange,
        job: JobId,
    ) -> Result<(), CallError> {
        let manager = self.file_manager().await.map_err(CallError::Refused)?;
        let operation = job.to_string();
        let (what, path) = match change {
            FileChange::Move { from, .. } => ("move", from),
            FileChange::Delete(target) => ("delete", target),
            FileChange::CreateFolder(target) => ("create", target),
        };
        let place = place(path);
        let build = || match change {
            FileChange::Move { from, to, replace } => {
                let to = vim_path(&from.datastore_name, Some(to));
                request::move_file(&manager, &place, &to, *replace, &operation)
            }
            FileChange::Delete(_) => request::delete_file(&manager, &place, &operation),
            FileChange::CreateFolder(_) => request::make_directory(&manager, &place, &operation),
        };
        let prefix = format!("The host refused to {what} {place}");
        let reply = send_authenticated(&self.session, build, &prefix, Lane::Ordinary.into()).await;
        let reply = reply.map_err(|error| match error {
            CallError::Refused(error) => CallError::Refused(of_files(error)),
            CallError::Lost(error) => CallError::Lost(of_files(error)),
        })?;
        if matches!(change, FileChange::CreateFolder(_)) {
            return Ok(());
        }
        let lost =
            |message: String| CallError::Lost(HostError::new(HostErrorKind::Unreachable, message));
        let Some(task) = reply.reference() else {
            return Err(lost(format!("The host accepted to {what} {place} and named no task.")));
        };
        match self.task_end(&TaskId::from_backend(&task.value)).await {
            TaskEnd::Succeeded => Ok(()),
            TaskEnd::Failed(error, false) => Err(CallError::Refused(error)),
            TaskEnd::Failed(error, true) => Err(CallError::Lost(error)),
            TaskEnd::Vanished => {
                Err(lost(format!("The host forgot its task to {what} {place} before it ended.")))
            }
        }
    }

    async fn file_manager(&self) -> Result<Reference, HostError> {
        let login = self.session.current_login().await?;
        self.require_standalone(login.content.product.is_standalone_host())?;
        login.content.file_manager.clone().ok_or_else(|| {
            let message = "The host has no FileManager, so otter cannot change files on it.";
            HostError::new(HostErrorKind::NotSupported, message)
        })
    }
}

fn place(target: &FileTarget) -> String {
    vim_path(&target.datastore_name, Some(&target.path))
}
