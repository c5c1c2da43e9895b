//! What jobs on the files of datastores work on: the target, the calls to the host, what is found
//! at a path, and what an upload sent.

use jiff::Timestamp;

use super::artifact::Sha256Sum;
use super::failure::Failure;
use super::file_path::FilePath;
use super::ids::{DatastoreId, JobId};

/// A file or folder of a datastore that a job works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTarget {
    pub datastore: DatastoreId,
    /// The name that the datastore had when the job was accepted.
    pub datastore_name: String,
    pub path: FilePath,
}

/// The parameters of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadRequest {
    /// The length of the body.
    pub bytes: u64,
    /// Whether the upload may replace a file.
    pub replace: bool,
    /// The SHA-256 that the body must have. `None` if the caller named none.
    pub sha256: Option<Sha256Sum>,
}

/// One call to the host that changes the target of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileCall {
    /// Moves the part file of the upload to the target (`MoveDatastoreFile_Task`).
    MovePart { replace: bool },
    /// Deletes the target (`DeleteDatastoreFile_Task`).
    Delete,
    /// Creates the target as a folder (`MakeDirectory`).
    CreateFolder,
}

/// What an upload sent into its part file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub bytes: u64,
    pub sha256: Sha256Sum,
    /// Whether the target already has these bytes, so that nothing was written.
    pub unchanged: bool,
}

/// What is at the target of a job and at its part file, read from the host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileEvidence {
    pub target: Option<FileFact>,
    /// Only uploads have a part file.
    pub part: Option<FileFact>,
}

/// A file or folder that the host lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFact {
    /// The size. It is 0 for a folder.
    pub bytes: u64,
    pub modified_at: Option<Timestamp>,
    pub is_folder: bool,
    /// Whether it is a folder without contents.
    pub is_empty: bool,
}

/// A call on a file that a job commits before it makes the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIntent {
    pub call: FileCall,
    /// What was at the target before the call. Empty before the part file of an upload is moved.
    pub before: FileEvidence,
    /// What the upload sent. `None` if the job is no upload.
    pub received: Option<Received>,
    /// How often otter has sent the call or may have sent it. The number is at least 1.
    pub asked: u32,
    /// The failure with which the upload ends once its part file is gone. `None` while the call may
    /// still be sent.
    pub end: Option<Failure>,
}

/// The result of a job on a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileResult {
    /// The path with the name of the datastore, for example `[isos] iso/qubes.iso`.
    pub path: String,
    /// The size and the SHA-256 of what an upload sent. `None` for other jobs.
    pub sent: Option<(u64, Sha256Sum)>,
}

/// The part file of an upload that may be on a datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRecord {
    pub job: JobId,
    pub datastore: DatastoreId,
    /// The path of the target. It and the id of the job give the path of the part file.
    pub path: String,
}

/// A file that an upload put on a datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadRecord {
    pub datastore: DatastoreId,
    pub path: String,
    pub bytes: u64,
    pub sha256: Sha256Sum,
    /// The time that the host listed for the file after the upload.
    pub modified_at: Option<Timestamp>,
}

impl FileTarget {
    /// The path with the name of the datastore, for example `[isos] iso/qubes.iso`.
    #[must_use]
    pub fn text(&self) -> String {
        format!("[{}] {}", self.datastore_name, self.path)
    }
}

impl FileCall {
    /// Every kind of call.
    pub const ALL: &'static [Self] =
        &[Self::MovePart { replace: false }, Self::Delete, Self::CreateFolder];

    /// The name of the job step that makes this call. The store contains this name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MovePart { .. } => "move_part",
            Self::Delete => "delete_file",
            Self::CreateFolder => "create_folder",
        }
    }
}
