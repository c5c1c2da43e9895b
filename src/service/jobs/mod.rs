//! Jobs: accepted, committed to disk, run to their one end, and waited for by any number of callers.

mod admission;
pub(super) mod clocks;
pub mod driver;
mod engine;
pub mod gate;
pub mod judgement;
mod plan;
pub mod queue;
mod recovery;
mod runner;
#[cfg(test)]
mod samples;
mod sight;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::clocks::{Jumps, Moment, count_downtime};
use self::driver::{Driver, Interrupt};
use self::engine::Engine;
use self::gate::{Gate, Right};
use self::queue::Queues;
use self::recovery::{Recovered, recover};
use self::runner::sleep_until;
use self::view::Board;
pub use self::view::{BlockedBy, JobView};
use super::feed::Feed;
use super::hosts::Hosts;
use super::idempotency::{Claimed, KeyClaim, Keys};
use super::inventory::{Inventory, MachineRecord};
use super::snapshots::SnapshotProtection;
use super::storage_watch::store_failure;
use crate::clock::Clock;
use crate::domain::event::Subject;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{JobId, LeaseId, MachineId};
use crate::domain::job::{Job, JobKind, JobRequest, JobState, TargetId};
use crate::domain::origin::Actor;
use crate::fail_points::fail_point;
use crate::storage::{IdempotencyKey, JobCursor, JobFilter, KeyOwner, Storage, StorageError};
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::Metrics;

/// How long a caller that cancels waits for the job's end to be committed.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

/// How often otter reads the wall clock. A crash just after a jump costs at most this much time.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(10);

/// So many of the last jobs that ended `unknown` are looked through at the start for tasks that still run.
const LEFTOVERS: u32 = 100;

/// The job engine. Clones share it.
#[derive(Clone)]
pub struct Jobs(Arc<Engine>);

/// What the engine is built from.
pub struct JobsParts {
    pub store: Arc<dyn Storage>,
    pub hosts: Hosts,
    pub inventory: Arc<Inventory>,
    pub clock: Clock,
    pub feed: Feed,
    pub supervisor: Supervisor,
    pub settings: JobSettings,
    pub metrics: Metrics,
    pub gate: Arc<dyn Gate>,
    pub snapshots: Arc<SnapshotProtection>,
}

/// What the configuration says of jobs.
#[derive(Clone, Debug)]
pub struct JobSettings {
    /// How long a machine must be quiet before a lost call is judged.
    pub settle: Duration,
    /// For how long jobs are accepted while the host is away.
    pub outage_grace: Duration,
    pub queue_per_machine: usize,
    pub queue_in_all: usize,
    pub deadlines: Deadlines,
}

/// How long a job of each kind may take unless the caller says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// On, off, reset, suspend and kill; answers and renames, which are as quick.
    pub power: Duration,
    /// What the guest does by itself: shutdown and reboot.
    pub guest: Duration,
    pub create: Duration,
    pub revert: Duration,
    /// Removals of snapshots.
    pub remove: Duration,
    /// Making a machine ready for a lease, and bringing it back after one.
    pub prepare: Duration,
}

/// A job to be accepted.
#[derive(Clone, Debug)]
pub struct NewJob {
    pub machine: Arc<MachineRecord>,
    pub request: JobRequest,
    /// Who asks, and by what right.
    pub right: Right,
    pub reference: Option<String>,
    /// None: the default of its kind.
    pub deadline: Option<Duration>,
    pub key: Option<KeyClaim>,
}

/// One page of jobs, newest first.
#[derive(Clone, Debug)]
pub struct JobsPage {
    pub items: Vec<JobView>,
    pub next: Option<JobCursor>,
}

impl Deadlines {
    const fn of(&self, kind: JobKind) -> Duration {
        match kind {
            JobKind::MachinePowerOn
            | JobKind::MachinePowerOff
            | JobKind::MachineReset
            | JobKind::MachineSuspend
            | JobKind::MachineKill
            | JobKind::MachineAnswer
            | JobKind::SnapshotRename => self.power,
            JobKind::MachineShutdown | JobKind::MachineReboot => self.guest,
            JobKind::SnapshotCreate => self.create,
            JobKind::SnapshotRevert => self.revert,
            JobKind::SnapshotRemove | JobKind::SnapshotRemoveAll => self.remove,
            JobKind::LeasePrepare | JobKind::LeaseRelease => self.prepare,
        }
    }
}

impl Jobs {
    /// An engine without jobs. Call [`Jobs::recover`] before anything is accepted.
    #[must_use]
    pub fn new(parts: JobsParts) -> Self {
        let queues = Queues::new(parts.settings.queue_per_machine, parts.settings.queue_in_all);
        let stop = parts.supervisor.stopping();
        let keys = Keys::new(Arc::clone(&parts.store));
        Self(Arc::new(Engine {
            parts,
            board: Arc::new(Board::default()),
            queues: Mutex::new(queues),
            keys,
            expiries: Mutex::new(BTreeSet::new()),
            expiries_changed: Notify::new(),
            leftovers: Mutex::new(BTreeMap::new()),
            stop,
        }))
    }

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
            recover(jobs, self.0.rules(), &mut self.0.queues());
        for driver in waiting {
            let Job { id, deadline_at, target, .. } = driver.job().clone();
            let due = now.due(deadline_at);
            self.0.board.add(driver, due);
            self.0.expire_at(due, id, &target.id());
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
            self.0.cancel_killed(killed);
        }
        for (target, id, first) in firsts {
            Engine::spawn(&self.0, target, id, Some(first));
        }
        for target in targets {
            Engine::dispatch(&self.0, &target);
        }
        let unknown = JobFilter { states: vec![JobState::Unknown], ..JobFilter::default() };
        for job in self.0.parts.store.jobs(&unknown, None, LEFTOVERS).await?.items {
            Engine::mind_leftover(&self.0, &job);
        }
        fail_point!("recovered");
        Ok(count)
    }

    /// Claims a key for a call that is to start a job: once no other call has it, looks up which job it
    /// started.
    ///
    /// # Errors
    /// `idempotency-mismatch` if it was used for another request; the store's.
    pub async fn claim(&self, key: IdempotencyKey) -> Result<Claimed<JobId>, Failure> {
        self.0.keys.claim(key, KeyOwner::job).await
    }

    /// Accepts a job: when this returns it is on disk and has exactly one end. A caller that goes away
    /// meanwhile changes nothing.
    ///
    /// # Errors
    /// `shutting-down`, `host-unreachable` after a long outage, `question-pending`, `queue-full`; `forbidden` for a change of a protected snapshot, or of one that is not the runner's.
    pub async fn start(&self, new: NewJob) -> Result<JobId, Failure> {
        let engine = Arc::clone(&self.0);
        // Contained and not awaited in place: a caller that hangs up must not leave a place half taken.
        let accepted = self.0.parts.supervisor.contain("accept", Engine::accept(engine, new)).join();
        accepted
            .await
            .unwrap_or_else(|_| Err(Failure::new(FailureKind::Internal, "accepting the job panicked")))
    }

    /// A job as it is now; none where there is no such job.
    ///
    /// # Errors
    /// The store's, for a job that ended.
    pub async fn get(&self, id: JobId) -> Result<Option<JobView>, Failure> {
        if let Some(live) = self.0.board.get(id) {
            return Ok(Some(self.0.view(&live)));
        }
        let stored = self.0.parts.store.job(id).await.map_err(|error| store_failure(&error))?;
        Ok(stored.map(JobView::ended))
    }

    /// Waits until a job ended. Cheap: nothing is polled, and the store is read only for a job that had ended
    /// before. None where there is no such job; a job that has not ended where the daemon stops first.
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
            return Ok(Some(self.0.view(&live)));
        }
        self.get(id).await
    }

    /// Asks to cancel a job: one that waits ends at once, of one that runs the host is asked to cancel the task,
    /// and it may still succeed. Repeatable; the audit names the first who asked. The job as it is then; none where
    /// there is no such job.
    ///
    /// # Errors
    /// As [`Jobs::get`].
    pub async fn cancel(&self, id: JobId, by: Actor) -> Result<Option<JobView>, Failure> {
        if let Some(live) = self.0.board.get(id).filter(|live| !live.job.state.is_end()) {
            let target = live.job.target.id();
            if self.0.queues().withdraw(&target, id) {
                self.0.no_expiry(&live.job);
                Engine::end_queued(&self.0, id, &target, |driver, now| driver.cancel_queued(by, now));
                // A disk that takes no commits must not hold up the caller: the job ends when it can be committed.
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
                // The wish is shown as soon as the job has taken it; one that is being read back takes it later.
                let taken =
                    |live: &view::Live| live.job.cancel_requested_at.is_some() || live.job.state.is_end();
                tokio::select! {
                    biased;
                    _ = changes.wait_for(taken) => {}
                    () = self.0.parts.clock.sleep(Duration::from_secs(1)) => {}
                }
            }
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
            self.0.parts.store.jobs(filter, after, limit).await.map_err(|error| store_failure(&error))
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
            page.next = page.items.last().filter(|_| has_more).map(JobCursor::behind);
        }
        let view = |job: Job| match self.0.board.get(job.id) {
            Some(live) => self.0.view(&live),
            None => JobView::ended(job),
        };
        Ok(JobsPage { items: page.items.into_iter().map(view).collect(), next: page.next })
    }

    /// The job that is active on a machine: it runs, or is the first that waits.
    #[must_use]
    pub fn active(&self, machine: &MachineId) -> Option<JobId> {
        self.0.queues().active(&TargetId::Machine(machine.clone()))
    }

    /// Whether a machine has any job, one that is being accepted included.
    #[must_use]
    pub fn any_on(&self, machine: &MachineId) -> bool {
        self.0.queues().has_any(&TargetId::Machine(machine.clone()))
    }

    /// The jobs of a lease that have not ended, but for the one that releases its machine.
    #[must_use]
    pub fn of_lease(&self, lease: LeaseId) -> Vec<JobId> {
        self.0.board.of_lease(lease)
    }

    /// How many jobs wait, and how many run.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        self.0.queues().counts()
    }

    /// Whether a task of the host works on a machine, or may, that is not the running job's own: one that outlived its
    /// job, one that a job waits for, or one whose call was lost and is being judged.
    #[must_use]
    pub fn finds_host_busy(&self, machine: &MachineId, active: Option<JobId>) -> bool {
        self.0.leftovers().contains_key(machine)
            || active.is_some_and(|active| self.0.board.finds_host_busy(active))
    }

    /// Every machine that has a job, with its active one.
    #[must_use]
    pub fn all_active(&self) -> HashMap<MachineId, JobId> {
        self.0
            .queues()
            .all_active()
            .filter_map(|(target, job)| Some((target.machine()?.clone(), job)))
            .collect()
    }

    /// Ends queued jobs at their deadlines. Runs until told to stop.
    pub async fn expire(self, stop: CancellationToken) {
        let engine = &self.0;
        loop {
            let next = engine.expiries().first().cloned();
            let wait = async {
                match &next {
                    Some((due, _, _)) => sleep_until(&engine.parts.clock, *due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = engine.expiries_changed.notified() => continue,
                () = wait => {}
            }
            let Some((due, id, target)) = next else { continue };
            engine.expiries().remove(&(due, id, target.clone()));
            if engine.queues().withdraw(&target, id) {
                Engine::end_queued(engine, id, &target, Driver::expire_queued);
            }
        }
    }

    /// Follows the wall clock, until it is stopped. After a jump, computes the shown and stored
    /// deadlines again. While there are jobs, records that otter runs.
    pub async fn follow_wall_clock(self, stop: CancellationToken) {
        let parts = &self.0.parts;
        let mut jumps = Jumps::since(Moment::now(&parts.clock));
        loop {
            let stopping = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                () = parts.clock.sleep(LOOK_AT_CLOCK) => false,
            };
            let now = Moment::now(&parts.clock);
            if let Some(by) = jumps.find(now) {
                self.wall_clock_jumped(by, now.wall).await;
            }
            if self.counts() != (0, 0) {
                // Without this record, a start counts the downtime from the last change of each
                // job.
                let _ = parts.store.note_seen(now.wall).await;
            }
            if stopping {
                return;
            }
        }
    }

    async fn wall_clock_jumped(&self, by: SignedDuration, now: Timestamp) {
        tracing::warn!(seconds = by.as_secs(), "the wall clock jumped; deadlines move with it");
        let moved = self.0.board.shift_deadlines(by, now);
        self.0.parts.feed.publish(moved.iter().map(Subject::of_job));
        for job in moved {
            if let Err(error) = self.0.parts.store.update_job(&job).await {
                // An ended job needs no deadline. Otherwise a start would count by the old one.
                tracing::debug!(job = %job.id, error = &error as &dyn std::error::Error, "a deadline is not stored");
            }
        }
    }

    /// Counts the time for which otter was down, see [`count_downtime`]. A store that refuses
    /// writes keeps otter from nothing but writing: the next start counts the same again.
    async fn count_downtime(&self, jobs: &mut [Job]) -> Result<(), StorageError> {
        let Engine { parts, .. } = &*self.0;
        let last_seen = parts.store.last_seen().await?;
        let now = parts.clock.now();
        for job in jobs {
            if count_downtime(job, last_seen, now) {
                tracing::warn!(job = %job.id, "the wall clock is behind the last run; no time counts as passed");
                unless_refused(parts.store.update_job(job).await)?;
            }
        }
        unless_refused(parts.store.note_seen(now).await)
    }
}

/// The outcome of a write, of which a refusal of the disk or database is no error. The store logs
/// refusals.
fn unless_refused(written: Result<(), StorageError>) -> Result<(), StorageError> {
    written.or_else(|error| if error.refusal().is_some() { Ok(()) } else { Err(error) })
}
