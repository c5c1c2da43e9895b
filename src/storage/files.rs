//! The storage of what otter put on datastores: part files that may be left, and the files of the
//! last uploads.

use async_trait::async_trait;

use super::StorageError;
use crate::domain::file_job::{PartRecord, UploadRecord};
use crate::domain::ids::{DatastoreId, JobId};

/// The rows of part files and of uploads. The rules of [`Storage`](super::Storage) for reads and
/// writes apply here too.
#[async_trait]
pub trait FileStorage: Send + Sync {
    /// Commits that the part file of a job may be on a datastore. A row of the same job is
    /// replaced.
    async fn insert_part(&self, part: &PartRecord) -> Result<(), StorageError>;

    /// Forgets the part file of a job. Does nothing if there is no such row.
    async fn remove_part(&self, job: JobId) -> Result<(), StorageError>;

    /// Reads all part files, in the order of their jobs.
    async fn parts(&self) -> Result<Vec<PartRecord>, StorageError>;

    /// Commits the file that an upload put at a path. An earlier row of the path is replaced. The
    /// oldest rows are forgotten if there are more than 10,000.
    async fn record_upload(&self, upload: &UploadRecord) -> Result<(), StorageError>;

    /// Reads the last upload to a path. `None` if there is no row.
    async fn upload(
        &self,
        datastore: &DatastoreId,
        path: &str,
    ) -> Result<Option<UploadRecord>, StorageError>;

    /// Forgets the upload to a path. Does nothing if there is no such row.
    async fn remove_upload(&self, datastore: &DatastoreId, path: &str) -> Result<(), StorageError>;
}
