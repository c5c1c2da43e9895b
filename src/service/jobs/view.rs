//! A job as readers see it.

use jiff::Timestamp;

use crate::domain::job::Job;

/// A job as readers see it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobView {
    pub job: Job,
    /// Percent, while the host reports it.
    pub progress: Option<u8>,
    /// The number of jobs before it in its target's queue. `None` if it does not wait there.
    pub position: Option<usize>,
    pub blocked_by: Option<BlockedBy>,
    pub cancelable: bool,
}

/// What a job waits for that is not its own work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockedBy {
    /// `job`, `host_task`, `question` or `host_away`.
    pub kind: &'static str,
    pub id: Option<String>,
    pub since: Timestamp,
    pub detail: String,
}

impl JobView {
    /// The view of a job that ended.
    #[must_use]
    pub const fn ended(job: Job) -> Self {
        Self { job, progress: None, position: None, blocked_by: None, cancelable: false }
    }
}
