//! Jobs: accepted, committed to disk, run to their one end, and waited for by any number of callers.

pub mod driver;
pub mod judgement;
mod keys;
mod plan;
pub mod queue;
mod runner;
mod view;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::driver::{Blocker, Driver, Effect, Interrupt, Rules};
use self::keys::Keys;
use self::queue::{Full, Queues};
use self::runner::{Ran, Runner, sleep_until};
pub use self::view::{BlockedBy, JobView};
use self::view::{Board, Live};
use super::feed::Feed;
use super::inventory::{Inventory, MachineRecord};
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{JobId, MachineId};
use crate::domain::job::{Job, JobKind, JobRequest, JobState};
use crate::hypervisor::{Hypervisor, SessionState};
use crate::store::{IdempotencyKey, Inserted, JobCursor, JobFilter, Retention, Store, StoreError};
use crate::supervisor::Supervisor;

/// The job engine. Clones share it.
#[derive(Clone)]
pub struct Jobs(Arc<Engine>);

/// What the engine is built from.
pub struct JobsParts {
    pub store: Store,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub inventory: Arc<Inventory>,
    pub clock: Clock,
    pub feed: Feed,
    pub supervisor: Supervisor,
    pub settings: JobSettings,
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
    /// How long power jobs may take unless the caller says otherwise.
    pub power_deadline: Duration,
    /// The same for reverts.
    pub revert_deadline: Duration,
    pub retention: Retention,
}

/// A job to be accepted.
#[derive(Clone, Debug)]
pub struct NewJob {
    pub machine: Arc<MachineRecord>,
    pub request: JobRequest,
    pub requested_by: String,
    pub reference: Option<String>,
    /// None: the default of its kind.
    pub deadline: Option<Duration>,
    pub key: Option<IdempotencyKey>,
}

/// What became of a request to start a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    New(JobId),
    /// The key was used before, for the same request: this is the job that it started.
    Replayed(JobId),
}

/// One page of jobs, newest first.
#[derive(Clone, Debug)]
pub struct JobsPage {
    pub items: Vec<JobView>,
    pub next: Option<JobCursor>,
}

struct Engine {
    parts: JobsParts,
    board: Arc<Board>,
    queues: Mutex<Queues>,
    /// Of the calls of one key at one moment the others wait for the first's commit.
    keys: Keys,
    /// The deadlines of jobs that wait in a queue.
    expiries: Mutex<BTreeSet<(Timestamp, JobId, MachineId)>>,
    expiries_changed: Notify,
    stop: CancellationToken,
}

impl Jobs {
    /// An engine without jobs. Call [`Jobs::recover`] before anything is accepted.
    #[must_use]
    pub fn new(parts: JobsParts) -> Self {
        let queues = Queues::new(parts.settings.queue_per_machine, parts.settings.queue_in_all);
        let stop = parts.supervisor.stopping();
        Self(Arc::new(Engine {
            parts,
            board: Arc::new(Board::default()),
            queues: Mutex::new(queues),
            keys: Keys::default(),
            expiries: Mutex::new(BTreeSet::new()),
            expiries_changed: Notify::new(),
            stop,
        }))
    }

    /// Takes up every job that had not ended when the daemon last stopped, however it stopped.
    ///
    /// # Errors
    /// The store's.
    pub async fn recover(&self) -> Result<usize, StoreError> {
        let jobs = self.0.parts.store.unfinished_jobs().await?;
        let count = jobs.len();
        let mut machines = BTreeSet::new();
        for job in jobs {
            let (id, machine) = (job.id, job.machine.id.clone());
            let kill = job.kind() == JobKind::MachineKill;
            machines.insert(machine.clone());
            if job.state == JobState::Running {
                self.0.queues().restore_running(&machine, id, kill);
                let (driver, first) = Driver::resume(job, self.0.rules());
                self.0.board.add(driver);
                Engine::spawn(&self.0, machine, id, Some(first));
            } else {
                self.0.queues().restore(&machine, id, kill);
                self.0.expire_at(job.deadline_at, id, &machine);
                self.0.board.add(Driver::queued(job, self.0.rules()));
            }
        }
        for machine in machines {
            Engine::dispatch(&self.0, &machine);
        }
        Ok(count)
    }

    /// The job that a key started, if it was used before.
    ///
    /// # Errors
    /// `idempotency-mismatch` where it was used for another request.
    pub async fn replayed(&self, key: &IdempotencyKey) -> Result<Option<JobId>, Failure> {
        self.0.replayed(key).await
    }

    /// Accepts a job: when this returns it is on disk and has exactly one end. A caller that goes away
    /// meanwhile changes nothing.
    ///
    /// # Errors
    /// `shutting-down`, `host-unreachable` after a long outage, `question-pending`, `queue-full`,
    /// `idempotency-mismatch`.
    pub async fn start(&self, new: NewJob) -> Result<Started, Failure> {
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
            let last = changes.wait_for(|live| live.job.state.is_end()).await.map(|live| live.clone());
            let live = last.unwrap_or_else(|_| changes.borrow().clone());
            return Ok(Some(self.0.view(&live)));
        }
        self.get(id).await
    }

    /// A page of jobs, newest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(
        &self,
        filter: &JobFilter,
        after: Option<JobCursor>,
        limit: u32,
    ) -> Result<JobsPage, Failure> {
        let page =
            self.0.parts.store.jobs(filter, after, limit).await.map_err(|error| store_failure(&error))?;
        let view = |job: Job| match self.0.board.get(job.id) {
            Some(live) => self.0.view(&live),
            None => JobView::ended(job),
        };
        Ok(JobsPage { items: page.items.into_iter().map(view).collect(), next: page.next })
    }

    /// The job that is active on a machine: it runs, or is the first that waits.
    #[must_use]
    pub fn active(&self, machine: &MachineId) -> Option<JobId> {
        self.0.queues().active(machine)
    }

    /// Every machine that has a job, with its active one.
    #[must_use]
    pub fn all_active(&self) -> HashMap<MachineId, JobId> {
        self.0.queues().all_active().map(|(machine, job)| (machine.clone(), job)).collect()
    }

    /// Ends queued jobs at their deadlines. Runs until told to stop.
    pub async fn expire(self, stop: CancellationToken) {
        let engine = &self.0;
        loop {
            let next = engine.expiries().first().cloned();
            let wait = async {
                match &next {
                    Some((at, _, _)) => sleep_until(&engine.parts.clock, *at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = engine.expiries_changed.notified() => continue,
                () = wait => {}
            }
            let Some((at, id, machine)) = next else { continue };
            engine.expiries().remove(&(at, id, machine.clone()));
            if engine.queues().withdraw(&machine, id) {
                Engine::end_queued(engine, id, &machine, Driver::expire_queued);
            }
        }
    }

    /// Forgets old jobs and keys once an hour. Runs until told to stop.
    pub async fn purge(self, stop: CancellationToken) {
        let parts = &self.0.parts;
        loop {
            match parts.store.purge(parts.clock.now(), &parts.settings.retention).await {
                Ok(purged) => tracing::debug!(?purged, "old jobs and keys are forgotten"),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "old jobs cannot be forgotten");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = parts.clock.sleep(Duration::from_hours(1)) => {}
            }
        }
    }
}

impl Engine {
    async fn accept(self: Arc<Self>, new: NewJob) -> Result<Started, Failure> {
        let engine = &self;
        let NewJob { machine, request, requested_by, reference, deadline, key } = new;
        let _claim = match &key {
            Some(key) => {
                let claim = engine.keys.claim(key).await;
                // Before anything can refuse it: a repeat takes no place in the queue.
                if let Some(job) = engine.replayed(key).await? {
                    return Ok(Started::Replayed(job));
                }
                Some(claim)
            }
            None => None,
        };
        let record = &machine.machine;
        let kill = request == JobRequest::Kill;
        engine.refuse_if_away()?;
        if let Some(question) = record.question.as_ref().filter(|_| !kill) {
            let detail = format!(
                "{} waits on a question ({}); answer it first: {}",
                record.name, question.id, question.text
            );
            return Err(
                Failure::new(FailureKind::QuestionPending, detail).of_machine(&record.id, &record.name)
            );
        }
        let now = engine.parts.clock.now();
        let deadline = deadline.unwrap_or(match request.kind() {
            JobKind::SnapshotRevert => engine.parts.settings.revert_deadline,
            _ => engine.parts.settings.power_deadline,
        });
        let job = Job {
            id: JobId::new(engine.parts.clock.uuid()),
            state: JobState::Queued,
            machine: record.identity(),
            machine_name: record.name.clone(),
            request,
            phase: "queued".to_owned(),
            steps: Vec::new(),
            cancel_requested_at: None,
            created_at: now,
            updated_at: now,
            started_at: None,
            finished_at: None,
            deadline_at: now.saturating_add(deadline).unwrap_or(Timestamp::MAX),
            requested_by,
            reference,
            result: None,
            warnings: Vec::new(),
            error: None,
            host_task: None,
            intent: None,
        };
        let (id, machine) = (job.id, record.id.clone());
        engine.queues().reserve(&machine, id, kill).map_err(|full| queue_full(full, record))?;
        match engine.parts.store.insert_job(&job, key.as_ref()).await {
            Ok(Inserted::New) => {}
            Ok(Inserted::Existing { job, fingerprint_matches }) => {
                engine.queues().withdraw(&machine, id);
                Engine::dispatch(engine, &machine);
                let key = key.map(|key| key.key).unwrap_or_default();
                return if fingerprint_matches { Ok(Started::Replayed(job)) } else { Err(mismatch(&key)) };
            }
            Err(error) => {
                engine.queues().withdraw(&machine, id);
                Engine::dispatch(engine, &machine);
                return Err(store_failure(&error));
            }
        }
        tracing::info!(job = %id, kind = job.kind().as_str(), %machine, name = job.machine_name, "job accepted");
        engine.expire_at(job.deadline_at, id, &machine);
        engine.board.add(Driver::queued(job, engine.rules()));
        engine.queues().ready(&machine, id);
        engine.parts.feed.advance();
        Engine::dispatch(engine, &machine);
        engine.parts.inventory.wake_watchers(&machine);
        Ok(Started::New(id))
    }

    async fn replayed(&self, key: &IdempotencyKey) -> Result<Option<JobId>, Failure> {
        match self.parts.store.find_key(key).await {
            Ok(Some(kept)) if !kept.fingerprint_matches => Err(mismatch(&key.key)),
            Ok(Some(kept)) => Ok(Some(kept.job)),
            Ok(None) => Ok(None),
            Err(error) => Err(store_failure(&error)),
        }
    }

    fn refuse_if_away(&self) -> Result<(), Failure> {
        if self.stop.is_cancelled() {
            let detail = "otter is shutting down and takes no new jobs; try again once it is back.";
            return Err(Failure::new(FailureKind::ShuttingDown, detail));
        }
        let Some(away) = self.parts.inventory.away_for() else { return Ok(()) };
        match self.parts.inventory.session().state {
            SessionState::LoginRefused { reason } => Err(Failure::new(
                FailureKind::HostLoginRefused,
                format!("The host refuses otter's account, so nothing can be done on it: {reason}"),
            )),
            _ if away < self.parts.settings.outage_grace => Ok(()),
            SessionState::Away { reason } => Err(Failure::new(
                FailureKind::HostUnreachable,
                format!(
                    "The host has been away for {} s; try again later. It last said: {reason}",
                    away.as_secs()
                ),
            )),
            _ => Err(Failure::new(
                FailureKind::HostUnreachable,
                "The host has not been reached yet; try again later.",
            )),
        }
    }

    /// Starts whatever may start on a machine.
    fn dispatch(engine: &Arc<Self>, machine: &MachineId) {
        loop {
            let (next, beside) = {
                let mut queues = engine.queues();
                (queues.start_next(machine), queues.running(machine))
            };
            let Some(next) = next else { return };
            if let Some(running) = beside.filter(|running| *running != next) {
                engine.board.interrupt(running, Interrupt::Cancel);
            }
            Engine::spawn(engine, machine.clone(), next, None);
        }
    }

    /// Runs a job in a task of its own. A panic in it is judged like a crash: the job is read back from the disk
    /// and taken up where it was committed.
    fn spawn(engine: &Arc<Self>, machine: MachineId, id: JobId, first: Option<Effect>) {
        let outer = Arc::clone(engine);
        // Followed by nobody: the job's own record says how it went.
        drop(engine.parts.supervisor.contain("job", async move {
            let inner = Arc::clone(&outer);
            let run = outer.parts.supervisor.contain("job run", async move { inner.run(id, first).await });
            match run.join().await {
                Ok(Some(Ran::UntilStopped)) => {}
                Ok(None | Some(Ran::ToTheEnd)) => {
                    outer.board.remove(id);
                    outer.queues().finish(&machine, id);
                    Engine::dispatch(&outer, &machine);
                    outer.parts.inventory.wake_watchers(&machine);
                }
                Err(_) => Engine::take_up_again(&outer, machine, id).await,
            }
        }));
    }

    async fn run(self: Arc<Self>, id: JobId, first: Option<Effect>) -> Option<Ran> {
        let (mut waiting, live) = self.board.take(id)?;
        let first = match first {
            Some(first) => first,
            None => {
                self.no_expiry(waiting.driver.job());
                waiting.driver.start(self.parts.clock.now())
            }
        };
        Some(self.runner().run(waiting, first, live).await)
    }

    async fn take_up_again(engine: &Arc<Self>, machine: MachineId, id: JobId) {
        tracing::error!(job = %id, "the job panicked; it is judged as after a crash");
        // A panic that comes back at once must not spin.
        engine.parts.clock.sleep(Duration::from_secs(1)).await;
        engine.board.remove(id);
        match engine.parts.store.job(id).await {
            Ok(Some(job)) if !job.state.is_end() => {
                let (driver, first) = match job.state {
                    JobState::Running => {
                        let (driver, first) = Driver::resume(job, engine.rules());
                        (driver, Some(first))
                    }
                    _ => (Driver::queued(job, engine.rules()), None),
                };
                engine.board.add(driver);
                Engine::spawn(engine, machine, id, first);
            }
            Ok(_) => {
                engine.queues().finish(&machine, id);
                Engine::dispatch(engine, &machine);
            }
            Err(error) => {
                tracing::error!(job = %id, error = &error as &dyn std::error::Error, "the job cannot be read back; it is taken up at the next start");
            }
        }
    }

    /// Ends a job that was withdrawn from its queue.
    fn end_queued(
        engine: &Arc<Self>,
        id: JobId,
        machine: &MachineId,
        end: fn(&mut Driver, Timestamp) -> Effect,
    ) {
        let inner = Arc::clone(engine);
        let machine = machine.clone();
        drop(engine.parts.supervisor.contain("job end", async move {
            let Some((mut waiting, live)) = inner.board.take(id) else { return };
            let first = end(&mut waiting.driver, inner.parts.clock.now());
            if inner.runner().run(waiting, first, live).await == Ran::ToTheEnd {
                inner.board.remove(id);
            }
            Engine::dispatch(&inner, &machine);
            inner.parts.inventory.wake_watchers(&machine);
        }));
    }

    fn runner(&self) -> Runner {
        let JobsParts { store, hypervisor, inventory, clock, feed, supervisor: _, settings: _ } = &self.parts;
        Runner {
            store: store.clone(),
            hypervisor: Arc::clone(hypervisor),
            inventory: Arc::clone(inventory),
            board: Arc::clone(&self.board),
            clock: clock.clone(),
            feed: feed.clone(),
            stop: self.stop.clone(),
        }
    }

    fn view(&self, live: &Live) -> JobView {
        let job = Job::clone(&live.job);
        let (position, active) = {
            let queues = self.queues();
            (queues.position(&job.machine.id, job.id), queues.active(&job.machine.id))
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
        let picture = self.parts.inventory.picture();
        let record = picture.machine(&job.machine.id);
        if let Some(question) = record.and_then(|record| record.machine.question.as_ref()) {
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
            Blocker::Question(question) => {
                ("question", Some(question.to_string()), "The machine waits on a question.".to_owned())
            }
            Blocker::HostAway(reason) => ("host_away", None, reason),
            Blocker::Busy => ("host_task", None, "The host says that the machine is busy.".to_owned()),
        };
        Some(BlockedBy { kind, id, since, detail })
    }

    fn rules(&self) -> Rules {
        Rules { settle: self.parts.settings.settle }
    }

    fn expire_at(&self, at: Timestamp, id: JobId, machine: &MachineId) {
        self.expiries().insert((at, id, machine.clone()));
        self.expiries_changed.notify_one();
    }

    fn no_expiry(&self, job: &Job) {
        self.expiries().remove(&(job.deadline_at, job.id, job.machine.id.clone()));
        self.expiries_changed.notify_one();
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expiries(&self) -> MutexGuard<'_, BTreeSet<(Timestamp, JobId, MachineId)>> {
        self.expiries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn queue_full(full: Full, machine: &crate::domain::machine::Machine) -> Failure {
    let detail = match full {
        Full::Machine => format!("Too many jobs wait for {}; try again once some have ended.", machine.name),
        Full::All => "Too many jobs wait in all; try again once some have ended.".to_owned(),
    };
    Failure::new(FailureKind::QueueFull, detail).of_machine(&machine.id, &machine.name)
}

fn mismatch(key: &str) -> Failure {
    let detail = format!("The Idempotency-Key {key:?} was used before for another request; use a new key.");
    Failure::new(FailureKind::IdempotencyMismatch, detail)
}

fn store_failure(error: &StoreError) -> Failure {
    tracing::error!(error = error as &dyn std::error::Error, "the store failed");
    Failure::new(FailureKind::Internal, "the store failed")
}
