//! The published status of a job that has not ended. It is a copy of what the job's state machine
//! shows.

use std::sync::Arc;

use jiff::Timestamp;

use super::ended_jobs::EndedJob;
use super::file_machine::FileMachine;
use super::state_machine::{Blocker, JobStateMachine};
use crate::domain::ids::TaskId;
use crate::domain::job::Job;

/// The published status of a job.
#[derive(Clone, Debug)]
pub struct JobStatus {
    pub job: Arc<Job>,
    /// The progress of the job's task in percent, if the host reports it.
    pub progress: Option<u8>,
    /// The reason why the job is blocked, and since when.
    pub blocker: Option<(Blocker, Timestamp)>,
    /// The task of the host that works for the job. `None` if there is no such task.
    pub task: Option<TaskId>,
    /// Whether a call of the job was lost and otter reads the machine to find out whether the call
    /// ran.
    pub settling: bool,
    /// The job if it has ended. All readers of the ended job share this value.
    pub ended: Option<Arc<EndedJob>>,
}

impl JobStatus {
    /// The status that a state machine shows. It has no progress yet.
    #[must_use]
    pub fn from_state_machine(state_machine: &JobStateMachine) -> Self {
        Self {
            job: Arc::new(state_machine.job().clone()),
            progress: None,
            blocker: state_machine.blocker().cloned(),
            task: state_machine.following().cloned(),
            settling: state_machine.is_settling(),
            ended: None,
        }
    }

    /// The status of a job that ended.
    #[must_use]
    pub fn from_ended(ended: Arc<EndedJob>) -> Self {
        Self {
            job: Arc::clone(ended.job()),
            progress: None,
            blocker: None,
            task: None,
            settling: false,
            ended: Some(ended),
        }
    }

    /// Whether a task of the host that is not the job's own blocks the job, or whether a call of
    /// the job was lost and is not resolved yet.
    #[must_use]
    pub fn is_blocked_by_host(&self) -> bool {
        let blocker = self.blocker.as_ref().map(|(blocker, _)| blocker);
        self.settling || matches!(blocker, Some(Blocker::HostTask(_) | Blocker::Busy))
    }

    /// Updates the status from the state machine. Returns whether readers see a difference.
    ///
    /// # Parameters
    /// - `hide_cancel`: whether to hide the request to cancel the job, because the request is not
    ///   committed yet.
    pub fn update(&mut self, state_machine: &JobStateMachine, hide_cancel: bool) -> bool {
        let mut next = Self::from_state_machine(state_machine);
        if hide_cancel {
            let job = state_machine.job().clone();
            next.job =
                Arc::new(Job { cancel_requested_at: None, cancel_requested_by: None, ..job });
        }
        // The end of the job is not published here: the job table publishes it after it is
        // committed.
        if next.job.state.is_end() {
            return false;
        }
        if next.task.is_some() && next.task == self.task {
            next.progress = self.progress;
        }
        self.replace(next)
    }

    /// Updates the status of a job on a file from its state machine. Returns whether readers see a
    /// difference.
    ///
    /// # Parameters
    /// - `hide_cancel`: as for [`Self::update`].
    pub fn update_file(&mut self, machine: &FileMachine, hide_cancel: bool) -> bool {
        let mut job = machine.job().clone();
        if job.state.is_end() {
            return false;
        }
        if hide_cancel {
            job.cancel_requested_at = None;
            job.cancel_requested_by = None;
        }
        self.replace(Self {
            job: Arc::new(job),
            progress: self.progress,
            blocker: machine.blocker().cloned(),
            task: None,
            settling: machine.is_settling(),
            ended: None,
        })
    }

    /// Replaces the status. Returns whether readers see a difference.
    fn replace(&mut self, next: Self) -> bool {
        let changed = *next.job != *self.job
            || next.blocker != self.blocker
            || next.progress != self.progress;
        *self = next;
        changed
    }
}
