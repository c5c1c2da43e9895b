//! Lists of jobs: the filter, the cursor, and the pages.

use std::fmt;
use std::str::FromStr;

use crate::domain::ids::{JobId, LeaseId, MachineId};
use crate::domain::job::{Job, JobKind, JobState};

/// Selects jobs. A job must match every field. A field that is an empty list or `None` matches
/// every job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub states: Vec<JobState>,
    pub machine: Option<MachineId>,
    pub kinds: Vec<JobKind>,
    pub requested_by: Option<String>,
    pub reference: Option<String>,
    pub lease: Option<LeaseId>,
}

/// The position in the list of jobs at which a page ended and the next page begins. Jobs that are
/// created later do not move the position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobCursor {
    /// The creation time of the last job on the page, in microseconds since 1970.
    pub created_at: i64,
    pub id: JobId,
}

/// The error for a text that is not a cursor of a list of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of a list of jobs")]
pub struct InvalidJobCursor;

/// One page of jobs, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobPage {
    pub items: Vec<Job>,
    /// The cursor of the next page. `None` on the last page.
    pub next: Option<JobCursor>,
}

impl JobCursor {
    /// The position just behind this job.
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
        // Numbers and ids can be written in several ways. Only the text that otter writes is
        // accepted as a cursor.
        if cursor.to_string() == text { Ok(cursor) } else { Err(InvalidJobCursor) }
    }
}
