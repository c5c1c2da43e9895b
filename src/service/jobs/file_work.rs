//! The work on the files of datastores that jobs do: the seam between the jobs and the service that
//! knows how to reach files.

use async_trait::async_trait;
use tokio::sync::watch;

use crate::domain::failure::Failure;
use crate::domain::file_job::{FileCall, FileEvidence, FileTarget, Received, UploadRequest};
use crate::domain::ids::JobId;
use crate::hypervisor::{CallError, HostError};

/// Does the work of jobs on files. The job commits before and after each call what a restart needs.
#[async_trait]
pub trait FileWork: Send + Sync {
    /// Writes the body of an upload into its part file and nothing else. The body waits under the
    /// id of the job since before the job was accepted. If the caller drops the future, the upload
    /// is cut, and the caller calls [`FileWork::discard`].
    ///
    /// # Parameters
    /// - `progress`: gets the number of bytes that were sent.
    ///
    /// # Errors
    /// What the owner of the job gets to know. The part file is then removed, or remembered until
    /// it is.
    async fn receive(
        &self,
        job: JobId,
        target: &FileTarget,
        upload: &UploadRequest,
        progress: &watch::Sender<u64>,
    ) -> Result<Received, Failure>;

    /// Removes the part file of an upload that did not succeed, now or at the next session with the
    /// host.
    async fn discard(&self, job: JobId, target: &FileTarget);

    /// Makes one call and waits for the end of its task.
    ///
    /// # Errors
    /// [`CallError::Refused`] only if it is proven that nothing was done, otherwise
    /// [`CallError::Lost`].
    async fn call(&self, job: JobId, target: &FileTarget, call: FileCall) -> Result<(), CallError>;

    /// Reads from the host what is at the target, and at the part file if the job has one.
    ///
    /// # Errors
    /// The errors of the host. That nothing is there is no error.
    async fn look(&self, job: JobId, target: &FileTarget) -> Result<FileEvidence, HostError>;

    /// Records what an upload put at its target, after the part file was moved there.
    async fn uploaded(&self, job: JobId, target: &FileTarget, received: &Received);
}
