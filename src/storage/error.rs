//! The failures of the storage.

use std::error::Error;
use std::sync::Arc;

use crate::domain::ids::JobId;

/// A failure of the storage. Unless the failure is `Closed`, a read after the failure does not show
/// the failed write.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk is full or fails, or another process uses the database. The caller may try again.
    #[error("the database refused a statement")]
    Refused {
        /// The message of the database, for example `database or disk is full`.
        message: String,
        /// Whether a restart of otter may find the write committed, because the disk failed at the
        /// end of the commit.
        may_be_committed: bool,
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The write conflicts with the stored data: two leases would hold the same machine, or the
    /// idempotency key or the id exists already.
    #[error("the write conflicts with the stored data")]
    Conflict(#[source] Arc<dyn Error + Send + Sync>),
    /// This version of otter cannot decode a stored object, or cannot encode an object for the
    /// storage.
    #[error("the stored {what} cannot be read")]
    Unreadable {
        /// The kind and the id of the object, for example `job 0190…`.
        what: String,
        source: Arc<dyn Error + Send + Sync>,
    },
    #[error("job {0} has ended already, and an end is never taken back")]
    AlreadyEnded(JobId),
    #[error("there is no job {0} in the store")]
    NoSuchJob(JobId),
    /// The storage accepts no more writes. It is not known whether the failed write is committed.
    #[error("the store is closed")]
    Closed,
}

impl StorageError {
    /// Makes the error for an object that cannot be decoded or encoded.
    pub fn unreadable(
        what: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Unreadable { what: what.into(), source: Arc::from(source.into()) }
    }

    /// Whether the write may be committed although it failed.
    #[must_use]
    pub const fn may_be_committed(&self) -> bool {
        matches!(self, Self::Refused { may_be_committed: true, .. } | Self::Closed)
    }

    /// The message of the database, if this failure is `Refused`. `None` for every other failure.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { message, .. } => Some(message),
            _ => None,
        }
    }
}
