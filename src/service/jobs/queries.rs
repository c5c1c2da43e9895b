//! Reads of jobs: one job, its end, and lists.

use std::collections::HashMap;
use std::sync::Arc;

use super::ended_jobs::EndedJob;
use super::state_machine::Blocker;
use super::status::JobStatus;
use super::table::{JobReading, MachineActivity};
use super::view::{BlockedBy, BlockedByKind, JobView};
use super::{Jobs, JobsPage};
use crate::domain::failure::Failure;
use crate::domain::ids::{JobId, LeaseId, MachineId};
use crate::domain::job::{Job, JobKind, TargetId};
use crate::service::storage_watch::store_failure;
use crate::storage::{JobCursor, JobFilter, JobPage};

impl Jobs {
    /// The current state of a job. `None` if the job does not exist.
    ///
    /// # Errors
    /// The errors of the store, which is read if the job is not in memory.
    pub async fn get(&self, id: JobId) -> Result<Option<JobView>, Failure> {
        if let Some(reading) = self.0.table.read(id) {
            return Ok(Some(self.view(reading)));
        }
        if let Some(ended) = self.0.ended.get(id) {
            return Ok(Some(JobView::ended(ended)));
        }
        let before = self.0.ended.before_read();
        let stored = self.0.parts.store.job(id).await.map_err(|error| store_failure(&error))?;
        Ok(stored.map(|job| {
            let ended = EndedJob::new(Arc::new(job));
            if ended.job().state.is_end() {
                self.0.ended.add_read(Arc::clone(&ended), before);
            }
            JobView::ended(ended)
        }))
    }

    /// Waits until a job has ended. Reads the store only if the job had already ended before the
    /// call. If otter stops first, returns the job that has not ended. Returns `None` if the job
    /// does not exist.
    ///
    /// # Errors
    /// The errors of the store.
    pub async fn ended(&self, id: JobId) -> Result<Option<JobView>, Failure> {
        if let Some(mut changes) = self.0.table.follow(id) {
            tokio::select! {
                biased;
                _ = changes.wait_for(|status| status.job.state.is_end()) => {}
                () = self.0.stop.cancelled() => {}
            }
            if let Some(ended) = changes.borrow().ended.clone() {
                return Ok(Some(JobView::ended(ended)));
            }
        }
        self.get(id).await
    }

    /// A page of the jobs that match the filter, newest first. If `visible` is given, the page has
    /// only jobs for which it returns true.
    ///
    /// # Errors
    /// The errors of the store.
    pub async fn list(
        &self,
        filter: &JobFilter,
        after: Option<JobCursor>,
        limit: u32,
        visible: Option<&(dyn Fn(&Job) -> bool + Sync)>,
    ) -> Result<JobsPage, Failure> {
        let read = async |after| {
            let page = self.0.parts.store.jobs(filter, after, limit).await;
            let JobPage { items, next } = page.map_err(|error| store_failure(&error))?;
            let view = |job: Job| match self.0.table.read(job.id) {
                Some(reading) => self.view(reading),
                None => JobView::ended(EndedJob::new(Arc::new(job))),
            };
            let mut items: Vec<JobView> = items.into_iter().map(view).collect();
            items.retain(|view| visible.is_none_or(|visible| visible(&view.job)));
            Ok::<_, Failure>((items, next))
        };
        let (mut items, mut next) = read(after).await?;
        if visible.is_some() {
            // Read on until there is one visible job more than the limit, which proves that there
            // is a next page, or until all stored jobs are read.
            while let Some(after) = next
                && items.len() <= limit as usize
            {
                let (more, following) = read(Some(after)).await?;
                items.extend(more);
                next = following;
            }
            let has_more = items.len() > limit as usize;
            items.truncate(limit as usize);
            next = items.last().filter(|_| has_more).map(|view| JobCursor::after(&view.job));
        }
        Ok(JobsPage { items, next })
    }

    /// Drops all ended jobs from memory, because the store has deleted some. Reads no longer return
    /// the deleted jobs.
    pub fn forget_ended(&self) {
        self.0.ended.clear();
    }

    /// What the view of a machine shows of the machine's jobs and of the host's tasks on the
    /// machine.
    #[must_use]
    pub fn activity(&self, machine: &MachineId) -> MachineActivity {
        self.0.table.activity(&TargetId::Machine(machine.clone()))
    }

    /// Every machine that has an active job or an orphaned task, with its activity.
    #[must_use]
    pub fn activities(&self) -> HashMap<MachineId, MachineActivity> {
        self.0.table.activities()
    }

    /// A number that changes whenever the activity of a machine may have changed. A caller reads
    /// the number first and the activities after it. As long as the number stays the same, these
    /// activities are still true.
    #[must_use]
    pub fn activity_version(&self) -> u64 {
        self.0.table.activity_version()
    }

    /// Whether a machine has any job, including a job that is being accepted.
    #[must_use]
    pub fn has_any_on(&self, machine: &MachineId) -> bool {
        self.0.table.has_any(&TargetId::Machine(machine.clone()))
    }

    /// The jobs of a lease that have not ended, except the one that releases its machine.
    #[must_use]
    pub fn jobs_of_lease(&self, lease: LeaseId) -> Vec<JobId> {
        self.0.table.jobs_of_lease(lease)
    }

    /// Whether a job that has not ended answers a question of a machine.
    #[must_use]
    pub fn is_answering(&self, machine: &MachineId) -> bool {
        self.0.table.is_answering(machine)
    }

    /// Whether a job that has not ended makes a call that changes what is in a CD drive.
    #[must_use]
    pub fn is_changing_media(&self, machine: &MachineId) -> bool {
        self.0.table.is_changing_media(machine)
    }

    /// The numbers of queued and of running jobs.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        self.0.table.counts()
    }

    fn view(&self, reading: JobReading) -> JobView {
        let JobReading { status, position, waits_for } = reading;
        let blocked_by = match waits_for {
            Some(active) => Some(BlockedBy {
                kind: BlockedByKind::Job,
                id: Some(active.to_string()),
                since: status.job.created_at,
                detail: match status.job.machine_id() {
                    Some(_) => "One job at a time runs on a machine.",
                    None => "One job at a time runs on a file.",
                }
                .to_owned(),
            }),
            None => self.blocked_by(&status),
        };
        JobView {
            job: Arc::clone(&status.job),
            progress: status.progress,
            position,
            blocked_by,
            cancelable: status.job.cancel_requested_at.is_none(),
            ended: None,
        }
    }

    fn blocked_by(&self, status: &JobStatus) -> Option<BlockedBy> {
        let job = &status.job;
        let contents = self.0.parts.inventory.contents();
        let machine = job.machine_id().and_then(|machine| contents.machine(machine));
        // The question of the machine does not block the job that answers it.
        let waits_for_answer = job.kind() != JobKind::MachineAnswer;
        if let Some(question) =
            machine.and_then(|machine| machine.question.as_ref()).filter(|_| waits_for_answer)
        {
            return Some(BlockedBy {
                kind: BlockedByKind::Question,
                id: Some(question.id.to_string()),
                since: status.blocker.as_ref().map_or(job.updated_at, |(_, since)| *since),
                detail: question.text.clone(),
            });
        }
        let (blocker, since) = status.blocker.clone()?;
        let (kind, id, detail) = match blocker {
            Blocker::HostTask(task) => (
                BlockedByKind::HostTask,
                Some(task.to_string()),
                "Another task of the host works on the machine.".to_owned(),
            ),
            Blocker::Question(question) => (
                BlockedByKind::Question,
                Some(question.to_string()),
                "The machine waits for the answer to a question.".to_owned(),
            ),
            Blocker::HostAway(reason) => (BlockedByKind::HostAway, None, reason),
            Blocker::Busy => (
                BlockedByKind::HostTask,
                None,
                "The host says that the machine is busy.".to_owned(),
            ),
        };
        Some(BlockedBy { kind, id, since, detail })
    }
}
