//! The shell around a [`Driver`]: does what it asks for, one effect at a time, and tells what
//! became of it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::clocks::Moment;
use super::driver::{Called, Driver, Effect, Glimpse, Glimpsed, Input, Interrupt, Shown, TaskEnd};
use super::sight;
use super::view::{Board, Live, Waiting};
use crate::clock::Clock;
use crate::domain::call::HostCall;
use crate::domain::event::Subject;
use crate::domain::ids::{QuestionId, TaskId};
use crate::domain::job::Job;
use crate::domain::lease::Readiness;
use crate::domain::machine::MachineIdentity;
use crate::domain::power::PowerState;
use crate::domain::snapshot_rules::SnapshotRules;
use crate::fail_points::fail_point;
use crate::hypervisor::{CallError, Hypervisor, TaskStatus};
use crate::service::event_stream::EventStream;
use crate::service::host_failure::HostFailure;
use crate::service::inventory::Inventory;
use crate::service::snapshots::SnapshotProtection;
use crate::storage::{Storage, StorageError};
use crate::telemetry::metrics::Metrics;

/// How long after its deadline a job waits for the host to cancel its task.
pub const GRACE: Duration = Duration::from_secs(10);

/// Progress is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// What a job works with.
#[derive(Clone)]
pub struct Runner {
    pub store: Arc<dyn Storage>,
    /// The machine that the job works on.
    pub machine: MachineIdentity,
    /// Its host.
    pub host: Arc<dyn Hypervisor>,
    pub inventory: Arc<Inventory>,
    pub snapshots: Arc<SnapshotProtection>,
    pub board: Arc<Board>,
    /// The start of the run. The job's times count from here, by the clock that never jumps.
    pub begun: Moment,
    pub clock: Clock,
    pub event_stream: EventStream,
    pub stop: CancellationToken,
    pub metrics: Metrics,
}

/// How a run came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// The job ended; its end is committed and published.
    ToTheEnd,
    /// The daemon stops. The job is as committed and goes on with the next start.
    UntilStopped,
    /// The store can never commit the job as the run has it. The job is as committed.
    Unsaved,
}

impl Runner {
    /// Drives a job from `first` on. `leave` is called when its end is committed, before anybody
    /// hears of it.
    pub async fn run(
        &self,
        waiting: Waiting,
        first: Effect,
        live: watch::Sender<Live>,
        leave: impl Fn(&Job),
    ) -> Ran {
        let Waiting { mut driver, mut interrupts, due, mut jumps } = waiting;
        let mut machine = self.inventory.watch(&self.machine.id);
        let mut question = self.question();
        let mut timer: BoxFuture<'_, ()> = Box::pin(sleep_until(&self.clock, due));
        let mut alarms = [Interrupt::GraceOver, Interrupt::Deadline { question: false }].to_vec();
        let mut cancelling = FuturesUnordered::new();
        let mut effect = first;
        let mut tools_stops = self.tools_stops();
        // Somebody asked to cancel the job, and a crash would forget it: nobody is told yet that
        // the wish was taken.
        let mut wish_unsaved = false;
        loop {
            if effect == Effect::Finish {
                leave(driver.job());
                count_end(&self.metrics, &self.clock, driver.job());
                self.publish(&driver, &live, false);
                fail_point!("told");
                return Ran::ToTheEnd;
            }
            self.publish(&driver, &live, wish_unsaved);
            if matches!(effect, Effect::Call(_)) {
                tools_stops = self.tools_stops();
            }
            // A call that was begun is brought to its answer, and the answer to the disk.
            let may_stop = !matches!(effect, Effect::Save | Effect::Call(_));
            let saves = effect == Effect::Save;
            let mut deadline_unsaved = false;
            let saves_wish = saves && driver.job().cancel_requested_at.is_some();
            let mut work =
                pin!(self.perform(driver.job().clone(), effect.clone(), tools_stops, &live));
            let input = loop {
                let interrupt = tokio::select! {
                    biased;
                    performed = &mut work => match performed {
                        Ok(input) => break Some(input),
                        Err(StorageError::Closed) => return Ran::UntilStopped,
                        Err(_) => return Ran::Unsaved,
                    },
                    () = self.stop.cancelled(), if may_stop => return Ran::UntilStopped,
                    Some(()) = cancelling.next(), if !cancelling.is_empty() => continue,
                    Some(interrupt) = interrupts.recv() => interrupt,
                    by = jumps.next() => {
                        driver.shift_deadline(by, self.clock.now());
                        // A commit is in progress. If both ran at the same time, the older one
                        // could finish last.
                        if saves {
                            deadline_unsaved = true;
                        } else {
                            self.try_to_save(driver.job()).await;
                        }
                        self.publish(&driver, &live, wish_unsaved);
                        continue;
                    }
                    Ok(()) = machine.changed() => {
                        // Whatever the job does, a question shows in what blocks it.
                        let asked = self.question();
                        if asked != question {
                            question = asked;
                            self.tell(&live);
                        }
                        continue;
                    }
                    () = &mut timer, if !alarms.is_empty() => {
                        timer = Box::pin(self.clock.sleep(GRACE));
                        match alarms.pop() {
                            Some(Interrupt::Deadline { .. }) => {
                                Interrupt::Deadline { question: self.question().is_some() }
                            }
                            _ => Interrupt::GraceOver,
                        }
                    }
                };
                let wished = driver.job().cancel_requested_at.is_some();
                let reaction = driver.interrupt(interrupt, self.clock.now());
                wish_unsaved |= !wished && driver.job().cancel_requested_at.is_some();
                if let Some(task) = reaction.cancel_task {
                    cancelling.push(self.cancel(task));
                }
                if let Some(instead) = reaction.instead {
                    effect = instead;
                    break None;
                }
                // Beside a commit that is under way, the older of the two could come last.
                if wish_unsaved && !saves {
                    wish_unsaved = !self.try_to_save(driver.job()).await;
                }
                self.publish(&driver, &live, wish_unsaved);
            };
            if let Some(input) = input {
                if deadline_unsaved {
                    self.try_to_save(driver.job()).await;
                }
                if wish_unsaved && saves {
                    wish_unsaved = !(saves_wish || self.try_to_save(driver.job()).await);
                }
                effect = driver.step(input, self.clock.now());
            }
        }
    }

    /// Does what the driver asks for.
    ///
    /// # Errors
    /// The store's, if it can never commit the job.
    async fn perform(
        &self,
        job: Job,
        effect: Effect,
        tools_stops: u64,
        live: &watch::Sender<Live>,
    ) -> Result<Input, StorageError> {
        let machine = &self.machine.id;
        let input = match effect {
            Effect::Save => {
                let [before, after] = fail_points_of_save(&job);
                fail_point!(before);
                self.save(&job).await?;
                fail_point!(after);
                Input::Saved
            }
            Effect::Examine => {
                let after_loss = live.borrow().settling;
                fail_point!(if after_loss { "judge" } else { "examine" });
                let mut others = self.board.others(machine, job.id);
                others.snapshot_rules = self.snapshot_rules(&job).await;
                let seen = self.host.read_evidence(machine).await;
                fail_point!("examined");
                Input::Examined(
                    seen.map(|evidence| (evidence, others))
                        .map_err(|error| HostFailure::from(&error)),
                )
            }
            Effect::Call(call) => {
                fail_point!("call");
                let called = self.call(&job, &call).await;
                fail_point!("answered");
                Input::Called(called)
            }
            Effect::Follow(task) => {
                fail_point!("follow");
                let end = self.follow(&task, live).await;
                fail_point!("followed");
                Input::TaskEnded(end)
            }
            Effect::CancelAndFollow(task) => {
                let (end, ()) = tokio::join!(self.follow(&task, live), self.cancel(task.clone()));
                Input::TaskEnded(end)
            }
            Effect::Watch { known, until } => {
                fail_point!("watch");
                let time_up = async {
                    match until {
                        Some(until) => sleep_until(&self.clock, self.begun.due(until)).await,
                        None => std::future::pending().await,
                    }
                };
                Input::Glimpsed(tokio::select! {
                    biased;
                    glimpsed = self.glimpse(known, tools_stops) => glimpsed,
                    () = time_up => Glimpsed::TimeUp,
                })
            }
            Effect::AwaitHost(pause) => {
                self.clock.sleep(pause).await;
                self.host_back().await;
                Input::Waited
            }
            Effect::AwaitTask(task) => {
                self.foreign_task(&task).await;
                Input::Waited
            }
            Effect::AwaitAnswer(question) => {
                self.answered(&question).await;
                Input::Waited
            }
            Effect::AwaitReady(readiness) => Input::Readied(self.ready(readiness).await),
            Effect::Pause(pause) => {
                if live.borrow().settling {
                    fail_point!("settle");
                }
                self.clock.sleep(pause).await;
                Input::Waited
            }
            Effect::Barrier => {
                fail_point!("barrier");
                let passed = self.host.barrier().await;
                fail_point!("synced");
                Input::Synced(passed.is_ok().then(|| self.shown()))
            }
            // The loop of `run` ends before it comes here.
            Effect::Finish => Input::Saved,
        };
        Ok(input)
    }

    /// Commits the job, for as long as the store refuses writes: nothing may happen to the host
    /// before, and nobody may hear of an end before.
    ///
    /// # Errors
    /// The store's, if another try would fail as well.
    async fn save(&self, job: &Job) -> Result<(), StorageError> {
        let begun = self.clock.elapsed();
        let mut pause = Duration::from_millis(100);
        let mut refused = false;
        loop {
            let error = match self.store.update_job(job).await {
                // Ended: this very commit came through before, and only its answer did not.
                Ok(()) | Err(StorageError::AlreadyEnded(_)) => break,
                Err(error) => error,
            };
            if error.refusal().is_none() {
                let cause = &error as &dyn std::error::Error;
                tracing::error!(job = %job.id, error = cause, "the job can never be committed like this");
                return Err(error);
            }
            if !std::mem::replace(&mut refused, true) {
                let error = &error as &dyn std::error::Error;
                tracing::error!(job = %job.id, error, "the job cannot be committed; it waits until it can be");
            }
            self.clock.sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
        if refused {
            let waited = self.clock.elapsed().saturating_sub(begun);
            tracing::info!(job = %job.id, "the job is committed after {} s", waited.as_secs());
        }
        Ok(())
    }

    /// Commits the job if that can be done now; the next commit says the same.
    async fn try_to_save(&self, job: &Job) -> bool {
        self.store.update_job(job).await.is_ok()
    }

    /// The present rules for the machine's snapshots. Waits for as long as the store needs.
    async fn snapshot_rules(&self, job: &Job) -> SnapshotRules {
        let mut pause = Duration::from_millis(100);
        loop {
            let machine = self.inventory.contents().machine(&self.machine.id).cloned();
            let error = match self.snapshots.rules(job, machine.as_deref()).await {
                Ok(rules) => return rules,
                Err(error) => error,
            };
            tracing::error!(
                job = %job.id,
                error = &error as &dyn std::error::Error,
                "the origin of snapshots cannot be read; trying again"
            );
            self.clock.sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    async fn call(&self, job: &Job, call: &HostCall) -> Called {
        let kind = call.kind().as_str();
        tracing::debug!(job = %job.id, machine = %self.machine.id, call = kind, "asking the host");
        match self.host.call(&self.machine.id, call, job.id).await {
            Ok(accepted) => Called::Accepted(accepted),
            Err(CallError::Refused(error)) => {
                tracing::debug!(job = %job.id, error = &error as &dyn std::error::Error, "the host refused");
                Called::Refused(HostFailure::from(&error))
            }
            Err(CallError::Lost(error)) => {
                tracing::warn!(job = %job.id, error = &error as &dyn std::error::Error, "the answer was lost");
                Called::Lost(HostFailure::from(&error))
            }
        }
    }

    async fn follow(&self, task: &TaskId, live: &watch::Sender<Live>) -> TaskEnd {
        let mut status = self.host.follow(task).await;
        let mut told = None;
        loop {
            let now = status.borrow_and_update().clone();
            match now {
                TaskStatus::Running { progress } => {
                    let elapsed = self.clock.elapsed();
                    let due =
                        told.is_none_or(|told| elapsed.saturating_sub(told) >= PROGRESS_EVERY);
                    if progress.is_some() && due {
                        told = Some(elapsed);
                        live.send_modify(|live| live.progress = progress);
                        self.tell(live);
                    }
                }
                TaskStatus::Succeeded { snapshot } => return TaskEnd::Succeeded { snapshot },
                TaskStatus::Failed(error) => {
                    let host_failure = HostFailure::from(&*error);
                    let uncertain = host_failure.outcome_uncertain && self.is_behind_a_manager();
                    return if uncertain {
                        TaskEnd::Lost(host_failure)
                    } else {
                        TaskEnd::Failed(host_failure)
                    };
                }
                TaskStatus::Vanished => return TaskEnd::Vanished,
            }
            if status.changed().await.is_err() {
                return TaskEnd::Vanished;
            }
        }
    }

    /// Whether a manager stands between otter and the host, and may lose touch with the host.
    fn is_behind_a_manager(&self) -> bool {
        self.inventory.session().product.is_some_and(|product| !product.is_standalone_host())
    }

    async fn cancel(&self, task: TaskId) {
        fail_point!("cancel-task");
        if let Err(error) = self.host.cancel(&task).await {
            tracing::info!(%task, error = &error as &dyn std::error::Error, "the host did not cancel its task");
        }
    }

    /// Waits until the host is connected and the inventory is as the host is.
    async fn host_back(&self) {
        loop {
            self.inventory.connected().await;
            if self.host.barrier().await.is_ok() {
                return;
            }
            self.clock.sleep(Duration::from_secs(1)).await;
        }
    }

    async fn foreign_task(&self, task: &TaskId) {
        let mut status = self.host.follow(task).await;
        // Ends too where the task is no longer known, or the backend is gone.
        let _ = status.wait_for(|status| !matches!(status, TaskStatus::Running { .. })).await;
        if matches!(*status.borrow(), TaskStatus::Vanished | TaskStatus::Running { .. }) {
            self.clock.sleep(Duration::from_secs(1)).await;
        }
    }

    /// The guest as the inventory shows it, once it is other than `known`.
    async fn glimpse(&self, known: Option<Glimpse>, tools_stops: u64) -> Glimpsed {
        let machine = &self.machine.id;
        let mut changes = self.inventory.watch(machine);
        // What is older than the call says nothing of it.
        if known.is_none() {
            self.host_back().await;
        }
        loop {
            let Some(glimpse) =
                sight::glimpse(&self.inventory.contents(), &self.machine, tools_stops)
            else {
                return Glimpsed::Gone;
            };
            if known != Some(glimpse) {
                return Glimpsed::Now(glimpse);
            }
            if changes.changed().await.is_err() {
                changes = self.inventory.watch(machine);
            }
        }
    }

    /// Whether the machine came to be so; false where it is off or gone, so that it will not.
    async fn ready(&self, readiness: Readiness) -> bool {
        let machine = &self.machine.id;
        let mut changes = self.inventory.watch(machine);
        self.host_back().await;
        loop {
            let contents = self.inventory.contents();
            let known = contents
                .machine(machine)
                .filter(|known| self.machine.agrees_with(&known.identity()));
            let Some(known) = known else { return false };
            let on = known.power_state == Some(PowerState::On);
            let ready = match readiness {
                Readiness::On => on,
                Readiness::Address => contents.ip_address(machine).is_some(),
                Readiness::Tools => on && known.guest.tools_running,
            };
            if ready || !on {
                return ready;
            }
            if changes.changed().await.is_err() {
                changes = self.inventory.watch(machine);
            }
        }
    }

    fn tools_stops(&self) -> u64 {
        self.inventory.contents().tools_stops(&self.machine.id)
    }

    async fn answered(&self, question: &QuestionId) {
        let mut changes = self.inventory.watch(&self.machine.id);
        self.host_back().await;
        let mut seen = false;
        loop {
            if sight::question(&self.inventory.contents(), &self.machine.id).as_ref()
                != Some(question)
            {
                // An inventory that never showed it must not have the machine read in a spin.
                if !seen {
                    self.clock.sleep(Duration::from_secs(1)).await;
                }
                return;
            }
            seen = true;
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// What the machine asks.
    fn question(&self) -> Option<QuestionId> {
        sight::question(&self.inventory.contents(), &self.machine.id)
    }

    fn shown(&self) -> Shown {
        sight::shown(&self.inventory.contents(), &self.machine.id)
    }

    fn publish(&self, driver: &Driver, live: &watch::Sender<Live>, wish_unsaved: bool) {
        if live.send_if_modified(|shown| shown.follow(driver, wish_unsaved)) {
            self.tell(live);
        }
    }

    fn tell(&self, live: &watch::Sender<Live>) {
        let changed = Subject::from_job(&live.borrow().job);
        self.event_stream.publish([changed]);
    }
}

/// Counts the end of a job.
pub fn count_end(metrics: &Metrics, clock: &Clock, job: &Job) {
    let took = Duration::try_from(clock.now().duration_since(job.created_at)).unwrap_or_default();
    metrics.job_ended(job.kind().as_str(), job.state.as_str(), took);
}

/// The fail points before and after a commit, by what is committed.
fn fail_points_of_save(job: &Job) -> [&'static str; 2] {
    match &job.intent {
        _ if job.state.is_end() => ["end", "end-committed"],
        Some(_) if job.host_task.is_some() => ["task", "task-committed"],
        Some(intent) if intent.asked > 1 => ["intent", "again-committed"],
        Some(_) => ["intent", "intent-committed"],
        None if job.steps.is_empty() => ["start", "start-committed"],
        None => ["step-done", "step-done-committed"],
    }
}

/// Sleeps until a time of the clock that never jumps.
pub async fn sleep_until(clock: &Clock, due: Duration) {
    clock.sleep(due.saturating_sub(clock.elapsed())).await;
}
