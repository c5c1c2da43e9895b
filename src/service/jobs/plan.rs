//! Decides the next call of a job from its request, its finished steps and the machine's state.
//! Pure; `tests` has a table of all cases.

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::domain::call::{CallKind, Evidence, HostCall};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::SnapshotId;
use crate::domain::job::{Job, JobRequest, JobStepState, StepName};
use crate::domain::lease::Readiness;
use crate::domain::media::{BootOptions, BootRequest, CdDrive, MediaRecord};
use crate::domain::power::PowerState;
use crate::service::jobs::lost_call::{MAX_SENDS, has_drive_like};

/// The next action of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    Call(HostCall),
    /// Wait until the machine is ready in this sense.
    Await(Readiness),
    /// Wait this long.
    Settle(Duration),
    /// Nothing: the request of the job is fulfilled.
    Done,
    Fail(Failure),
}

/// The next call of a job.
#[must_use]
pub fn next(job: &Job, now: &Evidence) -> Plan {
    if last_call(&job.request).is_some_and(|call| has_done(job, call)) {
        return Plan::Done;
    }
    let on = now.power_state == Some(PowerState::On);
    match &job.request {
        JobRequest::PowerOn => next_for_power(now, PowerState::On),
        JobRequest::PowerOff => next_for_power(now, PowerState::Off),
        JobRequest::Kill => next_to_be_off(job, now),
        JobRequest::Reset if on => Plan::Call(HostCall::Reset),
        JobRequest::Reset => fail_not_on("reset; power it on instead"),
        JobRequest::Suspend if on => Plan::Call(HostCall::Suspend),
        JobRequest::Suspend if now.power_state == Some(PowerState::Suspended) => Plan::Done,
        JobRequest::Suspend => fail_not_on("suspended"),
        JobRequest::Shutdown { .. } if now.power_state == Some(PowerState::Off) => Plan::Done,
        JobRequest::Shutdown { .. } if on && !has_attempted(job, CallKind::ShutdownGuest) => {
            Plan::Call(HostCall::ShutdownGuest)
        }
        // Power the machine off, because its guest did not shut down, or cannot because it has no
        // tools.
        JobRequest::Shutdown { force_after: Some(_) } => Plan::Call(HostCall::PowerOff),
        JobRequest::Shutdown { force_after: None } => fail_not_on("shut down by its guest"),
        JobRequest::Reboot if on => Plan::Call(HostCall::RebootGuest),
        JobRequest::Reboot => fail_not_on("restarted by its guest"),
        // The call is made in any case, because the host itself checks whether the question is
        // still there.
        JobRequest::Answer { question, choice } => {
            Plan::Call(HostCall::Answer { question: question.clone(), choice: choice.clone() })
        }
        JobRequest::CreateSnapshot { name, description, memory, quiesce } => {
            Plan::Call(HostCall::CreateSnapshot {
                name: name.clone(),
                description: description.clone(),
                memory: *memory,
                quiesce: *quiesce,
            })
        }
        JobRequest::Revert { power_on, .. } if has_done(job, CallKind::RevertToSnapshot) => {
            match power_on {
                Some(true) => next_for_power(now, PowerState::On),
                Some(false) => next_to_be_off(job, now),
                None => Plan::Done,
            }
        }
        // The revert lets the host power the machine on, and the job powers it off with a call of
        // its own if `power_on` is false. If the revert suppressed the power-on, a snapshot with
        // memory would leave the machine suspended.
        JobRequest::Revert { snapshot, power_on: _, path } => {
            call_on_snapshot(now, snapshot, path, || HostCall::RevertToSnapshot {
                snapshot: snapshot.clone(),
                suppress_power_on: false,
            })
        }
        JobRequest::RemoveSnapshot { snapshot, path, children } => {
            call_on_snapshot(now, snapshot, path, || HostCall::RemoveSnapshot {
                snapshot: snapshot.clone(),
                children: *children,
            })
        }
        JobRequest::RemoveAllSnapshots if now.snapshots.is_empty() => Plan::Done,
        JobRequest::RemoveAllSnapshots => Plan::Call(HostCall::RemoveAllSnapshots),
        JobRequest::Consolidate if now.consolidation_needed == Some(false) => Plan::Done,
        JobRequest::Consolidate => Plan::Call(HostCall::ConsolidateDisks),
        JobRequest::RenameSnapshot { snapshot, name, description, .. }
            if now
                .snapshot(snapshot)
                .is_some_and(|seen| seen.matches(name.as_deref(), description.as_deref())) =>
        {
            Plan::Done
        }
        JobRequest::RenameSnapshot { snapshot, path, name, description } => {
            call_on_snapshot(now, snapshot, path, || HostCall::RenameSnapshot {
                snapshot: snapshot.clone(),
                name: name.clone(),
                description: description.clone(),
            })
        }
        JobRequest::SetMedia { iso } => {
            next_for_iso(job, now, iso.as_deref()).unwrap_or(Plan::Done)
        }
        JobRequest::SetBoot(request) => {
            next_for_boot_request(job, now, request).unwrap_or(Plan::Done)
        }
        JobRequest::Prepare { .. } | JobRequest::Release { .. } => next_for_lease(job, now),
        // A job on a file has no machine, and another state machine.
        JobRequest::UploadFile(_) | JobRequest::DeleteFile | JobRequest::CreateFolder => {
            let detail = "The job does not work on a machine.";
            Plan::Fail(Failure::new(FailureKind::NotSupported, detail))
        }
    }
}

/// Whether the next call of the job depends on the drives and the boot options of its machine.
#[must_use]
pub const fn needs_media(request: &JobRequest) -> bool {
    match request {
        JobRequest::SetMedia { .. } | JobRequest::SetBoot(_) => true,
        JobRequest::Prepare { iso, boot, .. } => iso.is_some() || boot.is_some(),
        JobRequest::Release { media, .. } => media.is_some(),
        _ => false,
    }
}

/// The next call of a job that puts this ISO into the first drive, or takes out what is in there.
/// `None` if the drive is so.
fn next_for_iso(job: &Job, now: &Evidence, iso: Option<&str>) -> Option<Plan> {
    let Some(drive) = now.media.drives.first() else {
        let detail = "The machine has no CD drive; nothing was done.";
        return Some(Plan::Fail(Failure::new(FailureKind::NoDrive, detail)));
    };
    next_for_drive(job, now, &drive.with(iso))
}

fn next_for_drive(job: &Job, now: &Evidence, drive: &CdDrive) -> Option<Plan> {
    let call = HostCall::SetMedia { drive: drive.clone() };
    (!has_drive_like(now, drive)).then(|| limited(job, call, FailureKind::HostRejected))
}

fn next_for_boot_request(job: &Job, now: &Evidence, request: &BootRequest) -> Option<Plan> {
    next_for_boot(job, now, &now.media.requested(request))
}

fn next_for_boot(job: &Job, now: &Evidence, boot: &BootOptions) -> Option<Plan> {
    let call = HostCall::SetBoot { boot: boot.clone() };
    (now.media.boot != *boot).then(|| limited(job, call, FailureKind::HostRejected))
}

/// The next call of a release that restores the drive and the boot options. `None` if they are as
/// recorded. What the machine no longer has is not restored.
fn next_to_restore(job: &Job, now: &Evidence, record: &MediaRecord) -> Option<Plan> {
    let MediaRecord { drive, boot } = record;
    let has_drive = |drive: &&CdDrive| now.media.drives.iter().any(|seen| seen.key == drive.key);
    let drive = drive.as_ref().filter(has_drive);
    drive
        .and_then(|drive| next_for_drive(job, now, drive))
        .or_else(|| next_for_boot(job, now, &now.media.existing(boot)))
}

/// The next call of a job that prepares a machine for a lease or releases it.
fn next_for_lease(job: &Job, now: &Evidence) -> Plan {
    match &job.request {
        // The release of a machine that waits on a question does not wait for the answer: it powers
        // the machine off without its guest, which ends the question.
        JobRequest::Release { keep_power, snapshot, .. }
            if now.question.is_some()
                && now.power_state == Some(PowerState::On)
                && (!keep_power || snapshot.is_some()) =>
        {
            next_to_be_off(job, now)
        }
        JobRequest::Prepare { snapshot: Some((snapshot, path)), .. }
        | JobRequest::Release { snapshot: Some((snapshot, path)), .. }
            if !has_done(job, CallKind::RevertToSnapshot) =>
        {
            call_on_snapshot(now, snapshot, path, || HostCall::RevertToSnapshot {
                snapshot: snapshot.clone(),
                suppress_power_on: false,
            })
        }
        _ => next_for_media_and_power(job, now),
    }
}

/// The next call of such a job after its revert. A preparation changes what the machine boots from
/// before its power state, and a release after it.
fn next_for_media_and_power(job: &Job, now: &Evidence) -> Plan {
    if let JobRequest::Prepare { iso, boot, .. } = &job.request
        && !is_past_media(job)
    {
        let media = iso.as_deref().and_then(|iso| next_for_iso(job, now, Some(iso)));
        let next = media
            .or_else(|| boot.as_ref().and_then(|request| next_for_boot_request(job, now, request)));
        if let Some(plan) = next {
            return plan;
        }
    }
    match &job.request {
        JobRequest::Prepare { power: Some(PowerState::Off), .. }
        | JobRequest::Release { keep_power: false, .. }
            if now.power_state != Some(PowerState::Off) =>
        {
            next_to_be_off(job, now)
        }
        JobRequest::Prepare { power: Some(expected), .. } if now.power_state != Some(*expected) => {
            next_for_power_limited(job, now, *expected)
        }
        JobRequest::Release { media: Some(record), .. } => {
            next_to_restore(job, now, record).unwrap_or(Plan::Done)
        }
        JobRequest::Prepare { until: Some(readiness), .. }
            if !has_waited(job, StepName::Wait(readiness.kind())) =>
        {
            if now.power_state == Some(PowerState::On) {
                Plan::Await(readiness.clone())
            } else {
                let detail = format!("The machine is not on, so {readiness} cannot come.");
                Plan::Fail(Failure::new(FailureKind::InvalidPowerState, detail))
            }
        }
        JobRequest::Prepare { settle: Some(time), .. } if !has_waited(job, StepName::Settle) => {
            Plan::Settle(*time)
        }
        JobRequest::Prepare { snapshot: Some((snapshot, path)), .. }
        | JobRequest::Release { snapshot: Some((snapshot, path)), .. }
            if now.current_snapshot.as_ref() != Some(snapshot) =>
        {
            let detail = format!("After the revert to {path} another snapshot is current.");
            Plan::Fail(Failure::new(FailureKind::HostRejected, detail))
        }
        _ => Plan::Done,
    }
}

/// Whether the job may have to make another call after the one that just succeeded. If so, the
/// machine must be read again.
#[must_use]
pub fn may_continue(job: &Job) -> bool {
    if matches!(job.request, JobRequest::Prepare { .. } | JobRequest::Release { .. }) {
        return true;
    }
    match job.request {
        JobRequest::Revert { power_on: Some(true), .. } => !has_done(job, CallKind::PowerOn),
        // These jobs must leave the machine off. If the machine was suspended, their first power
        // call powered it on.
        JobRequest::Revert { power_on: Some(false), .. } | JobRequest::Kill => {
            !has_done(job, CallKind::PowerOff)
        }
        _ => false,
    }
}

/// Whether the guest was asked to shut down and may still shut down, although the job no longer
/// waits for that.
#[must_use]
pub fn guest_may_still_obey(job: &Job) -> bool {
    let shutdown = StepName::Call(CallKind::ShutdownGuest);
    job.steps.iter().any(|step| step.name == shutdown && step.state == JobStepState::Failed)
}

/// The call whose success ends the job. `None` if the state of the machine shows whether the
/// request is fulfilled.
const fn last_call(request: &JobRequest) -> Option<CallKind> {
    match request {
        JobRequest::Reset => Some(CallKind::Reset),
        JobRequest::Reboot => Some(CallKind::RebootGuest),
        JobRequest::Answer { .. } => Some(CallKind::Answer),
        JobRequest::CreateSnapshot { .. } => Some(CallKind::CreateSnapshot),
        JobRequest::RemoveSnapshot { .. } => Some(CallKind::RemoveSnapshot),
        JobRequest::RemoveAllSnapshots => Some(CallKind::RemoveAllSnapshots),
        JobRequest::Consolidate => Some(CallKind::ConsolidateDisks),
        JobRequest::RenameSnapshot { .. } => Some(CallKind::RenameSnapshot),
        JobRequest::PowerOn
        | JobRequest::PowerOff
        | JobRequest::Kill
        | JobRequest::Suspend
        | JobRequest::Shutdown { .. }
        | JobRequest::Revert { .. }
        | JobRequest::SetMedia { .. }
        | JobRequest::SetBoot(_)
        | JobRequest::UploadFile(_)
        | JobRequest::DeleteFile
        | JobRequest::CreateFolder
        | JobRequest::Prepare { .. }
        | JobRequest::Release { .. } => None,
    }
}

fn next_for_power(now: &Evidence, expected: PowerState) -> Plan {
    match expected {
        expected if now.power_state == Some(expected) => Plan::Done,
        PowerState::On => Plan::Call(HostCall::PowerOn),
        // A suspended machine is powered off too, although hosts can refuse this: the host decides.
        _ => Plan::Call(HostCall::PowerOff),
    }
}

/// The next call of a job that must leave the machine off, whatever the machine's power state is.
/// Hosts refuse to power off a suspended machine, so it is powered on first.
fn next_to_be_off(job: &Job, now: &Evidence) -> Plan {
    let expected = match now.power_state {
        Some(PowerState::Suspended) => PowerState::On,
        _ => PowerState::Off,
    };
    next_for_power_limited(job, now, expected)
}

/// The plan of [`next_for_power`], with a limit: each call may succeed at most [`MAX_SENDS`] times,
/// because another user may undo its effect each time.
fn next_for_power_limited(job: &Job, now: &Evidence, expected: PowerState) -> Plan {
    match next_for_power(now, expected) {
        Plan::Call(call) => limited(job, call, FailureKind::InvalidPowerState),
        plan => plan,
    }
}

/// Plans a call that may succeed at most [`MAX_SENDS`] times.
///
/// # Parameters
/// - `kind`: the kind of the failure after that.
fn limited(job: &Job, call: HostCall, kind: FailureKind) -> Plan {
    let name = StepName::Call(call.kind());
    let done =
        job.steps.iter().filter(|step| step.name == name && step.state == JobStepState::Succeeded);
    if done.count() < MAX_SENDS as usize {
        return Plan::Call(call);
    }
    let detail = format!("{} was undone each time.", name.as_str().replace('_', " "));
    Plan::Fail(Failure::new(kind, detail))
}

fn call_on_snapshot(
    now: &Evidence,
    snapshot: &SnapshotId,
    path: &str,
    call: impl FnOnce() -> HostCall,
) -> Plan {
    if now.snapshot(snapshot).is_some() {
        return Plan::Call(call());
    }
    let detail = format!("The snapshot {path} is no longer on the machine; nothing was done.");
    Plan::Fail(Failure::new(FailureKind::NotFound, detail))
}

fn fail_not_on(what: &str) -> Plan {
    let detail = format!("Only a machine that is on can be {what}.");
    Plan::Fail(Failure::new(FailureKind::InvalidPowerState, detail))
}

fn has_done(job: &Job, call: CallKind) -> bool {
    job.steps
        .iter()
        .any(|step| step.name == StepName::Call(call) && step.state == JobStepState::Succeeded)
}

/// Whether a preparation has begun the steps that follow the drives and the boot options. From then
/// on the guest may have ejected what was put in.
fn is_past_media(job: &Job) -> bool {
    let revert = StepName::Call(CallKind::RevertToSnapshot);
    let is_later = |name| {
        matches!(
            name,
            StepName::Call(CallKind::PowerOn | CallKind::PowerOff)
                | StepName::Wait(_)
                | StepName::Settle
        )
    };
    let mut since_revert = job.steps.iter().rev().take_while(|step| step.name != revert);
    since_revert.any(|step| is_later(step.name))
}

/// Whether the job finished the wait `name` after its last call. A wait before the last call does
/// not count, because the call may have changed what the job waited for.
fn has_waited(job: &Job, name: StepName) -> bool {
    let since_call =
        job.steps.iter().rev().take_while(|step| !matches!(step.name, StepName::Call(_)));
    since_call.into_iter().any(|step| step.name == name && step.state == JobStepState::Succeeded)
}

/// Whether the step of this call has ended, with any result.
fn has_attempted(job: &Job, call: CallKind) -> bool {
    job.steps
        .iter()
        .any(|step| step.name == StepName::Call(call) && step.state != JobStepState::Running)
}
