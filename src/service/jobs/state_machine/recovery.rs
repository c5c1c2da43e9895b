//! Resolves a lost call: waits for the host, waits until no task runs on the machine, then finds
//! out what became of the call.

use std::time::Duration;

use jiff::Timestamp;

use super::protocol::{Blocker, Effect, ExamineResult};
use super::{AfterSave, JobEnd, JobStateMachine, RETRY_PAUSE, RunState, UNRESOLVED};
use crate::domain::call::{Evidence, HostCall, RecentTask};
use crate::domain::failure::FailureKind;
use crate::domain::job::Intent;
use crate::hypervisor::HostErrorKind;
use crate::service::host_failure::HostFailure;
use crate::service::jobs::lost_call::{self, Resolution};

impl JobStateMachine {
    pub(super) fn on_lost(&mut self, host_failure: HostFailure, now: Timestamp) -> Effect {
        self.after_loss = true;
        let reason = host_failure.message.clone();
        self.last_host_failure = Some(host_failure);
        self.blocker = Some((Blocker::HostAway(reason), now));
        self.await_host_after_loss(Duration::ZERO, now)
    }

    pub(super) fn await_host_after_loss(&mut self, pause: Duration, now: Timestamp) -> Effect {
        self.after_loss = true;
        if self.is_grace_over() {
            return self.end_unknown(UNRESOLVED, now);
        }
        self.run_state = RunState::AwaitingHostAfterLoss;
        Effect::AwaitHost(pause)
    }

    pub(super) fn on_examined_after_loss(
        &mut self,
        quiet: bool,
        seen: ExamineResult,
        now: Timestamp,
    ) -> Effect {
        let (evidence, others) = match seen {
            Ok(seen) => seen,
            Err(host_failure) if host_failure.kind == HostErrorKind::NotFound => {
                return self.end_machine_gone_after_loss(now);
            }
            Err(host_failure) => {
                self.blocker = Some((Blocker::HostAway(host_failure.message), now));
                return self.await_host_after_loss(RETRY_PAUSE, now);
            }
        };
        if !evidence.identity.is_known() {
            let reason = HostFailure::unconfirmed_identity().message;
            self.blocker = Some((Blocker::HostAway(reason), now));
            return self.await_host_after_loss(RETRY_PAUSE, now);
        }
        if !self.job.target.is_machine(&evidence.identity) {
            return self.end_machine_gone_after_loss(now);
        }
        let Some(intent) = self.job.intent.clone() else { return self.read_before_call() };
        if let Some(task) = lost_call::own_task(&intent, &evidence, &others.tasks) {
            self.job.host_task = Some(task.clone());
            return self.save(AfterSave::FollowTask(task));
        }
        if self.is_overdue() {
            return self.end_unknown(
                "The answer to the call was lost, and the deadline passed before it was known \
                 whether the call ran.",
                now,
            );
        }
        // A call that asks the guest to do something does not wait for tasks on the machine,
        // because they do not affect the guest's operation.
        let is_guest_operation = intent.call.kind().is_guest_operation();
        // A kill and an answer wait only until the settle time is over. They must not wait for a
        // task of the machine, because they are meant to end it.
        let waits_for_others = !is_guest_operation && !self.job.kind().ignores_blockers();
        if waits_for_others
            && let Some(task) = evidence.recent_tasks.iter().find(|task| task.running)
        {
            let task = task.id.clone();
            self.blocker = Some((Blocker::HostTask(task.clone()), now));
            self.run_state = RunState::SettlingAfterLoss { quiet: false };
            return Effect::AwaitTask(task);
        }
        if !quiet && !is_guest_operation {
            self.set_phase("letting the machine settle", now);
            self.run_state = RunState::SettlingAfterLoss { quiet: true };
            return Effect::Pause(self.rules.settle);
        }
        match lost_call::resolve(&intent, &evidence, &others.tasks) {
            Resolution::Succeeded => self.call_succeeded(now),
            Resolution::SnapshotCreated(snapshot) => {
                self.created_snapshot = Some(snapshot);
                self.call_succeeded(now)
            }
            Resolution::NotDone(why) => {
                let detail =
                    format!("The answer of the host was lost, and nothing was done: {why}.");
                let failure = self.new_failure(FailureKind::HostUnreachable, &detail);
                self.end(JobEnd::Failed(failure), now)
            }
            Resolution::WaitForGuest => {
                self.set_phase("waiting for the guest", now);
                self.watch_guest(None, now)
            }
            Resolution::FollowTask(task) => {
                self.job.host_task = Some(task.clone());
                self.save(AfterSave::FollowTask(task))
            }
            Resolution::SendAgain => {
                if let Some(refusal) = self.snapshot_rules_refusal(&evidence, &others) {
                    let detail = format!(
                        "The answer of the host was lost, and the call is not repeated. {}",
                        refusal.detail
                    );
                    return self.end_unknown(&detail, now);
                }
                self.set_phase("asking the host again", now);
                let asked = intent.asked + 1;
                let before = Evidence { recent_tasks: evidence.recent_tasks, ..intent.before };
                self.job.host_task = None;
                self.job.intent = Some(Intent { before, asked, call: intent.call });
                self.save(AfterSave::Call)
            }
            Resolution::Unknown(why) => self.end_unknown(
                &format!(
                    "The answer of the host was lost, and it cannot be known whether the call \
                     ran: {why}."
                ),
                now,
            ),
        }
    }

    /// Adds the followed task to the recorded evidence. The end of the task proved nothing about
    /// the call, so the job must not follow the task again.
    pub(super) fn mark_task_known(&mut self) {
        if let (Some(id), Some(intent)) = (self.job.host_task.take(), &mut self.job.intent) {
            let call = Some(intent.call.kind());
            intent.before.recent_tasks.push(RecentTask { id, call, by_us: true, running: false });
        }
    }

    pub(super) fn on_examined_after_task(&mut self, seen: ExamineResult, now: Timestamp) -> Effect {
        let Some(intent) = &self.job.intent else { return self.read_before_call() };
        match (seen, &intent.call) {
            (Ok((evidence, _)), HostCall::CreateSnapshot { name, .. }) => {
                self.created_snapshot = lost_call::created_snapshot(intent, &evidence, name);
                if self.created_snapshot.is_none() {
                    self.job
                        .warnings
                        .push("The host did not say which snapshot it created.".to_owned());
                }
                self.call_succeeded(now)
            }
            (Ok((evidence, _)), HostCall::RevertToSnapshot { snapshot, .. })
                if evidence.current_snapshot.as_ref() == Some(snapshot) =>
            {
                self.call_succeeded(now)
            }
            (Ok((evidence, _)), HostCall::SetMedia { .. } | HostCall::SetBoot { .. }) => {
                if lost_call::has_change(&intent.call, &evidence) {
                    return self.call_succeeded(now);
                }
                // The task was that of another change of the configuration.
                self.mark_task_known();
                self.await_host_after_loss(RETRY_PAUSE, now)
            }
            (Ok(_), _) => self.end_unknown(
                "The revert's task succeeded, but another snapshot is current now.",
                now,
            ),
            (Err(host_failure), _) if host_failure.kind == HostErrorKind::NotFound => {
                self.end_machine_gone_after_loss(now)
            }
            (Err(host_failure), _) => {
                self.blocker = Some((Blocker::HostAway(host_failure.message), now));
                self.await_host_after_loss(RETRY_PAUSE, now)
            }
        }
    }
}
