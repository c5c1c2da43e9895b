//! After a loss: waiting for the host and for a quiet machine, then the verdict on the call whose
//! end nobody saw.

use std::time::Duration;

use jiff::Timestamp;

use super::vocabulary::{Blocker, Effect, Seen};
use super::{Driver, End, RETRY_PAUSE, Stage, Then, UNJUDGED};
use crate::domain::call::{Evidence, HostCall, RecentTask};
use crate::domain::failure::FailureKind;
use crate::domain::job::Intent;
use crate::hypervisor::HostErrorKind;
use crate::service::host_failure::HostFailure;
use crate::service::jobs::judgement::{self, Verdict};

impl Driver {
    pub(super) fn lost(&mut self, host_failure: HostFailure, now: Timestamp) -> Effect {
        self.after_loss = true;
        let reason = host_failure.message.clone();
        self.last_host_failure = Some(host_failure);
        self.blocker = Some((Blocker::HostAway(reason), now));
        self.judge_when_back(Duration::ZERO, now)
    }

    pub(super) fn judge_when_back(&mut self, pause: Duration, now: Timestamp) -> Effect {
        self.after_loss = true;
        if self.grace_over() {
            return self.give_up(UNJUDGED, now);
        }
        self.stage = Stage::JudgingAway;
        Effect::AwaitHost(pause)
    }

    pub(super) fn judged(&mut self, quiet: bool, seen: Seen, now: Timestamp) -> Effect {
        let (evidence, others) = match seen {
            Ok(seen) => seen,
            Err(host_failure) if host_failure.kind == HostErrorKind::NotFound => {
                return self.gone_unjudged(now);
            }
            Err(host_failure) => {
                self.blocker = Some((Blocker::HostAway(host_failure.message), now));
                return self.judge_when_back(RETRY_PAUSE, now);
            }
        };
        if !self.job.target.is_machine(&evidence.identity) {
            return self.gone_unjudged(now);
        }
        let Some(intent) = self.job.intent.clone() else { return self.begin() };
        if let Some(task) = judgement::own_task(&intent, &evidence, &others.tasks) {
            self.job.host_task = Some(task.clone());
            return self.save(Then::Follow(task));
        }
        if self.overdue() {
            return self.give_up(
                "The answer to the call was lost, and the deadline passed before it was judged.",
                now,
            );
        }
        // A guest takes its own time, whatever else works on the machine.
        let of_guest = intent.call.kind().is_guest_operation();
        // A kill and an answer settle by time alone: they must not wait for what they are to end.
        let patient = !of_guest && !self.job.kind().bypasses_queue();
        if patient && let Some(task) = evidence.recent_tasks.iter().find(|task| task.running) {
            let task = task.id.clone();
            self.blocker = Some((Blocker::HostTask(task.clone()), now));
            self.stage = Stage::Settling { quiet: false };
            return Effect::AwaitTask(task);
        }
        if !quiet && !of_guest {
            self.phase("letting the machine settle", now);
            self.stage = Stage::Settling { quiet: true };
            return Effect::Pause(self.rules.settle);
        }
        match judgement::judge(&intent, &evidence, &others.tasks) {
            Verdict::Succeeded => self.call_succeeded(now),
            Verdict::Made(snapshot) => {
                self.made = Some(snapshot);
                self.call_succeeded(now)
            }
            Verdict::Failed(why) => {
                let detail =
                    format!("The answer of the host was lost, and nothing was done: {why}.");
                let failure = self.failure(FailureKind::HostUnreachable, &detail);
                self.end(End::Failed(failure), now)
            }
            Verdict::Wait => {
                self.phase("waiting for the guest", now);
                self.watch(None, now)
            }
            Verdict::Follow(task) => {
                self.job.host_task = Some(task.clone());
                self.save(Then::Follow(task))
            }
            Verdict::AskAgain => {
                if let Some(refusal) = self.refused_by_rules(&evidence, &others) {
                    let detail = format!(
                        "The answer of the host was lost, and the call is not repeated. {}",
                        refusal.detail
                    );
                    return self.give_up(&detail, now);
                }
                self.phase("asking the host again", now);
                let asked = intent.asked + 1;
                let before = Evidence { recent_tasks: evidence.recent_tasks, ..intent.before };
                self.job.host_task = None;
                self.job.intent = Some(Intent { before, asked, call: intent.call });
                self.save(Then::Call)
            }
            Verdict::Unknown(why) => self.give_up(
                &format!(
                    "The answer of the host was lost, and what happened cannot be known: {why}."
                ),
                now,
            ),
        }
    }

    /// The followed task says no more about the call than it has said: it is not found and followed
    /// again.
    pub(super) fn spend_task(&mut self) {
        if let (Some(id), Some(intent)) = (self.job.host_task.take(), &mut self.job.intent) {
            let call = Some(intent.call.kind());
            intent.before.recent_tasks.push(RecentTask { id, call, by_us: true, running: false });
        }
    }

    pub(super) fn verified(&mut self, seen: Seen, now: Timestamp) -> Effect {
        let Some(intent) = &self.job.intent else { return self.begin() };
        match (seen, &intent.call) {
            (Ok((evidence, _)), HostCall::CreateSnapshot { name, .. }) => {
                self.made = judgement::made(intent, &evidence, name);
                if self.made.is_none() {
                    self.job
                        .warnings
                        .push("The host did not say which snapshot it made.".to_owned());
                }
                self.call_succeeded(now)
            }
            (Ok((evidence, _)), HostCall::RevertToSnapshot { snapshot, .. })
                if evidence.current_snapshot.as_ref() == Some(snapshot) =>
            {
                self.call_succeeded(now)
            }
            (Ok(_), _) => self
                .give_up("The revert's task succeeded, but another snapshot is current now.", now),
            (Err(host_failure), _) if host_failure.kind == HostErrorKind::NotFound => {
                self.gone_unjudged(now)
            }
            (Err(host_failure), _) => {
                self.blocker = Some((Blocker::HostAway(host_failure.message), now));
                self.judge_when_back(RETRY_PAUSE, now)
            }
        }
    }
}
