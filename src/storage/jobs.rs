//! Which jobs a list has, and its pages.

use std::fmt;
use std::str::FromStr;

use crate::domain::ids::{JobId, LeaseId, MachineId};
use crate::domain::job::{Job, JobKind, JobState};

/// Which jobs to list; what is empty or `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub states: Vec<JobState>,
    pub machine: Option<MachineId>,
    pub kinds: Vec<JobKind>,
    pub requested_by: Option<String>,
    pub reference: Option<String>,
    /// Of this lease.
    pub lease: Option<LeaseId>,
}

/// Where a page of jobs ended. Jobs that come later do not move it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobCursor {
    /// When the last job was made, in microseconds since 1970.
    pub created_at: i64,
    pub id: JobId,
}

/// The text is no cursor of a list of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of a list of jobs")]
pub struct InvalidJobCursor;

/// Some jobs, the newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobPage {
    pub items: Vec<Job>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<JobCursor>,
}

impl JobCursor {
    /// The point just behind this job.
    #[must_use]
    pub fn after(job: &Job) -> Self {
        Self { created_at: job.created_at.as_microsecond(), id: job.id }
    }
}

impl fmt::Display for JobCursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}_{}", self.created_at, self.id.uuid().simple())
    }
}

impl FromStr for JobCursor {
    type Err = InvalidJobCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (created_at, id) = text.split_once('_').ok_or(InvalidJobCursor)?;
        let cursor = Self {
            created_at: created_at.parse().map_err(|_| InvalidJobCursor)?,
            id: id.parse().map_err(|_| InvalidJobCursor)?,
        };
        // Numbers and ids have several spellings; a cursor has the one that was given out.
        if cursor.to_string() == text { Ok(cursor) } else { Err(InvalidJobCursor) }
    }
}
