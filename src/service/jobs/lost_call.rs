//! What became of a host call whose answer was lost: a pure function, and this table.
//!
//! "Recorded" is what was committed before the call. "Own task" is the one task on the machine that
//! was not recorded, belongs to no other job, is of the method and was started by our account; it
//! is followed to its end, whatever the call. Every other new task is foreign, one of another job
//! of otter's included. The state_machine judges once the machine was quiet for `esx.settle` (a kill: once
//! that time is over), and a call is sent [`MAX_SENDS`] times at most, the first included and those
//! not counted that are proven not to have run.
//!
//! | call | own task | otherwise |
//! | --- | --- | --- |
//! | `power_on`, `power_off` (a kill's too), `suspend` | follow it | wanted state: succeeded. Still the recorded state and no foreign task since: ask again. Else unknown |
//! | `revert` | follow it; its success counts if the wanted snapshot is current | foreign task since: unknown. Else ask again: looking proves nothing, the same snapshot may have been current before, and twice gives the same state |
//! | `create_snapshot` | follow it | exactly one new id of that name under the recorded parent: succeeded. None, and the host itself rebooted: failed. Else unknown; never sent again |
//! | `remove_snapshot`, `remove_all_snapshots` | follow it | the ids are gone: succeeded; with children, recorded ones left: unknown. Still there: ask again, unless that would take snapshots that were not recorded: unknown |
//! | `rename_snapshot` | follow it | named and described as asked: succeeded. Gone: unknown. Else ask again |
//! | `reset` | follow it | unknown; never sent again |
//! | `shutdown` | has none | off: succeeded. Else wait for it; never sent again |
//! | `reboot` | has none | wait for the tools' cycle; never sent again |
//! | `answer` | has none | the same question is still there: ask again. Gone: unknown |

use crate::domain::call::{Evidence, HostCall, RecentTask, SnapshotEvidence};
use crate::domain::ids::{SnapshotId, TaskId};
use crate::domain::job::Intent;
use crate::domain::power::PowerState;

/// How often one call may be sent, the first time included.
pub const MAX_SENDS: u32 = 4;

/// What the evidence says of a lost call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The machine is as the call was to make it.
    Succeeded,
    /// It did not happen, or doing it twice is the same as once.
    SendAgain,
    /// It made this snapshot.
    SnapshotCreated(SnapshotId),
    /// It did not happen, and will not.
    NotDone(&'static str),
    /// The guest does it by itself, or not: only waiting can tell.
    WaitForGuest,
    /// This is the call's own task: its end is the call's.
    FollowTask(TaskId),
    /// What happened cannot be known. The sentence says why.
    Unknown(&'static str),
}

/// Judges a lost call by what was recorded before it and what the machine shows now. `known` are
/// the tasks of otter's other jobs on the machine.
#[must_use]
pub fn resolve(intent: &Intent, now: &Evidence, known: &[TaskId]) -> Resolution {
    if let Some(task) = own_task(intent, now, known) {
        return Resolution::FollowTask(task);
    }
    let foreign = new_tasks(intent, now).next().is_some();
    let resolution = match &intent.call {
        HostCall::PowerOn => resolve_power(intent, now, PowerState::On, foreign),
        HostCall::PowerOff => resolve_power(intent, now, PowerState::Off, foreign),
        HostCall::Suspend => resolve_power(intent, now, PowerState::Suspended, foreign),
        HostCall::RevertToSnapshot { .. } if foreign => Resolution::Unknown(
            "another task worked on the machine meanwhile, so the revert may have been undone",
        ),
        HostCall::RevertToSnapshot { .. } => Resolution::SendAgain,
        HostCall::Reset => Resolution::Unknown(
            "a reset leaves no trace, and resetting twice is not the same as once",
        ),
        HostCall::ShutdownGuest if now.power_state == Some(PowerState::Off) => {
            Resolution::Succeeded
        }
        HostCall::ShutdownGuest | HostCall::RebootGuest => Resolution::WaitForGuest,
        HostCall::Answer { question, .. } if now.question.as_ref() == Some(question) => {
            Resolution::SendAgain
        }
        HostCall::Answer { .. } => Resolution::Unknown("the question is gone, whoever answered it"),
        HostCall::CreateSnapshot { name, .. } => resolve_creation(intent, now, name),
        HostCall::RemoveSnapshot { snapshot, children } => {
            resolve_removal(intent, now, snapshot, *children)
        }
        HostCall::RemoveAllSnapshots => resolve_removal_of_all(intent, now),
        HostCall::RenameSnapshot { snapshot, name, description } => match now.snapshot(snapshot) {
            Some(seen) if seen.matches(name.as_deref(), description.as_deref()) => {
                Resolution::Succeeded
            }
            Some(_) => Resolution::SendAgain,
            None => Resolution::Unknown("the snapshot is gone, under whatever name"),
        },
    };
    match resolution {
        Resolution::SendAgain if intent.asked >= MAX_SENDS => {
            Resolution::Unknown("the call was lost each time that it was sent")
        }
        resolution => resolution,
    }
}

/// The one task that can only be this call's, if there is exactly one such.
#[must_use]
pub fn own_task(intent: &Intent, now: &Evidence, known: &[TaskId]) -> Option<TaskId> {
    let kind = intent.call.kind();
    let mut candidates = new_tasks(intent, now)
        .filter(|task| task.call == Some(kind) && task.by_us && !known.contains(&task.id));
    let only = candidates.next()?;
    candidates.next().is_none().then(|| only.id.clone())
}

/// The tasks that came after the evidence was recorded.
fn new_tasks<'e>(intent: &'e Intent, now: &'e Evidence) -> impl Iterator<Item = &'e RecentTask> {
    let recorded = &intent.before.recent_tasks;
    now.recent_tasks.iter().filter(move |task| !recorded.iter().any(|known| known.id == task.id))
}

/// The only snapshot that can be the one which the call made, if there is exactly one such.
#[must_use]
pub fn created_snapshot(intent: &Intent, now: &Evidence, name: &str) -> Option<SnapshotId> {
    let mut ours = new_snapshots_named(intent, now, name)
        .filter(|snapshot| snapshot.parent == intent.before.current_snapshot)
        .map(|snapshot| snapshot.id.clone());
    let only = ours.next()?;
    ours.next().is_none().then_some(only)
}

fn new_snapshots_named<'e>(
    intent: &'e Intent,
    now: &'e Evidence,
    name: &'e str,
) -> impl Iterator<Item = &'e SnapshotEvidence> {
    let is_new = |snapshot: &&SnapshotEvidence| intent.before.snapshot(&snapshot.id).is_none();
    now.snapshots.iter().filter(is_new).filter(move |snapshot| snapshot.name == name)
}

fn resolve_creation(intent: &Intent, now: &Evidence, name: &str) -> Resolution {
    if let Some(snapshot) = created_snapshot(intent, now, name) {
        return Resolution::SnapshotCreated(snapshot);
    }
    let boots = (&intent.before.host_boot_time, &now.host_boot_time);
    let rebooted = matches!(boots, (Some(before), Some(now)) if before != now);
    if rebooted && new_snapshots_named(intent, now, name).next().is_none() {
        return Resolution::NotDone("the host itself restarted before the snapshot was made");
    }
    Resolution::Unknown(
        "the machine may still be at it, and a second snapshot is not the same as one",
    )
}

fn resolve_removal(
    intent: &Intent,
    now: &Evidence,
    snapshot: &SnapshotId,
    children: bool,
) -> Resolution {
    let here = |id: &SnapshotId| now.snapshot(id).is_some();
    let recorded = |id: &SnapshotId| intent.before.snapshot(id).is_some();
    match here(snapshot) {
        false if children && intent.before.descendants(snapshot).iter().any(here) => {
            Resolution::Unknown("the snapshot is gone and some of those below it are left")
        }
        false => Resolution::Succeeded,
        true if children && !now.descendants(snapshot).iter().all(recorded) => Resolution::Unknown(
            "it was not done, and doing it now would take snapshots that came later",
        ),
        true => Resolution::SendAgain,
    }
}

fn resolve_removal_of_all(intent: &Intent, now: &Evidence) -> Resolution {
    let recorded =
        now.snapshots.iter().filter(|seen| intent.before.snapshot(&seen.id).is_some()).count();
    match recorded {
        0 => Resolution::Succeeded,
        all if all == now.snapshots.len() => Resolution::SendAgain,
        _ => Resolution::Unknown(
            "not all of it was done, and doing it again would take snapshots that came later",
        ),
    }
}

fn resolve_power(
    intent: &Intent,
    now: &Evidence,
    expected: PowerState,
    foreign: bool,
) -> Resolution {
    if now.power_state == Some(expected) {
        Resolution::Succeeded
    } else if now.power_state == intent.before.power_state && !foreign {
        Resolution::SendAgain
    } else {
        Resolution::Unknown(
            "the machine is neither as it was before the call nor as the call was to make it",
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::call::CallKind;
    use crate::domain::ids::QuestionId;
    use crate::service::jobs::samples::{evidence, snapshot_evidence};

    fn create() -> HostCall {
        let (name, description) = ("new".to_owned(), String::new());
        HostCall::CreateSnapshot { name, description, memory: false, quiesce: false }
    }

    fn remove(children: bool) -> HostCall {
        HostCall::RemoveSnapshot { snapshot: SnapshotId::from_backend("16-snapshot-1"), children }
    }

    fn rename() -> HostCall {
        let name = Some("renamed".to_owned());
        HostCall::RenameSnapshot {
            snapshot: SnapshotId::from_backend("16-snapshot-1"),
            name,
            description: None,
        }
    }

    fn answer() -> HostCall {
        HostCall::Answer { question: QuestionId::from_backend("q"), choice: "4".to_owned() }
    }

    fn every_call() -> Vec<HostCall> {
        vec![
            HostCall::PowerOn,
            HostCall::PowerOff,
            HostCall::Reset,
            HostCall::Suspend,
            HostCall::ShutdownGuest,
            HostCall::RebootGuest,
            HostCall::RemoveAllSnapshots,
            revert(),
            create(),
            remove(false),
            remove(true),
            rename(),
            answer(),
        ]
    }

    fn task(id: &str, call: CallKind, by_us: bool) -> RecentTask {
        RecentTask { id: TaskId::from_backend(id), call: Some(call), by_us, running: false }
    }

    fn intent(call: HostCall, before: PowerState) -> Intent {
        Intent { call, before: evidence(before), asked: 1 }
    }

    fn revert() -> HostCall {
        HostCall::RevertToSnapshot {
            snapshot: SnapshotId::from_backend("16-snapshot-1"),
            suppress_power_on: false,
        }
    }

    fn is_unknown(resolution: &Resolution) -> bool {
        matches!(resolution, Resolution::Unknown(_))
    }

    #[test]
    fn power_calls_in_the_wanted_state_have_succeeded() {
        let on =
            resolve(&intent(HostCall::PowerOn, PowerState::Off), &evidence(PowerState::On), &[]);
        let off =
            resolve(&intent(HostCall::PowerOff, PowerState::On), &evidence(PowerState::Off), &[]);
        assert_eq!((on, off), (Resolution::Succeeded, Resolution::Succeeded));
    }

    #[test]
    fn power_calls_in_the_recorded_state_are_asked_again() {
        let intent = intent(HostCall::PowerOn, PowerState::Off);
        assert_eq!(resolve(&intent, &evidence(PowerState::Off), &[]), Resolution::SendAgain);
    }

    #[test]
    fn power_calls_beside_a_foreign_task_or_in_a_third_state_are_unknown() {
        let intent = intent(HostCall::PowerOn, PowerState::Off);
        let mut beside = evidence(PowerState::Off);
        beside.recent_tasks = vec![task("t-9", CallKind::PowerOff, false)];
        assert!(is_unknown(&resolve(&intent, &beside, &[])));
        assert!(is_unknown(&resolve(&intent, &evidence(PowerState::Suspended), &[])));
    }

    #[test]
    fn a_revert_is_never_judged_by_looking() {
        // The wanted snapshot is current, and was before.
        assert_eq!(
            resolve(&intent(revert(), PowerState::Off), &evidence(PowerState::Off), &[]),
            Resolution::SendAgain
        );
        let mut beside = evidence(PowerState::Off);
        beside.recent_tasks = vec![task("t-9", CallKind::RevertToSnapshot, false)];
        assert!(is_unknown(&resolve(&intent(revert(), PowerState::Off), &beside, &[])));
    }

    #[test]
    fn a_reset_without_its_own_task_is_unknown() {
        assert!(is_unknown(&resolve(
            &intent(HostCall::Reset, PowerState::On),
            &evidence(PowerState::On),
            &[]
        )));
    }

    #[test]
    fn what_the_guest_does_is_waited_for() {
        let (on, off) = (evidence(PowerState::On), evidence(PowerState::Off));
        let shutdown = intent(HostCall::ShutdownGuest, PowerState::On);
        assert_eq!(
            (resolve(&shutdown, &on, &[]), resolve(&shutdown, &off, &[])),
            (Resolution::WaitForGuest, Resolution::Succeeded)
        );
        assert_eq!(
            resolve(&intent(HostCall::RebootGuest, PowerState::On), &on, &[]),
            Resolution::WaitForGuest
        );
    }

    #[test]
    fn an_answer_is_given_again_while_the_same_question_is_there() {
        let intent = intent(answer(), PowerState::Off);
        let asks = |question: Option<&str>| Evidence {
            question: question.map(QuestionId::from_backend),
            ..evidence(PowerState::Off)
        };
        assert_eq!(resolve(&intent, &asks(Some("q")), &[]), Resolution::SendAgain);
        assert!(is_unknown(&resolve(&intent, &asks(Some("another")), &[])));
        assert!(is_unknown(&resolve(&intent, &asks(None), &[])));
    }

    #[test]
    fn a_snapshot_was_made_if_exactly_one_new_one_can_be_it() {
        let intent = intent(create(), PowerState::Off);
        let with = |more: &[SnapshotEvidence], boot: Option<&str>| {
            let mut now = evidence(PowerState::Off);
            now.snapshots.extend(more.iter().cloned());
            now.host_boot_time = boot.map(str::to_owned);
            now
        };
        let (ours, twin) = (
            snapshot_evidence("n", Some("16-snapshot-1"), "new"),
            snapshot_evidence("m", Some("16-snapshot-1"), "new"),
        );
        assert_eq!(
            resolve(&intent, &with(std::slice::from_ref(&ours), None), &[]),
            Resolution::SnapshotCreated(SnapshotId::from_backend("n"))
        );
        assert!(is_unknown(&resolve(&intent, &with(&[], None), &[])), "it may still come");
        assert!(
            is_unknown(&resolve(&intent, &with(&[ours, twin], None), &[])),
            "which of the two?"
        );
        assert!(
            is_unknown(&resolve(&intent, &with(&[snapshot_evidence("n", None, "new")], None), &[])),
            "elsewhere"
        );
        assert!(is_unknown(&resolve(
            &intent,
            &with(&[snapshot_evidence("n", Some("16-snapshot-1"), "other")], None),
            &[]
        )));
        let booted = Intent { before: with(&[], Some("1")), ..intent.clone() };
        assert!(matches!(resolve(&booted, &with(&[], Some("2")), &[]), Resolution::NotDone(_)));
        assert!(is_unknown(&resolve(&booted, &with(&[], Some("1")), &[])), "hostd alone restarted");
        assert!(is_unknown(&resolve(
            &booted,
            &with(&[snapshot_evidence("n", None, "new")], Some("2")),
            &[]
        )));
        assert!(
            is_unknown(&resolve(&intent, &with(&[], Some("2")), &[])),
            "the boot time was not known before"
        );
    }

    #[test]
    fn a_removal_is_judged_by_what_is_left() {
        let tree = |ids: &[(&str, Option<&str>)]| Evidence {
            snapshots: ids.iter().map(|(id, parent)| snapshot_evidence(id, *parent, id)).collect(),
            ..evidence(PowerState::Off)
        };
        let (one, two) = ("16-snapshot-1", "16-snapshot-2");
        let before = tree(&[(one, None), (two, Some(one))]);
        let judged = |call: HostCall, now: &Evidence| {
            resolve(&Intent { call, before: before.clone(), asked: 1 }, now, &[])
        };
        assert_eq!(
            judged(remove(false), &tree(&[(two, None)])),
            Resolution::Succeeded,
            "children move up"
        );
        assert_eq!(judged(remove(true), &tree(&[])), Resolution::Succeeded);
        assert_eq!(judged(remove(true), &tree(&[("late", None)])), Resolution::Succeeded);
        assert!(
            is_unknown(&judged(remove(true), &tree(&[(two, None)]))),
            "a recorded child is left"
        );
        assert_eq!(judged(remove(false), &before), Resolution::SendAgain);
        assert_eq!(judged(remove(true), &before), Resolution::SendAgain);
        let grown = tree(&[(one, None), (two, Some(one)), ("late", Some(two))]);
        assert_eq!(judged(remove(false), &grown), Resolution::SendAgain);
        assert!(is_unknown(&judged(remove(true), &grown)), "it would take the late one");
        let all = HostCall::RemoveAllSnapshots;
        assert_eq!(judged(all.clone(), &tree(&[])), Resolution::Succeeded);
        assert_eq!(judged(all.clone(), &tree(&[("late", None)])), Resolution::Succeeded);
        assert_eq!(judged(all.clone(), &tree(&[(two, None)])), Resolution::SendAgain);
        assert!(is_unknown(&judged(all, &grown)));
    }

    #[test]
    fn a_rename_is_judged_by_the_words() {
        let intent = intent(rename(), PowerState::Off);
        let mut now = evidence(PowerState::Off);
        assert_eq!(resolve(&intent, &now, &[]), Resolution::SendAgain);
        now.snapshots[0].name = "renamed".to_owned();
        assert_eq!(resolve(&intent, &now, &[]), Resolution::Succeeded);
        let described = HostCall::RenameSnapshot {
            snapshot: SnapshotId::from_backend("16-snapshot-1"),
            name: None,
            description: Some("why".to_owned()),
        };
        assert_eq!(
            resolve(&Intent { call: described, ..intent.clone() }, &now, &[]),
            Resolution::SendAgain
        );
        now.snapshots.clear();
        assert!(is_unknown(&resolve(&intent, &now, &[])));
    }

    #[test]
    fn the_only_new_task_of_ours_is_followed_for_every_call() {
        for call in every_call() {
            let mut now = evidence(PowerState::On);
            now.recent_tasks = vec![task("t-1", call.kind(), true)];
            let intent = intent(call, PowerState::Off);
            assert_eq!(
                resolve(&intent, &now, &[]),
                Resolution::FollowTask(TaskId::from_backend("t-1"))
            );
            assert_ne!(
                resolve(&intent, &now, &[TaskId::from_backend("t-1")]),
                Resolution::FollowTask(TaskId::from_backend("t-1"))
            );
        }
    }

    #[test]
    fn recorded_foreign_and_doubled_tasks_are_not_followed() {
        let mut now = evidence(PowerState::On);
        let intent = intent(HostCall::Reset, PowerState::On);
        now.recent_tasks = vec![task("t-1", CallKind::Reset, false)];
        assert!(is_unknown(&resolve(&intent, &now, &[])), "not ours");
        now.recent_tasks =
            vec![task("t-1", CallKind::Reset, true), task("t-2", CallKind::Reset, true)];
        assert!(is_unknown(&resolve(&intent, &now, &[])), "which of the two?");
        let recorded = Intent { before: now.clone(), ..intent };
        assert!(is_unknown(&resolve(&recorded, &now, &[])), "both were there before");
    }

    fn any_power() -> impl Strategy<Value = Option<PowerState>> {
        prop::sample::select(vec![
            None,
            Some(PowerState::On),
            Some(PowerState::Off),
            Some(PowerState::Suspended),
        ])
    }

    fn any_tree() -> impl Strategy<Value = Vec<SnapshotEvidence>> {
        let name = prop::sample::select(vec!["base", "new", "renamed"]);
        prop::collection::btree_map(1..5u8, name, 0..4).prop_map(|tree| {
            let mut above: Option<String> = None;
            let below = |(id, name): (u8, &str)| {
                let id = format!("16-snapshot-{id}");
                let snapshot = snapshot_evidence(&id, above.as_deref(), name);
                above = Some(id);
                snapshot
            };
            tree.into_iter().map(below).collect()
        })
    }

    /// What is never sent again after a loss.
    fn must_not_repeat(call: &HostCall) -> bool {
        matches!(
            call.kind(),
            CallKind::Reset
                | CallKind::ShutdownGuest
                | CallKind::RebootGuest
                | CallKind::CreateSnapshot
        )
    }

    fn any_tasks() -> impl Strategy<Value = Vec<RecentTask>> {
        let kind = prop::option::of(prop::sample::select(CallKind::ALL));
        // A map, since a host names a task once.
        prop::collection::btree_map(0..6u8, (kind, any::<bool>(), any::<bool>()), 0..4).prop_map(
            |tasks| {
                let task = |(id, (call, by_us, running))| RecentTask {
                    id: TaskId::from_backend(format!("t-{id}")),
                    call,
                    by_us,
                    running,
                };
                tasks.into_iter().map(task).collect()
            },
        )
    }

    proptest! {
        /// Whatever the evidence: what cannot be repeated is never sent again, nothing is sent more
        /// than `MAX_SENDS` times, success is claimed only where it can be seen, and only a new task
        /// of ours is followed.
        #[test]
        fn the_table_never_promises_too_much(
            call in prop::sample::select(every_call()),
            powers in (any_power(), any_power()),
            tasks in (any_tasks(), any_tasks()),
            trees in (any_tree(), any_tree()),
            asked in 1..=MAX_SENDS,
        ) {
            let before = Evidence { power_state: powers.0, recent_tasks: tasks.0, snapshots: trees.0, ..evidence(PowerState::Off) };
            let now = Evidence { power_state: powers.1, recent_tasks: tasks.1, snapshots: trees.1, ..evidence(PowerState::Off) };
            let intent = Intent { call, before, asked };
            match resolve(&intent, &now, &[]) {
                Resolution::SendAgain => {
                    prop_assert!(asked < MAX_SENDS);
                    prop_assert!(!must_not_repeat(&intent.call));
                }
                Resolution::Succeeded => {
                    let here = |id: &SnapshotId| now.snapshot(id).is_some();
                    let seen = match &intent.call {
                        HostCall::PowerOn => now.power_state == Some(PowerState::On),
                        HostCall::PowerOff | HostCall::ShutdownGuest => now.power_state == Some(PowerState::Off),
                        HostCall::Suspend => now.power_state == Some(PowerState::Suspended),
                        HostCall::RemoveSnapshot { snapshot, .. } => !here(snapshot),
                        HostCall::RemoveAllSnapshots => !intent.before.snapshots.iter().any(|seen| here(&seen.id)),
                        HostCall::RenameSnapshot { snapshot, .. } => {
                            now.snapshot(snapshot).is_some_and(|seen| seen.name == "renamed")
                        }
                        _ => return Err(TestCaseError::fail("looking proves nothing of it")),
                    };
                    prop_assert!(seen);
                }
                Resolution::SnapshotCreated(id) => {
                    prop_assert!(intent.call.kind() == CallKind::CreateSnapshot);
                    prop_assert!(intent.before.snapshot(&id).is_none() && now.snapshot(&id).is_some());
                }
                Resolution::WaitForGuest => prop_assert!(intent.call.kind().is_guest_operation()),
                Resolution::NotDone(_) => prop_assert!(false, "the host did not reboot"),
                Resolution::FollowTask(id) => {
                    let found = now.recent_tasks.iter().find(|task| task.id == id).unwrap();
                    prop_assert!(found.by_us && found.call == Some(intent.call.kind()));
                    prop_assert!(intent.before.recent_tasks.iter().all(|task| task.id != id));
                }
                Resolution::Unknown(_) => {}
            }
        }
    }
}
