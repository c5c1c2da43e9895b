//! Each cell of the judgement table, and each interrupt, driven through the driver to its end.

use super::schedules::{Event, Run};
use super::world::{Owner, World, kickstart};
use super::{create_request, remove, revert};
use crate::domain::call::HostCall;
use crate::domain::failure::FailureKind;
use crate::domain::ids::{QuestionId, SnapshotId};
use crate::domain::job::{JobRequest, JobState, JobStepState};
use crate::domain::power::PowerState::{Off, On, Suspended};
use crate::hypervisor::HostErrorKind;
use crate::service::jobs::driver::Effect;
use crate::service::jobs::judgement::MAX_ASKS;

/// A job that is about to make its first call.
fn calling(request: JobRequest, world: World) -> Run {
    until(Run::begin(request, world), |effect| matches!(effect, Effect::Call(_)))
}

/// The same, and the answer is lost.
fn lost(request: JobRequest, world: World, ran: bool) -> Run {
    let mut run = calling(request, world);
    run.happen(Event::Lose { ran });
    run
}

fn until(mut run: Run, wanted: fn(&Effect) -> bool) -> Run {
    for _ in 0..50 {
        if wanted(&run.effect) {
            return run;
        }
        run.go(1, None);
    }
    panic!("it came to {:?}", run.driver);
}

fn following(effect: &Effect) -> bool {
    matches!(effect, Effect::Follow(_))
}

fn settling(effect: &Effect) -> bool {
    matches!(effect, Effect::Pause(_))
}

/// The end, how often the host was called, and the code of the failure.
fn end(mut run: Run) -> (JobState, usize, Option<FailureKind>) {
    run.settle(true);
    run.check();
    (run.disk.state, run.calls.len(), run.disk.error.map(|failure| failure.kind))
}

const SUCCEEDED: JobState = JobState::Succeeded;
const UNKNOWN: (JobState, Option<FailureKind>) =
    (JobState::Unknown, Some(FailureKind::OutcomeUnknown));

fn assert_unknown(run: Run, calls: usize) {
    let (state, called, failure) = end(run);
    assert_eq!((state, failure), UNKNOWN);
    assert_eq!(called, calls);
}

fn powers() -> [(JobRequest, World, World); 4] {
    let (on, off) = (World::new(On), World::new(Off));
    [
        (JobRequest::PowerOn, off.clone(), on.clone()),
        (JobRequest::PowerOff, on.clone(), off.clone()),
        (JobRequest::Kill, on.clone(), off),
        (JobRequest::Suspend, on, World::new(Suspended)),
    ]
}

#[test]
fn power_in_the_wanted_state_has_succeeded() {
    for (request, before, _) in powers() {
        assert_eq!(end(lost(request, before, true)), (SUCCEEDED, 1, None));
    }
}

#[test]
fn power_in_the_wanted_state_with_no_task_to_see_has_succeeded() {
    for (request, before, _) in powers() {
        let mut run = lost(request, before, true);
        run.happen(Event::Restart { finish: true });
        assert_eq!(end(run), (SUCCEEDED, 1, None));
    }
}

#[test]
fn power_in_the_recorded_state_is_asked_again() {
    for (request, before, _) in powers() {
        assert_eq!(end(lost(request, before, false)), (SUCCEEDED, 2, None));
    }
}

#[test]
fn power_beside_a_foreign_task_is_unknown() {
    for (request, before, _) in powers() {
        let (there, back) = match before.power {
            On => (HostCall::PowerOff, HostCall::PowerOn),
            _ => (HostCall::PowerOn, HostCall::PowerOff),
        };
        let mut run = lost(request, before, false);
        for call in [there, back] {
            run.happen(Event::Foreign(call, Owner::Stranger));
            run.happen(Event::Tick);
            run.happen(Event::Tick);
        }
        assert_unknown(run, 1);
    }
}

#[test]
fn a_task_of_another_job_is_not_taken_for_the_own_one() {
    let mut run = lost(JobRequest::PowerOn, World::new(Off), false);
    for call in [HostCall::PowerOn, HostCall::PowerOff] {
        run.happen(Event::Foreign(call, Owner::OtherJob));
        run.happen(Event::Tick);
        run.happen(Event::Tick);
    }
    assert_unknown(run, 1);
}

#[test]
fn power_in_a_third_state_is_unknown() {
    for (request, before, _) in powers() {
        let third = if request == JobRequest::Suspend { Off } else { Suspended };
        let mut run = lost(request, before, false);
        run.world.set_power(third);
        assert_unknown(run, 1);
    }
}

#[test]
fn a_call_lost_each_time_is_sent_four_times() {
    let mut run = lost(JobRequest::PowerOn, World::new(Off), false);
    for _ in 1..MAX_ASKS {
        run = until(run, |effect| matches!(effect, Effect::Call(_)));
        run.happen(Event::Lose { ran: false });
    }
    assert_unknown(run, MAX_ASKS as usize);
}

#[test]
fn refusals_between_losses_do_not_start_the_count_anew() {
    let mut run = lost(revert(None), World::new(Off), false);
    for _ in 1..MAX_ASKS {
        for event in [Event::Refuse(HostErrorKind::Unreachable), Event::Lose { ran: false }] {
            run = until(run, |effect| matches!(effect, Effect::Call(_)));
            run.happen(event);
        }
    }
    assert_unknown(run, 2 * MAX_ASKS as usize - 1);
}

#[test]
fn a_lost_revert_is_followed_by_its_own_task() {
    assert_eq!(end(lost(revert(None), World::new(Off), true)), (SUCCEEDED, 1, None));
}

#[test]
fn a_lost_revert_with_no_task_to_see_is_asked_again_whether_it_ran_or_not() {
    assert_eq!(end(lost(revert(None), World::new(Off), false)), (SUCCEEDED, 2, None));
    let mut ran = lost(revert(None), World::new(Off), true);
    ran.happen(Event::Restart { finish: true });
    assert_eq!(end(ran), (SUCCEEDED, 2, None));
}

#[test]
fn a_lost_revert_beside_a_foreign_task_is_unknown() {
    let mut run = lost(revert(None), World::new(Off), false);
    run.happen(Event::Foreign(HostCall::PowerOn, Owner::Stranger));
    assert_unknown(run, 1);
}

#[test]
fn a_lost_revert_whose_snapshot_is_not_current_is_unknown() {
    let mut run = until(lost(revert(None), World::new(Off), true), following);
    run.happen(Event::Tick);
    run.happen(Event::Tick);
    run.world.current = Some(SnapshotId::from_backend("another"));
    assert_unknown(run, 1);
}

#[test]
fn a_lost_revert_that_is_not_done_again_is_unknown() {
    let ran = || {
        let mut run = lost(revert(None), World::new(Off), true);
        run.happen(Event::Restart { finish: true });
        until(run, |effect| matches!(effect, Effect::Save))
    };
    let mut cancelled = ran();
    cancelled.happen(Event::Cancel);
    assert_unknown(cancelled, 1);
    let mut late = ran();
    late.happen(Event::Deadline);
    assert_unknown(late, 1);
    let mut refused = until(ran(), |effect| matches!(effect, Effect::Call(_)));
    refused.happen(Event::Refuse(HostErrorKind::Forbidden));
    assert_unknown(refused, 2);
    let mut without_snapshot = ran();
    without_snapshot.happen(Event::RemoveSnapshot);
    assert_unknown(without_snapshot, 2);
}

#[test]
fn a_kill_has_not_killed_what_another_job_is_about_to_power_on() {
    let about_to_be_on = World { other_calls: true, ..World::new(Off) };
    let mut run = until(Run::begin(JobRequest::Kill, about_to_be_on), settling);
    run.world.other_calls = false;
    run.world.set_power(On);
    assert_eq!(end(run), (SUCCEEDED, 1, None));
}

#[test]
fn a_power_call_whose_task_vanished_may_still_be_at_it_when_it_is_cancelled() {
    for (request, before, _) in powers() {
        let mut run = calling(request, before);
        run.happen(Event::Go { ticks: 20 });
        let mut run = until(run, following);
        run.happen(Event::Restart { finish: false });
        let mut run = until(run, settling);
        run.happen(Event::Cancel);
        assert_unknown(run, 1);
    }
}

#[test]
fn a_lost_power_call_that_did_not_run_can_be_cancelled() {
    let mut run = until(lost(JobRequest::PowerOn, World::new(Off), false), settling);
    run.happen(Event::Cancel);
    assert_eq!(end(run), (JobState::Cancelled, 1, Some(FailureKind::JobCancelled)));
}

#[test]
fn a_reset_is_judged_by_its_own_task_and_never_sent_again() {
    assert_eq!(end(lost(JobRequest::Reset, World::new(On), true)), (SUCCEEDED, 1, None));
    assert_unknown(lost(JobRequest::Reset, World::new(On), false), 1);
    let mut forgotten = lost(JobRequest::Reset, World::new(On), true);
    forgotten.happen(Event::Restart { finish: true });
    assert_unknown(forgotten, 1);
}

#[test]
fn a_reset_is_sent_again_where_it_is_proven_not_to_have_run() {
    let mut run = calling(JobRequest::Reset, World::new(On));
    run.happen(Event::Refuse(HostErrorKind::Busy));
    run = until(run, |effect| matches!(effect, Effect::Call(_)));
    run.happen(Event::Refuse(HostErrorKind::NotAuthenticated));
    assert_eq!(end(run), (SUCCEEDED, 3, None));
}

#[test]
fn a_crash_at_every_effect_leaves_every_kind_with_a_true_end() {
    for (request, power) in [
        (JobRequest::PowerOn, Off),
        (JobRequest::PowerOff, On),
        (JobRequest::Kill, On),
        (JobRequest::Reset, On),
        (revert(None), Off),
        (revert(Some(true)), Off),
        (revert(Some(false)), On),
        (JobRequest::Suspend, On),
        (JobRequest::Shutdown { force_after: None }, On),
        (remove(false), Off),
        (remove(true), Off),
        (JobRequest::RemoveAllSnapshots, Off),
        (rename(), Off),
        (create_request(), Off),
        (JobRequest::Reboot, On),
    ] {
        for (at, ran) in (0..25).flat_map(|at| [(at, false), (at, true)]) {
            let mut run = Run::begin(request.clone(), World::new(power));
            for _ in 0..at {
                run.go(1, None);
            }
            run.happen(Event::Crash { ran });
            run.settle(true);
            run.check();
            let repeated = !matches!(
                request,
                JobRequest::Reset
                    | JobRequest::CreateSnapshot { .. }
                    | JobRequest::Reboot
                    | JobRequest::Shutdown { .. }
            );
            assert!(
                !repeated || run.disk.state == SUCCEEDED,
                "{request:?} at {at}: {:?}",
                run.disk
            );
        }
    }
}

#[test]
fn a_cancel_during_the_call_reaches_the_task() {
    for event in [Event::Cancel, Event::Deadline] {
        let mut run = calling(JobRequest::PowerOn, World::new(Off));
        run.happen(event.clone());
        run.go(5, None);
        run = until(run, |effect| matches!(effect, Effect::CancelAndFollow(_)));
        let (state, calls, failure) = end(run);
        let wanted = match event {
            Event::Cancel => (JobState::Cancelled, Some(FailureKind::JobCancelled)),
            _ => (JobState::Failed, Some(FailureKind::DeadlineExceeded)),
        };
        assert_eq!(((state, failure), calls), (wanted, 1));
    }
}

#[test]
fn a_cancel_of_a_running_task_outlives_a_crash() {
    let mut run = calling(JobRequest::PowerOn, World::new(Off));
    run.go(7, None);
    run = until(run, following);
    run.happen(Event::Cancel);
    run.go(0, None);
    assert!(run.disk.cancel_requested_at.is_some());
    run.happen(Event::Crash { ran: false });
    assert!(matches!(run.effect, Effect::CancelAndFollow(_)));
    assert_eq!(end(run), (JobState::Cancelled, 1, Some(FailureKind::JobCancelled)));
}

#[test]
fn a_task_that_outlives_the_grace_is_unknown() {
    let mut run = calling(JobRequest::PowerOn, World { cancelable: false, ..World::new(Off) });
    run.go(7, None);
    run = until(run, following);
    run.happen(Event::Deadline);
    run.happen(Event::Grace);
    assert_unknown(run, 1);
}

#[test]
fn a_question_until_the_deadline_is_the_reason() {
    let mut before = Run::begin(JobRequest::PowerOn, World { question: true, ..World::new(Off) });
    before = until(before, |effect| matches!(effect, Effect::AwaitAnswer(_)));
    before.happen(Event::Deadline);
    assert_eq!(end(before), (JobState::Failed, 0, Some(FailureKind::QuestionPending)));
    let mut during = calling(JobRequest::PowerOn, World::new(Off));
    during.go(3, None);
    during = until(during, following);
    during.happen(Event::Question(true));
    during.happen(Event::Deadline);
    assert_eq!(end(during), (JobState::Failed, 1, Some(FailureKind::QuestionPending)));
}

#[test]
fn what_a_question_does_not_hold_up_is_not_excused_by_it() {
    let answer =
        JobRequest::Answer { question: QuestionId::from_backend("q"), choice: "4".to_owned() };
    for request in [JobRequest::Kill, answer] {
        let mut run = Run::begin(request, World { question: true, away: true, ..World::new(On) });
        run = until(run, |effect| matches!(effect, Effect::AwaitHost(_)));
        run.happen(Event::Deadline);
        assert_eq!(end(run), (JobState::Failed, 0, Some(FailureKind::DeadlineExceeded)));
    }
}

#[test]
fn a_foreign_task_is_waited_for_until_the_deadline() {
    let busy = || {
        let mut world = World::new(Off);
        world.foreign(HostCall::PowerOn, Owner::Stranger, 6);
        let run = Run::begin(JobRequest::PowerOff, world);
        until(run, |effect| matches!(effect, Effect::AwaitTask(_)))
    };
    assert_eq!(end(busy()), (SUCCEEDED, 1, None));
    let mut late = busy();
    late.happen(Event::Deadline);
    assert_eq!(end(late), (JobState::Failed, 0, Some(FailureKind::MachineBusy)));
}

#[test]
fn a_kill_asks_at_once_and_again_when_the_foreign_task_ended() {
    let mut world = World::new(On);
    let revert = HostCall::RevertToSnapshot { snapshot: kickstart(), suppress_power_on: false };
    world.foreign(revert, Owner::Stranger, 4);
    world.snapshot_power = On;
    assert_eq!(end(Run::begin(JobRequest::Kill, world)), (SUCCEEDED, 2, None));
}

#[test]
fn a_kill_of_a_machine_that_is_about_to_be_on_sees_that_through() {
    let mut world = World::new(Off);
    world.foreign(HostCall::PowerOn, Owner::Stranger, 6);
    let run =
        until(Run::begin(JobRequest::Kill, world), |effect| matches!(effect, Effect::AwaitTask(_)));
    assert_eq!(end(run), (SUCCEEDED, 1, None));
}

#[test]
fn a_machine_that_is_gone_or_another_before_the_call_is_not_touched() {
    for event in [Event::Delete, Event::Renumber] {
        let mut run = Run::begin(JobRequest::PowerOn, World::new(Off));
        run.happen(event);
        assert_eq!(end(run), (JobState::Failed, 0, Some(FailureKind::MachineGone)));
    }
}

#[test]
fn a_machine_that_is_gone_after_a_lost_call_is_unknown() {
    for event in [Event::Delete, Event::Renumber] {
        for request in [JobRequest::PowerOn, revert(None)] {
            let mut run = lost(request, World::new(Off), true);
            run.happen(event.clone());
            assert_unknown(run, 1);
        }
    }
}

#[test]
fn a_snapshot_that_is_gone_before_the_call_is_not_found() {
    let mut run = Run::begin(revert(None), World::new(Off));
    run.happen(Event::RemoveSnapshot);
    assert_eq!(end(run), (JobState::Failed, 0, Some(FailureKind::NotFound)));
}

#[test]
fn a_wrong_power_state_is_the_same_from_the_call_and_from_the_task() {
    for refuses_at_once in [true, false] {
        let world = || World { refuses_at_once, ..World::new(Off) };
        let mut wanted = calling(JobRequest::PowerOn, world());
        wanted.world.set_power(On);
        wanted.settle(true);
        wanted.check();
        let changed = wanted.disk.result.as_ref().map(|result| result.changed);
        assert_eq!((wanted.disk.state, changed), (SUCCEEDED, Some(false)));
        let mut reset = calling(JobRequest::Reset, World { refuses_at_once, ..World::new(On) });
        reset.world.set_power(Off);
        assert_eq!(end(reset), (JobState::Failed, 1, Some(FailureKind::InvalidPowerState)));
    }
}

#[test]
fn what_another_did_while_the_job_waited_is_no_change_of_its_own() {
    let mut run = calling(JobRequest::PowerOn, World::new(Off));
    run.happen(Event::Refuse(HostErrorKind::Busy));
    run.world.set_power(On);
    run.settle(true);
    run.check();
    assert_eq!(
        run.disk.steps.iter().map(|step| step.state).collect::<Vec<_>>(),
        [JobStepState::Skipped]
    );
    assert!(run.disk.result.is_some_and(|result| !result.changed));
}

#[test]
fn power_after_a_revert_is_made_as_asked() {
    for (power_on, snapshot_power, calls, power) in [
        (None, On, 1, On),
        (None, Off, 1, Off),
        (Some(true), Off, 2, On),
        (Some(true), On, 1, On),
        (Some(true), Suspended, 2, On),
        (Some(false), On, 2, Off),
        (Some(false), Off, 1, Off),
    ] {
        let mut run = Run::begin(revert(power_on), World { snapshot_power, ..World::new(On) });
        run.settle(true);
        run.check();
        assert_eq!((run.disk.state, run.calls.len(), run.world.power), (SUCCEEDED, calls, power));
    }
}

#[test]
fn a_revert_that_left_nothing_to_do_succeeds_past_its_deadline() {
    let mut run = calling(revert(Some(true)), World { snapshot_power: On, ..World::new(Off) });
    run.go(0, None);
    run = until(run, following);
    run.world.cancelable = false;
    run.happen(Event::Tick);
    run.happen(Event::Deadline);
    assert_eq!(end(run), (SUCCEEDED, 1, None));
}

#[test]
fn a_deadline_between_two_calls_tells_what_was_done() {
    let mut run = calling(revert(Some(true)), World::new(Off));
    run.go(0, None);
    run = until(run, |effect| matches!(effect, Effect::Call(HostCall::PowerOn)));
    run.happen(Event::Refuse(HostErrorKind::Unreachable));
    run.happen(Event::Deadline);
    run.settle(true);
    run.check();
    assert_eq!(run.disk.state, JobState::Failed);
    let detail = run.disk.error.map(|failure| failure.detail).unwrap_or_default();
    assert!(!detail.contains("nothing was done"), "{detail}");
}

#[test]
fn a_task_that_a_vcenter_lost_sight_of_is_judged_once() {
    for (request, state, calls) in [
        (JobRequest::PowerOn, SUCCEEDED, 2),
        (revert(None), SUCCEEDED, 2),
        (JobRequest::Reset, JobState::Unknown, 1),
    ] {
        let power = if request == JobRequest::Reset { On } else { Off };
        let mut run = calling(request, World::new(power));
        run.go(5, None);
        run = until(run, following);
        run.happen(Event::FailTask { seen: false });
        let (ended, called, _) = end(run);
        assert_eq!((ended, called), (state, calls));
    }
}

#[test]
fn a_call_lost_after_the_grace_ends_though_the_host_stays_away() {
    let mut run = calling(JobRequest::PowerOn, World::new(Off));
    run.happen(Event::Deadline);
    run.happen(Event::Grace);
    run.happen(Event::Lose { ran: true });
    run.settle(false);
    run.check();
    assert_eq!(run.disk.state, JobState::Unknown);
}

#[test]
fn a_host_that_comes_back_within_the_grace_lets_a_late_task_be_found() {
    let mut run = calling(JobRequest::PowerOn, World::new(Off));
    run.happen(Event::Lose { ran: true });
    run.happen(Event::Deadline);
    run = until(run, |effect| matches!(effect, Effect::CancelAndFollow(_)));
    // It had come to its end before it could be cancelled.
    assert_eq!(end(run), (SUCCEEDED, 1, None));
}

#[test]
fn a_cancel_after_the_end_changes_nothing() {
    let mut run = Run::begin(JobRequest::PowerOn, World::new(On));
    run = until(run, |effect| matches!(effect, Effect::Barrier));
    run.go(0, None);
    run.happen(Event::Cancel);
    assert_eq!(end(run), (SUCCEEDED, 0, None));
}

#[test]
fn the_inventory_of_a_host_that_is_away_is_waited_for_until_the_grace_is_over() {
    let mut run = calling(JobRequest::PowerOn, World::new(Off));
    run.go(0, None);
    run = until(run, |effect| matches!(effect, Effect::Barrier));
    run.settle(false);
    run.check();
    assert_eq!((run.disk.state, run.disk.warnings.len()), (SUCCEEDED, 1));
}

fn rename() -> JobRequest {
    let (snapshot, path) = (kickstart(), "base/kickstart".to_owned());
    JobRequest::RenameSnapshot {
        snapshot,
        path,
        name: Some("renamed".to_owned()),
        description: None,
    }
}

fn watching(effect: &Effect) -> bool {
    matches!(effect, Effect::Watch { .. })
}

#[test]
fn a_lost_snapshot_is_found_by_its_task_or_as_the_only_new_one() {
    let mut seen = lost(create_request(), World::new(Off), true);
    seen.settle(true);
    seen.check();
    assert_eq!((seen.disk.state, seen.calls.len()), (SUCCEEDED, 1));
    let mut forgotten = lost(create_request(), World::new(Off), true);
    forgotten.happen(Event::Restart { finish: true });
    forgotten.settle(true);
    forgotten.check();
    let made = forgotten.disk.result.as_ref().and_then(|result| result.snapshot.clone());
    assert_eq!((forgotten.disk.state, made), (SUCCEEDED, forgotten.world.current.clone()));
}

#[test]
fn a_lost_snapshot_that_is_not_there_is_unknown_and_failed_after_a_reboot_of_the_host() {
    assert_unknown(lost(create_request(), World::new(Off), false), 1);
    let mut restarted = lost(create_request(), World::new(Off), false);
    restarted.happen(Event::Restart { finish: false });
    assert_unknown(restarted, 1);
    let mut rebooted = lost(create_request(), World::new(Off), false);
    rebooted.happen(Event::Reboot);
    assert_eq!(end(rebooted), (JobState::Failed, 1, Some(FailureKind::HostUnreachable)));
}

#[test]
fn a_lost_removal_is_judged_by_what_is_left() {
    for request in [remove(false), remove(true), JobRequest::RemoveAllSnapshots] {
        assert_eq!(end(lost(request.clone(), World::new(Off), false)), (SUCCEEDED, 2, None));
        let mut ran = lost(request.clone(), World::new(Off), true);
        ran.happen(Event::Restart { finish: true });
        assert_eq!(end(ran), (SUCCEEDED, 1, None));
        let mut later = lost(request.clone(), World::new(Off), false);
        later.happen(Event::MakeSnapshot("late"));
        match request {
            // The current snapshot, below which the late one was made, is not below what moves up.
            JobRequest::RemoveSnapshot { children: false, .. } => {
                assert_eq!(end(later), (SUCCEEDED, 2, None));
            }
            _ => assert_unknown(later, 1),
        }
    }
    let mut half = lost(remove(true), World::new(Off), false);
    half.happen(Event::RemoveSnapshot);
    assert_unknown(half, 1);
}

#[test]
fn a_lost_rename_is_judged_by_the_words() {
    assert_eq!(end(lost(rename(), World::new(Off), true)), (SUCCEEDED, 1, None));
    assert_eq!(end(lost(rename(), World::new(Off), false)), (SUCCEEDED, 2, None));
    let mut gone = lost(rename(), World::new(Off), true);
    gone.happen(Event::RemoveSnapshot);
    assert_unknown(gone, 1);
}

#[test]
fn a_lost_answer_is_given_again_only_to_the_same_question() {
    let request =
        || JobRequest::Answer { question: QuestionId::from_backend("q"), choice: "4".to_owned() };
    let asks = || World { question: true, ..World::new(Off) };
    let mut again =
        until(lost(request(), asks(), false), |effect| matches!(effect, Effect::Call(_)));
    again.go(0, None);
    assert_eq!(end(again), (SUCCEEDED, 2, None));
    assert_unknown(lost(request(), asks(), true), 1);
    let late = Run::begin(request(), World::new(Off));
    assert_eq!(end(late), (JobState::Failed, 1, Some(FailureKind::HostRejected)));
}

#[test]
fn a_guest_is_asked_once_and_watched_whether_its_answer_was_lost_or_not() {
    for request in [JobRequest::Shutdown { force_after: None }, JobRequest::Reboot] {
        assert_eq!(end(Run::begin(request.clone(), World::new(On))), (SUCCEEDED, 1, None));
        assert_eq!(end(lost(request.clone(), World::new(On), true)), (SUCCEEDED, 1, None));
        assert_unknown(lost(request.clone(), World::new(On), false), 1);
        let hangs = || World { guest_hangs: true, ..World::new(On) };
        let mut late = until(Run::begin(request.clone(), hangs()), watching);
        late.happen(Event::Deadline);
        assert_unknown(late, 1);
        let mut cancelled = until(Run::begin(request.clone(), hangs()), watching);
        cancelled.happen(Event::Cancel);
        assert_unknown(cancelled, 1);
        let without_tools = World { tools: false, ..World::new(On) };
        let failed = (JobState::Failed, 1, Some(FailureKind::ToolsUnavailable));
        assert_eq!(end(Run::begin(request, without_tools)), failed);
    }
}

#[test]
fn the_plug_is_pulled_in_time_or_at_once_where_no_tools_run() {
    let request = || JobRequest::Shutdown { force_after: Some(std::time::Duration::from_mins(1)) };
    let mut hangs =
        until(Run::begin(request(), World { guest_hangs: true, ..World::new(On) }), watching);
    hangs.happen(Event::ForceTime);
    hangs.settle(true);
    hangs.check();
    let steps: Vec<_> =
        hangs.disk.steps.iter().map(|step| (step.name.as_str(), step.state)).collect();
    assert_eq!(steps, [("shutdown", JobStepState::Failed), ("power_off", JobStepState::Succeeded)]);
    let mut without_tools = Run::begin(request(), World { tools: false, ..World::new(On) });
    without_tools.settle(true);
    without_tools.check();
    assert_eq!((without_tools.disk.state, without_tools.calls.len()), (SUCCEEDED, 2));
    // The guest may still obey, so that a plug which cannot be pulled is no failure.
    let mut refused =
        until(Run::begin(request(), World { guest_hangs: true, ..World::new(On) }), watching);
    refused.happen(Event::ForceTime);
    refused = until(refused, |effect| matches!(effect, Effect::Call(_)));
    refused.happen(Event::Refuse(HostErrorKind::Forbidden));
    refused.happen(Event::Deadline);
    assert_unknown(refused, 2);
}

#[test]
fn power_that_is_undone_each_time_is_not_given_for_ever() {
    let release = JobRequest::Release { keep_power: false, snapshot: None };
    let mut run = Run::begin(release, World::new(On));
    let mut calls = 0;
    for _ in 0..200 {
        if run.disk.state.is_end() {
            break;
        }
        if matches!(run.effect, Effect::Call(_)) {
            calls += 1;
        }
        run.go(1, None);
        // Another hand is as quick as otter.
        run.world.power = On;
    }
    assert_eq!(calls, MAX_ASKS as usize);
    assert_eq!(run.disk.state, JobState::Failed);
    assert_eq!(run.disk.error.map(|failure| failure.kind), Some(FailureKind::InvalidPowerState));
}

#[test]
fn which_snapshot_was_made_is_known_after_a_crash_before_the_end_is_on_disk() {
    for task_known in [true, false] {
        let mut run = until(calling(create_request(), World::new(Off)), |effect| {
            matches!(effect, Effect::Barrier)
        });
        // The wish is saved, and with it how far the job is.
        run.happen(Event::Cancel);
        if !task_known {
            run.happen(Event::Restart { finish: true });
        }
        run.happen(Event::Crash { ran: false });
        run.settle(true);
        run.check();
        assert_eq!((run.disk.state, run.calls.len()), (SUCCEEDED, 1), "{task_known}");
        assert!(run.disk.result.as_ref().unwrap().snapshot.is_some(), "{task_known}");
    }
}
