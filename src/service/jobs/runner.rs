//! Runs one job until its end is committed. `effects` performs each effect of the job's
//! [`JobStateMachine`], and the state machine takes the result and each interrupt.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::JobsParts;
use super::deadline_clocks::Moment;
use super::question_timer::QuestionTimer;
use super::state_machine::{Effect, Input, Interrupt, JobStateMachine, Reaction, TaskEnd};
use super::status::JobStatus;
use super::table::{JobTable, PendingJob};
use super::text_watch::TextSight;
use crate::clock::Clock;
use crate::domain::event::Subject;
use crate::domain::ids::TaskId;
use crate::domain::job::Job;
use crate::domain::machine::MachineIdentity;
use crate::hypervisor::{Hypervisor, TaskStatus};
use crate::storage::StorageError;

/// otter publishes the progress of a job at most this often.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// The grace: how long a job waits after its deadline for the host to cancel its task.
pub const GRACE: Duration = Duration::from_secs(10);

/// The resources of one run of a job.
pub struct Runner<'a> {
    pub parts: &'a JobsParts,
    pub table: &'a JobTable,
    pub stop: &'a CancellationToken,
    /// The machine that the job works on.
    pub machine: MachineIdentity,
    /// The host of the machine that the job works on.
    pub host: &'a Arc<dyn Hypervisor>,
    /// The start of the run. The times of the job are counted from this moment, by the clock that
    /// never jumps.
    pub started: Moment,
    /// The task that the host was asked to report while the reference of the task was committed.
    pub followed: Mutex<Option<(TaskId, watch::Receiver<TaskStatus>)>>,
}

/// Why a run did not reach the end of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incomplete {
    /// otter stops. The next start resumes the job from its last commit.
    Stopped,
    /// The store can never commit the state of the run. The job on disk is unchanged.
    Unsaved,
}

impl Runner<'_> {
    /// Runs a job from the effect `first` to its end. Returns the job with its end, which is
    /// committed and not yet published.
    ///
    /// # Errors
    /// [`Incomplete`] if the run stopped before the end.
    #[expect(clippy::too_many_lines, reason = "one loop over effects and interrupts")]
    pub async fn run(&self, pending: PendingJob, first: Effect) -> Result<Job, Incomplete> {
        let PendingJob { mut state_machine, status, mut interrupts, due, mut jumps } = pending;
        let mut machine = self.parts.inventory.watch(&self.machine.id);
        let mut question =
            QuestionTimer::new(self.parts, self.table, &self.machine.id, state_machine.job());
        let mut timer: BoxFuture<'_, ()> = Box::pin(sleep_until(&self.parts.clock, due));
        let mut alarms = [Interrupt::GraceOver, Interrupt::Deadline { question: false }].to_vec();
        let mut cancelling = FuturesUnordered::new();
        let mut effect = first;
        let mut tools_stops = self.tools_stops();
        // Whether the last effect followed a task to its end. Commits do not count as effects here.
        let mut task_ended = false;
        // Whether a request to cancel is not committed yet. Readers do not see such a request,
        // because a crash would lose it.
        let mut cancel_unsaved = false;
        let (sight, mut seen) = watch::channel(TextSight::default());
        let mut seen_published = None;
        loop {
            if effect == Effect::Finish {
                return Ok(state_machine.job().clone());
            }
            self.publish(&state_machine, &status, cancel_unsaved);
            if matches!(effect, Effect::Call(_)) {
                tools_stops = self.tools_stops();
            }
            // otter may not stop during a call, nor during the commit of its answer.
            let may_stop = !matches!(effect, Effect::Save | Effect::Call(_));
            let saves = effect == Effect::Save;
            let mut deadline_unsaved = false;
            let saves_cancel = saves && state_machine.job().cancel_requested_at.is_some();
            let mut work = pin!(self.perform(
                state_machine.job().clone(),
                effect.clone(),
                due,
                tools_stops,
                task_ended,
                &status,
                &sight
            ));
            let input = loop {
                let interrupt = tokio::select! {
                    biased;
                    performed = &mut work => match performed {
                        Ok(input) => break Some(input),
                        Err(StorageError::Closed) => return Err(Incomplete::Stopped),
                        Err(_) => return Err(Incomplete::Unsaved),
                    },
                    () = self.stop.cancelled(), if may_stop => return Err(Incomplete::Stopped),
                    Some(()) = cancelling.next(), if !cancelling.is_empty() => continue,
                    Some(interrupt) = interrupts.recv() => interrupt,
                    by = jumps.next() => {
                        state_machine.shift_deadline(by, self.parts.clock.now());
                        // While the effect commits the job, the new deadline is not committed here:
                        // of two commits at the same time, the older one could finish last, and the
                        // new deadline would be lost.
                        if saves {
                            deadline_unsaved = true;
                        } else {
                            self.try_to_save(state_machine.job()).await;
                        }
                        self.publish(&state_machine, &status, cancel_unsaved);
                        continue;
                    }
                    Ok(()) = machine.changed() => {
                        // Publish a new question of the machine, because readers see it as the
                        // reason why the job is blocked.
                        if question.update() {
                            self.publish_change(&status);
                        }
                        continue;
                    }
                    Ok(()) = seen.changed() => {
                        let sight = seen.borrow_and_update().clone();
                        state_machine.see_text(sight, self.parts.clock.now());
                        let now = self.parts.clock.elapsed();
                        let is_early =
                            seen_published.is_some_and(|last| now < last + PROGRESS_EVERY);
                        if !is_early {
                            seen_published = Some(now);
                            self.publish(&state_machine, &status, cancel_unsaved);
                        }
                        continue;
                    }
                    text = question.unanswered() => Interrupt::QuestionUnanswered(text),
                    () = &mut timer, if !alarms.is_empty() => {
                        timer = Box::pin(self.parts.clock.sleep(GRACE));
                        match alarms.pop() {
                            Some(Interrupt::Deadline { .. }) => {
                                question.update();
                                Interrupt::Deadline { question: question.is_asked() }
                            }
                            _ => Interrupt::GraceOver,
                        }
                    }
                };
                let was_asked = state_machine.job().cancel_requested_at.is_some();
                let is_question = matches!(interrupt, Interrupt::QuestionUnanswered(_));
                let reaction = state_machine.interrupt(interrupt, self.parts.clock.now());
                if is_question && reaction != Reaction::default() {
                    // An unanswered question ends the job in the same way as the deadline does: the
                    // host gets the time `GRACE` to cancel the task.
                    timer = Box::pin(self.parts.clock.sleep(GRACE));
                    alarms.truncate(1);
                }
                cancel_unsaved |= !was_asked && state_machine.job().cancel_requested_at.is_some();
                if let Some(task) = reaction.cancel_task {
                    cancelling.push(self.cancel_task(task));
                }
                if let Some(instead) = reaction.instead {
                    effect = instead;
                    break None;
                }
                // While the effect commits the job, the request to cancel is not committed here: of
                // two commits at the same time, the older one could finish last, and the request
                // would be lost.
                if cancel_unsaved && !saves {
                    cancel_unsaved = !self.try_to_save(state_machine.job()).await;
                }
                self.publish(&state_machine, &status, cancel_unsaved);
            };
            // The step shows what the wait saw last, not what was published before.
            if seen.has_changed().unwrap_or(false) {
                let sight = seen.borrow_and_update().clone();
                state_machine.see_text(sight, self.parts.clock.now());
            }
            if let Some(input) = input {
                if deadline_unsaved {
                    self.try_to_save(state_machine.job()).await;
                }
                if cancel_unsaved && saves {
                    cancel_unsaved = !(saves_cancel || self.try_to_save(state_machine.job()).await);
                }
                task_ended = match &input {
                    Input::TaskEnded(TaskEnd::Succeeded { .. } | TaskEnd::Failed(_)) => true,
                    Input::Saved => task_ended,
                    _ => false,
                };
                effect = state_machine.step(input, self.parts.clock.now());
            } else {
                task_ended = false;
            }
        }
    }

    /// Tries once to commit the job. Returns whether the commit succeeded. If it failed, the next
    /// commit stores the same change.
    async fn try_to_save(&self, job: &Job) -> bool {
        self.parts.store.update_job(job).await.is_ok()
    }

    fn tools_stops(&self) -> u64 {
        self.parts.inventory.contents().tools_stops(&self.machine.id)
    }

    fn publish(
        &self,
        state_machine: &JobStateMachine,
        status: &watch::Sender<JobStatus>,
        cancel_unsaved: bool,
    ) {
        let update = |status: &mut JobStatus| status.update(state_machine, cancel_unsaved);
        if self.table.update_status(status, update) {
            self.publish_change(status);
        }
    }

    pub(super) fn publish_change(&self, status: &watch::Sender<JobStatus>) {
        let changed = Subject::from_job(&status.borrow().job);
        self.parts.event_stream.publish([changed]);
    }
}

/// Sleeps until the elapsed time of the clock is `due`.
pub async fn sleep_until(clock: &Clock, due: Duration) {
    clock.sleep(due.saturating_sub(clock.elapsed())).await;
}
