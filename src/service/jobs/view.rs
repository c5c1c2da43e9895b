//! A job as readers see it.

use std::sync::Arc;

use jiff::Timestamp;

use super::ended_jobs::EndedJob;
use crate::domain::job::Job;

/// A job as readers see it.
#[derive(Clone, Debug)]
pub struct JobView {
    pub job: Arc<Job>,
    /// The progress of the job's task in percent. `None` if the host does not report it.
    pub progress: Option<u8>,
    /// The number of jobs before the job in its target's queue. `None` if the job does not wait in
    /// the queue.
    pub position: Option<usize>,
    pub blocked_by: Option<BlockedBy>,
    pub cancelable: bool,
    /// The job if it has ended. All readers of the ended job share this value.
    pub ended: Option<Arc<EndedJob>>,
}

/// The reason why a job is blocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockedBy {
    pub kind: BlockedByKind,
    pub id: Option<String>,
    pub since: Timestamp,
    pub detail: String,
}

/// The kind of thing that a job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockedByKind {
    /// Another job on the same target.
    Job,
    /// A task of the host on the machine.
    HostTask,
    /// A question of the machine.
    Question,
    /// The host, which cannot be reached.
    HostAway,
}

impl BlockedByKind {
    /// The word for the kind in the HTTP API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::HostTask => "host_task",
            Self::Question => "question",
            Self::HostAway => "host_away",
        }
    }
}

impl JobView {
    /// The view of a job that ended.
    #[must_use]
    pub fn ended(ended: Arc<EndedJob>) -> Self {
        Self {
            job: Arc::clone(ended.job()),
            progress: None,
            position: None,
            blocked_by: None,
            cancelable: false,
            ended: Some(ended),
        }
    }
}
