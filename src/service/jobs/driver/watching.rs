//! Watching a guest that was asked to shut down or to restart: what the inventory shows is all that
//! tells.
//!
//! ```text
//! shutdown: ask ─► off: done      ─ force_after over, or no tools run ─► power off, the job's second call
//! reboot:   ask ─► tools go ─► tools run: done
//! ```
//! A guest is asked once: whether an answer was lost or not, from then on it is watched until the
//! deadline.

use jiff::{SignedDuration, Timestamp};

use super::vocabulary::{Effect, Glimpse, Glimpsed};
use super::{Driver, Stage, Then, UNSEEN};
use crate::domain::call::{CallKind, HostCall};
use crate::domain::duration;
use crate::domain::job::{Job, JobRequest, JobStepState};
use crate::domain::power::PowerState;

impl Driver {
    /// Looks at the guest, or goes on looking where it was seen as `known`.
    pub(super) fn watch(&mut self, known: Option<Glimpse>, now: Timestamp) -> Effect {
        if self.overdue() {
            return self.give_up(UNSEEN, now);
        }
        self.blocker = None;
        self.stage = Stage::Watching;
        Effect::Watch { known, until: force_at(&self.job) }
    }

    pub(super) fn glimpsed(&mut self, glimpsed: Glimpsed, now: Timestamp) -> Effect {
        let glimpse = match glimpsed {
            Glimpsed::Now(glimpse) => glimpse,
            Glimpsed::TimeUp => return self.force(now),
            Glimpsed::Gone => {
                return self.give_up(
                    "The guest was asked, and the machine that was meant is no longer on the host.",
                    now,
                );
            }
        };
        let Some(intent) = &self.job.intent else { return self.begin() };
        match intent.call {
            HostCall::RebootGuest => {
                let ran_before = intent.before.tools_running;
                self.tools_went |= glimpse.tools_went || (ran_before && !glimpse.tools_running);
                if matches!(glimpse.power_state, Some(PowerState::Off | PowerState::Suspended)) {
                    let detail = "The guest was asked to restart, and the machine was powered off or suspended \
                                  before that was seen.";
                    return self.give_up(detail, now);
                }
                if self.tools_went && glimpse.tools_running {
                    return self.call_succeeded(now);
                }
            }
            _ if glimpse.power_state == Some(PowerState::Off) => return self.call_succeeded(now),
            _ => {}
        }
        self.watch(Some(glimpse), now)
    }

    /// The guest was not off in time: the plug is pulled.
    fn force(&mut self, now: Timestamp) -> Effect {
        let JobRequest::Shutdown { force_after: Some(after) } = self.job.request else {
            return self.watch(None, now);
        };
        let detail = format!("the guest was not off after {}", duration::format(after));
        self.finish_step(JobStepState::Failed, Some(&detail), now);
        self.job.intent = None;
        self.phase("pulling the plug", now);
        self.save(Then::Begin)
    }

    /// Without tools there is no guest to be asked. Whether the plug is pulled instead.
    pub(super) fn force_without_tools(&mut self, now: Timestamp) -> Option<Effect> {
        let forced = matches!(self.job.request, JobRequest::Shutdown { force_after: Some(_) });
        if !forced || self.job.intent.as_ref()?.call != HostCall::ShutdownGuest {
            return None;
        }
        self.finish_step(JobStepState::Skipped, Some("no guest tools run"), now);
        self.job.intent = None;
        Some(self.save(Then::Begin))
    }
}

/// When the plug is pulled: counted from when the guest was first asked. Never, once the job is to
/// be cancelled.
pub(super) fn force_at(job: &Job) -> Option<Timestamp> {
    let JobRequest::Shutdown { force_after: Some(after) } = job.request else { return None };
    let asked = job.steps.iter().find(|step| step.name == CallKind::ShutdownGuest.as_str())?;
    let after = SignedDuration::try_from(after).ok()?;
    asked
        .started_at
        .filter(|_| job.cancel_requested_at.is_none())
        .map(|at| at.saturating_add(after).unwrap_or(Timestamp::MAX))
}
