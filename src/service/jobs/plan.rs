//! Which call a job makes next, by what it asks for, what it has done, and how the machine is. Pure.

use crate::domain::call::{CallKind, Evidence, HostCall};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::job::{Job, JobRequest, StepState};
use crate::domain::machine::PowerState;

/// What is next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    Call(HostCall),
    /// All that was asked for is so.
    Done,
    Fail(Failure),
}

/// The next call of a job.
#[must_use]
pub fn next(job: &Job, now: &Evidence) -> Plan {
    match &job.request {
        JobRequest::PowerOn => until_power(now, PowerState::On),
        JobRequest::PowerOff | JobRequest::Kill => until_power(now, PowerState::Off),
        JobRequest::Reset if has_done(job, CallKind::Reset) => Plan::Done,
        JobRequest::Reset if now.power_state == Some(PowerState::On) => Plan::Call(HostCall::Reset),
        JobRequest::Reset => Plan::Fail(Failure::new(
            FailureKind::InvalidPowerState,
            "Only a machine that is on can be reset; power it on instead.",
        )),
        JobRequest::Revert { power_on, .. } if has_done(job, CallKind::RevertToSnapshot) => match power_on {
            Some(true) => until_power(now, PowerState::On),
            Some(false) => until_power(now, PowerState::Off),
            None => Plan::Done,
        },
        JobRequest::Revert { snapshot, power_on: _, path } => {
            if now.snapshots.contains(snapshot) {
                // Off afterwards is a power-off of its own: with its power-on suppressed a snapshot with memory leaves
                // the machine suspended, and hosts refuse to power that off.
                Plan::Call(HostCall::RevertToSnapshot {
                    snapshot: snapshot.clone(),
                    suppress_power_on: false,
                })
            } else {
                let detail = format!("The snapshot {path} is no longer on the machine; nothing was done.");
                Plan::Fail(Failure::new(FailureKind::NotFound, detail))
            }
        }
    }
}

/// Whether another call may follow the one that just succeeded, so that the machine must be read again.
#[must_use]
pub fn may_continue(job: &Job) -> bool {
    let JobRequest::Revert { power_on: Some(_), .. } = job.request else { return false };
    !has_done(job, CallKind::PowerOn) && !has_done(job, CallKind::PowerOff)
}

fn until_power(now: &Evidence, wanted: PowerState) -> Plan {
    match wanted {
        wanted if now.power_state == Some(wanted) => Plan::Done,
        PowerState::On => Plan::Call(HostCall::PowerOn),
        // A suspended one is tried too: the host says what it thinks of that.
        _ => Plan::Call(HostCall::PowerOff),
    }
}

fn has_done(job: &Job, call: CallKind) -> bool {
    job.steps.iter().any(|step| step.name == call.as_str() && step.state == StepState::Succeeded)
}
