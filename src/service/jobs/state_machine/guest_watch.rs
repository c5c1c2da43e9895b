//! Watches a guest that was asked to shut down or to restart. Only the inventory shows whether the
//! guest obeys.
//!
//! ```text
//! shutdown: ask ─► off: done
//!               └─► force_after over, or no tools: power off, the job's second call
//! reboot:   ask ─► tools go ─► tools run: done
//! ```
//! A guest is asked once. Even if the answer was lost, the job then watches the guest until the
//! deadline.

use jiff::{SignedDuration, Timestamp};

use super::protocol::{Effect, GuestObservation, GuestWatchResult};
use super::{AfterSave, GUEST_DID_NOT_REACT, JobStateMachine, RunState};
use crate::domain::call::{CallKind, HostCall};
use crate::domain::duration;
use crate::domain::job::{Job, JobRequest, JobStepState, StepName};
use crate::domain::power::PowerState;

impl JobStateMachine {
    /// Asks the runner to wait until the guest's state differs from `known`. If `known` is `None`,
    /// the runner returns the current state at once.
    pub(super) fn watch_guest(
        &mut self,
        known: Option<GuestObservation>,
        now: Timestamp,
    ) -> Effect {
        if self.is_overdue() {
            return self.end_unknown(GUEST_DID_NOT_REACT, now);
        }
        self.blocker = None;
        self.run_state = RunState::WatchingGuest;
        Effect::Watch { known, until: force_time(&self.job) }
    }

    pub(super) fn on_guest_observed(&mut self, result: GuestWatchResult, now: Timestamp) -> Effect {
        let observation = match result {
            GuestWatchResult::Observed(observation) => observation,
            GuestWatchResult::TimeUp => return self.power_off_after_timeout(now),
            GuestWatchResult::MachineGone => {
                return self.end_unknown(
                    "The guest was asked, and the job's machine is no longer on the host.",
                    now,
                );
            }
        };
        let Some(intent) = &self.job.intent else { return self.read_before_call() };
        match intent.call {
            HostCall::RebootGuest => {
                let ran_before = intent.before.tools_running;
                self.tools_stopped |=
                    observation.tools_stopped || (ran_before && !observation.tools_running);
                if matches!(observation.power_state, Some(PowerState::Off | PowerState::Suspended))
                {
                    let detail = "The guest was asked to restart, and the machine was powered off \
                                  or suspended before the restart was observed.";
                    return self.end_unknown(detail, now);
                }
                if self.tools_stopped && observation.tools_running {
                    return self.call_succeeded(now);
                }
            }
            _ if observation.power_state == Some(PowerState::Off) => {
                return self.call_succeeded(now);
            }
            _ => {}
        }
        self.watch_guest(Some(observation), now)
    }

    /// Powers the machine off, because the time `force_after` is over and the guest has not shut
    /// down.
    fn power_off_after_timeout(&mut self, now: Timestamp) -> Effect {
        let JobRequest::Shutdown { force_after: Some(after) } = self.job.request else {
            return self.watch_guest(None, now);
        };
        let detail = format!("the guest was not off after {}", duration::format(after));
        self.finish_step(JobStepState::Failed, Some(&detail), now);
        self.job.intent = None;
        self.set_phase("powering the machine off", now);
        self.save(AfterSave::ReadMachine)
    }

    /// Powers the machine off if the job has `force_after` and its current call asks the guest to
    /// shut down, which a guest without tools cannot do. Returns `None` for any other job.
    pub(super) fn power_off_without_tools(&mut self, now: Timestamp) -> Option<Effect> {
        let forced = matches!(self.job.request, JobRequest::Shutdown { force_after: Some(_) });
        if !forced || self.job.intent.as_ref()?.call != HostCall::ShutdownGuest {
            return None;
        }
        self.finish_step(JobStepState::Skipped, Some("no guest tools run"), now);
        self.job.intent = None;
        Some(self.save(AfterSave::ReadMachine))
    }
}

/// The time at which the machine is powered off: `force_after` after the guest was first asked.
/// `None` if the job has no `force_after`, or after a request to cancel.
pub(super) fn force_time(job: &Job) -> Option<Timestamp> {
    let JobRequest::Shutdown { force_after: Some(after) } = job.request else { return None };
    let asked =
        job.steps.iter().find(|step| step.name == StepName::Call(CallKind::ShutdownGuest))?;
    let after = SignedDuration::try_from(after).ok()?;
    asked
        .started_at
        .filter(|_| job.cancel_requested_at.is_none())
        .map(|at| at.saturating_add(after).unwrap_or(Timestamp::MAX))
}
