//! The table of cases: the request, the answers of the host, the expected end and the expected
//! calls. The file `lost_calls` has the cases in which a call is lost.

use std::time::Duration;

use super::script::Ending::{Cancelled, Changed, Failed, Unchanged, Unknown};
use super::script::ScriptLine::{
    Accepted, Cancel, Committed, Crash, Deadline, DeadlineWithQuestion, Done, ForceAfter,
    GraceOver, Guest, GuestGone, HostBack, Lost, NoReadiness, OtherTaskEnded, Paused, QuestionGone,
    QuestionUnanswered, Ready, Refused, RefusedBecauseOf, Saw, SawWithOthers, Settled, Shows,
    TaskCancelled, TaskCreated, TaskFailed, TaskSucceeded, TaskUncertain, TaskVanished, Unreadable,
    Unsynced,
};
use super::script::{Ending, Played, ScriptLine, play};
use super::{
    ISO, another_machine, answer, consolidated, create, eject, id, insert, machine, off, on,
    remove, rename, revert, set_boot, snapshot_evidence, unreadable_machine, with_media,
    with_question, with_running_task, with_snapshot, with_task, without,
};
use crate::domain::call::{CallKind, Evidence};
use crate::domain::failure::FailureKind;
use crate::domain::fault_origin::FaultOrigin;
use crate::domain::job::{JobRequest, JobStepState};
use crate::domain::lease::Readiness;
use crate::domain::power::PowerState::{self, Off, On, Suspended};
use crate::domain::screen_text::ScreenText;
use crate::hypervisor::HostErrorKind as Error;
use crate::service::jobs::state_machine::{GuestObservation, OtherJobs};

const RUNS: GuestObservation = guest(On, true);
const TOOLS_STOPPED: GuestObservation = guest(On, false);
const TOOLS_CYCLED: GuestObservation = GuestObservation { tools_stopped: true, ..RUNS };
const IS_OFF: GuestObservation = guest(Off, false);

const ON: CallKind = CallKind::PowerOn;
const OFF: CallKind = CallKind::PowerOff;
const REVERT: CallKind = CallKind::RevertToSnapshot;
const CREATE: CallKind = CallKind::CreateSnapshot;
const SHUTDOWN: CallKind = CallKind::ShutdownGuest;

const fn guest(power: PowerState, tools_running: bool) -> GuestObservation {
    GuestObservation { power_state: Some(power), tools_running, tools_stopped: false }
}

fn shutdown(forced: bool) -> JobRequest {
    JobRequest::Shutdown { force_after: forced.then_some(Duration::from_mins(1)) }
}

/// Plays a case, and checks the end of the job and the calls that it made.
#[track_caller]
fn check(request: JobRequest, lines: &[ScriptLine], ending: Ending, calls: &[CallKind]) -> Played {
    let name = format!("{request:?}: {lines:?}");
    let played = play(request, lines);
    assert_eq!((played.ending(), &*played.calls), (ending, calls), "{name}");
    played
}

/// One entry for each kind of job: the request, the machine before and after the job, the call, and
/// the host's answers.
fn every_kind() -> Vec<(JobRequest, Evidence, CallKind, Vec<ScriptLine>)> {
    let task = || vec![Accepted("task"), TaskSucceeded];
    vec![
        (JobRequest::PowerOn, off(), ON, task()),
        (JobRequest::PowerOff, on(), OFF, task()),
        (JobRequest::Kill, on(), OFF, task()),
        (JobRequest::Reset, on(), CallKind::Reset, task()),
        (JobRequest::Suspend, on(), CallKind::Suspend, task()),
        (shutdown(false), on(), SHUTDOWN, vec![Done, Guest(RUNS), Guest(IS_OFF)]),
        (shutdown(true), on(), SHUTDOWN, vec![Done, Guest(RUNS), Guest(IS_OFF)]),
        (
            JobRequest::Reboot,
            on(),
            CallKind::RebootGuest,
            vec![Done, Guest(RUNS), Guest(TOOLS_STOPPED), Guest(RUNS)],
        ),
        (answer(), with_question(off(), "q"), CallKind::Answer, vec![Done]),
        (create(), off(), CREATE, vec![Accepted("task"), TaskCreated("new")]),
        (revert(None), off(), REVERT, task()),
        (remove(false), off(), CallKind::RemoveSnapshot, task()),
        (remove(true), off(), CallKind::RemoveSnapshot, task()),
        (JobRequest::RemoveAllSnapshots, off(), CallKind::RemoveAllSnapshots, task()),
        (JobRequest::Consolidate, off(), CallKind::ConsolidateDisks, task()),
        (rename(), off(), CallKind::RenameSnapshot, vec![Done]),
        (insert(), with_media(off(), None, false), CallKind::SetMedia, task()),
        (eject(), with_media(on(), Some(ISO), false), CallKind::SetMedia, task()),
        (set_boot(), with_media(off(), None, false), CallKind::SetBoot, task()),
    ]
}

/// The machine that proves a call whose task otter followed only after a restart. `None` for the
/// calls that need no such proof.
fn proof(request: &JobRequest) -> Option<Evidence> {
    match request {
        JobRequest::Revert { .. } => Some(off()),
        JobRequest::SetMedia { iso } => Some(with_media(off(), iso.as_deref(), false)),
        JobRequest::SetBoot(_) => Some(with_media(off(), None, true)),
        _ => None,
    }
}

#[test]
fn a_machine_that_boots_from_the_right_thing_is_not_changed() {
    for (request, machine) in [
        (insert(), with_media(on(), Some(ISO), false)),
        (eject(), with_media(on(), None, false)),
        (set_boot(), with_media(off(), None, true)),
    ] {
        check(request, &[Saw(machine)], Unchanged, &[]);
    }
    let no_drive = Failed(FailureKind::NoDrive);
    check(insert(), &[Saw(off())], no_drive, &[]);
    check(eject(), &[Saw(off())], no_drive, &[]);
}

#[test]
fn every_kind_succeeds_with_one_call() {
    for (request, before, call, answers) in every_kind() {
        let lines = [&[Saw(before)], &*answers].concat();
        check(request, &lines, Changed, &[call]);
    }
}

#[test]
fn every_kind_ends_without_a_call_if_the_machine_is_gone() {
    for (request, ..) in every_kind() {
        let gone = Failed(FailureKind::MachineGone);
        check(request.clone(), &[Unreadable(Error::NotFound)], gone, &[]);
        check(request, &[Saw(another_machine())], gone, &[]);
    }
}

#[test]
fn every_kind_waits_for_a_machine_whose_configuration_cannot_be_read() {
    for (request, before, call, answers) in every_kind() {
        let late = Failed(FailureKind::DeadlineExceeded);
        check(request.clone(), &[Saw(unreadable_machine()), Deadline], late, &[]);
        let readable = [Saw(unreadable_machine()), HostBack, Saw(before)];
        check(request, &[&readable[..], &answers].concat(), Changed, &[call]);
    }
}

#[test]
fn every_kind_is_cancelled_or_late_without_a_call() {
    for (request, before, ..) in every_kind() {
        let late = Failed(FailureKind::DeadlineExceeded);
        for (interrupt, ending) in [(Cancel, Cancelled), (Deadline, late)] {
            let away = [Unreadable(Error::Unreachable), interrupt.clone()];
            check(request.clone(), &away, ending, &[]);
            let reading = [interrupt.clone(), Saw(before.clone())];
            check(request.clone(), &reading, ending, &[]);
            let committing = [Saw(before.clone()), interrupt];
            check(request.clone(), &committing, ending, &[]);
        }
    }
}

#[test]
fn every_kind_that_is_refused_fails_and_changed_nothing() {
    for (request, before, call, _) in every_kind() {
        let failed = Failed(FailureKind::ForbiddenByHost);
        check(request, &[Saw(before), Refused(Error::Forbidden)], failed, &[call]);
    }
}

#[test]
fn every_kind_goes_on_after_a_crash() {
    for (request, before, call, answers) in every_kind() {
        // If otter crashes while the intent is not on disk, no call was sent, so the job begins
        // again.
        let lines = [&[Saw(before.clone()), Crash, Saw(before)], &*answers];
        check(request, &lines.concat(), Changed, &[call]);
    }
    for (request, before, call, answers) in every_kind() {
        let [Accepted(task), end] = &*answers else { continue };
        let lines = [Saw(before), Accepted(task), Committed, Crash, end.clone()];
        // Some tasks that otter followed only after a restart count only if the machine shows
        // their effect.
        let shown = proof(&request).map(Saw);
        let lines: Vec<ScriptLine> = lines.into_iter().chain(shown).collect();
        check(request, &lines, Changed, &[call]);
    }
}

#[test]
fn every_task_is_cancelled_on_request_and_at_the_deadline() {
    let late = Failed(FailureKind::DeadlineExceeded);
    for (request, before, call, answers) in every_kind() {
        let Some(Accepted(task)) = answers.first() else { continue };
        for (interrupt, ending) in [(Cancel, Cancelled), (Deadline, late)] {
            let while_called =
                [Saw(before.clone()), Committed, interrupt.clone(), Accepted(task), TaskCancelled];
            check(request.clone(), &while_called, ending, &[call]);
            let while_running =
                [Saw(before.clone()), Accepted(task), Committed, interrupt, TaskCancelled];
            check(request.clone(), &while_running, ending, &[call]);
        }
        // Otter crashes after the request to cancel. The request is not lost.
        let crash = [
            Saw(before.clone()),
            Accepted(task),
            Committed,
            Cancel,
            Committed,
            Crash,
            TaskCancelled,
        ];
        check(request.clone(), &crash, Cancelled, &[call]);
        // In this case the host does not cancel the task within the grace.
        let goes_on = [Saw(before.clone()), Accepted(task), Committed, Deadline, GraceOver];
        check(request.clone(), &goes_on, Unknown, &[call]);
        let with_question =
            [Saw(before), Accepted(task), Committed, DeadlineWithQuestion, TaskCancelled];
        let ending = if request == JobRequest::Kill { late } else { QUESTION };
        check(request, &with_question, ending, &[call]);
    }
}

const QUESTION: Ending = Failed(FailureKind::QuestionPending);

#[test]
fn the_requested_power_state_needs_no_call() {
    for (request, machine) in [
        (JobRequest::PowerOn, on()),
        (JobRequest::PowerOff, off()),
        (JobRequest::Kill, off()),
        (JobRequest::Suspend, machine(Suspended)),
        (shutdown(false), off()),
        (JobRequest::RemoveAllSnapshots, without(off(), &["base", "kickstart", "leaf"])),
        (JobRequest::Consolidate, consolidated(off())),
    ] {
        check(request.clone(), &[Saw(machine.clone())], Unchanged, &[]);
        // A request to cancel that comes after the end is decided changes nothing.
        check(request, &[Saw(machine), Unsynced, HostBack, Cancel], Unchanged, &[]);
    }
    let wrong = Failed(FailureKind::InvalidPowerState);
    for request in [JobRequest::Reset, JobRequest::Reboot, JobRequest::Suspend, shutdown(false)] {
        let saw = if request == shutdown(false) { machine(Suspended) } else { off() };
        check(request, &[Saw(saw)], wrong, &[]);
    }
    let gone = || Saw(without(off(), &["kickstart"]));
    for request in [revert(None), remove(false), remove(true), rename()] {
        check(request, &[gone()], Failed(FailureKind::NotFound), &[]);
    }
}

#[test]
fn a_foreign_task_or_a_question_is_waited_for() {
    let busy = || Saw(with_running_task(on(), "foreign", ON, false));
    let call = [Accepted("task"), TaskSucceeded];
    let waits = [&[busy(), OtherTaskEnded, Saw(on())], &call[..]].concat();
    check(JobRequest::PowerOff, &waits, Changed, &[OFF]);
    let late = Failed(FailureKind::MachineBusy);
    check(JobRequest::PowerOff, &[busy(), Deadline], late, &[]);
    let asks = || Saw(with_question(off(), "q"));
    let waits = [&[asks(), QuestionGone, Saw(off())], &call[..]].concat();
    check(JobRequest::PowerOn, &waits, Changed, &[ON]);
    check(JobRequest::PowerOn, &[asks(), Deadline], QUESTION, &[]);
    // A question of the machine is not the reason why a kill or an answer fails at its deadline.
    for request in [JobRequest::Kill, answer()] {
        let lines = [Unreadable(Error::Unreachable), DeadlineWithQuestion];
        check(request, &lines, Failed(FailureKind::DeadlineExceeded), &[]);
    }
}

#[test]
fn a_kill_waits_only_for_what_may_power_the_machine_on() {
    let call = [Saw(on()), Accepted("task"), TaskSucceeded];
    // The kill sends its call although a task runs. The host refuses the call and names this task,
    // and the kill sends the call again after the end of the task.
    let foreign = || Saw(with_running_task(on(), "foreign", REVERT, false));
    let again = [&[foreign(), RefusedBecauseOf("foreign"), OtherTaskEnded], &call[..]].concat();
    check(JobRequest::Kill, &again, Changed, &[OFF, OFF]);
    let starts = || Saw(with_running_task(off(), "foreign", ON, false));
    let waits = [&[starts(), OtherTaskEnded], &call[..]].concat();
    check(JobRequest::Kill, &waits, Changed, &[OFF]);
    let others = || OtherJobs { may_power_on: true, ..OtherJobs::default() };
    let waits = [&[SawWithOthers(off(), others()), Paused], &call[..]].concat();
    check(JobRequest::Kill, &waits, Changed, &[OFF]);
    // A running task that waits for an answer cannot power the machine on, so the kill does not
    // wait for it.
    let hangs = with_question(with_running_task(off(), "foreign", ON, false), "q");
    check(JobRequest::Kill, &[Saw(hangs)], Unchanged, &[]);
}

#[test]
fn a_refusal_that_proves_that_nothing_ran_leads_to_another_call() {
    for refusal in [Error::Busy, Error::Unreachable, Error::NotAuthenticated] {
        let lines = [Saw(on()), Refused(refusal), Saw(on()), Accepted("task"), TaskSucceeded];
        check(JobRequest::Reset, &lines, Changed, &[CallKind::Reset; 2]);
    }
    // Another user powered the machine on while the job waited, so the job need not do it.
    let lines = [Saw(off()), Refused(Error::Busy), Saw(on())];
    let played = check(JobRequest::PowerOn, &lines, Unchanged, &[ON]);
    assert_eq!(states(&played), [("power_on", JobStepState::Skipped)]);
}

#[test]
fn a_kill_powers_off_a_machine_that_was_suspended_while_the_kill_waited() {
    let waited = [Saw(on()), Refused(Error::Busy), Saw(machine(Suspended))];
    let cycle = [Accepted("on"), TaskSucceeded, Saw(on()), Accepted("off"), TaskSucceeded];
    let played = check(JobRequest::Kill, &[&waited[..], &cycle].concat(), Changed, &[OFF, ON, OFF]);
    let expected = [
        ("power_off", JobStepState::Skipped),
        ("power_on", JobStepState::Succeeded),
        ("power_off", JobStepState::Succeeded),
    ];
    assert_eq!(states(&played), expected);
}

#[test]
fn a_wrong_power_state_is_the_same_from_the_call_and_from_the_task() {
    let wrong = Error::InvalidPowerState;
    for refusal in [vec![Refused(wrong)], vec![Accepted("task"), TaskFailed(wrong)]] {
        let lines = |before: Evidence, after: &[Evidence]| {
            let after = after.iter().cloned().map(Saw).collect();
            [vec![Saw(before)], refusal.clone(), after].concat()
        };
        check(JobRequest::PowerOn, &lines(off(), &[on(), on()]), Unchanged, &[ON]);
        check(JobRequest::PowerOff, &lines(on(), &[off(), off()]), Unchanged, &[OFF]);
        let failed = Failed(FailureKind::InvalidPowerState);
        check(JobRequest::Reset, &lines(on(), &[off()]), failed, &[CallKind::Reset]);
    }
    // The call was lost and is sent again. The host refuses it because the machine is already on,
    // which proves that the first sending ran.
    let lines = [Saw(off()), Lost, Settled(off()), Refused(wrong), Saw(on()), Saw(on())];
    check(JobRequest::PowerOn, &lines, Changed, &[ON; 2]);
}

#[test]
fn a_call_is_sent_four_times_at_most() {
    let lost = || vec![Lost, Settled(off())];
    let lines = [vec![Saw(off())], lost(), lost(), lost(), lost()].concat();
    check(JobRequest::PowerOn, &lines, Unknown, &[ON; 4]);
    // Refusals between the lost calls do not reset the count of lost calls.
    let refused = || [vec![Refused(Error::Unreachable), Settled(off())], lost()].concat();
    let lines = [vec![Saw(off())], lost(), refused(), refused(), refused()].concat();
    check(revert(None), &lines, Unknown, &[REVERT; 7]);
    // Each time that the job powers the machine off, another user powers it on again.
    let release = JobRequest::Release { keep_power: false, snapshot: None, media: None };
    let undone = || [Saw(on()), Accepted("task"), TaskSucceeded];
    let lines = [&undone()[..], &undone(), &undone(), &undone(), &[Saw(on())]].concat();
    check(release, &lines, Failed(FailureKind::InvalidPowerState), &[OFF; 4]);
}

#[test]
fn a_lost_call_that_the_machine_cannot_prove_is_unknown_if_it_is_not_sent_again() {
    let ran = || vec![Saw(off()), Lost, Settled(off())];
    let check = |lines: &[ScriptLine], calls| {
        check(revert(None), &[&ran(), lines].concat(), Unknown, &vec![REVERT; calls]);
    };
    check(&[Cancel], 1);
    check(&[Deadline], 1);
    check(&[Refused(Error::Forbidden)], 2);
    check(&[Refused(Error::NotFound), Saw(without(off(), &["kickstart"]))], 2);
    let other_is_current = Evidence { current_snapshot: Some(id("leaf")), ..off() };
    check(&[Accepted("second"), TaskSucceeded, Saw(other_is_current)], 2);
}

#[test]
fn a_removal_that_is_refused_after_a_loss_had_succeeded_if_the_snapshot_is_gone() {
    let lines = [
        Saw(off()),
        Lost,
        Settled(off()),
        Refused(Error::NotFound),
        Saw(without(off(), &["kickstart"])),
    ];
    check(remove(false), &lines, Changed, &[CallKind::RemoveSnapshot; 2]);
    let lines =
        [Saw(off()), Lost, Settled(off()), Refused(Error::NotFound), Saw(consolidated(off()))];
    check(JobRequest::Consolidate, &lines, Changed, &[CallKind::ConsolidateDisks; 2]);
}

#[test]
fn a_task_that_failed_uncertainly_is_resolved_once() {
    let lines = |before: fn() -> Evidence, call| {
        let seen = || with_task(before(), "task", call, true);
        vec![Saw(before()), Accepted("task"), TaskUncertain, Settled(seen())]
    };
    let again = [Accepted("again"), TaskSucceeded];
    let power = [&lines(off, ON), &again[..]].concat();
    check(JobRequest::PowerOn, &power, Changed, &[ON; 2]);
    let reverts = [&lines(off, REVERT), &again[..], &[Saw(off())]].concat();
    check(revert(None), &reverts, Changed, &[REVERT; 2]);
    check(JobRequest::Reset, &lines(on, CallKind::Reset), Unknown, &[CallKind::Reset]);
}

#[test]
fn power_after_a_revert_is_as_requested() {
    let reverted = |power| [Saw(on()), Accepted("task"), TaskSucceeded, Saw(machine(power))];
    let powered = [Accepted("power"), TaskSucceeded];
    for (power_on, power, call) in [
        (true, Off, Some(ON)),
        (true, On, None),
        (true, Suspended, Some(ON)),
        (false, On, Some(OFF)),
        (false, Off, None),
    ] {
        let (mut lines, mut calls) = (reverted(power).to_vec(), vec![REVERT]);
        if let Some(call) = call {
            lines.extend(powered.clone());
            calls.push(call);
        }
        check(revert(Some(power_on)), &lines, Changed, &calls);
        // Otter crashes when the task of the revert is on disk. The job does not revert the machine
        // again.
        let crash = [Saw(on()), Accepted("task"), Committed, Crash, TaskSucceeded, Saw(off())];
        let lines = [&crash[..], &lines[3..]].concat();
        check(revert(Some(power_on)), &lines, Changed, &calls);
    }
    // The deadline passes during the revert. If nothing is left to do after the revert, the job
    // succeeds.
    let late = [Saw(off()), Accepted("task"), Committed, Deadline, TaskSucceeded, Saw(on())];
    check(revert(Some(true)), &late, Changed, &[REVERT]);
    let between = [&reverted(Off)[..], &[Refused(Error::Unreachable), Committed, Deadline]];
    let failed = Failed(FailureKind::DeadlineExceeded);
    let played = check(revert(Some(true)), &between.concat(), failed, &[REVERT, ON]);
    let detail = played.job.error.unwrap().detail;
    assert!(detail.contains("only the steps that succeeded were done"), "{detail}");
}

#[test]
fn a_call_that_is_lost_after_the_grace_is_unknown_although_the_host_stays_away() {
    let lines = [Saw(off()), Committed, Deadline, GraceOver, Lost];
    check(JobRequest::PowerOn, &lines, Unknown, &[ON]);
}

#[test]
fn an_end_waits_for_the_inventory_until_the_grace_is_over() {
    let done = [Saw(off()), Accepted("task"), TaskSucceeded];
    let back = [&done[..], &[Unsynced, HostBack]].concat();
    assert!(check(JobRequest::PowerOn, &back, Changed, &[ON]).job.warnings.is_empty());
    let away = [&done[..], &[Unsynced, Deadline, GraceOver]].concat();
    assert_eq!(check(JobRequest::PowerOn, &away, Changed, &[ON]).job.warnings.len(), 1);
}

#[test]
fn the_created_snapshot_is_named_in_the_result() {
    let made =
        |snapshot| with_snapshot(off(), snapshot_evidence(snapshot, Some("kickstart"), "new"));
    let accepted = [Saw(off()), Accepted("task")];
    for (lines, named) in [
        (vec![TaskCreated("made")], true),
        (vec![TaskSucceeded, Saw(made("made"))], true),
        (vec![TaskSucceeded, Saw(off())], false),
        // In the next two cases otter crashes before the end of the job is on disk.
        (vec![TaskCreated("made"), Cancel, Crash, TaskCreated("made")], true),
        (vec![TaskCreated("made"), Cancel, Crash, TaskVanished, Settled(made("made"))], true),
    ] {
        let lines = [&accepted[..], &lines].concat();
        let job = check(create(), &lines, Changed, &[CREATE]).job;
        let snapshot = job.result.unwrap().snapshot;
        assert_eq!(snapshot, named.then(|| id("made")), "{lines:?}");
        assert_eq!(job.warnings.is_empty(), named);
    }
}

#[test]
fn an_answer_to_a_question_that_is_gone_is_refused_by_the_host() {
    let lines = [Saw(off()), Refused(Error::Rejected)];
    check(answer(), &lines, Failed(FailureKind::HostRejected), &[CallKind::Answer]);
}

#[test]
fn a_guest_is_asked_once_and_then_watched() {
    let restarts = || vec![Guest(TOOLS_STOPPED), Guest(RUNS)];
    for (request, call, obeys) in [
        (shutdown(false), SHUTDOWN, vec![Guest(IS_OFF)]),
        (JobRequest::Reboot, CallKind::RebootGuest, restarts()),
        (JobRequest::Reboot, CallKind::RebootGuest, vec![Guest(TOOLS_CYCLED)]),
    ] {
        let asked = |lines: &[ScriptLine], ending| {
            for answer in [
                vec![Done],
                vec![Lost, Saw(on())],
                vec![Committed, Crash, Saw(on())],
                vec![Lost, Saw(with_task(on(), "foreign", call, false))],
            ] {
                let lines = [&[Saw(on())], &*answer, &[Guest(RUNS)], lines].concat();
                check(request.clone(), &lines, ending, &[call]);
            }
        };
        asked(&obeys, Changed);
        asked(&[Deadline], Unknown);
        // What a guest was asked to do cannot be cancelled.
        asked(&[Cancel, Deadline], Unknown);
        asked(&[&[Cancel], &*obeys].concat(), Changed);
        asked(&[GuestGone], Unknown);
        let refused = [Saw(on()), Refused(Error::ToolsUnavailable)];
        check(request, &refused, Failed(FailureKind::ToolsUnavailable), &[call]);
    }
    let powered_off = [Saw(on()), Done, Guest(IS_OFF)];
    check(JobRequest::Reboot, &powered_off, Unknown, &[CallKind::RebootGuest]);
    let found_off = [Saw(on()), Lost, Saw(off())];
    check(shutdown(false), &found_off, Changed, &[SHUTDOWN]);
}

#[test]
fn a_guest_that_does_not_shut_down_is_powered_off() {
    let off = [Saw(on()), Accepted("task"), TaskSucceeded];
    let asked = [Saw(on()), Done, Guest(RUNS), ForceAfter];
    for (asked, state) in [
        (&asked[..], JobStepState::Failed),
        (&[Saw(on()), Refused(Error::ToolsUnavailable)], JobStepState::Skipped),
    ] {
        let played = check(shutdown(true), &[asked, &off[..]].concat(), Changed, &[SHUTDOWN, OFF]);
        assert_eq!(states(&played), [("shutdown", state), ("power_off", JobStepState::Succeeded)]);
    }
    // If the host refuses to power the machine off, the job ends as `unknown` and not as a failure,
    // because the guest may still shut down.
    let refused = [&asked[..], &[Saw(on()), Refused(Error::Forbidden)]].concat();
    check(shutdown(true), &refused, Unknown, &[SHUTDOWN, OFF]);
}

#[test]
fn a_preparation_fails_at_a_question_that_nobody_answers() {
    let prepare = || JobRequest::Prepare {
        snapshot: None,
        iso: None,
        boot: None,
        power: Some(On),
        until: Some(Readiness::Tools),
        cidr: None,
        settle: None,
    };
    let asks = || Saw(with_question(off(), "q-7"));
    check(prepare(), &[asks(), QuestionUnanswered], QUESTION, &[]);
    // The task of the power-on waits at the question. The host cancels the task in the first case,
    // and does not cancel it in the second.
    let held = [Saw(off()), Accepted("task"), Committed, QuestionUnanswered];
    check(prepare(), &[&held[..], &[TaskCancelled]].concat(), QUESTION, &[ON]);
    check(prepare(), &[&held[..], &[GraceOver]].concat(), QUESTION, &[ON]);
    // Someone answers the question at the last moment. The task succeeds, but the job makes no
    // further calls.
    check(prepare(), &[&held[..], &[TaskSucceeded, Saw(on())]].concat(), QUESTION, &[ON]);
    let powered = [Saw(off()), Accepted("task"), TaskSucceeded, Saw(on())];
    check(prepare(), &[&powered[..], &[QuestionUnanswered]].concat(), QUESTION, &[ON]);
    // An unanswered question does not end the job while the host is away, nor while a lost call is
    // being resolved.
    let away = [Unreadable(Error::Unreachable), QuestionUnanswered, HostBack];
    let rest = [&powered[..], &[Ready(true), Saw(on())]].concat();
    check(prepare(), &[&away[..], &rest].concat(), Changed, &[ON]);
    let lost = [Saw(off()), Lost, QuestionUnanswered, HostBack, Settled(on())];
    let rest = [Saw(on()), Ready(true), Saw(on())];
    check(prepare(), &[&lost[..], &rest].concat(), Changed, &[ON]);
}

#[test]
fn a_preparation_reverts_powers_on_waits_and_settles() {
    let prepare = || JobRequest::Prepare {
        snapshot: Some((id("kickstart"), "base/kickstart".to_owned())),
        iso: None,
        boot: None,
        power: Some(On),
        until: Some(Readiness::Tools),
        cidr: None,
        settle: Some(Duration::from_mins(1)),
    };
    let call = [Accepted("task"), TaskSucceeded];
    let powered = [&[Saw(off())], &call[..], &[Saw(off())], &call[..], &[Saw(on())]].concat();
    let rest = [Ready(true), Saw(on()), Paused, Saw(on())];
    check(prepare(), &[&powered[..], &rest].concat(), Changed, &[REVERT, ON]);
    // Otter crashes twice. The job repeats neither the revert nor a wait that is over.
    let crash = [Saw(off()), Accepted("task"), Committed, Crash, TaskSucceeded, Saw(off())];
    let crashed =
        [&crash[..], &[Saw(off())], &call, &[Saw(on()), Ready(true), Committed, Crash, Saw(on())]];
    check(
        prepare(),
        &[&crashed.concat()[..], &[Paused, Saw(on())]].concat(),
        Changed,
        &[REVERT, ON],
    );
    // In this case the machine is off again before its tools run.
    let again =
        [&powered[..], &[Ready(false), Saw(off())], &call[..], &[Saw(on())], &rest].concat();
    check(prepare(), &again, Changed, &[REVERT, ON, ON]);
    check(prepare(), &[&powered[..], &[Cancel]].concat(), Cancelled, &[REVERT, ON]);
    let late = Failed(FailureKind::DeadlineExceeded);
    let played = check(prepare(), &[&powered[..], &[Deadline]].concat(), late, &[REVERT, ON]);
    let detail = played.job.error.map(|failure| failure.detail);
    assert_eq!(detail.as_deref(), Some("The deadline passed before the tools of the guest ran."));
    let released = JobRequest::Release {
        keep_power: false,
        snapshot: Some((id("kickstart"), "base/kickstart".to_owned())),
        media: None,
    };
    let lines = [&[Saw(on())], &call[..], &[Saw(on())], &call[..], &[Saw(machine(Off))]].concat();
    check(released, &lines, Changed, &[REVERT, OFF]);
}

fn states(played: &Played) -> Vec<(&str, JobStepState)> {
    played.job.steps.iter().map(|step| (step.name.as_str(), step.state)).collect()
}

/// A preparation that powers the machine on and waits for a text on its screen.
fn prepare_until_login() -> JobRequest {
    JobRequest::Prepare {
        snapshot: None,
        iso: None,
        boot: None,
        power: Some(On),
        until: Some(Readiness::Screen(ScreenText::new("Log In").unwrap())),
        cidr: None,
        settle: None,
    }
}

#[test]
fn the_step_of_a_wait_for_the_screen_has_the_last_text() {
    let powered = [Saw(off()), Accepted("task"), TaskSucceeded, Saw(on())];
    let step = |played: &Played| played.job.steps.last().unwrap().clone();
    let shown = [Shows(Ok("GRUB")), Shows(Ok("Qubes OS")), Ready(true), Saw(on())];
    let played = check(prepare_until_login(), &[&powered[..], &shown].concat(), Changed, &[ON]);
    assert_eq!(step(&played).name.as_str(), "wait_screen");
    assert_eq!(step(&played).detail.as_deref(), Some("waits for \"Log In\" on the screen"));
    assert_eq!(step(&played).seen.as_deref(), Some("Qubes OS"));
    let late = Failed(FailureKind::DeadlineExceeded);
    let shown = [Shows(Ok("secret of the guest")), Deadline];
    let played = check(prepare_until_login(), &[&powered[..], &shown].concat(), late, &[ON]);
    assert_eq!(step(&played).seen.as_deref(), Some("secret of the guest"));
    assert!(!step(&played).detail.unwrap().contains("secret"), "all readers of the job see it");
    let failure = played.job.error.unwrap();
    assert!(!failure.detail.contains("secret"), "logs show the failure");
    assert_eq!(failure.origin(), FaultOrigin::Machine);
}

#[test]
fn a_preparation_without_a_screen_is_not_a_fault_of_the_machine() {
    let powered = [Saw(off()), Accepted("task"), TaskSucceeded, Saw(on())];
    let late = Failed(FailureKind::DeadlineExceeded);
    let refused = [Shows(Err("The host refuses the console.")), Deadline];
    let played = check(prepare_until_login(), &[&powered[..], &refused].concat(), late, &[ON]);
    let failure = played.job.error.unwrap();
    assert!(failure.detail.contains("The host refuses the console."), "{failure}");
    assert_eq!(failure.origin(), FaultOrigin::Host);
    // A text was read before, but not when the deadline passed.
    let lost = [Shows(Ok("GRUB")), Shows(Err("The host closed the console.")), Deadline];
    let played = check(prepare_until_login(), &[&powered[..], &lost].concat(), late, &[ON]);
    assert_eq!(played.job.error.unwrap().origin(), FaultOrigin::Host);
    let unsupported = [NoReadiness(FailureKind::NotSupported)];
    let end = Failed(FailureKind::NotSupported);
    check(prepare_until_login(), &[&powered[..], &unsupported].concat(), end, &[ON]);
}
