//! What happens behind [`Jobs`](super::Jobs): accepting, starting what may start, seeing each job through to its
//! end whatever panics, and showing it meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::admission::{admit, bear_outage, has_question, queue_full};
use super::clocks::Moment;
use super::driver::{Blocker, Driver, Effect, Interrupt, Rules};
use super::gate::{Admission, Right};
use super::queue::{Killed, Queues, Turn, lane};
use super::runner::{Ran, Runner, count_end};
use super::view::{BlockedBy, Board, JobView, Live, Waiting};
use super::{JobsParts, NewJob};
use crate::domain::audit::AuditRecord;
use crate::domain::event::Subject;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{JobId, MachineId, TaskId};
use crate::domain::job::{Job, JobKind, JobState, TargetId};
use crate::domain::machine::{Machine, MachineIdentity};
use crate::domain::origin::Actor;
use crate::domain::snapshot_rules::SnapshotTree;
use crate::fail_points::fail_point;
use crate::hypervisor::TaskStatus;
use crate::service::callers::Caller;
use crate::service::idempotency::{KeyClaim, Keys};
use crate::service::limits::queue_full as queue_full_of_token;
use crate::service::snapshots;
use crate::service::storage_watch::{store_failure, write_failure};
use crate::storage::StorageError;

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

/// What all clones of [`super::Jobs`] share.
pub(super) struct Engine {
    pub(super) parts: JobsParts,
    pub(super) board: Arc<Board>,
    pub(super) queues: Mutex<Queues>,
    pub(super) keys: Keys,
    /// The deadlines of jobs that wait in a queue, by the clock that never jumps.
    pub(super) expiries: Mutex<BTreeSet<(Duration, JobId, TargetId)>>,
    pub(super) expiries_changed: Notify,
    /// Tasks that outlived their jobs: until they end their machines are not free.
    pub(super) leftovers: Mutex<BTreeMap<MachineId, BTreeSet<TaskId>>>,
    pub(super) stop: CancellationToken,
}

impl Engine {
    pub(super) async fn accept(self: Arc<Self>, new: NewJob) -> Result<JobId, Failure> {
        let engine = &self;
        // What otter starts by itself waits for both.
        if !new.right.is_own() {
            engine.refuse_if_away()?;
        }
        // The key stays claimed until the job is committed or refused.
        let (record, claim, right) = (Arc::clone(&new.machine), new.key.clone(), new.right.clone());
        let clock = &engine.parts.clock;
        let now = Moment::now(clock);
        let mut job = admit(new, JobId::new(clock.uuid()), now.wall, &engine.parts.settings.deadlines)?;
        let (id, kind, target) = (job.id, job.kind(), job.target.id());
        engine.queues().reserve(&target, id, lane(kind)).map_err(|full| queue_full(full, &record.machine))?;
        // With its place taken: whoever leases the machine from now on sees it.
        let admitted = engine.parts.gate.admit(&record.machine, &right);
        // A caller without a right to the machine gets that refusal first.
        let answered = |admission| has_question(&record.machine, &job.request).map(|()| admission);
        let admission = match admitted.and_then(answered) {
            Ok(admission) => admission,
            Err(failure) => {
                Engine::refuse(engine, &target, id);
                return Err(failure);
            }
        };
        job.lease = admission.lease();
        let overrides_protection = match engine.admit_snapshots(&mut job, &record.machine, &right).await {
            Ok(overrides_protection) => overrides_protection,
            Err(failure) => {
                Engine::refuse(engine, &target, id);
                return Err(failure);
            }
        };
        let due = now.due(job.deadline_at);
        // Shown before it is committed: whoever learns its id from the disk finds it here.
        engine.board.add(Driver::queued(job.clone(), engine.rules()), due);
        // The job has its place already: two calls at the same moment count each other.
        if let Some(most) = right.caller.limits.queued_jobs
            && !engine.is_next(&target, id)
            && engine.waiting_of(&right.caller) > most as usize
        {
            Engine::refuse(engine, &target, id);
            let refused = queue_full_of_token(&right.caller.name, &format!("{most} queued jobs"));
            return Err(refused.of_machine(&record.machine.id, &record.machine.name));
        }
        fail_point!("accept");
        let overridden = overridden(&job, admission, overrides_protection, &right);
        let key = claim.as_ref().map(KeyClaim::key);
        if let Err(error) = engine.parts.store.insert_job(&job, key, overridden).await {
            Engine::refuse(engine, &target, id);
            return Err(write_failure(&error));
        }
        fail_point!("accept-committed");
        engine.parts.metrics.job_accepted(kind.as_str());
        engine.expire_at(due, id, &target);
        engine.queues().ready(&target, id);
        engine.parts.feed.publish([Subject::of_job(&Arc::new(job))]);
        Engine::dispatch(engine, &target);
        engine.queue_moved(&target);
        Ok(id)
    }

    /// Refuses a job whose change of the machine's snapshots is not allowed. Returns whether the job
    /// needs its override; then its warnings record the override.
    async fn admit_snapshots(
        &self,
        job: &mut Job,
        machine: &Machine,
        right: &Right,
    ) -> Result<bool, Failure> {
        let rules = self.parts.snapshots.rules(job, Some(machine)).await;
        let rules = rules.map_err(|error| store_failure(&error))?;
        let tree = SnapshotTree::of_inventory(&machine.snapshots);
        snapshots::check(job, &rules, &tree)?;
        let reason = right.override_reason.as_deref().unwrap_or_default();
        let warning = snapshots::overridden(job, &rules, &tree, reason);
        let overrides_protection = warning.is_some();
        job.warnings.extend(warning);
        Ok(overrides_protection)
    }

    /// Whether a job waits for no other job of its target.
    fn is_next(&self, target: &TargetId, job: JobId) -> bool {
        self.queues().position(target, job).is_none_or(|ahead| ahead == 0)
    }

    /// How many jobs of a caller wait behind another job of their target.
    fn waiting_of(&self, caller: &Caller) -> usize {
        let queued = self.board.queued_of(&caller.name);
        queued.iter().filter(|(job, target)| !self.is_next(target, *job)).count()
    }

    /// Takes back the place of a job that was not committed.
    fn refuse(engine: &Arc<Self>, target: &TargetId, id: JobId) {
        engine.board.remove(id);
        engine.queues().withdraw(target, id);
        Engine::dispatch(engine, target);
        engine.queue_moved(target);
    }

    fn refuse_if_away(&self) -> Result<(), Failure> {
        if self.stop.is_cancelled() {
            let detail = "otter is shutting down and takes no new jobs; try again once it is back.";
            return Err(Failure::new(FailureKind::ShuttingDown, detail));
        }
        let Some(away) = self.parts.inventory.away_for() else { return Ok(()) };
        bear_outage(self.parts.inventory.session().state, away, self.parts.settings.outage_grace)
    }

    /// Tells that a job came to or left a queue: the machine shows another active job, and those that wait another
    /// position.
    fn queue_moved(&self, target: &TargetId) {
        let waiting = self.queues().waiting_on(target);
        let live = waiting.into_iter().filter_map(|id| self.board.get(id));
        self.parts.feed.publish(live.map(|live| Subject::of_job(&live.job)).collect::<Vec<_>>());
        if let Some(machine) = target.machine() {
            self.parts.inventory.wake_watchers(machine);
        }
    }

    /// Starts whatever may start on a target.
    pub(super) fn dispatch(engine: &Arc<Self>, target: &TargetId) {
        loop {
            let Some(Turn { job, cancel }) = engine.queues().next_turn(target) else { return };
            if let Some(killed) = cancel {
                engine.cancel_killed(killed);
            }
            Engine::spawn(engine, target.clone(), job, None);
        }
    }

    /// Cancels a job for a kill on its machine, in the name of the caller who asked for the kill.
    pub(super) fn cancel_killed(&self, killed: Killed) {
        let by = self.board.get(killed.by).map_or_else(Actor::otter, |kill| kill.job.asker());
        self.board.interrupt(killed.job, Interrupt::Cancel(by));
    }

    /// Runs a job in a task of its own. A panic in it is judged like a crash: the job is read back from the disk
    /// and taken up where it was committed, [`MOST_FAILED_RUNS`] times at most.
    pub(super) fn spawn(engine: &Arc<Self>, target: TargetId, id: JobId, first: Option<Effect>) {
        let outer = Arc::clone(engine);
        // Followed by nobody: the job's own record says how it went.
        drop(engine.parts.supervisor.contain("job", async move {
            let mut first = first;
            // A panic that comes back each time must not spin.
            let mut pause = Duration::from_secs(1);
            let mut failed_runs = 0;
            loop {
                let (inner, from) = (Arc::clone(&outer), first.take());
                let run = outer.parts.supervisor.contain("job run", async move { inner.run(id, from).await });
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
            outer.board.remove(id);
            Engine::dispatch(&outer, &target);
            outer.queue_moved(&target);
        }));
    }

    async fn run(self: Arc<Self>, id: JobId, first: Option<Effect>) -> Option<Ran> {
        let (mut waiting, live) = self.board.take(id)?;
        let job = waiting.driver.job();
        let target = job.target.id();
        let first = if let Some(first) = first {
            first
        } else {
            self.no_expiry(job);
            let overdue = waiting.due <= self.parts.clock.elapsed();
            waiting.driver.take_turn(overdue, self.parts.clock.now())
        };
        // Who hears of the end finds the machine without this job.
        let leave = |job: &Job| {
            Engine::mind_leftover(&self, job);
            self.queues().finish(&target, id);
        };
        Some(self.drive(waiting, first, live, leave).await)
    }

    /// A job that ended `unknown` may leave its task behind: its machine is not free until that has ended too.
    pub(super) fn mind_leftover(engine: &Arc<Self>, job: &Job) {
        let left = job.host_task.clone().zip(job.machine_id().cloned());
        let Some((task, machine)) = left.filter(|_| job.state == JobState::Unknown) else { return };
        let inner = Arc::clone(engine);
        engine.leftovers().entry(machine.clone()).or_default().insert(task.clone());
        drop(engine.parts.supervisor.contain("leftover task", async move {
            let mut status = inner.parts.hosts.of(&machine).follow(&task).await;
            tokio::select! {
                biased;
                // Ends too where the task is no longer known, or the backend is gone.
                _ = status.wait_for(|status| !matches!(status, TaskStatus::Running { .. })) => {}
                () = inner.stop.cancelled() => return,
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
            inner.parts.inventory.wake_watchers(&machine);
        }));
    }

    /// Reads a job whose run failed back from the disk, after `pause`, which grows. After too many
    /// failed runs it ends the job.
    async fn read_back(self: &Arc<Self>, id: JobId, failed_runs: u32, pause: &mut Duration) -> ReadBack {
        loop {
            tokio::select! {
                biased;
                () = self.parts.clock.sleep(*pause) => {}
                () = self.stop.cancelled() => return ReadBack::Stopping,
            }
            *pause = (*pause * 2).min(Duration::from_mins(1));
            let error = match self.parts.store.job(id).await {
                Ok(Some(job)) if job.state.is_end() => {
                    let ended = Subject::of_job(&Arc::new(job.clone()));
                    self.board.show(job);
                    self.parts.feed.publish([ended]);
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
                    let changed = Subject::of_job(&Arc::new(driver.job().clone()));
                    self.board.renew(driver);
                    self.parts.feed.publish([changed]);
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
    async fn abandon(self: &Arc<Self>, job: Job, detail: &str) -> Result<(), StorageError> {
        let mut driver = Driver::queued(job, self.rules());
        driver.abandon(detail, self.parts.clock.now());
        let job = driver.job().clone();
        match self.parts.store.update_job(&job).await {
            Ok(()) | Err(StorageError::AlreadyEnded(_)) => {}
            Err(error) => return Err(error),
        }
        Engine::mind_leftover(self, &job);
        self.queues().finish(&job.target.id(), job.id);
        count_end(&self.parts.metrics, &self.parts.clock, &job);
        let ended = Subject::of_job(&Arc::new(job.clone()));
        self.board.show(job);
        self.parts.feed.publish([ended]);
        Ok(())
    }

    /// Ends a job that was withdrawn from its queue.
    pub(super) fn end_queued(
        engine: &Arc<Self>,
        id: JobId,
        target: &TargetId,
        end: impl FnOnce(&mut Driver, Timestamp) -> Effect + Send + 'static,
    ) {
        let inner = Arc::clone(engine);
        let target = target.clone();
        drop(engine.parts.supervisor.contain("job end", async move {
            let Some((mut waiting, live)) = inner.board.take(id) else { return };
            let first = end(&mut waiting.driver, inner.parts.clock.now());
            if inner.drive(waiting, first, live, |_| {}).await == Ran::ToTheEnd {
                inner.board.remove(id);
            }
            Engine::dispatch(&inner, &target);
            inner.queue_moved(&target);
        }));
    }

    /// Drives a job from `first` on.
    async fn drive(
        self: &Arc<Self>,
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
            feed,
            supervisor: _,
            settings: _,
            metrics,
            gate: _,
            snapshots,
        } = &self.parts;
        Runner {
            store: store.clone(),
            host: Arc::clone(hosts.of(&machine.id)),
            machine,
            inventory: Arc::clone(inventory),
            snapshots: Arc::clone(snapshots),
            board: Arc::clone(&self.board),
            begun: Moment::now(clock),
            clock: clock.clone(),
            feed: feed.clone(),
            stop: self.stop.clone(),
            metrics: metrics.clone(),
        }
    }

    pub(super) fn view(&self, live: &Live) -> JobView {
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
        let picture = self.parts.inventory.picture();
        let record = job.machine_id().and_then(|machine| picture.machine(machine));
        // An answer does not wait for the question that it answers.
        let minds = job.kind() != JobKind::MachineAnswer;
        if let Some(question) = record.and_then(|record| record.machine.question.as_ref()).filter(|_| minds) {
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

    pub(super) fn rules(&self) -> Rules {
        Rules { settle: self.parts.settings.settle }
    }

    pub(super) fn expire_at(&self, due: Duration, id: JobId, target: &TargetId) {
        self.expiries().insert((due, id, target.clone()));
        self.expiries_changed.notify_one();
    }

    pub(super) fn no_expiry(&self, job: &Job) {
        let Some(due) = self.board.due(job.id) else { return };
        self.expiries().remove(&(due, job.id, job.target.id()));
        self.expiries_changed.notify_one();
    }

    pub(super) fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn leftovers(&self) -> MutexGuard<'_, BTreeMap<MachineId, BTreeSet<TaskId>>> {
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn expiries(&self) -> MutexGuard<'_, BTreeSet<(Duration, JobId, TargetId)>> {
        self.expiries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The fact of an override, if the job would have been refused without it.
fn overridden(
    job: &Job,
    admission: Admission,
    overrides_protection: bool,
    right: &Right,
) -> Option<AuditRecord> {
    let reason = right.override_reason.as_deref()?;
    let is_needed = overrides_protection || matches!(admission, Admission::Overriding(_));
    is_needed.then(|| AuditRecord::machine_overridden(job, admission.holder(), reason))
}
