//! Starts what may start, and sees each job through to its end, whatever panics and however often
//! otter stops.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::clocks::Moment;
use super::driver::{Driver, Effect, Interrupt};
use super::queue::{Killed, Turn};
use super::recovery::{Recovered, recover};
use super::runner::{Ran, Runner, count_end};
use super::view::{JobView, Live, Waiting};
use super::{Jobs, JobsParts};
use crate::domain::event::Subject;
use crate::domain::failure::Failure;
use crate::domain::ids::JobId;
use crate::domain::job::{Job, JobState, TargetId};
use crate::domain::machine::MachineIdentity;
use crate::domain::origin::Actor;
use crate::fail_points::fail_point;
use crate::hypervisor::TaskStatus;
use crate::storage::{JobFilter, StorageError};

/// How long a caller that cancels waits for the job's end to be committed.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

/// So many of the last jobs that ended `unknown` are looked through at the start for tasks that
/// still run.
const LEFTOVERS: u32 = 100;

/// So many runs of a job may fail, by a panic or by a commit that can never succeed. Then the job
/// ends as unknown, so that its machine is not blocked for ever.
const MOST_FAILED_RUNS: u32 = 5;

/// What the disk says of a job whose run failed.
enum ReadBack {
    /// It goes on; with its first effect if it had started.
    Unfinished(Option<Effect>),
    Ended,
    Stopping,
}

impl Jobs {
    /// Takes up every job that had not ended when the daemon last stopped, however it stopped.
    ///
    /// # Errors
    /// The store's.
    pub async fn recover(&self) -> Result<usize, StorageError> {
        fail_point!("recover");
        let mut jobs = self.0.parts.store.unfinished_jobs().await?;
        let count = jobs.len();
        self.count_downtime(&mut jobs).await?;
        let now = Moment::now(&self.0.parts.clock);
        let Recovered { waiting, running, cancelled, targets } =
            recover(jobs, self.rules(), &mut self.queues());
        for driver in waiting {
            let Job { id, deadline_at, target, .. } = driver.job().clone();
            let due = now.due(deadline_at);
            self.0.board.add(driver, due);
            self.expire_at(due, id, &target.id());
        }
        // Each is to see the tasks of the others, so all are shown before the first goes on.
        let mut firsts = Vec::with_capacity(running.len());
        for (driver, first) in running {
            fail_point!("resume");
            let job = driver.job();
            firsts.push((job.target.id(), job.id, first));
            let due = now.due(job.deadline_at);
            self.0.board.add(driver, due);
        }
        for killed in cancelled {
            self.cancel_killed(killed);
        }
        for (target, id, first) in firsts {
            self.spawn(target, id, Some(first));
        }
        for target in targets {
            self.dispatch(&target);
        }
        let unknown = JobFilter { states: vec![JobState::Unknown], ..JobFilter::default() };
        for job in self.0.parts.store.jobs(&unknown, None, LEFTOVERS).await?.items {
            self.mind_leftover(&job);
        }
        fail_point!("recovered");
        Ok(count)
    }

    /// Asks to cancel a job: one that waits ends at once, of one that runs the host is asked to
    /// cancel the task, and it may still succeed. Repeatable; the audit names the first who asked.
    /// The job as it is then. `None` if there is no such job.
    ///
    /// # Errors
    /// As [`Jobs::get`].
    pub async fn cancel(&self, id: JobId, by: Actor) -> Result<Option<JobView>, Failure> {
        if let Some(live) = self.0.board.get(id).filter(|live| !live.job.state.is_end()) {
            let target = live.job.target.id();
            if self.queues().withdraw(&target, id) {
                self.no_expiry(&live.job);
                self.end_queued(id, &target, |driver, now| driver.cancel_queued(by, now));
                // A disk that takes no commits must not hold up the caller: the job ends when it
                // can be committed.
                tokio::select! {
                    biased;
                    ended = self.ended(id) => return ended,
                    () = self.0.parts.clock.sleep(CANCEL_PATIENCE) => return self.get(id).await,
                }
            }
            let changes = self.0.board.follow(id);
            fail_point!("cancel");
            self.0.board.interrupt(id, Interrupt::Cancel(by));
            if let Some(mut changes) = changes {
                // The wish is shown as soon as the job has taken it; one that is being read back
                // takes it later.
                let taken =
                    |live: &Live| live.job.cancel_requested_at.is_some() || live.job.state.is_end();
                tokio::select! {
                    biased;
                    _ = changes.wait_for(taken) => {}
                    () = self.0.parts.clock.sleep(Duration::from_secs(1)) => {}
                }
            }
        }
        self.get(id).await
    }

    /// Starts whatever may start on a target.
    pub(super) fn dispatch(&self, target: &TargetId) {
        loop {
            let Some(Turn { job, cancel }) = self.queues().next_turn(target) else { return };
            if let Some(killed) = cancel {
                self.cancel_killed(killed);
            }
            self.spawn(target.clone(), job, None);
        }
    }

    /// Tells that a job came to or left a queue: the machine shows another active job, and those
    /// that wait another position.
    pub(super) fn queue_moved(&self, target: &TargetId) {
        let waiting = self.queues().waiting_on(target);
        let live = waiting.into_iter().filter_map(|id| self.0.board.get(id));
        self.0
            .parts
            .event_stream
            .publish(live.map(|live| Subject::from_job(&live.job)).collect::<Vec<_>>());
        if let Some(machine) = target.machine() {
            self.0.parts.inventory.wake_watchers(machine);
        }
    }

    /// Cancels a job for a kill on its machine, in the name of the caller who asked for the kill.
    fn cancel_killed(&self, killed: Killed) {
        let by = self.0.board.get(killed.by).map_or_else(Actor::otter, |kill| kill.job.requester());
        self.0.board.interrupt(killed.job, Interrupt::Cancel(by));
    }

    /// Runs a job in a task of its own. A panic in it is judged like a crash: the job is read back
    /// from the disk and taken up where it was committed, [`MOST_FAILED_RUNS`] times at most.
    fn spawn(&self, target: TargetId, id: JobId, first: Option<Effect>) {
        let outer = self.clone();
        // Followed by nobody: the job's own record says how it went.
        drop(self.0.parts.supervisor.spawn_isolated("job", async move {
            let mut first = first;
            // A panic that comes back each time must not spin.
            let mut pause = Duration::from_secs(1);
            let mut failed_runs = 0;
            loop {
                let (inner, from) = (outer.clone(), first.take());
                let run = outer.0.parts.supervisor.spawn_isolated("job run", async move { inner.run(id, from).await });
                match run.join().await {
                    Ok(Some(Ran::UntilStopped)) => return,
                    Ok(None | Some(Ran::ToTheEnd)) => break,
                    Ok(Some(Ran::Unsaved)) | Err(_) => failed_runs += 1,
                }
                tracing::error!(job = %id, failed_runs, "the job's run failed; it is judged as after a crash");
                match outer.read_back(id, failed_runs, &mut pause).await {
                    ReadBack::Unfinished(from) => first = from,
                    ReadBack::Ended => break,
                    ReadBack::Stopping => return,
                }
            }
            outer.queues().finish(&target, id);
            outer.0.board.remove(id);
            outer.dispatch(&target);
            outer.queue_moved(&target);
        }));
    }

    async fn run(self, id: JobId, first: Option<Effect>) -> Option<Ran> {
        let (mut waiting, live) = self.0.board.take(id)?;
        let job = waiting.driver.job();
        let target = job.target.id();
        let first = if let Some(first) = first {
            first
        } else {
            self.no_expiry(job);
            let overdue = waiting.due <= self.0.parts.clock.elapsed();
            waiting.driver.take_turn(overdue, self.0.parts.clock.now())
        };
        // Who hears of the end finds the machine without this job.
        let leave = |job: &Job| {
            self.mind_leftover(job);
            self.queues().finish(&target, id);
        };
        Some(self.drive(waiting, first, live, leave).await)
    }

    /// Reads a job whose run failed back from the disk, after `pause`, which grows. After too many
    /// failed runs it ends the job.
    async fn read_back(&self, id: JobId, failed_runs: u32, pause: &mut Duration) -> ReadBack {
        loop {
            tokio::select! {
                biased;
                () = self.0.parts.clock.sleep(*pause) => {}
                () = self.0.stop.cancelled() => return ReadBack::Stopping,
            }
            *pause = (*pause * 2).min(Duration::from_mins(1));
            let error = match self.0.parts.store.job(id).await {
                Ok(Some(job)) if job.state.is_end() => {
                    let ended = Subject::from_job(&Arc::new(job.clone()));
                    self.0.board.show(job);
                    self.0.parts.event_stream.publish([ended]);
                    return ReadBack::Ended;
                }
                Ok(Some(job)) if failed_runs >= MOST_FAILED_RUNS => {
                    let detail = format!(
                        "otter failed {failed_runs} times while it worked on this job, which is a fault of otter; its \
                         log says where. What the host did is not known: look at the machine."
                    );
                    match self.abandon(job, &detail).await {
                        Ok(()) => return ReadBack::Ended,
                        Err(error) => error,
                    }
                }
                Ok(Some(job)) => {
                    let (driver, first) = match job.state {
                        JobState::Running => {
                            let (driver, first) = Driver::resume(job, self.rules());
                            (driver, Some(first))
                        }
                        _ => (Driver::queued(job, self.rules()), None),
                    };
                    let changed = Subject::from_job(&Arc::new(driver.job().clone()));
                    self.0.board.renew(driver);
                    self.0.parts.event_stream.publish([changed]);
                    return ReadBack::Unfinished(first);
                }
                Ok(None) => return ReadBack::Ended,
                Err(error) => error,
            };
            if matches!(error, StorageError::Closed) {
                return ReadBack::Stopping;
            }
            tracing::error!(job = %id, error = &error as &dyn std::error::Error, "the job cannot be read back; trying again");
        }
    }

    /// Ends a job that otter cannot work on: commits the end, then shows it.
    async fn abandon(&self, job: Job, detail: &str) -> Result<(), StorageError> {
        let mut driver = Driver::queued(job, self.rules());
        driver.abandon(detail, self.0.parts.clock.now());
        let job = driver.job().clone();
        match self.0.parts.store.update_job(&job).await {
            Ok(()) | Err(StorageError::AlreadyEnded(_)) => {}
            Err(error) => return Err(error),
        }
        self.mind_leftover(&job);
        self.queues().finish(&job.target.id(), job.id);
        count_end(&self.0.parts.metrics, &self.0.parts.clock, &job);
        let ended = Subject::from_job(&Arc::new(job.clone()));
        self.0.board.show(job);
        self.0.parts.event_stream.publish([ended]);
        Ok(())
    }

    /// Ends a job that was withdrawn from its queue.
    pub(super) fn end_queued(
        &self,
        id: JobId,
        target: &TargetId,
        end: impl FnOnce(&mut Driver, Timestamp) -> Effect + Send + 'static,
    ) {
        let inner = self.clone();
        let target = target.clone();
        drop(self.0.parts.supervisor.spawn_isolated("job end", async move {
            let Some((mut waiting, live)) = inner.0.board.take(id) else { return };
            let first = end(&mut waiting.driver, inner.0.parts.clock.now());
            if inner.drive(waiting, first, live, |_| {}).await == Ran::ToTheEnd {
                inner.0.board.remove(id);
            }
            inner.dispatch(&target);
            inner.queue_moved(&target);
        }));
    }

    /// Drives a job from `first` on.
    async fn drive(
        &self,
        waiting: Waiting,
        first: Effect,
        live: watch::Sender<Live>,
        leave: impl Fn(&Job),
    ) -> Ran {
        let job = waiting.driver.job();
        if let Some(machine) = job.target.machine().cloned() {
            return self.runner(machine).run(waiting, first, live, leave).await;
        }
        let detail = format!("This otter does no work on a {}.", job.target.id().kind());
        let abandoned = self.abandon(job.clone(), &detail).await;
        abandoned.map_or(Ran::Unsaved, |()| Ran::ToTheEnd)
    }

    /// What a job on a machine works with.
    fn runner(&self, machine: MachineIdentity) -> Runner {
        let JobsParts {
            store,
            hosts,
            inventory,
            clock,
            event_stream,
            supervisor: _,
            settings: _,
            metrics,
            gate: _,
            snapshots,
        } = &self.0.parts;
        Runner {
            store: store.clone(),
            host: Arc::clone(hosts.for_machine(&machine.id)),
            machine,
            inventory: Arc::clone(inventory),
            snapshots: Arc::clone(snapshots),
            board: Arc::clone(&self.0.board),
            begun: Moment::now(clock),
            clock: clock.clone(),
            event_stream: event_stream.clone(),
            stop: self.0.stop.clone(),
            metrics: metrics.clone(),
        }
    }

    /// A job that ended `unknown` may leave its task behind: its machine is not free until that has
    /// ended too.
    fn mind_leftover(&self, job: &Job) {
        let left = job.host_task.clone().zip(job.machine_id().cloned());
        let Some((task, machine)) = left.filter(|_| job.state == JobState::Unknown) else { return };
        let inner = self.clone();
        self.leftovers().entry(machine.clone()).or_default().insert(task.clone());
        drop(self.0.parts.supervisor.spawn_isolated("leftover task", async move {
            let mut status = inner.0.parts.hosts.for_machine(&machine).follow(&task).await;
            tokio::select! {
                biased;
                // Ends too where the task is no longer known, or the backend is gone.
                _ = status.wait_for(|status| !matches!(status, TaskStatus::Running { .. })) => {}
                () = inner.0.stop.cancelled() => return,
            }
            {
                let mut leftovers = inner.leftovers();
                if let Some(tasks) = leftovers.get_mut(&machine) {
                    tasks.remove(&task);
                    if tasks.is_empty() {
                        leftovers.remove(&machine);
                    }
                }
            }
            inner.0.parts.inventory.wake_watchers(&machine);
        }));
    }
}
