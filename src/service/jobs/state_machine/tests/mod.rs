//! Tests of the state machine: for each kind of job, the answers of the host and the end that is
//! expected of the job.
//!
//! ```text
//! table, lost_calls: request, answers of the host ──► script: the state machine ──► end, calls
//! ```
//! The tests contain the state of the machine and every answer of the host as fixed values, and
//! compute none of them.

mod lost_calls;
mod script;
mod table;

use std::time::Duration;

use jiff::SignedDuration;

use super::protocol::{CallResult, Effect, ObservedMachine, OtherJobs, TaskEnd};
use super::{Input, Interrupt, JobEnd, JobRules, JobStateMachine};
use crate::domain::call::{CallKind, Evidence, HostCall, RecentTask, SnapshotEvidence};
use crate::domain::failure::FailureKind;
use crate::domain::fault_origin::FaultOrigin;
use crate::domain::ids::{QuestionId, SnapshotId, TaskId};
use crate::domain::job::{Job, JobRequest, JobState};
use crate::domain::media::{BootDevice, BootEntry, BootMedia, BootRequest};
use crate::domain::origin::Actor;
use crate::domain::power::PowerState;
use crate::hypervisor::{Accepted, HostErrorKind};
use crate::service::host_failure::HostFailure;
use crate::service::jobs::samples::{drive, evidence, job, snapshot_evidence, start};

const RULES: JobRules =
    JobRules { settle: Duration::from_secs(30), question_grace: Duration::from_mins(1) };

fn revert(power_on: Option<bool>) -> JobRequest {
    JobRequest::Revert { snapshot: id("kickstart"), path: "kickstart".to_owned(), power_on }
}

fn create() -> JobRequest {
    let (name, description) = ("new".to_owned(), String::new());
    JobRequest::CreateSnapshot { name, description, memory: false, quiesce: false }
}

fn remove(children: bool) -> JobRequest {
    let path = "base/kickstart".to_owned();
    JobRequest::RemoveSnapshot { snapshot: id("kickstart"), path, children }
}

fn rename() -> JobRequest {
    let (path, name) = ("base/kickstart".to_owned(), Some("renamed".to_owned()));
    JobRequest::RenameSnapshot { snapshot: id("kickstart"), path, name, description: None }
}

fn answer() -> JobRequest {
    JobRequest::Answer { question: QuestionId::from_backend("q"), choice: "4".to_owned() }
}

/// The ISO of these tests.
const ISO: &str = "[isos] qubes.iso";

fn insert() -> JobRequest {
    JobRequest::SetMedia { iso: Some(ISO.to_owned()) }
}

fn eject() -> JobRequest {
    JobRequest::SetMedia { iso: None }
}

fn set_boot() -> JobRequest {
    let delay = Some(Duration::from_secs(5));
    JobRequest::SetBoot(BootRequest { order: vec![BootDevice::Cdrom], delay })
}

/// The machine with this ISO in its only drive, and with the boot options of [`set_boot`] or with
/// none.
fn with_media(evidence: Evidence, iso: Option<&str>, boots_from_cdrom: bool) -> Evidence {
    let mut media = BootMedia { drives: vec![drive(iso)], ..BootMedia::default() };
    if boots_from_cdrom {
        media.boot.order = vec![BootEntry { device: BootDevice::Cdrom, key: None }];
        media.boot.delay = Duration::from_secs(5);
    }
    Evidence { media, ..evidence }
}

/// A machine that has the snapshots `base`, `kickstart` and `leaf`, each the child of the previous
/// one. `kickstart` is current.
fn machine(power: PowerState) -> Evidence {
    Evidence {
        current_snapshot: Some(id("kickstart")),
        snapshots: vec![
            snapshot_evidence("base", None, "base"),
            snapshot_evidence("kickstart", Some("base"), "kickstart"),
            snapshot_evidence("leaf", Some("kickstart"), "leaf"),
        ],
        tools_running: power == PowerState::On,
        ..evidence(power)
    }
}

fn on() -> Evidence {
    machine(PowerState::On)
}

fn off() -> Evidence {
    machine(PowerState::Off)
}

/// The same evidence with one more snapshot on the machine.
fn with_snapshot(mut evidence: Evidence, snapshot: SnapshotEvidence) -> Evidence {
    evidence.snapshots.push(snapshot);
    evidence
}

/// The same evidence without the snapshots that have these names.
fn without(mut evidence: Evidence, gone: &[&str]) -> Evidence {
    evidence.snapshots.retain(|seen| !gone.contains(&seen.id.backend_text()));
    evidence
}

/// The same evidence of a machine whose disks need no consolidation.
fn consolidated(evidence: Evidence) -> Evidence {
    Evidence { consolidation_needed: Some(false), ..evidence }
}

/// The same evidence with a task that has ended.
fn with_task(evidence: Evidence, task: &str, call: CallKind, by_us: bool) -> Evidence {
    with_tasks(evidence, task, call, by_us, false)
}

/// The same evidence with a task that runs.
fn with_running_task(evidence: Evidence, task: &str, call: CallKind, by_us: bool) -> Evidence {
    with_tasks(evidence, task, call, by_us, true)
}

fn with_tasks(
    mut evidence: Evidence,
    task: &str,
    call: CallKind,
    by_us: bool,
    running: bool,
) -> Evidence {
    let id = TaskId::from_backend(task);
    evidence.recent_tasks.push(RecentTask { id, call: Some(call), by_us, running });
    evidence
}

/// The same evidence of a machine that waits for the answer to a question.
fn with_question(evidence: Evidence, question: &str) -> Evidence {
    Evidence { question: Some(QuestionId::from_backend(question)), ..evidence }
}

/// The evidence of another machine that has the id of the job's machine.
fn another_machine() -> Evidence {
    let mut evidence = off();
    evidence.identity.instance_uuid = Some("another".to_owned());
    evidence
}

/// The evidence while the host cannot read the configuration of the machine.
fn unreadable_machine() -> Evidence {
    let mut evidence = off();
    (evidence.identity.instance_uuid, evidence.identity.path) = (None, None);
    evidence
}

fn id(snapshot: &str) -> SnapshotId {
    SnapshotId::from_backend(snapshot)
}

#[test]
fn a_jump_of_the_wall_clock_does_not_change_an_end() {
    let mut state_machine = JobStateMachine::from_queued(job(JobRequest::PowerOn), RULES);
    state_machine.cancel_queued(Actor::otter(), start());
    let ended = state_machine.job().clone();
    state_machine.shift_deadline(SignedDuration::from_hours(1), start());
    assert_eq!(*state_machine.job(), ended);
}

#[test]
fn a_deadline_that_passes_while_the_host_is_away_has_the_outage_as_its_cause() {
    let mut waiting = JobStateMachine::from_queued(job(JobRequest::PowerOff), RULES);
    waiting.start(start());
    let away = HostFailure {
        kind: HostErrorKind::Unreachable,
        message: "It does not answer.".to_owned(),
        fault: None,
        blocking_task: None,
        outcome_uncertain: false,
    };
    assert_eq!(waiting.step(Input::Examined(Err(away)), start()), Effect::Save, "its start");
    waiting.step(Input::Saved, start());
    waiting.interrupt(Interrupt::Deadline { question: false }, start());
    let failure = waiting.job().error.clone().unwrap();
    assert_eq!(failure.kind, FailureKind::DeadlineExceeded);
    assert_eq!(failure.cause, Some(FailureKind::HostUnreachable));
    assert_eq!(failure.origin(), FaultOrigin::Host);
}

#[test]
fn a_deadline_that_passes_while_the_host_answers_has_no_outage_as_its_cause() {
    let mut waiting = JobStateMachine::from_queued(job(JobRequest::PowerOff), RULES);
    waiting.start(start());
    waiting.interrupt(Interrupt::Deadline { question: false }, start());
    let read = Ok((machine(PowerState::On), OtherJobs::default()));
    waiting.step(Input::Examined(read), start());
    let failure = waiting.job().error.clone().unwrap();
    assert_eq!((failure.kind, failure.cause), (FailureKind::DeadlineExceeded, None));
    assert_eq!(failure.origin(), FaultOrigin::Machine);

    // In this case otter was down until the deadline of the job.
    let running = waiting.job().clone();
    let running = Job { state: JobState::Running, error: None, finished_at: None, ..running };
    let (mut resumed, _) = JobStateMachine::resume(running, RULES);
    resumed.interrupt(Interrupt::Deadline { question: false }, start());
    let failure = resumed.job().error.clone().unwrap();
    assert_eq!(failure.cause, Some(FailureKind::HostUnreachable));
}

#[test]
fn a_suspended_machine_that_was_powered_on_to_be_powered_off_is_not_left_on() {
    let release = JobRequest::Release { keep_power: false, snapshot: None, media: None };
    for request in [JobRequest::Kill, release] {
        let cancel = Interrupt::Cancel(Actor::otter());
        for interrupt in [cancel, Interrupt::Deadline { question: false }] {
            let mut killing = JobStateMachine::from_queued(job(request.clone()), RULES);
            let read = |power| Input::Examined(Ok((machine(power), OtherJobs::default())));
            let task = |name| {
                Input::Called(CallResult::Accepted(Accepted::Task(TaskId::from_backend(name))))
            };
            let done = || Input::TaskEnded(TaskEnd::Succeeded { snapshot: None });
            killing.start(start());
            killing.step(read(PowerState::Suspended), start());
            let on = killing.step(Input::Saved, start());
            assert_eq!(on, Effect::Call(HostCall::PowerOn), "{request:?}");
            killing.step(task("t1"), start());
            killing.step(Input::Saved, start());
            killing.step(done(), start());
            killing.interrupt(interrupt.clone(), start());
            killing.step(Input::Saved, start());
            killing.step(read(PowerState::On), start());
            let off = killing.step(Input::Saved, start());
            assert_eq!(off, Effect::Call(HostCall::PowerOff), "{request:?} {interrupt:?}");
            killing.step(task("t2"), start());
            let followed = killing.step(Input::Saved, start());
            assert_eq!(followed, Effect::Follow(TaskId::from_backend("t2")));
            killing.step(done(), start());
            killing.step(Input::Saved, start());
            killing.step(read(PowerState::Off), start());
            killing.step(Input::Synced(Some(ObservedMachine::default())), start());
            assert_eq!(killing.job().state, JobState::Succeeded, "{request:?} {interrupt:?}");
        }
    }
}

#[test]
fn disks_that_still_need_a_consolidation_are_a_warning_with_the_path_of_the_machine() {
    for (request, warns) in [
        (JobRequest::Consolidate, true),
        (JobRequest::RemoveAllSnapshots, true),
        (JobRequest::PowerOn, false),
    ] {
        for needed in [false, true] {
            let mut state_machine = JobStateMachine::from_queued(job(request.clone()), RULES);
            let shown =
                ObservedMachine { consolidation_needed: Some(needed), ..Default::default() };
            let _ = state_machine.close(JobEnd::Succeeded, Some(shown), start());
            let warnings = state_machine.job().warnings.concat();
            let machine = state_machine.job().target.id();
            let path = format!("POST /v1/machines/{machine}/consolidate.");
            assert_eq!(warnings.contains(&path), warns && needed, "{request:?}: {warnings}");
            assert!(!warnings.contains('{'), "{warnings}");
        }
    }
}
