//! Why the storage did not do what it was asked.

use std::error::Error;
use std::sync::Arc;

use crate::domain::ids::JobId;

/// A failure of the storage. Except for `Closed`, a read shows nothing of the write that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk is full or failing, or something else holds the database. The same write may
    /// succeed later. If the disk failed within the commit itself, a restart may find the write
    /// committed.
    #[error("the database refused a statement")]
    Refused {
        /// The database's own words.
        message: String,
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The write contradicts what is stored: two leases that hold one machine, or a key or an id
    /// that is there.
    #[error("the database refused a statement")]
    Conflict(#[source] Arc<dyn Error + Send + Sync>),
    /// This otter cannot make sense of something that is stored, or cannot store it.
    #[error("the stored {what} cannot be read")]
    Unreadable {
        /// What it is and its name: `job 0190…`.
        what: String,
        source: Arc<dyn Error + Send + Sync>,
    },
    #[error("job {0} has ended already, and an end is never taken back")]
    AlreadyEnded(JobId),
    #[error("there is no job {0} in the store")]
    NoSuchJob(JobId),
    /// The storage takes no more writes. Whether this one is committed is not known.
    #[error("the store is closed")]
    Closed,
}

impl StorageError {
    /// This cannot be read, for this reason.
    pub fn unreadable(
        what: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Unreadable { what: what.into(), source: Arc::from(source.into()) }
    }

    /// The words of a refused write. `None` for every other failure, including a write that
    /// contradicts what is stored.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { message, .. } => Some(message),
            _ => None,
        }
    }
}
