//! Performs one effect of a [`JobStateMachine`](super::state_machine::JobStateMachine) with the
//! host, the store and the inventory.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::watch;

use super::commit::commit;
use super::observation;
use super::plan;
use super::runner::{PROGRESS_EVERY, Runner, sleep_until};
use super::state_machine::{
    CallResult, Effect, GuestObservation, GuestWatchResult, Input, ObservedMachine, TaskEnd,
};
use super::status::JobStatus;
use super::text_watch::TextSight;
use crate::domain::call::{Evidence, HostCall};
use crate::domain::ids::{QuestionId, TaskId};
use crate::domain::job::{Job, JobRequest};
use crate::domain::lease::{Readiness, ReadinessKind};
use crate::domain::network::Network;
use crate::domain::power::PowerState;
use crate::domain::serial::SerialText;
use crate::domain::snapshot_rules::SnapshotRules;
use crate::fail_points::fail_point;
use crate::hypervisor::{CallError, CallTerms, HostError, HostErrorKind, TaskStatus};
use crate::service::host_failure::HostFailure;
use crate::storage::StorageError;

impl Runner<'_> {
    /// Performs one effect, and returns the next input of the state machine.
    ///
    /// # Parameters
    /// - `tools_stops`: how often the guest's tools stopped before the last call was sent.
    /// - `due`: the deadline of the job.
    /// - `task_ended`: whether the last effect followed a task to its end. Commits do not count as
    ///   effects here.
    /// - `sight`: gets what the screen shows, or a serial port outputs, while the effect waits for
    ///   a text there.
    ///
    /// # Errors
    /// The error of the store if it can never commit the job.
    #[expect(clippy::too_many_arguments, reason = "what a run keeps from one effect to the next")]
    #[expect(clippy::too_many_lines, reason = "one arm for each effect")]
    pub(super) async fn perform(
        &self,
        job: Job,
        effect: Effect,
        due: Duration,
        tools_stops: u64,
        task_ended: bool,
        status: &watch::Sender<JobStatus>,
        sight: &watch::Sender<TextSight>,
    ) -> Result<Input, StorageError> {
        let machine = &self.machine.id;
        let input = match effect {
            Effect::Save => {
                let [before, after] = fail_points_of_save(&job);
                fail_point!(before);
                self.follow_during_commit(&job).await;
                commit(self.parts, &job).await?;
                fail_point!(after);
                Input::Saved
            }
            Effect::Examine => {
                let after_loss = status.borrow().settling;
                fail_point!(if after_loss { "judge" } else { "examine" });
                let mut others = self.table.others(machine, job.id);
                others.snapshot_rules = self.snapshot_rules(&job).await;
                let seen = if job.kind().ignores_blockers() {
                    self.host.read_evidence_urgently(machine).await
                } else {
                    self.host.read_evidence(machine).await
                };
                let seen = match seen {
                    Ok(evidence) if plan::needs_media(&job.request) => {
                        self.with_media(evidence).await
                    }
                    seen => seen,
                };
                fail_point!("examined");
                Input::Examined(
                    seen.map(|evidence| (evidence, others))
                        .map_err(|error| HostFailure::from(&error)),
                )
            }
            Effect::Call(call) => {
                if let Some(text) = awaited_serial_text(&job) {
                    self.parts.serial.mark(&self.machine, text, job.id).await;
                }
                fail_point!("call");
                let called = self.call(&job, &call, due).await;
                fail_point!("answered");
                Input::Called(called)
            }
            Effect::Follow(task) => {
                fail_point!("follow");
                let end = self.follow_task(&task, status).await;
                fail_point!("followed");
                Input::TaskEnded(end)
            }
            Effect::CancelAndFollow(task) => {
                let (end, ()) =
                    tokio::join!(self.follow_task(&task, status), self.cancel_task(task.clone()));
                Input::TaskEnded(end)
            }
            Effect::Watch { known, until } => {
                fail_point!("watch");
                let time_up = async {
                    match until {
                        Some(until) => {
                            sleep_until(&self.parts.clock, self.started.due(until)).await;
                        }
                        None => std::future::pending().await,
                    }
                };
                Input::GuestObserved(tokio::select! {
                    biased;
                    result = self.watch_guest(known, tools_stops) => result,
                    () = time_up => GuestWatchResult::TimeUp,
                })
            }
            Effect::AwaitHost(pause) => {
                self.parts.clock.sleep(pause).await;
                self.await_host().await;
                Input::Waited
            }
            Effect::AwaitTask(task) => {
                self.await_task(&task).await;
                Input::Waited
            }
            Effect::AwaitAnswer(question) => {
                self.await_answer(&question).await;
                Input::Waited
            }
            Effect::AwaitReady(Readiness::Screen(text)) => {
                self.await_host().await;
                match self.parts.screens.await_text(&self.machine, &text, sight).await {
                    Ok(ready) => Input::Ready(ready),
                    Err(failure) => Input::NoReadiness(failure),
                }
            }
            Effect::AwaitReady(Readiness::Serial(text)) => {
                self.await_host().await;
                match self.parts.serial.await_text(&self.machine, &text, job.id, sight).await {
                    Ok(ready) => Input::Ready(ready),
                    Err(failure) => Input::NoReadiness(failure),
                }
            }
            Effect::AwaitReady(readiness) => {
                Input::Ready(self.await_ready(readiness.kind(), awaited_network(&job)).await)
            }
            Effect::Pause(pause) => {
                if status.borrow().settling {
                    fail_point!("settle");
                }
                self.parts.clock.sleep(pause).await;
                Input::Waited
            }
            Effect::Barrier => {
                fail_point!("barrier");
                let passed = if task_ended {
                    self.host.barrier_after_task().await
                } else {
                    self.host.barrier().await
                };
                fail_point!("synced");
                Input::Synced(passed.is_ok().then(|| self.observed_machine()))
            }
            // This is never reached, because the loop of `run` ends at this effect.
            Effect::Finish => Input::Saved,
        };
        Ok(input)
    }

    /// The rules that apply at present to changes of the machine's snapshots. Tries again while the
    /// store fails.
    async fn snapshot_rules(&self, job: &Job) -> SnapshotRules {
        let mut pause = Duration::from_millis(100);
        loop {
            let machine = self.parts.inventory.contents().machine(&self.machine.id).cloned();
            let error = match self.parts.snapshots.rules(job, machine.as_deref()).await {
                Ok(rules) => return rules,
                Err(error) => error,
            };
            tracing::error!(
                job = %job.id,
                error = &error as &dyn std::error::Error,
                "the origin of snapshots cannot be read; trying again"
            );
            self.parts.clock.sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    async fn call(&self, job: &Job, call: &HostCall, due: Duration) -> CallResult {
        let kind = call.kind().as_str();
        tracing::debug!(job = %job.id, machine = %self.machine.id, call = kind, "asking the host");
        let terms = CallTerms {
            urgent: job.kind().ignores_blockers(),
            // A call after the deadline has no time limit, because after its deadline a job makes
            // only calls that must be made.
            not_after: (self.parts.clock.elapsed() < due).then_some(due),
        };
        match self.host.call_on_terms(&self.machine.id, call, job.id, terms).await {
            Ok(accepted) => CallResult::Accepted(accepted),
            Err(CallError::Refused(error)) => {
                let cause = &error as &dyn std::error::Error;
                tracing::debug!(job = %job.id, error = cause, "the host refused");
                CallResult::Refused(HostFailure::from(&error))
            }
            // An error with `outcome_uncertain` leaves open whether the call ran only if a manager
            // such as vCenter sends it. If the host itself sends the error, the call did not run.
            // The end of a task with such an error is treated in the same way.
            Err(CallError::Lost(error))
                if error.outcome_uncertain && !self.is_behind_a_manager() =>
            {
                let cause = &error as &dyn std::error::Error;
                tracing::debug!(job = %job.id, error = cause, "the host itself refused");
                CallResult::Refused(HostFailure::from(&error))
            }
            Err(CallError::Lost(error)) => {
                let cause = &error as &dyn std::error::Error;
                tracing::warn!(job = %job.id, error = cause, "the answer was lost");
                CallResult::Lost(HostFailure::from(&error))
            }
        }
    }

    /// Adds the drives and the boot options to the evidence, as the inventory has them after a
    /// barrier.
    async fn with_media(&self, evidence: Evidence) -> Result<Evidence, HostError> {
        self.host.barrier().await?;
        let contents = self.parts.inventory.contents();
        let Some(machine) = contents.machine(&self.machine.id) else {
            let message = "The inventory does not have the machine.";
            return Err(HostError::new(HostErrorKind::Unreachable, message));
        };
        Ok(Evidence { media: machine.media(), ..evidence })
    }

    /// Begins to follow the task whose reference the commit contains. The host then reports the
    /// task while the commit is under way.
    async fn follow_during_commit(&self, job: &Job) {
        if let (Some(_), Some(task)) = (&job.intent, &job.host_task)
            && !job.state.is_end()
        {
            let followed = Some((task.clone(), self.host.follow(task).await));
            *self.followed.lock().unwrap_or_else(PoisonError::into_inner) = followed;
        }
    }

    /// The status of a task, from [`Self::follow_during_commit`] or from the host.
    async fn task_status(&self, task: &TaskId) -> watch::Receiver<TaskStatus> {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner).take();
        match followed {
            Some((same, status)) if same == *task => status,
            _ => self.host.follow(task).await,
        }
    }

    async fn follow_task(&self, task: &TaskId, status: &watch::Sender<JobStatus>) -> TaskEnd {
        let mut task_status = self.task_status(task).await;
        let mut last_published = None;
        loop {
            let now = task_status.borrow_and_update().clone();
            match now {
                TaskStatus::Running { progress } => {
                    let elapsed = self.parts.clock.elapsed();
                    let due = last_published.is_none_or(|last_published| {
                        elapsed.saturating_sub(last_published) >= PROGRESS_EVERY
                    });
                    if progress.is_some() && due {
                        last_published = Some(elapsed);
                        status.send_modify(|status| status.progress = progress);
                        self.publish_change(status);
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
            if task_status.changed().await.is_err() {
                return TaskEnd::Vanished;
            }
        }
    }

    /// Whether otter talks to a manager such as vCenter, which may lose its own connection to the
    /// host.
    fn is_behind_a_manager(&self) -> bool {
        self.parts.inventory.session().product.is_some_and(|product| !product.is_standalone_host())
    }

    pub(super) async fn cancel_task(&self, task: TaskId) {
        fail_point!("cancel-task");
        if let Err(error) = self.host.cancel(&task).await {
            let error = &error as &dyn std::error::Error;
            tracing::info!(%task, error, "the host did not cancel its task");
        }
    }

    /// Waits until the host is connected and the inventory is up to date.
    async fn await_host(&self) {
        loop {
            self.parts.inventory.connected().await;
            if self.host.barrier().await.is_ok() {
                return;
            }
            self.parts.clock.sleep(Duration::from_secs(1)).await;
        }
    }

    async fn await_task(&self, task: &TaskId) {
        let mut status = self.host.follow(task).await;
        // The wait also ends if the host no longer knows the task, or if the backend has stopped.
        let _ = status.wait_for(|status| !matches!(status, TaskStatus::Running { .. })).await;
        if matches!(*status.borrow(), TaskStatus::Vanished | TaskStatus::Running { .. }) {
            self.parts.clock.sleep(Duration::from_secs(1)).await;
        }
    }

    /// Waits until the inventory shows the guest in a state other than `known`.
    async fn watch_guest(
        &self,
        known: Option<GuestObservation>,
        tools_stops: u64,
    ) -> GuestWatchResult {
        let machine = &self.machine.id;
        let mut changes = self.parts.inventory.watch(machine);
        // Wait until the inventory is up to date, because it may still show the guest as it was
        // before the call.
        if known.is_none() {
            self.await_host().await;
        }
        loop {
            let Some(observation) =
                observation::guest(&self.parts.inventory.contents(), &self.machine, tools_stops)
            else {
                return GuestWatchResult::MachineGone;
            };
            if known != Some(observation) {
                return GuestWatchResult::Observed(observation);
            }
            if changes.changed().await.is_err() {
                changes = self.parts.inventory.watch(machine);
            }
        }
    }

    /// Waits until the machine is ready. Returns false if the machine cannot become ready, because
    /// it is off or no longer on the host.
    ///
    /// # Parameters
    /// - `cidr`: the network in which an awaited address must be.
    async fn await_ready(&self, readiness: ReadinessKind, cidr: Option<Network>) -> bool {
        let machine = &self.machine.id;
        let mut changes = self.parts.inventory.watch(machine);
        self.await_host().await;
        loop {
            let contents = self.parts.inventory.contents();
            let known =
                contents.machine(machine).filter(|known| self.machine.can_be(&known.identity()));
            let Some(known) = known else { return false };
            let on = known.power_state == Some(PowerState::On);
            let ready = match readiness {
                ReadinessKind::On => on,
                ReadinessKind::Address => contents.ip_address(machine, cidr).is_some(),
                ReadinessKind::Tools => on && known.guest.tools_running,
                // `perform` waits for a text in another way.
                ReadinessKind::Screen | ReadinessKind::Serial => return false,
            };
            if ready || !on {
                return ready;
            }
            if changes.changed().await.is_err() {
                changes = self.parts.inventory.watch(machine);
            }
        }
    }

    async fn await_answer(&self, question: &QuestionId) {
        let mut changes = self.parts.inventory.watch(&self.machine.id);
        self.await_host().await;
        let mut seen = false;
        loop {
            if observation::question(&self.parts.inventory.contents(), &self.machine.id).as_ref()
                != Some(question)
            {
                // The inventory never showed the question. Pause, because the job would otherwise
                // read the machine again and again without a pause.
                if !seen {
                    self.parts.clock.sleep(Duration::from_secs(1)).await;
                }
                return;
            }
            seen = true;
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn observed_machine(&self) -> ObservedMachine {
        let cidr = self.parts.authorizer.cidr(&self.machine);
        observation::machine(&self.parts.inventory.contents(), &self.machine.id, cidr)
    }
}

/// The network in which the address must be for which a job waits. `None` if any address is
/// acceptable.
const fn awaited_network(job: &Job) -> Option<Network> {
    match &job.request {
        JobRequest::Prepare { cidr, .. } => *cidr,
        _ => None,
    }
}

/// The text for which a preparation waits on a serial port. `None` if it waits for no such text.
const fn awaited_serial_text(job: &Job) -> Option<&SerialText> {
    match &job.request {
        JobRequest::Prepare { until: Some(Readiness::Serial(text)), .. } => Some(text),
        _ => None,
    }
}

/// The names of the fail points before and after a commit of the job. The progress of the job
/// selects them.
fn fail_points_of_save(job: &Job) -> [&'static str; 2] {
    match &job.intent {
        _ if job.state.is_end() => ["end", "end-committed"],
        Some(_) if job.host_task.is_some() => ["task", "task-committed"],
        Some(intent) if intent.asked > 1 => ["intent", "again-committed"],
        Some(_) => ["intent", "intent-committed"],
        None => ["step-done", "step-done-committed"],
    }
}
