//! The job table: all jobs that have not ended, in memory, and the host's tasks that outlived
//! their jobs.
//!
//! The table has one lock. Each method makes one transition or one read under this lock, so that no
//! reader sees half of a transition. A transition that the view of a machine can show raises the
//! version of the activities, so that readers know whether what they read before is still true.
//!
//! ```text
//! reserve ─► show ─► commit ─► start_next ─► take ─► finish
//!    │         │        │                     ▲ │
//!    │         │        │                     └─┴─ renew, after a failed run
//!    │         │        └─► withdraw ─► finish
//!    └─────────┴─► remove
//! ```

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, mpsc, watch};

use super::deadline_clocks::{JumpReceiver, JumpSender, Moment};
use super::ended_jobs::EndedJob;
use super::queue::{Killed, Lane, QueueLimit, Queues, Turn};
use super::state_machine::{Effect, Interrupt, JobRules, JobStateMachine, OtherJobs};
use super::status::JobStatus;
use crate::domain::call::CallKind;
use crate::domain::failure::FailureKind;
use crate::domain::ids::{JobId, LeaseId, MachineId, TaskId};
use crate::domain::job::{Job, JobKind, JobState, TargetId};
use crate::domain::origin::Actor;

/// The number of interrupts that are kept for a job until its runner takes them. Further interrupts
/// would only repeat the same request to cancel.
const INTERRUPTS: usize = 4;

/// The table of all jobs that have not ended.
#[derive(Debug)]
pub struct JobTable {
    inner: Mutex<Inner>,
    /// The version of the activities: how often an activity of a machine may have changed.
    activity_version: AtomicU64,
    jumps: JumpSender,
    /// Notifies that the earliest deadline of the queued jobs may have changed.
    deadline_added: Notify,
}

/// The contents of the table, which its lock protects.
#[derive(Debug)]
struct Inner {
    /// The queues, which decide which job is next on each target. If a job is in a queue and not in
    /// `entries`, otter is just accepting it.
    queues: Queues,
    /// The jobs by their ids. A sorted map has the same order in each run, so that a simulation
    /// replays identically.
    entries: BTreeMap<JobId, Entry>,
    /// The deadlines of the committed jobs that wait in a queue, by the clock that never jumps.
    deadlines: BTreeSet<(Duration, JobId)>,
    /// The orphaned tasks. A machine is not free while one of its tasks is in this set.
    orphaned_tasks: BTreeSet<OrphanedTask>,
}

#[derive(Debug)]
struct Entry {
    target: TargetId,
    status: watch::Sender<JobStatus>,
    interrupts: mpsc::Sender<Interrupt>,
    /// The job's deadline, as the elapsed time of the clock that never jumps.
    due: Duration,
    /// What the job's runner needs. `None` once a runner has taken it.
    pending: Option<PendingJob>,
}

/// A job without a runner, with everything that a runner needs.
#[derive(Debug)]
pub struct PendingJob {
    pub state_machine: JobStateMachine,
    pub status: watch::Sender<JobStatus>,
    pub interrupts: mpsc::Receiver<Interrupt>,
    /// The job's deadline, as the elapsed time of the clock that never jumps.
    pub due: Duration,
    pub jumps: JumpReceiver,
}

/// A task of the host that may still run although its job has ended: as `unknown`, or as failed
/// because of a question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrphanedTask {
    pub machine: MachineId,
    pub task: TaskId,
}

/// What the view of a machine shows of the jobs and of the host's tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineActivity {
    /// The running job of the machine, or the first queued one. `None` if there is neither.
    pub active_job: Option<JobId>,
    /// Whether the host works on the machine, or may do so, apart from the task that the active job
    /// follows: an orphaned task runs, another task blocks the active job, or a call of the active
    /// job was lost and is not resolved yet.
    pub is_host_busy: bool,
}

/// The table, locked for a read.
struct Reading<'a>(MutexGuard<'a, Inner>);

/// A job and its place in the queue, read at the same moment.
#[derive(Clone, Debug)]
pub struct JobReading {
    pub status: JobStatus,
    /// The number of jobs before the job in its queue. `None` if the job does not wait in its
    /// queue.
    pub position: Option<usize>,
    /// The active job of the job's target, if the job waits for the active job.
    pub waits_for: Option<JobId>,
}

/// The jobs that a restart restored and that can continue.
#[derive(Debug, Default)]
pub struct Restored {
    /// The jobs that ran before the restart, each with its next effect.
    pub running: Vec<(TargetId, JobId, Effect)>,
    /// The targets on which a queued job may start.
    pub targets: BTreeSet<TargetId>,
}

impl JobTable {
    /// A table without jobs. At most this many jobs may wait for one machine, and for all machines.
    #[must_use]
    pub fn new(per_machine: usize, in_total: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                queues: Queues::new(per_machine, in_total),
                entries: BTreeMap::new(),
                deadlines: BTreeSet::new(),
                orphaned_tasks: BTreeSet::new(),
            }),
            activity_version: AtomicU64::new(0),
            jumps: JumpSender::default(),
            deadline_added: Notify::new(),
        }
    }

    /// Adds a job that is being accepted to the queue. The job counts at once: if a lease of the
    /// machine is granted later, the grant finds the job.
    ///
    /// # Errors
    /// Fails if the machine's queue or the table is full.
    pub fn reserve(&self, target: &TargetId, id: JobId, lane: Lane) -> Result<(), QueueLimit> {
        // The version of the activities need not change, because no reader sees a job that is being
        // accepted.
        self.change_unseen().queues.reserve(target, id, lane)
    }

    /// Makes an authorized job visible to readers. This must happen before the commit of the job,
    /// so that a reader that learns the job's id from the disk finds the job in the table.
    ///
    /// # Parameters
    /// - `due`: the job's deadline, as the elapsed time of the clock that never jumps.
    pub fn show(&self, state_machine: JobStateMachine, due: Duration) {
        self.insert(&mut self.change(), state_machine, due);
    }

    /// Marks a job as committed: from now on it can start, be cancelled and expire.
    pub fn commit(&self, target: &TargetId, id: JobId) {
        let mut inner = self.change();
        inner.queues.mark_ready(target, id);
        inner.add_deadline(id);
        drop(inner);
        self.deadline_added.notify_one();
    }

    /// Removes a job that gets no end, because it was refused or because the store does not have
    /// it.
    pub fn remove(&self, target: &TargetId, id: JobId) {
        let mut inner = self.change();
        inner.remove_deadline(id);
        inner.entries.remove(&id);
        inner.queues.withdraw(target, id);
        inner.queues.finish(target, id);
    }

    /// Restores the jobs that had not ended when otter stopped, in their order of arrival. The
    /// tasks of all these jobs are known before any of the jobs continues.
    pub fn restore(&self, jobs: Vec<Job>, rules: JobRules, now: Moment) -> Restored {
        let mut restored = Restored::default();
        let mut inner = self.change();
        for job in jobs {
            let (id, target, lane) = (job.id, job.target.id(), Lane::for_kind(job.kind()));
            let due = now.due(job.deadline_at);
            restored.targets.insert(target.clone());
            let waits = job.state != JobState::Running;
            let state_machine = if job.state == JobState::Running {
                let (state_machine, first) = JobStateMachine::resume(job, rules);
                inner.queues.restore_running(&target, id, lane);
                restored.running.push((target, id, first));
                state_machine
            } else {
                inner.queues.restore(&target, id, lane);
                JobStateMachine::from_queued(job, rules)
            };
            self.insert(&mut inner, state_machine, due);
            if waits {
                inner.add_deadline(id);
            }
        }
        for target in &restored.targets {
            if let Some(killed) = inner.queues.killed_job(target) {
                inner.cancel_killed(killed);
            }
        }
        drop(inner);
        self.deadline_added.notify_one();
        restored
    }

    /// Takes the next job of a target from the queue and counts it as running. The caller of this
    /// method starts the job. `None` if no job can start. If the job is a kill, it cancels the job
    /// that runs, in the name of the caller who asked for the kill.
    pub fn start_next(&self, target: &TargetId) -> Option<JobId> {
        let mut inner = self.change();
        let Turn { job, cancel } = inner.queues.next_turn(target)?;
        inner.remove_deadline(job);
        if let Some(killed) = cancel {
            inner.cancel_killed(killed);
        }
        Some(job)
    }

    /// Gives a started job to its runner. `None` if another runner has taken the job.
    pub fn take(&self, id: JobId) -> Option<PendingJob> {
        self.change_unseen().entries.get_mut(&id)?.pending.take()
    }

    /// Makes a job whose run failed available to another runner. Readers that have subscribed to
    /// the job stay subscribed.
    pub fn renew(&self, state_machine: JobStateMachine) {
        let mut inner = self.change();
        if let Some(due) = inner.entries.get(&state_machine.job().id).map(|entry| entry.due) {
            self.insert(&mut inner, state_machine, due);
        }
    }

    /// Takes a queued job out of its queue, so that the caller can end the job. `None` if the job
    /// does not wait, or if it is not committed yet.
    pub fn withdraw(&self, id: JobId) -> Option<PendingJob> {
        self.change().withdraw(id)
    }

    /// Takes the queued job with the earliest deadline out of its queue, if this deadline has
    /// passed. `None` if no deadline has passed.
    ///
    /// # Parameters
    /// - `now`: the elapsed time of the clock that never jumps.
    pub fn withdraw_overdue(&self, now: Duration) -> Option<PendingJob> {
        let mut inner = self.change();
        let (_, id) = inner.deadlines.first().copied().filter(|(due, _)| *due <= now)?;
        inner.withdraw(id)
    }

    /// Publishes the committed end of a job. The job leaves its queue at the same moment, so a
    /// reader that learns of the end finds the machine without the job. Returns the job's task as
    /// an orphaned task if the task may still run.
    pub fn finish(&self, ended: &Arc<EndedJob>) -> Option<OrphanedTask> {
        let job = ended.job();
        let mut inner = self.change();
        let orphaned = inner.add_orphaned_task(job);
        inner.queues.finish(&job.target.id(), job.id);
        inner.remove_deadline(job.id);
        if let Some(entry) = inner.entries.remove(&job.id) {
            entry.status.send_replace(JobStatus::from_ended(Arc::clone(ended)));
        }
        orphaned
    }

    /// Adds the task of an ended job to the orphaned tasks if the task may still run, and returns
    /// it.
    pub fn add_orphaned_task(&self, job: &Job) -> Option<OrphanedTask> {
        self.change().add_orphaned_task(job)
    }

    /// Removes an orphaned task that has ended, or that the host no longer knows.
    pub fn remove_orphaned_task(&self, orphaned: &OrphanedTask) {
        self.change().orphaned_tasks.remove(orphaned);
    }

    /// Interrupts a running job. If the job's buffer of interrupts is full, the interrupt is
    /// dropped, because the buffer already contains the same interrupt.
    pub fn interrupt(&self, id: JobId, interrupt: Interrupt) {
        self.lock().interrupt(id, interrupt);
    }

    /// Moves the deadline of each pending job by a jump of the wall clock. Returns these jobs with
    /// their new deadlines. The runner of a running job moves the deadline of its job itself.
    pub fn shift_deadlines(&self, by: SignedDuration, now: Timestamp) -> Vec<Arc<Job>> {
        let mut inner = self.change_unseen();
        self.jumps.send(by);
        let pending = inner.entries.values_mut().filter_map(|entry| entry.pending.as_mut());
        let moved = pending.map(|pending| {
            pending.state_machine.shift_deadline(pending.jumps.take(), now);
            let job = Arc::new(pending.state_machine.job().clone());
            pending.status.send_modify(|status| status.job = Arc::clone(&job));
            job
        });
        moved.collect()
    }

    /// A job that no runner has taken.
    pub fn pending_job(&self, id: JobId) -> Option<Arc<Job>> {
        self.lock().entries.get(&id).filter(|entry| entry.pending.is_some()).map(Entry::job)
    }

    /// The earliest deadline of the queued jobs, as the elapsed time of the clock that never jumps.
    pub fn first_deadline(&self) -> Option<Duration> {
        self.lock().deadlines.first().map(|(due, _)| *due)
    }

    /// Waits until a queued job, and thus its deadline, is added.
    pub async fn deadline_added(&self) {
        self.deadline_added.notified().await;
    }

    /// The last published status of a job, with the job's place in the queue. `None` if the job is
    /// not in the table.
    pub fn read(&self, id: JobId) -> Option<JobReading> {
        let inner = self.lock();
        let entry = inner.entries.get(&id)?;
        let position = inner.queues.position(&entry.target, id);
        let active = position.and_then(|_| inner.queues.active(&entry.target));
        let status = entry.status.borrow().clone();
        Some(JobReading { status, position, waits_for: active.filter(|active| *active != id) })
    }

    /// Subscribes to the status of a job. The last status has the end of the job, unless otter
    /// stops first. `None` if the job is not in the table.
    pub fn follow(&self, id: JobId) -> Option<watch::Receiver<JobStatus>> {
        self.lock().entries.get(&id).map(|entry| entry.status.subscribe())
    }

    /// The committed jobs that wait for a target, in the order of its queue.
    pub fn waiting_on(&self, target: &TargetId) -> Vec<Arc<Job>> {
        let inner = self.lock();
        let waiting = inner.queues.waiting_on(target);
        waiting.filter_map(|id| inner.entries.get(&id)).map(Entry::job).collect()
    }

    /// Whether this job waits behind another job, and more than `most` jobs of its caller wait
    /// behind another job.
    pub fn exceeds_caller_limit(&self, id: JobId, most: usize) -> bool {
        let inner = self.lock();
        let waits = |id: JobId, entry: &Entry| {
            inner.queues.position(&entry.target, id).is_some_and(|ahead| ahead > 0)
        };
        let Some(entry) = inner.entries.get(&id).filter(|entry| waits(id, entry)) else {
            return false;
        };
        let job = entry.job();
        let of_caller = |entry: &Entry| entry.job().requested_by == job.requested_by;
        let waiting =
            inner.entries.iter().filter(|(id, entry)| of_caller(entry) && waits(**id, entry));
        waiting.count() > most
    }

    /// The jobs of a lease that have not ended, except the one that releases its machine.
    pub fn jobs_of_lease(&self, lease: LeaseId) -> Vec<JobId> {
        let inner = self.lock();
        let jobs = inner
            .entries
            .values()
            .map(Entry::job)
            .filter(|job| job.lease == Some(lease) && job.kind() != JobKind::LeaseRelease);
        jobs.map(|job| job.id).collect()
    }

    /// Whether a job that has not ended answers a question of a machine.
    pub fn is_answering(&self, machine: &MachineId) -> bool {
        let inner = self.lock();
        let mut jobs = inner.jobs_on(machine);
        jobs.any(|job| job.kind() == JobKind::MachineAnswer)
    }

    /// Whether a job that has not ended makes a call that changes what is in a CD drive.
    pub fn is_changing_media(&self, machine: &MachineId) -> bool {
        let inner = self.lock();
        let changes = |job: Arc<Job>| {
            let call = job.intent.as_ref().map(|intent| intent.call.kind());
            call == Some(CallKind::SetMedia)
        };
        inner.jobs_on(machine).any(changes)
    }

    /// The facts about the other jobs on the machine on which the job `id` works.
    pub fn others(&self, machine: &MachineId, id: JobId) -> OtherJobs {
        let inner = self.lock();
        let others: Vec<Arc<Job>> = inner.jobs_on(machine).filter(|job| job.id != id).collect();
        OtherJobs::from_jobs(others.iter().map(Arc::as_ref))
    }

    /// The activity of a machine.
    pub fn activity(&self, target: &TargetId) -> MachineActivity {
        let inner = self.lock();
        let active_job = inner.queues.active(target);
        let is_orphaned = |orphaned: &OrphanedTask| Some(&orphaned.machine) == target.machine();
        let is_host_busy =
            inner.is_blocked_by_host(active_job) || inner.orphaned_tasks.iter().any(is_orphaned);
        MachineActivity { active_job, is_host_busy }
    }

    /// Every machine that has an active job or an orphaned task, with its activity.
    pub fn activities(&self) -> HashMap<MachineId, MachineActivity> {
        let inner = self.lock();
        let mut activities: HashMap<MachineId, MachineActivity> = HashMap::new();
        for (target, job) in inner.queues.all_active() {
            if let Some(machine) = target.machine() {
                let is_host_busy = inner.is_blocked_by_host(Some(job));
                let activity = MachineActivity { active_job: Some(job), is_host_busy };
                activities.insert(machine.clone(), activity);
            }
        }
        for orphaned in &inner.orphaned_tasks {
            activities.entry(orphaned.machine.clone()).or_default().is_host_busy = true;
        }
        activities
    }

    /// A number that changes whenever the activity of a machine may have changed. A caller reads
    /// the number first and the activities after it. As long as the number stays the same, these
    /// activities are still true.
    pub fn activity_version(&self) -> u64 {
        self.activity_version.load(Ordering::Acquire)
    }

    /// Updates the published status of a job. Returns whether readers see a difference.
    pub fn update_status(
        &self,
        status: &watch::Sender<JobStatus>,
        update: impl FnOnce(&mut JobStatus) -> bool,
    ) -> bool {
        status.send_if_modified(|status| {
            let before = status.is_blocked_by_host();
            let changed = update(status);
            if status.is_blocked_by_host() != before {
                // The version changes before a reader can see the new status.
                self.activity_version.fetch_add(1, Ordering::Release);
            }
            changed
        })
    }

    /// Whether a target has any job, including a job that is being accepted.
    pub fn has_any(&self, target: &TargetId) -> bool {
        self.lock().queues.has_any(target)
    }

    /// The numbers of queued and of running jobs.
    pub fn counts(&self) -> (usize, usize) {
        self.lock().queues.counts()
    }

    /// Inserts a pending job. If the job is already in the table, makes it pending again.
    fn insert(&self, inner: &mut Inner, state_machine: JobStateMachine, due: Duration) {
        let (id, target) = (state_machine.job().id, state_machine.job().target.id());
        let shown = JobStatus::from_state_machine(&state_machine);
        let status = match inner.entries.remove(&id) {
            Some(Entry { status, .. }) => {
                status.send_replace(shown);
                status
            }
            None => watch::Sender::new(shown),
        };
        let (sender, interrupts) = mpsc::channel(INTERRUPTS);
        let jumps = self.jumps.subscribe();
        let pending =
            Some(PendingJob { state_machine, status: status.clone(), interrupts, due, jumps });
        inner.entries.insert(id, Entry { target, status, interrupts: sender, due, pending });
    }

    fn lock(&self) -> Reading<'_> {
        Reading(self.change_unseen())
    }

    /// Locks the table for a transition that the view of a machine can show. The version of the
    /// activities changes before the transition. So a reader that reads first the new version and
    /// then an activity waits for this lock, and sees the transition.
    fn change(&self) -> MutexGuard<'_, Inner> {
        let inner = self.change_unseen();
        self.activity_version.fetch_add(1, Ordering::Release);
        inner
    }

    /// Locks the table for a read, or for a transition that no view of a machine shows.
    fn change_unseen(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Reading<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Inner {
    /// Whether a task of the host that is not the job's own blocks this active job, or a lost call
    /// of the job is not resolved yet.
    fn is_blocked_by_host(&self, active: Option<JobId>) -> bool {
        let entry = active.and_then(|id| self.entries.get(&id));
        entry.is_some_and(|entry| entry.status.borrow().is_blocked_by_host())
    }

    /// The jobs that run or wait on a machine.
    fn jobs_on(&self, machine: &MachineId) -> impl Iterator<Item = Arc<Job>> {
        let jobs: Vec<JobId> = self.queues.jobs_on(&TargetId::Machine(machine.clone())).collect();
        jobs.into_iter().filter_map(|id| self.entries.get(&id)).map(Entry::job)
    }

    fn withdraw(&mut self, id: JobId) -> Option<PendingJob> {
        let entry = self.entries.get_mut(&id)?;
        // A job that is not committed yet cannot be withdrawn, because its end must not be
        // committed before the job itself.
        if !self.queues.is_ready(&entry.target, id) {
            return None;
        }
        self.queues.withdraw(&entry.target, id);
        let pending = entry.pending.take();
        self.remove_deadline(id);
        pending
    }

    fn add_deadline(&mut self, id: JobId) {
        if let Some(entry) = self.entries.get(&id) {
            self.deadlines.insert((entry.due, id));
        }
    }

    fn remove_deadline(&mut self, id: JobId) {
        if let Some(entry) = self.entries.get(&id) {
            self.deadlines.remove(&(entry.due, id));
        }
    }

    fn cancel_killed(&self, killed: Killed) {
        let kill = self.entries.get(&killed.by);
        let by = kill.map_or_else(Actor::otter, |kill| kill.job().requester());
        self.interrupt(killed.job, Interrupt::Cancel(by));
    }

    fn interrupt(&self, id: JobId, interrupt: Interrupt) {
        if let Some(entry) = self.entries.get(&id) {
            let _ = entry.interrupts.try_send(interrupt);
        }
    }

    fn add_orphaned_task(&mut self, job: &Job) -> Option<OrphanedTask> {
        let (machine, task) = (job.machine_id()?.clone(), job.host_task.clone()?);
        let orphaned = OrphanedTask { machine, task };
        // The task of a job that failed because of a question may still wait for the answer.
        let is_at_question =
            job.error.as_ref().is_some_and(|failure| failure.kind == FailureKind::QuestionPending);
        let may_run =
            job.state == JobState::Unknown || (job.state == JobState::Failed && is_at_question);
        let is_new = may_run && self.orphaned_tasks.insert(orphaned.clone());
        is_new.then_some(orphaned)
    }
}

impl Entry {
    fn job(&self) -> Arc<Job> {
        Arc::clone(&self.status.borrow().job)
    }
}
