//! Jobs as callers see them: read, waited for and listed.

use std::collections::HashMap;

use super::driver::Blocker;
use super::view::{BlockedBy, JobView, Live};
use super::{Jobs, JobsPage};
use crate::domain::failure::Failure;
use crate::domain::ids::{JobId, LeaseId, MachineId};
use crate::domain::job::{Job, JobKind, TargetId};
use crate::service::storage_watch::store_failure;
use crate::storage::{JobCursor, JobFilter};

impl Jobs {
    /// A job as it is now. `None` if there is no such job.
    ///
    /// # Errors
    /// The store's, for a job that ended.
    pub async fn get(&self, id: JobId) -> Result<Option<JobView>, Failure> {
        if let Some(live) = self.0.board.get(id) {
            return Ok(Some(self.view(&live)));
        }
        let stored = self.0.parts.store.job(id).await.map_err(|error| store_failure(&error))?;
        Ok(stored.map(JobView::ended))
    }

    /// Waits until a job ended. Cheap: nothing is polled, and the store is read only for a job that
    /// had ended before. None where there is no such job; a job that has not ended where the daemon
    /// stops first.
    ///
    /// # Errors
    /// The store's.
    pub async fn ended(&self, id: JobId) -> Result<Option<JobView>, Failure> {
        if let Some(mut changes) = self.0.board.follow(id) {
            tokio::select! {
                biased;
                _ = changes.wait_for(|live| live.job.state.is_end()) => {}
                () = self.0.stop.cancelled() => {}
            }
            let live = changes.borrow().clone();
            return Ok(Some(self.view(&live)));
        }
        self.get(id).await
    }

    /// A page of the jobs that fit, newest first; without `visible` all of them.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(
        &self,
        filter: &JobFilter,
        after: Option<JobCursor>,
        limit: u32,
        visible: Option<&(dyn Fn(&Job) -> bool + Sync)>,
    ) -> Result<JobsPage, Failure> {
        let read = async |after| {
            self.0
                .parts
                .store
                .jobs(filter, after, limit)
                .await
                .map_err(|error| store_failure(&error))
        };
        let mut page = read(after).await?;
        if let Some(visible) = visible {
            page.items.retain(visible);
            // Reads until the page has one more job than the limit, which shows that there is a
            // next page, or until all kept jobs are read.
            while let Some(after) = page.next
                && page.items.len() <= limit as usize
            {
                let more = read(Some(after)).await?;
                page.items.extend(more.items.into_iter().filter(visible));
                page.next = more.next;
            }
            let has_more = page.items.len() > limit as usize;
            page.items.truncate(limit as usize);
            page.next = page.items.last().filter(|_| has_more).map(JobCursor::after);
        }
        let view = |job: Job| match self.0.board.get(job.id) {
            Some(live) => self.view(&live),
            None => JobView::ended(job),
        };
        Ok(JobsPage { items: page.items.into_iter().map(view).collect(), next: page.next })
    }

    /// The job that is active on a machine: it runs, or is the first that waits.
    #[must_use]
    pub fn active(&self, machine: &MachineId) -> Option<JobId> {
        self.queues().active(&TargetId::Machine(machine.clone()))
    }

    /// Whether a machine has any job, one that is being accepted included.
    #[must_use]
    pub fn any_on(&self, machine: &MachineId) -> bool {
        self.queues().has_any(&TargetId::Machine(machine.clone()))
    }

    /// The jobs of a lease that have not ended, but for the one that releases its machine.
    #[must_use]
    pub fn of_lease(&self, lease: LeaseId) -> Vec<JobId> {
        self.0.board.of_lease(lease)
    }

    /// How many jobs wait, and how many run.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        self.queues().counts()
    }

    /// Whether a task of the host works on a machine, or may, that is not the running job's own:
    /// one that outlived its job, one that a job waits for, or one whose call was lost and is being
    /// judged.
    #[must_use]
    pub fn finds_host_busy(&self, machine: &MachineId, active: Option<JobId>) -> bool {
        self.leftovers().contains_key(machine)
            || active.is_some_and(|active| self.0.board.finds_host_busy(active))
    }

    /// Every machine that has a job, with its active one.
    #[must_use]
    pub fn all_active(&self) -> HashMap<MachineId, JobId> {
        self.queues()
            .all_active()
            .filter_map(|(target, job)| Some((target.machine()?.clone(), job)))
            .collect()
    }

    fn view(&self, live: &Live) -> JobView {
        let job = Job::clone(&live.job);
        let (position, active) = {
            let (queues, target) = (self.queues(), job.target.id());
            (queues.position(&target, job.id), queues.active(&target))
        };
        let blocked_by = match (position, active) {
            _ if job.state.is_end() => None,
            (Some(_), Some(active)) if active != job.id => Some(BlockedBy {
                kind: "job",
                id: Some(active.to_string()),
                since: job.created_at,
                detail: "One job at a time runs on a machine.".to_owned(),
            }),
            _ => self.blocked_by(&job, live),
        };
        let cancelable = !job.state.is_end() && job.cancel_requested_at.is_none();
        JobView { progress: live.progress, position, blocked_by, cancelable, job }
    }

    fn blocked_by(&self, job: &Job, live: &Live) -> Option<BlockedBy> {
        let contents = self.0.parts.inventory.contents();
        let machine = job.machine_id().and_then(|machine| contents.machine(machine));
        // An answer does not wait for the question that it answers.
        let minds = job.kind() != JobKind::MachineAnswer;
        if let Some(question) =
            machine.and_then(|machine| machine.question.as_ref()).filter(|_| minds)
        {
            return Some(BlockedBy {
                kind: "question",
                id: Some(question.id.to_string()),
                since: live.blocker.as_ref().map_or(job.updated_at, |(_, since)| *since),
                detail: question.text.clone(),
            });
        }
        let (blocker, since) = live.blocker.clone()?;
        let (kind, id, detail) = match blocker {
            Blocker::HostTask(task) => (
                "host_task",
                Some(task.to_string()),
                "Another task of the host works on the machine.".to_owned(),
            ),
            Blocker::Question(question) => (
                "question",
                Some(question.to_string()),
                "The machine waits on a question.".to_owned(),
            ),
            Blocker::HostAway(reason) => ("host_away", None, reason),
            Blocker::Busy => {
                ("host_task", None, "The host says that the machine is busy.".to_owned())
            }
        };
        Some(BlockedBy { kind, id, since, detail })
    }
}
