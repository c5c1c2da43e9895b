//! Jobs that have not ended, in memory: what readers see of them, and whom to wake when they
//! change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};

use super::driver::{Blocker, Driver, Interrupt, Others};
use crate::domain::ids::{JobId, LeaseId, MachineId, TaskId};
use crate::domain::job::{Job, JobKind, JobState, TargetId};

/// A job as readers see it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobView {
    pub job: Job,
    /// Percent, while the host tells.
    pub progress: Option<u8>,
    /// How many jobs are before it in its target's queue.
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
    /// A job that ended, as the store keeps it.
    #[must_use]
    pub const fn ended(job: Job) -> Self {
        Self { job, progress: None, position: None, blocked_by: None, cancelable: false }
    }
}

/// A job in memory as last published.
#[derive(Clone, Debug)]
pub struct Live {
    pub job: Arc<Job>,
    pub progress: Option<u8>,
    pub blocker: Option<(Blocker, Timestamp)>,
    pub task: Option<TaskId>,
    /// Whether what became of its call is looked for on the machine.
    pub settling: bool,
}

impl Live {
    /// What a driver shows.
    #[must_use]
    pub fn of(driver: &Driver, progress: Option<u8>) -> Self {
        Self {
            job: Arc::new(driver.job().clone()),
            progress,
            blocker: driver.blocker().cloned(),
            task: driver.following().cloned(),
            settling: driver.is_settling(),
        }
    }
}

impl Live {
    /// Shows what the driver shows now, but for a wish to cancel that is not committed yet. Whether
    /// that is anything new.
    pub fn follow(&mut self, driver: &Driver, wish_unsaved: bool) -> bool {
        let mut next = Self::of(driver, None);
        if wish_unsaved {
            let job = driver.job().clone();
            next.job =
                Arc::new(Job { cancel_requested_at: None, cancel_requested_by: None, ..job });
        }
        // Between the end and its commit the job still shows as it was.
        if next.job.state.is_end() && !driver.is_finished() {
            return false;
        }
        let same_task = next.task.is_some() && next.task == self.task;
        let progress = self.progress.filter(|_| same_task);
        let changed =
            *next.job != *self.job || next.blocker != self.blocker || progress != self.progress;
        *self = Self { progress, ..next };
        changed
    }
}

/// All jobs that have not ended. Reading a job and waiting for it touch this and nothing else.
#[derive(Debug, Default)]
pub struct Board {
    /// In the order of their ids, so that what is done for each is done in an order that repeats.
    entries: Mutex<BTreeMap<JobId, Entry>>,
    /// The sum of the wall clock's jumps since otter started.
    jumped: watch::Sender<SignedDuration>,
}

#[derive(Debug)]
struct Entry {
    live: watch::Sender<Live>,
    interrupts: mpsc::Sender<Interrupt>,
    /// Its deadline, by the clock that never jumps.
    due: Duration,
    /// Taken by the runner when the job's turn comes.
    waiting: Option<Waiting>,
}

/// What a runner needs to take a job up.
#[derive(Debug)]
pub struct Waiting {
    pub driver: Driver,
    pub interrupts: mpsc::Receiver<Interrupt>,
    /// Its deadline, by the clock that never jumps.
    pub due: Duration,
    pub jumps: JumpsOfJob,
}

/// The jumps of the wall clock that a job's deadline has to follow.
#[derive(Debug)]
pub struct JumpsOfJob {
    jumped: watch::Receiver<SignedDuration>,
    followed: SignedDuration,
}

impl JumpsOfJob {
    /// Waits for the next jump, and gives by how much the deadline moves.
    pub async fn next(&mut self) -> SignedDuration {
        if self.jumped.changed().await.is_err() {
            // The board is gone, and otter with it.
            std::future::pending::<()>().await;
        }
        self.follow()
    }

    fn follow(&mut self) -> SignedDuration {
        let jumped = *self.jumped.borrow_and_update();
        let by = jumped.saturating_sub(self.followed);
        self.followed = jumped;
        by
    }
}

/// More interrupts than this at once say nothing new: a job can be cancelled once.
const INTERRUPTS: usize = 4;

impl Board {
    /// Shows a job that was accepted or taken up again.
    ///
    /// # Parameters
    /// - `due`: its deadline, by the clock that never jumps.
    pub fn add(&self, driver: Driver, due: Duration) {
        let id = driver.job().id;
        let live = watch::Sender::new(Live::of(&driver, None));
        let (sender, interrupts) = mpsc::channel(INTERRUPTS);
        let mut entries = self.lock();
        let waiting = Some(Waiting { driver, interrupts, due, jumps: self.jumps_from_now() });
        entries.insert(id, Entry { live, interrupts: sender, due, waiting });
    }

    /// Moves every deadline by the jump of the wall clock. Returns the queued jobs with their new
    /// deadlines; running jobs move their own.
    pub fn shift_deadlines(&self, by: SignedDuration, now: Timestamp) -> Vec<Arc<Job>> {
        let mut entries = self.lock();
        self.jumped.send_modify(|jumped| *jumped = jumped.saturating_add(by));
        let waiting =
            entries.values_mut().filter_map(|entry| Some((entry.waiting.as_mut()?, &entry.live)));
        let moved = waiting.map(|(waiting, live)| {
            waiting.driver.shift_deadline(waiting.jumps.follow(), now);
            let job = Arc::new(waiting.driver.job().clone());
            live.send_modify(|live| live.job = Arc::clone(&job));
            job
        });
        moved.collect()
    }

    fn jumps_from_now(&self) -> JumpsOfJob {
        let jumped = self.jumped.subscribe();
        let followed = *jumped.borrow();
        JumpsOfJob { jumped, followed }
    }

    /// Takes the job up; none where it ended or was taken before.
    pub fn take(&self, id: JobId) -> Option<(Waiting, watch::Sender<Live>)> {
        let mut entries = self.lock();
        let entry = entries.get_mut(&id)?;
        Some((entry.waiting.take()?, entry.live.clone()))
    }

    /// Lets a job be taken up once more; those who wait for it go on waiting.
    pub fn renew(&self, driver: Driver) {
        let (sender, interrupts) = mpsc::channel(INTERRUPTS);
        if let Some(entry) = self.lock().get_mut(&driver.job().id) {
            entry.live.send_replace(Live::of(&driver, None));
            entry.interrupts = sender;
            let jumps = self.jumps_from_now();
            entry.waiting = Some(Waiting { driver, interrupts, due: entry.due, jumps });
        }
    }

    /// Shows the end of a job that nobody runs any more, as the store has it.
    pub fn show(&self, job: Job) {
        if let Some(entry) = self.lock().get(&job.id) {
            entry.live.send_replace(Live {
                job: Arc::new(job),
                progress: None,
                blocker: None,
                task: None,
                settling: false,
            });
        }
    }

    /// The job ended and is committed: the store has it from now on. Those who wait have seen its
    /// last value.
    pub fn remove(&self, id: JobId) {
        self.lock().remove(&id);
    }

    /// The job as last published.
    #[must_use]
    pub fn get(&self, id: JobId) -> Option<Live> {
        self.lock().get(&id).map(|entry| entry.live.borrow().clone())
    }

    /// The deadline of a job, by the clock that never jumps.
    #[must_use]
    pub fn due(&self, id: JobId) -> Option<Duration> {
        self.lock().get(&id).map(|entry| entry.due)
    }

    /// Follows a job; the last value that comes is its end, or none comes where the daemon stops
    /// first.
    #[must_use]
    pub fn follow(&self, id: JobId) -> Option<watch::Receiver<Live>> {
        self.lock().get(&id).map(|entry| entry.live.subscribe())
    }

    /// Whether a job stands before something else that works, or may work, on its machine.
    #[must_use]
    pub fn finds_host_busy(&self, id: JobId) -> bool {
        self.lock().get(&id).is_some_and(|entry| {
            let live = entry.live.borrow();
            let busy = |(blocker, _): &(Blocker, Timestamp)| {
                matches!(blocker, Blocker::HostTask(_) | Blocker::Busy)
            };
            live.settling || live.blocker.as_ref().is_some_and(busy)
        })
    }

    /// Interrupts a running job. One that cannot take another has one waiting that says the same.
    pub fn interrupt(&self, id: JobId, interrupt: Interrupt) {
        if let Some(entry) = self.lock().get(&id) {
            let _ = entry.interrupts.try_send(interrupt);
        }
    }

    /// The jobs of a lease that have not ended, but for the one that releases its machine.
    #[must_use]
    pub fn of_lease(&self, lease: LeaseId) -> Vec<JobId> {
        let entries = self.lock();
        let of_it = |entry: &Entry| {
            let live = entry.live.borrow();
            // One that has ended is still here until its run has left it.
            live.job.lease == Some(lease)
                && live.job.kind() != JobKind::LeaseRelease
                && !live.job.state.is_end()
        };
        entries.iter().filter(|(_, entry)| of_it(entry)).map(|(id, _)| *id).collect()
    }

    /// The jobs that this caller asked for and whose turn has not come, each with its target.
    #[must_use]
    pub fn queued_of(&self, requested_by: &str) -> Vec<(JobId, TargetId)> {
        let entries = self.lock();
        let queued = entries.iter().filter_map(|(id, entry)| {
            let live = entry.live.borrow();
            let waits = live.job.state == JobState::Queued && live.job.requested_by == requested_by;
            waits.then(|| (*id, live.job.target.id()))
        });
        queued.collect()
    }

    /// What the other jobs on this machine are at.
    #[must_use]
    pub fn others(&self, machine: &MachineId, job: JobId) -> Others {
        let entries = self.lock();
        let others = entries.iter().filter(|(id, _)| **id != job);
        let jobs: Vec<Arc<Job>> =
            others.map(|(_, entry)| Arc::clone(&entry.live.borrow().job)).collect();
        Others::of(jobs.iter().map(|job| &**job).filter(|job| job.machine_id() == Some(machine)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<JobId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::job::JobRequest;
    use crate::service::jobs::driver::Rules;
    use crate::service::jobs::samples;

    #[test]
    fn a_job_that_has_ended_is_none_of_its_leases_jobs_any_more() {
        let lease = LeaseId::new(Uuid::from_u128(7));
        let job = Job { lease: Some(lease), ..samples::job(JobRequest::PowerOn) };
        let rules = Rules { settle: Duration::ZERO };
        let board = Board::default();
        board.add(Driver::queued(job.clone(), rules), Duration::ZERO);
        assert_eq!(board.of_lease(lease), [job.id]);
        board.show(Job { state: JobState::Succeeded, ..job });
        assert_eq!(board.of_lease(lease), []);
    }
}
