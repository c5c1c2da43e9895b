//! A table of the next action of a job: the request, the finished steps, the machine's state, and
//! the expected action.

use std::time::Duration;

use super::Plan::{Await, Call, Done, Settle};
use super::{Plan, guest_may_still_obey, may_continue, needs_media, next};
use crate::domain::call::{CallKind, Evidence, HostCall};
use crate::domain::failure::FailureKind;
use crate::domain::ids::{QuestionId, SnapshotId};
use crate::domain::job::{Job, JobRequest, JobStep, JobStepState, StepName};
use crate::domain::lease::Readiness;
use crate::domain::media::{
    BootDevice, BootEntry, BootMedia, BootOptions, BootRequest, MediaRecord,
};
use crate::domain::power::PowerState::{self, Off, On, Suspended};
use crate::domain::screen_text::ScreenText;
use crate::domain::serial::SerialText;
use crate::service::jobs::lost_call::MAX_SENDS;
use crate::service::jobs::samples::{drive, evidence, job, snapshot_evidence};

const MINUTE: Duration = Duration::from_mins(1);

fn base() -> SnapshotId {
    SnapshotId::from_backend("16-snapshot-1")
}

fn named() -> (SnapshotId, String) {
    (base(), "base".to_owned())
}

fn revert(power_on: Option<bool>) -> JobRequest {
    JobRequest::Revert { snapshot: base(), path: "base".to_owned(), power_on }
}

fn prepare(
    snapshot: bool,
    power: Option<PowerState>,
    until: Option<Readiness>,
    settle: bool,
) -> JobRequest {
    let (snapshot, settle) = (snapshot.then(named), settle.then_some(MINUTE));
    JobRequest::Prepare { snapshot, iso: None, boot: None, power, until, cidr: None, settle }
}

fn release(snapshot: bool, keep_power: bool) -> JobRequest {
    JobRequest::Release { keep_power, snapshot: snapshot.then(named), media: None }
}

fn rename(name: Option<&str>, description: Option<&str>) -> JobRequest {
    let (name, description) = (name.map(str::to_owned), description.map(str::to_owned));
    JobRequest::RenameSnapshot { snapshot: base(), path: "base".to_owned(), name, description }
}

fn remove(children: bool) -> JobRequest {
    JobRequest::RemoveSnapshot { snapshot: base(), path: "base".to_owned(), children }
}

/// A job with this request and these steps.
fn job_after(request: JobRequest, steps: &[(&str, JobStepState)]) -> Job {
    let step = |(name, state): &(&str, JobStepState)| JobStep {
        name: StepName::parse(name).unwrap(),
        state: *state,
        started_at: None,
        finished_at: None,
        detail: None,
        seen: None,
    };
    Job { steps: steps.iter().map(step).collect(), ..job(request) }
}

/// Steps that succeeded, one for each name.
fn succeeded<'a>(names: &[&'a str]) -> Vec<(&'a str, JobStepState)> {
    names.iter().map(|name| (*name, JobStepState::Succeeded)).collect()
}

fn next_after(request: &JobRequest, done: &[&str], power: PowerState) -> Plan {
    next(&job_after(request.clone(), &succeeded(done)), &evidence(power))
}

fn failure_kind(plan: &Plan) -> FailureKind {
    match plan {
        Plan::Fail(failure) => failure.kind,
        other => panic!("{other:?} is not a failure"),
    }
}

fn reverted() -> Plan {
    Call(HostCall::RevertToSnapshot { snapshot: base(), suppress_power_on: false })
}

#[test]
fn a_power_request_leads_to_its_call() {
    for (request, power, plan) in [
        (JobRequest::PowerOn, On, Done),
        (JobRequest::PowerOn, Off, Call(HostCall::PowerOn)),
        (JobRequest::PowerOn, Suspended, Call(HostCall::PowerOn)),
        (JobRequest::PowerOff, Off, Done),
        (JobRequest::PowerOff, On, Call(HostCall::PowerOff)),
        (JobRequest::PowerOff, Suspended, Call(HostCall::PowerOff)),
        (JobRequest::Kill, Off, Done),
        (JobRequest::Kill, On, Call(HostCall::PowerOff)),
        (JobRequest::Kill, Suspended, Call(HostCall::PowerOn)),
        (JobRequest::Suspend, Suspended, Done),
        (JobRequest::Suspend, On, Call(HostCall::Suspend)),
        (JobRequest::Reset, On, Call(HostCall::Reset)),
        (JobRequest::Reboot, On, Call(HostCall::RebootGuest)),
        (JobRequest::Shutdown { force_after: None }, Off, Done),
        (JobRequest::Shutdown { force_after: None }, On, Call(HostCall::ShutdownGuest)),
        (JobRequest::Shutdown { force_after: Some(MINUTE) }, Off, Done),
        (JobRequest::Shutdown { force_after: Some(MINUTE) }, On, Call(HostCall::ShutdownGuest)),
        (JobRequest::Shutdown { force_after: Some(MINUTE) }, Suspended, Call(HostCall::PowerOff)),
    ] {
        assert_eq!(
            next_after(&request, &[], power),
            plan,
            "{request:?} of a machine that is {power:?}"
        );
    }
    for (request, power) in [
        (JobRequest::Reset, Off),
        (JobRequest::Reset, Suspended),
        (JobRequest::Suspend, Off),
        (JobRequest::Reboot, Off),
        (JobRequest::Reboot, Suspended),
        (JobRequest::Shutdown { force_after: None }, Suspended),
    ] {
        let plan = next_after(&request, &[], power);
        assert_eq!(failure_kind(&plan), FailureKind::InvalidPowerState, "{request:?} of {power:?}");
    }
}

#[test]
fn a_guest_is_asked_once_to_shut_down() {
    let (patient, forced) = (
        JobRequest::Shutdown { force_after: None },
        JobRequest::Shutdown { force_after: Some(MINUTE) },
    );
    for state in [JobStepState::Succeeded, JobStepState::Failed, JobStepState::Skipped] {
        let tried = |request: &JobRequest| job_after(request.clone(), &[("shutdown", state)]);
        assert_eq!(next(&tried(&forced), &evidence(On)), Call(HostCall::PowerOff), "{state:?}");
        let patient = next(&tried(&patient), &evidence(On));
        assert_eq!(failure_kind(&patient), FailureKind::InvalidPowerState, "{state:?}");
    }
    let asking = job_after(forced.clone(), &[("shutdown", JobStepState::Running)]);
    assert_eq!(next(&asking, &evidence(On)), Call(HostCall::ShutdownGuest));
    // Only a step that asked the guest to shut down counts as a request to the guest. This job has
    // another step, so the guest is still asked.
    let other = job_after(forced.clone(), &[("power_off", JobStepState::Failed)]);
    assert_eq!(next(&other, &evidence(On)), Call(HostCall::ShutdownGuest));

    assert!(guest_may_still_obey(&job_after(
        forced.clone(),
        &[("shutdown", JobStepState::Failed)]
    )));
    assert!(!guest_may_still_obey(&job_after(
        forced.clone(),
        &[("shutdown", JobStepState::Succeeded)]
    )));
    assert!(!guest_may_still_obey(&job_after(
        forced.clone(),
        &[("power_off", JobStepState::Failed)]
    )));
    assert!(!guest_may_still_obey(&job_after(forced, &[])));
}

#[test]
fn a_job_with_one_call_repeats_the_call_until_it_succeeded() {
    let answer =
        JobRequest::Answer { question: QuestionId::from_backend("q"), choice: "4".to_owned() };
    let create = JobRequest::CreateSnapshot {
        name: "new".to_owned(),
        description: "why".to_owned(),
        memory: true,
        quiesce: false,
    };
    let made = HostCall::CreateSnapshot {
        name: "new".to_owned(),
        description: "why".to_owned(),
        memory: true,
        quiesce: false,
    };
    let answered =
        HostCall::Answer { question: QuestionId::from_backend("q"), choice: "4".to_owned() };
    let renamed = HostCall::RenameSnapshot {
        snapshot: base(),
        name: Some("renamed".to_owned()),
        description: None,
    };
    for (request, call) in [
        (JobRequest::Reset, HostCall::Reset),
        (JobRequest::Reboot, HostCall::RebootGuest),
        (answer, answered),
        (create, made),
        (remove(false), HostCall::RemoveSnapshot { snapshot: base(), children: false }),
        (remove(true), HostCall::RemoveSnapshot { snapshot: base(), children: true }),
        (JobRequest::RemoveAllSnapshots, HostCall::RemoveAllSnapshots),
        (JobRequest::Consolidate, HostCall::ConsolidateDisks),
        (rename(Some("renamed"), None), renamed),
    ] {
        assert_eq!(next_after(&request, &[], On), Call(call.clone()), "{request:?}");
        assert_eq!(next_after(&request, &[call.kind().as_str()], On), Done, "{request:?}");
        for failed in [JobStepState::Failed, JobStepState::Running] {
            let steps = [(call.kind().as_str(), failed)];
            assert_eq!(
                next(&job_after(request.clone(), &steps), &evidence(On)),
                Call(call.clone())
            );
        }
        assert!(!may_continue(&job_after(request.clone(), &[])), "{request:?}");
    }
}

#[test]
fn a_request_that_names_a_snapshot_needs_it() {
    let bare = Evidence { snapshots: Vec::new(), current_snapshot: None, ..evidence(Off) };
    for request in [
        revert(None),
        remove(false),
        rename(Some("renamed"), None),
        prepare(true, None, None, false),
        release(true, false),
    ] {
        assert_eq!(
            failure_kind(&next(&job(request.clone()), &bare)),
            FailureKind::NotFound,
            "{request:?}"
        );
    }
    assert_eq!(next(&job(JobRequest::RemoveAllSnapshots), &bare), Done);
    let consolidated = Evidence { consolidation_needed: Some(false), ..evidence(Off) };
    assert_eq!(next(&job(JobRequest::Consolidate), &consolidated), Done);
    let unknown = Evidence { consolidation_needed: None, ..evidence(Off) };
    assert_eq!(next(&job(JobRequest::Consolidate), &unknown), Call(HostCall::ConsolidateDisks));
}

#[test]
fn a_snapshot_that_has_the_name_is_not_renamed() {
    assert_eq!(next_after(&rename(Some("base"), None), &[], Off), Done);
    assert_eq!(next_after(&rename(Some("base"), Some("")), &[], Off), Done);
    assert!(matches!(next_after(&rename(Some("base"), Some("why")), &[], Off), Call(_)));
    assert!(matches!(next_after(&rename(None, Some("why")), &[], Off), Call(_)));
}

#[test]
fn a_revert_is_done_once_and_then_the_power_is_set() {
    for power_on in [None, Some(true), Some(false)] {
        assert_eq!(
            next_after(&revert(power_on), &[], On),
            reverted(),
            "also to the current snapshot"
        );
    }
    for (power_on, power, plan) in [
        (None, On, Done),
        (None, Off, Done),
        (Some(true), On, Done),
        (Some(true), Off, Call(HostCall::PowerOn)),
        (Some(true), Suspended, Call(HostCall::PowerOn)),
        (Some(false), Off, Done),
        (Some(false), On, Call(HostCall::PowerOff)),
        (Some(false), Suspended, Call(HostCall::PowerOn)),
    ] {
        assert_eq!(
            next_after(&revert(power_on), &["revert"], power),
            plan,
            "{power_on:?} {power:?}"
        );
    }
    let reverted =
        |power_on, steps: &[&str]| may_continue(&job_after(revert(power_on), &succeeded(steps)));
    assert!(!reverted(None, &["revert"]));
    assert!(reverted(Some(true), &["revert"]));
    assert!(reverted(Some(false), &["revert"]));
    assert!(!reverted(Some(true), &["revert", "power_on"]));
    assert!(!reverted(Some(false), &["revert", "power_off"]));
    assert!(reverted(Some(false), &["revert", "power_on"]), "it was suspended");
}

#[test]
fn a_suspended_machine_that_must_be_off_is_powered_on_and_off() {
    for request in [JobRequest::Kill, prepare(false, Some(Off), None, false), release(false, false)]
    {
        let next = |done: &[&str], power| next_after(&request, done, power);
        assert_eq!(next(&[], Suspended), Call(HostCall::PowerOn), "{request:?}");
        assert_eq!(next(&["power_on"], On), Call(HostCall::PowerOff), "{request:?}");
        assert_eq!(next(&["power_on", "power_off"], Off), Done, "{request:?}");
        assert!(may_continue(&job_after(request.clone(), &succeeded(&["power_on"]))));
    }
    // If the release names a snapshot, the job reverts the suspended machine, and the revert sets
    // its power state.
    assert_eq!(next_after(&release(true, false), &[], Suspended), reverted());
    assert_eq!(next_after(&release(true, false), &["revert"], Suspended), Call(HostCall::PowerOn));
    assert!(!may_continue(&job_after(JobRequest::Kill, &succeeded(&["power_off"]))));
}

#[test]
fn the_release_of_a_machine_with_a_question_pulls_the_plug_first() {
    let asks =
        |power| Evidence { question: Some(QuestionId::from_backend("q")), ..evidence(power) };
    for request in [release(false, false), release(true, false), release(true, true)] {
        assert_eq!(next(&job(request.clone()), &asks(On)), Call(HostCall::PowerOff), "{request:?}");
    }
    assert_eq!(next(&job(release(false, true)), &asks(On)), Done, "its power is kept");
    assert_eq!(next(&job(prepare(true, Some(On), None, false)), &asks(On)), reverted());
}

#[test]
fn a_preparation_reverts_powers_waits_and_settles_in_this_order() {
    let all = prepare(true, Some(On), Some(Readiness::Tools), true);
    assert_eq!(next_after(&all, &[], Off), reverted());
    assert_eq!(next_after(&all, &["revert"], Off), Call(HostCall::PowerOn));
    assert_eq!(next_after(&all, &["revert"], On), Await(Readiness::Tools));
    assert_eq!(next_after(&all, &["revert", "power_on"], On), Await(Readiness::Tools));
    assert_eq!(next_after(&all, &["revert", "power_on", "wait_tools"], On), Settle(MINUTE));
    assert_eq!(next_after(&all, &["revert", "power_on", "wait_tools", "settle"], On), Done);
    assert!(may_continue(&job(all)));

    assert_eq!(next_after(&prepare(false, None, None, false), &[], Suspended), Done);
    assert_eq!(
        next_after(&prepare(false, Some(Off), None, false), &[], On),
        Call(HostCall::PowerOff)
    );
    assert_eq!(next_after(&prepare(false, Some(Off), None, false), &[], Off), Done);
    assert_eq!(next_after(&prepare(false, None, None, true), &[], Off), Settle(MINUTE));
    for (readiness, step) in [
        (Readiness::On, "wait_power"),
        (Readiness::Address, "wait_ip"),
        (Readiness::Tools, "wait_tools"),
        (Readiness::Screen(ScreenText::new("Log In").unwrap()), "wait_screen"),
        (Readiness::Serial(SerialText::new(None, "login:").unwrap()), "wait_serial"),
    ] {
        let request = prepare(false, None, Some(readiness.clone()), false);
        assert_eq!(next_after(&request, &[], On), Await(readiness));
        assert_eq!(next_after(&request, &[step], On), Done, "{step}");
        let plan = next_after(&request, &[], Off);
        assert_eq!(
            failure_kind(&plan),
            FailureKind::InvalidPowerState,
            "{step} of a machine that is off"
        );
    }
}

#[test]
fn a_preparation_inserts_and_sets_the_boot_order_after_the_revert_and_before_the_power() {
    let iso = "[isos] qubes.iso";
    let boot = BootRequest { order: vec![BootDevice::Cdrom], delay: None };
    let order = vec![BootEntry { device: BootDevice::Cdrom, key: None }];
    let wanted = BootOptions { order, ..BootOptions::default() };
    let request = JobRequest::Prepare {
        snapshot: Some(named()),
        iso: Some(iso.to_owned()),
        boot: Some(boot),
        power: Some(On),
        until: None,
        cidr: None,
        settle: None,
    };
    assert!(needs_media(&request));
    let machine = |power, iso: Option<&str>, boot: &BootOptions| Evidence {
        media: BootMedia { drives: vec![drive(iso)], boot: boot.clone(), ..BootMedia::default() },
        ..evidence(power)
    };
    let none = BootOptions::default();
    let insert = HostCall::SetMedia { drive: drive(Some(iso)) };
    let set_boot = HostCall::SetBoot { boot: wanted.clone() };
    for (done, now, plan) in [
        (&[][..], machine(Off, None, &none), reverted()),
        (&["revert"], machine(Off, None, &none), Call(insert.clone())),
        (&["revert", "set_media"], machine(Off, Some(iso), &none), Call(set_boot)),
        (
            &["revert", "set_media", "set_boot"],
            machine(Off, Some(iso), &wanted),
            Call(HostCall::PowerOn),
        ),
        (&["revert"], machine(Off, Some(iso), &wanted), Call(HostCall::PowerOn)),
        // The guest may eject the disc once it runs.
        (&["revert", "set_media", "power_on"], machine(On, None, &wanted), Done),
        // A revert to a machine that is on.
        (&["revert"], machine(On, None, &wanted), Call(insert)),
    ] {
        let job = job_after(request.clone(), &succeeded(done));
        assert_eq!(next(&job, &now), plan, "{done:?}");
    }
    let without_drive = next(&job_after(request, &succeeded(&["revert"])), &evidence(Off));
    assert_eq!(failure_kind(&without_drive), FailureKind::NoDrive);
}

#[test]
fn a_release_restores_the_drive_and_the_boot_options_once_the_machine_is_off() {
    let iso = "[isos] qubes.iso";
    let before = BootOptions { delay: MINUTE, ..BootOptions::default() };
    let record = MediaRecord { drive: Some(drive(None)), boot: before.clone() };
    let request = JobRequest::Release { keep_power: false, snapshot: None, media: Some(record) };
    assert!(needs_media(&request) && !needs_media(&release(false, false)));
    let machine = |power, iso: Option<&str>, boot: &BootOptions| Evidence {
        media: BootMedia { drives: vec![drive(iso)], boot: boot.clone(), ..BootMedia::default() },
        ..evidence(power)
    };
    let now = BootOptions::default();
    for (state, plan) in [
        (machine(On, Some(iso), &now), Call(HostCall::PowerOff)),
        (machine(Off, Some(iso), &now), Call(HostCall::SetMedia { drive: drive(None) })),
        (machine(Off, None, &now), Call(HostCall::SetBoot { boot: before.clone() })),
        (machine(Off, None, &before), Done),
        // The drive is gone, so there is nothing to restore.
        (
            Evidence {
                media: BootMedia { boot: before.clone(), ..BootMedia::default() },
                ..evidence(Off)
            },
            Done,
        ),
    ] {
        assert_eq!(next(&job(request.clone()), &state), plan, "{:?}", state.media);
    }
}

#[test]
fn a_wait_counts_until_the_next_call_and_only_if_it_succeeded() {
    let all = prepare(false, Some(On), Some(Readiness::Tools), true);
    // Another user powered the machine off after the wait, and the job powered it on again. So the
    // job must wait for the tools again.
    assert_eq!(
        next_after(&all, &["power_on", "wait_tools", "power_on"], On),
        Await(Readiness::Tools)
    );
    assert_eq!(
        next_after(&all, &["power_on", "wait_tools", "settle", "power_on", "wait_tools"], On),
        Settle(MINUTE)
    );
    // A wait for an address does not replace the wait for the tools, and does not make it obsolete.
    assert_eq!(next_after(&all, &["wait_ip"], On), Await(Readiness::Tools));
    assert_eq!(next_after(&all, &["wait_tools", "wait_ip"], On), Settle(MINUTE));
    let failed = [("wait_tools", JobStepState::Failed)];
    assert_eq!(next(&job_after(all.clone(), &failed), &evidence(On)), Await(Readiness::Tools));
    let settling = [("wait_tools", JobStepState::Succeeded), ("settle", JobStepState::Running)];
    assert_eq!(next(&job_after(all, &settling), &evidence(On)), Settle(MINUTE));
}

#[test]
fn a_release_reverts_and_then_powers_off_unless_it_keeps_the_power() {
    assert_eq!(next_after(&release(true, false), &[], On), reverted());
    assert_eq!(next_after(&release(true, true), &[], On), reverted());
    for (request, done, power, plan) in [
        (release(false, false), &[][..], On, Call(HostCall::PowerOff)),
        (release(false, false), &[], Suspended, Call(HostCall::PowerOn)),
        (release(false, false), &[], Off, Done),
        (release(false, true), &[], On, Done),
        (release(true, false), &["revert"], On, Call(HostCall::PowerOff)),
        (release(true, false), &["revert"], Off, Done),
        (release(true, true), &["revert"], On, Done),
    ] {
        assert_eq!(
            next_after(&request, done, power),
            plan,
            "{request:?} after {done:?}, {power:?}"
        );
    }
    assert!(may_continue(&job(release(false, false))));
}

#[test]
fn a_revert_after_which_another_snapshot_is_current_has_failed() {
    let mut elsewhere = evidence(Off);
    elsewhere.snapshots.push(snapshot_evidence("16-snapshot-2", Some("16-snapshot-1"), "late"));
    elsewhere.current_snapshot = Some(SnapshotId::from_backend("16-snapshot-2"));
    for request in [prepare(true, None, None, false), release(true, false), release(true, true)] {
        let plan = next(&job_after(request.clone(), &succeeded(&["revert"])), &elsewhere);
        assert_eq!(failure_kind(&plan), FailureKind::HostRejected, "{request:?}");
        assert_eq!(next_after(&request, &["revert"], Off), Done);
    }
    // If the release names no snapshot, any snapshot may be current.
    assert_eq!(next(&job(release(false, false)), &elsewhere), Done);
}

#[test]
fn a_call_that_another_user_undoes_is_not_repeated_forever() {
    for (request, power, call) in [
        (prepare(false, Some(On), None, false), Off, HostCall::PowerOn),
        (prepare(false, Some(Off), None, false), On, HostCall::PowerOff),
        (release(false, false), On, HostCall::PowerOff),
    ] {
        let name = call.kind().as_str();
        let times = |done: usize| next_after(&request, &vec![name; done], power);
        let most = MAX_SENDS as usize;
        assert_eq!(times(most - 1), Call(call.clone()));
        let given_up = times(most);
        assert_eq!(failure_kind(&given_up), FailureKind::InvalidPowerState);
        // A step counts only if it is a step of this call and succeeded. The two other steps do not
        // count.
        let mut steps = succeeded(&vec![name; most - 1]);
        steps.extend([
            (name, JobStepState::Failed),
            (CallKind::Suspend.as_str(), JobStepState::Succeeded),
        ]);
        assert_eq!(next(&job_after(request, &steps), &evidence(power)), Call(call));
    }
}
