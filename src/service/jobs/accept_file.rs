//! Accepts a job on a file: reserves a place in the queue of the path and commits the job.

use std::sync::Arc;

use super::admission::{admit_file, queue_full};
use super::deadline_clocks::Moment;
use super::queue::Lane;
use super::state_machine::JobStateMachine;
use super::{Jobs, NewFileJob};
use crate::domain::event::Subject;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::JobId;
use crate::domain::job::Job;
use crate::fail_points::fail_point;
use crate::service::idempotency::KeyClaim;
use crate::service::limits::queue_full as queue_full_for_caller;
use crate::service::storage_watch::{start_failure, unconfirmed_start};

impl Jobs {
    /// Accepts a job on a file, like [`Jobs::start`]. Whether the caller may change the file is
    /// checked before.
    ///
    /// # Errors
    /// `shutting-down`, `host-unreachable` after a long outage, `queue-full`,
    /// `storage-unavailable`, or `outcome-unknown` if the job has no key and may be stored.
    pub async fn start_file(&self, new: NewFileJob) -> Result<JobId, Failure> {
        let (id, has_key) = (new.id, new.key.is_some());
        // A task of its own, so that a client that disconnects cannot stop the acceptance halfway.
        let accepting = self.clone().accept_file(new);
        let accepted = self.0.parts.supervisor.spawn_isolated("accept", accepting).join();
        accepted.await.unwrap_or_else(|_| {
            // The task panicked, perhaps after it committed the job.
            Err(if has_key {
                Failure::new(FailureKind::Internal, "accepting the job panicked")
            } else {
                unconfirmed_start().with_job(id)
            })
        })
    }

    async fn accept_file(self, new: NewFileJob) -> Result<JobId, Failure> {
        self.require_accepting()?;
        // `claim` keeps the idempotency key claimed until the job is committed or refused.
        let (claim, limits) = (new.key.clone(), new.requester.caller.limits);
        let now = Moment::now(&self.0.parts.clock);
        let job = admit_file(new, now.wall, &self.0.parts.settings.deadlines);
        let (id, target) = (job.id, job.target.id());
        let reserved = self.0.table.reserve(&target, id, Lane::Ordinary);
        reserved.map_err(|full| queue_full(full, &job.target_name))?;
        let most = limits.queued_jobs;
        let committed = self.commit_file_job(job, now, most, claim.as_ref()).await;
        if let Ok(job) = &committed {
            fail_point!("accept-committed");
            self.0.parts.metrics.job_accepted(job.kind().as_str());
            self.0.table.commit(&target, id);
            self.0.parts.event_stream.publish([Subject::from_job(job)]);
        } else {
            self.0.table.remove(&target, id);
            self.queue_moved(&target);
        }
        self.dispatch(&target);
        committed.map(|_| id)
    }

    async fn commit_file_job(
        &self,
        job: Job,
        now: Moment,
        most: Option<u32>,
        claim: Option<&KeyClaim>,
    ) -> Result<Arc<Job>, Failure> {
        let state_machine = JobStateMachine::from_queued(job.clone(), self.rules());
        self.0.table.show(state_machine, now.due(job.deadline_at));
        // The job is already in the queue, so two concurrent calls count each other's jobs.
        if let Some(most) = most
            && self.0.table.exceeds_caller_limit(job.id, most as usize)
        {
            return Err(queue_full_for_caller(&job.requested_by, &format!("{most} queued jobs")));
        }
        let inserted = self.0.parts.store.insert_job(&job, claim.map(KeyClaim::key), None).await;
        inserted.map_err(|error| {
            let failure = start_failure(&error, claim.is_some());
            let is_unknown = failure.kind == FailureKind::OutcomeUnknown;
            if is_unknown { failure.with_job(job.id) } else { failure }
        })?;
        Ok(Arc::new(job))
    }
}
