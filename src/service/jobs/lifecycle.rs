//! Starts each job when its turn comes, and brings it to its end, even after a panic or a restart.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;

use super::Jobs;
use super::deadline_clocks::Moment;
use super::ended_jobs::EndedJob;
use super::file_runner::FileRunner;
use super::runner::{Incomplete, Runner};
use super::state_machine::{Effect, Interrupt, JobStateMachine};
use super::status::JobStatus;
use super::table::{OrphanedTask, PendingJob, Restored};
use super::view::JobView;
use crate::domain::event::Subject;
use crate::domain::failure::Failure;
use crate::domain::ids::JobId;
use crate::domain::job::{Job, JobState, TargetId};
use crate::domain::origin::Actor;
use crate::fail_points::fail_point;
use crate::hypervisor::TaskStatus;
use crate::storage::{JobFilter, StorageError};

/// How long a call that cancels a job waits until the end of the job is committed.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// How many jobs with the end `unknown`, the latest first, a start of otter reads to find tasks
/// that still run.
const UNKNOWN_JOBS_READ: u32 = 100;

/// The number of failed runs after which a job ends as `unknown`, so that it does not block its
/// machine forever. A run fails if it panics or if a commit can never succeed.
const MAX_FAILED_RUNS: u32 = 5;

/// What is on disk of a job whose run failed.
enum Reloaded {
    /// The job has not ended. The value is the next effect of the job, or `None` if the job had not
    /// started.
    Unfinished(Option<Effect>),
    Ended,
    Stopping,
}

impl Jobs {
    /// Resumes every job that had not ended when otter last stopped. Returns the number of jobs.
    ///
    /// # Errors
    /// The errors of the store.
    pub async fn recover(&self) -> Result<usize, StorageError> {
        fail_point!("recover");
        let mut jobs = self.0.parts.store.unfinished_jobs().await?;
        let count = jobs.len();
        self.count_downtime(&mut jobs).await?;
        let now = Moment::now(&self.0.parts.clock);
        let Restored { running, targets } = self.0.table.restore(jobs, self.rules(), now);
        for (target, id, first) in running {
            fail_point!("resume");
            self.spawn(target, id, Some(first));
        }
        for target in targets {
            self.dispatch(&target);
        }
        let unknown = JobFilter { states: vec![JobState::Unknown], ..JobFilter::default() };
        for job in self.0.parts.store.jobs(&unknown, None, UNKNOWN_JOBS_READ).await?.items {
            self.track_orphaned_task(self.0.table.add_orphaned_task(&job));
        }
        fail_point!("recovered");
        Ok(count)
    }

    /// Cancels a job. A queued job ends at once. For a running job, otter asks the host to cancel
    /// the task, and the job may still succeed. A second call changes nothing, and the job keeps
    /// the first requester. Returns the job after the request, or `None` if the job does not exist.
    ///
    /// # Errors
    /// The errors of [`Jobs::get`].
    pub async fn cancel(&self, id: JobId, by: Actor) -> Result<Option<JobView>, Failure> {
        if let Some(queued) = self.0.table.withdraw(id) {
            self.end_queued(queued, |state_machine, now| state_machine.cancel_queued(by, now));
            // The caller does not wait longer than `CANCEL_WAIT`: if the disk refuses commits, the
            // job ends only when a commit succeeds.
            tokio::select! {
                biased;
                ended = self.ended(id) => return ended,
                () = self.0.parts.clock.sleep(CANCEL_WAIT) => return self.get(id).await,
            }
        }
        if let Some(mut changes) = self.0.table.follow(id) {
            fail_point!("cancel");
            self.0.table.interrupt(id, Interrupt::Cancel(by));
            // Wait until the job shows the request to cancel, which it does once the request is
            // committed. If the job is just being read from disk again after a failed run, this
            // takes longer.
            let is_taken = |status: &JobStatus| {
                status.job.cancel_requested_at.is_some() || status.job.state.is_end()
            };
            tokio::select! {
                biased;
                _ = changes.wait_for(is_taken) => {}
                () = self.0.parts.clock.sleep(Duration::from_secs(1)) => {}
            }
        }
        self.get(id).await
    }

    /// Starts the jobs of a target whose turn has come.
    pub(super) fn dispatch(&self, target: &TargetId) {
        while let Some(id) = self.0.table.start_next(target) {
            self.spawn(target.clone(), id, None);
        }
    }

    /// Publishes that a job entered or left the queue of a target. The positions of the queued jobs
    /// and the active job of the machine may have changed.
    pub(super) fn queue_moved(&self, target: &TargetId) {
        self.0
            .parts
            .event_stream
            .publish(self.0.table.waiting_on(target).iter().map(Subject::from_job));
        if let Some(machine) = target.machine() {
            self.0.parts.inventory.wake_watchers(machine);
        }
    }

    /// Runs a job in a task of its own. A panic is handled like a crash of otter: the job is read
    /// from disk again and continues after its last commit, at most [`MAX_FAILED_RUNS`] times.
    fn spawn(&self, target: TargetId, id: JobId, first: Option<Effect>) {
        let outer = self.clone();
        // The handle of the task is not needed, because the result of the job is on disk.
        drop(self.0.parts.supervisor.spawn_isolated("job", async move {
            let mut first = first;
            // The pause before the job runs again. Without a pause, a job that panics each time
            // would be restarted again and again in a tight loop.
            let mut pause = Duration::from_secs(1);
            let mut failed_runs = 0;
            loop {
                let (inner, from) = (outer.clone(), first.take());
                let supervisor = &outer.0.parts.supervisor;
                let run = inner.run(id, from);
                let run = supervisor.spawn_isolated("job run", run);
                match run.join().await {
                    Ok(Ok(())) => break,
                    Ok(Err(Incomplete::Stopped)) => return,
                    Ok(Err(Incomplete::Unsaved)) | Err(_) => failed_runs += 1,
                }
                tracing::error!(
                    job = %id,
                    failed_runs,
                    "the job's run failed; it is resumed as after a crash"
                );
                match outer.reload(id, failed_runs, &mut pause).await {
                    Reloaded::Unfinished(from) => first = from,
                    Reloaded::Ended => break,
                    Reloaded::Stopping => return,
                }
            }
            // Remove the job in case that the store no longer has it. A job that has ended is
            // already gone from the table.
            outer.0.table.remove(&target, id);
            outer.dispatch(&target);
            outer.queue_moved(&target);
        }));
    }

    async fn run(self, id: JobId, first: Option<Effect>) -> Result<(), Incomplete> {
        let Some(mut pending) = self.0.table.take(id) else { return Ok(()) };
        let first = first.unwrap_or_else(|| {
            let may_start = self.0.parts.authorizer.may_start(pending.state_machine.job());
            if let Err(refusal) = may_start {
                return pending.state_machine.refuse_turn(refusal, self.0.parts.clock.now());
            }
            let overdue = pending.due <= self.0.parts.clock.elapsed();
            pending.state_machine.take_turn(overdue, self.0.parts.clock.now())
        });
        Box::pin(self.run_to_end(pending, first)).await
    }

    /// Waits for the time `pause`, doubles `pause`, and reads a job whose run failed from disk
    /// again. If too many runs failed, ends the job instead.
    async fn reload(&self, id: JobId, failed_runs: u32, pause: &mut Duration) -> Reloaded {
        loop {
            tokio::select! {
                biased;
                () = self.0.parts.clock.sleep(*pause) => {}
                () = self.0.stop.cancelled() => return Reloaded::Stopping,
            }
            *pause = (*pause * 2).min(Duration::from_mins(1));
            let error = match self.0.parts.store.job(id).await {
                Ok(Some(job)) if job.state.is_end() => {
                    self.publish_end(job);
                    return Reloaded::Ended;
                }
                Ok(Some(job)) if failed_runs >= MAX_FAILED_RUNS => {
                    let detail = format!(
                        "otter failed {failed_runs} times while it worked on this job. This is a \
                         bug of otter; its log has the details. It is not known what the host did: \
                         check the machine."
                    );
                    match self.abandon(job, &detail).await {
                        Ok(()) => return Reloaded::Ended,
                        Err(error) => error,
                    }
                }
                Ok(Some(job)) => {
                    let (state_machine, first) = match job.state {
                        JobState::Running => {
                            let (state_machine, first) = JobStateMachine::resume(job, self.rules());
                            (state_machine, Some(first))
                        }
                        _ => (JobStateMachine::from_queued(job, self.rules()), None),
                    };
                    let changed = Subject::from_job(&Arc::new(state_machine.job().clone()));
                    self.0.table.renew(state_machine);
                    self.0.parts.event_stream.publish([changed]);
                    return Reloaded::Unfinished(first);
                }
                Ok(None) => return Reloaded::Ended,
                Err(error) => error,
            };
            if matches!(error, StorageError::Closed) {
                return Reloaded::Stopping;
            }
            let error = &error as &dyn std::error::Error;
            tracing::error!(job = %id, error, "the job cannot be read; trying again");
        }
    }

    /// Ends a job that otter cannot work on: commits the end of the job, then publishes it.
    async fn abandon(&self, job: Job, detail: &str) -> Result<(), StorageError> {
        let mut state_machine = JobStateMachine::from_queued(job, self.rules());
        state_machine.abandon(detail, self.0.parts.clock.now());
        let job = state_machine.job().clone();
        match self.0.parts.store.update_job(&job).await {
            Ok(()) | Err(StorageError::AlreadyEnded(_)) => {}
            Err(error) => return Err(error),
        }
        self.count_end(&job);
        self.publish_end(job);
        Ok(())
    }

    /// Ends a job that was removed from its queue.
    pub(super) fn end_queued(
        &self,
        mut pending: PendingJob,
        end: impl FnOnce(&mut JobStateMachine, Timestamp) -> Effect + Send + 'static,
    ) {
        let inner = self.clone();
        let target = pending.state_machine.job().target.id();
        drop(self.0.parts.supervisor.spawn_isolated("job end", async move {
            let first = end(&mut pending.state_machine, inner.0.parts.clock.now());
            // The result is ignored: if the end cannot be committed, the next start of otter ends
            // the job.
            let _ = Box::pin(inner.run_to_end(pending, first)).await;
            inner.dispatch(&target);
            inner.queue_moved(&target);
        }));
    }

    /// Runs a job from the effect `first` to its end, and publishes the end.
    async fn run_to_end(&self, pending: PendingJob, first: Effect) -> Result<(), Incomplete> {
        let job = pending.state_machine.job();
        let mut storing = self.0.storing_deadline_of.subscribe();
        // The wait cannot fail, because the sender lives as long as `self`.
        let _ = storing.wait_for(|storing| *storing != Some(job.id)).await;
        if let Some(target) = job.target.file().cloned() {
            let runner = FileRunner {
                parts: &self.0.parts,
                table: &self.0.table,
                stop: &self.0.stop,
                target,
                paths: &self.0.paths,
                entered: Mutex::default(),
            };
            let job = runner.run(pending).await?;
            self.count_end(&job);
            self.publish_end(job);
            return Ok(());
        }
        let Some(machine) = job.target.machine().cloned() else {
            let detail =
                format!("This version of otter cannot run jobs on a {}.", job.target.id().kind());
            let abandoned = self.abandon(job.clone(), &detail).await;
            return abandoned.map_err(|_| Incomplete::Unsaved);
        };
        let runner = Runner {
            parts: &self.0.parts,
            table: &self.0.table,
            stop: &self.0.stop,
            host: self.0.parts.hosts.for_machine(&machine.id),
            machine,
            started: Moment::now(&self.0.parts.clock),
            followed: Mutex::default(),
        };
        let job = runner.run(pending, first).await?;
        self.count_end(&job);
        self.publish_end(job);
        fail_point!("told");
        Ok(())
    }

    /// Publishes the committed end of a job. The job leaves the table.
    fn publish_end(&self, job: Job) {
        let ended = EndedJob::new(Arc::new(job));
        self.0.ended.add(Arc::clone(&ended));
        let orphaned = self.0.table.finish(&ended);
        self.0.parts.event_stream.publish([Subject::from_job(ended.job())]);
        self.track_orphaned_task(orphaned);
    }

    fn count_end(&self, job: &Job) {
        let took = self.0.parts.clock.now().duration_since(job.created_at);
        let took = Duration::try_from(took).unwrap_or_default();
        self.0.parts.metrics.job_ended(job.kind().as_str(), job.state.as_str(), took);
    }

    /// Follows an orphaned task, if there is one, and lets its machine become free when the task
    /// has ended.
    fn track_orphaned_task(&self, orphaned: Option<OrphanedTask>) {
        let Some(orphaned) = orphaned else { return };
        let inner = self.clone();
        drop(self.0.parts.supervisor.spawn_isolated("orphaned task", async move {
            let OrphanedTask { machine, task } = &orphaned;
            let mut status = inner.0.parts.hosts.for_machine(machine).follow(task).await;
            tokio::select! {
                biased;
                // The wait also ends if the host no longer knows the task, or if the backend has
                // stopped.
                _ = status.wait_for(|status| !matches!(status, TaskStatus::Running { .. })) => {}
                () = inner.0.stop.cancelled() => return,
            }
            inner.0.table.remove_orphaned_task(&orphaned);
            inner.0.parts.inventory.wake_watchers(machine);
        }));
    }
}
