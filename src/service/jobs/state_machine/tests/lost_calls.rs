//! Tests of lost calls. Each test loses the end of a call in one of the possible ways, and then
//! shows the machine in one of the possible states. The rows repeat the table in `lost_call`, but
//! are written by hand from the contract.

use super::script::Ending::{Cancelled, Changed, Failed, Unknown};
use super::script::ScriptLine::{
    Accepted, Cancel, Committed, Crash, Deadline, Done, HostBack, Lost, Paused, Saw, SawWithOthers,
    Settled, TaskCancelled, TaskCreated, TaskFailed, TaskSucceeded, TaskVanished, Unreadable,
};
use super::script::{Ending, ScriptLine, play};
use super::{
    ISO, another_machine, answer, consolidated, create, id, insert, machine, off, on, remove,
    rename, revert, set_boot, snapshot_evidence, with_media, with_question, with_running_task,
    with_snapshot, with_task, without,
};
use crate::domain::call::{CallKind, Evidence};
use crate::domain::failure::FailureKind;
use crate::domain::ids::TaskId;
use crate::domain::job::JobRequest;
use crate::domain::power::PowerState::Suspended;
use crate::hypervisor::HostErrorKind;
use crate::service::jobs::state_machine::OtherJobs;

/// The expected end of the job, and the number of times that the call is expected to be sent.
type Expected = (Ending, usize);

const SUCCEEDED: Expected = (Changed, 1);
const SENT_AGAIN: Expected = (Changed, 2);
const UNKNOWN: Expected = (Unknown, 1);
const CANCELLED: Expected = (Cancelled, 1);

struct Row {
    request: JobRequest,
    call: CallKind,
    /// The machine before the job sends the call.
    before: Evidence,
    /// The machine after the call has run.
    after: Evidence,
    /// The expected end if the machine is the same as before the call.
    unchanged: Expected,
    /// The expected end if the machine is the same as before the call, and the job is cancelled
    /// meanwhile.
    cancelled: Expected,
    /// The expected end if the machine shows the effect of the call.
    done: Expected,
    /// The expected end if a foreign task ran, and the machine is the same as before the call.
    foreign: Expected,
    /// The expected end if a foreign task ran, and the machine shows the effect of the call.
    foreign_done: Expected,
    /// Other states of the machine. For each of them the expected end is `unknown`.
    unclear: Vec<Evidence>,
}

/// One row for each kind of call. Each machine has an old task of the call's method, which ended
/// before the job sent the call.
fn rows() -> Vec<Row> {
    let with_older = |row: Row| {
        let call = row.call;
        let older = |evidence| with_task(evidence, "older", call, true);
        Row {
            before: older(row.before),
            after: older(row.after),
            unclear: row.unclear.into_iter().map(older).collect(),
            ..row
        }
    };
    table().into_iter().map(with_older).collect()
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn table() -> Vec<Row> {
    let power = |request, call, before: fn() -> Evidence, after, third| Row {
        request,
        call,
        before: before(),
        after,
        unchanged: SENT_AGAIN,
        cancelled: CANCELLED,
        done: SUCCEEDED,
        foreign: UNKNOWN,
        foreign_done: SUCCEEDED,
        unclear: vec![third],
    };
    let removal = |request, call, after, unclear| Row {
        request,
        call,
        before: off(),
        after,
        unchanged: SENT_AGAIN,
        cancelled: UNKNOWN,
        done: SUCCEEDED,
        foreign: SENT_AGAIN,
        foreign_done: SUCCEEDED,
        unclear,
    };
    let late = |parent| with_snapshot(off(), snapshot_evidence("late", Some(parent), "late"));
    let made = |snapshot| snapshot_evidence(snapshot, Some("kickstart"), "new");
    let mut renamed = off();
    renamed.snapshots[1].name = "renamed".to_owned();
    let suspended = || machine(Suspended);
    let mut leaf_is_current = off();
    leaf_is_current.current_snapshot = Some(id("leaf"));
    vec![
        power(JobRequest::PowerOn, CallKind::PowerOn, off, on(), suspended()),
        power(JobRequest::PowerOff, CallKind::PowerOff, on, off(), suspended()),
        power(JobRequest::Kill, CallKind::PowerOff, on, off(), suspended()),
        power(JobRequest::Suspend, CallKind::Suspend, on, suspended(), off()),
        Row {
            request: JobRequest::Reset,
            call: CallKind::Reset,
            before: on(),
            after: on(),
            unchanged: UNKNOWN,
            cancelled: UNKNOWN,
            done: UNKNOWN,
            foreign: UNKNOWN,
            foreign_done: UNKNOWN,
            unclear: vec![off()],
        },
        Row {
            request: revert(None),
            call: CallKind::RevertToSnapshot,
            before: leaf_is_current,
            after: off(),
            unchanged: SENT_AGAIN,
            cancelled: UNKNOWN,
            done: SENT_AGAIN,
            foreign: UNKNOWN,
            foreign_done: UNKNOWN,
            unclear: Vec::new(),
        },
        Row {
            request: create(),
            call: CallKind::CreateSnapshot,
            before: off(),
            after: with_snapshot(off(), made("new")),
            unchanged: UNKNOWN,
            cancelled: UNKNOWN,
            done: SUCCEEDED,
            foreign: UNKNOWN,
            foreign_done: SUCCEEDED,
            unclear: vec![
                with_snapshot(with_snapshot(off(), made("new")), made("twin")),
                with_snapshot(off(), snapshot_evidence("new", Some("leaf"), "new")),
                late("kickstart"),
            ],
        },
        removal(
            remove(false),
            CallKind::RemoveSnapshot,
            without(off(), &["kickstart"]),
            Vec::new(),
        ),
        removal(
            remove(true),
            CallKind::RemoveSnapshot,
            without(off(), &["kickstart", "leaf"]),
            vec![without(off(), &["kickstart"]), late("leaf")],
        ),
        removal(
            JobRequest::RemoveAllSnapshots,
            CallKind::RemoveAllSnapshots,
            without(off(), &["base", "kickstart", "leaf"]),
            vec![late("leaf")],
        ),
        removal(
            JobRequest::Consolidate,
            CallKind::ConsolidateDisks,
            consolidated(off()),
            Vec::new(),
        ),
        Row {
            request: rename(),
            call: CallKind::RenameSnapshot,
            before: off(),
            after: renamed,
            unchanged: SENT_AGAIN,
            cancelled: CANCELLED,
            done: SUCCEEDED,
            foreign: SENT_AGAIN,
            foreign_done: SUCCEEDED,
            unclear: vec![without(off(), &["kickstart"])],
        },
        Row {
            request: answer(),
            call: CallKind::Answer,
            before: with_question(off(), "q"),
            after: off(),
            unchanged: SENT_AGAIN,
            cancelled: UNKNOWN,
            done: UNKNOWN,
            foreign: SENT_AGAIN,
            foreign_done: UNKNOWN,
            unclear: vec![with_question(off(), "another")],
        },
    ]
}

impl Row {
    fn has_task(&self) -> bool {
        !matches!(self.call, CallKind::RenameSnapshot | CallKind::Answer)
    }

    /// The script lines of each way in which the end of the call is lost, and whether otter saw
    /// that the call ran.
    fn losses(&self) -> Vec<(Vec<ScriptLine>, bool)> {
        let saw = Saw(self.before.clone());
        let mut losses =
            vec![(vec![saw.clone(), Lost], false), (vec![saw.clone(), Committed, Crash], false)];
        if self.has_task() {
            losses.push((vec![saw, Accepted("first"), TaskVanished], true));
        }
        losses
    }

    /// The script lines in which otter sends the call again and the call succeeds.
    fn second_sending(&self) -> Vec<ScriptLine> {
        match self.call {
            CallKind::RenameSnapshot | CallKind::Answer => vec![Done],
            CallKind::RevertToSnapshot => {
                vec![Accepted("second"), TaskSucceeded, Saw(self.after.clone())]
            }
            _ => vec![Accepted("second"), TaskSucceeded],
        }
    }

    #[track_caller]
    fn check(&self, loss: &[ScriptLine], lines: &[ScriptLine], expected: Expected) {
        let mut script = [loss, lines].concat();
        if expected == SENT_AGAIN {
            script.extend(self.second_sending());
        }
        let played = play(self.request.clone(), &script);
        let sendings = played.calls.iter().filter(|call| **call == self.call).count();
        assert_eq!(sendings, played.calls.len());
        assert_eq!((played.ending(), sendings), expected, "{:?}: {script:?}", self.request);
    }

    /// The script lines after a foreign task ran. Either another account started the task, or
    /// another job of otter did.
    fn after_foreign_task(&self, evidence: &Evidence) -> [Vec<ScriptLine>; 2] {
        let task = |by_us| with_task(evidence.clone(), "foreign", self.call, by_us);
        let others =
            OtherJobs { tasks: vec![TaskId::from_backend("foreign")], ..OtherJobs::default() };
        let saw = || SawWithOthers(task(true), others.clone());
        [vec![Settled(task(false))], vec![saw(), Paused, saw()]]
    }
}

#[test]
fn a_lost_change_of_media_or_boot_is_resolved_by_the_configuration() {
    for (request, call, before, after) in [
        (
            insert(),
            CallKind::SetMedia,
            with_media(off(), None, false),
            with_media(off(), Some(ISO), false),
        ),
        (
            set_boot(),
            CallKind::SetBoot,
            with_media(off(), None, false),
            with_media(off(), None, true),
        ),
    ] {
        let saw = || Saw(before.clone());
        let task = |name| [Accepted(name), TaskSucceeded, Saw(after.clone())];
        for loss in [
            vec![saw(), Lost, HostBack],
            vec![saw(), Committed, Crash, HostBack],
            vec![saw(), Accepted("first"), TaskVanished, HostBack],
        ] {
            for (lines, sendings) in [
                (vec![Settled(after.clone())], 1),
                ([vec![Settled(before.clone())], task("second").to_vec()].concat(), 2),
            ] {
                let script = [loss.clone(), lines].concat();
                let played = play(request.clone(), &script);
                assert_eq!(played.ending(), Changed, "{script:?}");
                assert_eq!(played.calls, vec![call; sendings], "{script:?}");
            }
        }
        // The task of a change says nothing about what it changed, so the machine must show it.
        let own = with_task(before.clone(), "own", CallKind::SetMedia, true);
        let found = vec![saw(), Lost, HostBack, Saw(own), TaskSucceeded];
        let script = [found.clone(), vec![Saw(after.clone())]].concat();
        assert_eq!(play(request.clone(), &script).calls, [call]);
        let resolved = vec![saw(), HostBack, Settled(before.clone())];
        let script = [found, resolved, task("second").to_vec()];
        let played = play(request.clone(), &script.concat());
        assert_eq!((played.ending(), played.calls), (Changed, vec![call; 2]));
    }
}

#[test]
fn a_lost_call_is_resolved_from_the_machine() {
    for row in rows() {
        for (loss, _) in row.losses() {
            row.check(&loss, &[HostBack, Settled(row.before.clone())], row.unchanged);
            row.check(&loss, &[HostBack, Settled(row.after.clone())], row.done);
            for lines in row.after_foreign_task(&row.before) {
                row.check(&loss, &lines, row.foreign);
            }
            for lines in row.after_foreign_task(&row.after) {
                row.check(&loss, &lines, row.foreign_done);
            }
            for evidence in &row.unclear {
                row.check(&loss, &[Settled(evidence.clone())], UNKNOWN);
            }
            row.check(&loss, &[Unreadable(HostErrorKind::NotFound)], UNKNOWN);
            row.check(&loss, &[Saw(another_machine())], UNKNOWN);
        }
    }
}

#[test]
fn a_host_that_is_still_away_is_waited_for() {
    for row in rows() {
        for (loss, _) in row.losses() {
            let away = [Unreadable(HostErrorKind::Unreachable), HostBack];
            let lines = [&away[..], &[Settled(row.before.clone())]].concat();
            row.check(&loss, &lines, row.unchanged);
        }
    }
}

#[test]
fn the_own_task_of_a_lost_call_is_followed() {
    let own = |row: &Row| Saw(with_running_task(row.before.clone(), "own", row.call, true));
    for row in rows().into_iter().filter(Row::has_task) {
        let succeeds = match row.call {
            CallKind::CreateSnapshot => vec![TaskCreated("new")],
            CallKind::RevertToSnapshot => vec![TaskSucceeded, Saw(row.after.clone())],
            _ => vec![TaskSucceeded],
        };
        for (loss, _) in row.losses() {
            row.check(&loss, &[vec![own(&row)], succeeds.clone()].concat(), SUCCEEDED);
            let failed = Failed(FailureKind::HostRejected);
            let fails = [own(&row), TaskFailed(HostErrorKind::Rejected)];
            row.check(&loss, &fails, (failed, 1));
            row.check(&loss, &[Cancel, own(&row), TaskCancelled], CANCELLED);
            // In this case the host comes back after the deadline and before the end of the grace.
            let late = Failed(FailureKind::DeadlineExceeded);
            row.check(&loss, &[Deadline, own(&row), TaskCancelled], (late, 1));
        }
    }
}

#[test]
fn a_lost_call_that_is_cancelled_is_not_sent_again() {
    for row in rows() {
        for (loss, ran) in row.losses() {
            let saw = || Saw(row.before.clone());
            // If the call ran and its task vanished, the end is `unknown`, because the task may
            // still be at work.
            let expected = if ran { UNKNOWN } else { row.cancelled };
            row.check(&loss, &[saw(), Cancel, Paused, saw()], expected);
        }
    }
}

#[test]
fn a_lost_call_that_is_not_resolved_by_the_deadline_is_unknown() {
    for row in rows() {
        for (loss, _) in row.losses() {
            row.check(&loss, &[Saw(row.before.clone()), Deadline], UNKNOWN);
            row.check(&loss, &[Deadline, Saw(row.before.clone())], UNKNOWN);
        }
    }
}

#[test]
fn a_snapshot_is_known_not_to_exist_if_the_host_itself_restarted() {
    let boot = |time: &str| Evidence { host_boot_time: Some(time.to_owned()), ..off() };
    let script = |after| [Saw(boot("1")), Lost, Settled(after)];
    let rebooted = play(create(), &script(boot("2")));
    assert_eq!(rebooted.ending(), Failed(FailureKind::HostUnreachable));
    assert_eq!(rebooted.calls.len(), 1);
    assert_eq!(play(create(), &script(boot("1"))).ending(), Unknown);
}

#[test]
fn a_removal_without_children_is_sent_again_despite_a_later_snapshot() {
    let later = with_snapshot(off(), snapshot_evidence("late", Some("kickstart"), "late"));
    let lines = [Saw(off()), Lost, Settled(later), Accepted("second"), TaskSucceeded];
    let played = play(remove(false), &lines);
    assert_eq!((played.ending(), played.calls.len()), SENT_AGAIN);
}
