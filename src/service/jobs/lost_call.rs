//! Resolves a lost call: a host call whose answer, or whose task, was lost. A pure function decides
//! by this table.
//!
//! "Recorded" is the evidence that was committed before the call. The "own task" is the only task
//! on the machine that is not recorded, belongs to no other job, has the call's method and was
//! started by otter's account. Whatever the call is, otter follows its own task to the end. Every
//! other new task is foreign, including a task of another job of otter. The state machine resolves
//! a call once no task has run on the machine for `esx.settle`. A kill or an answer waits for
//! `esx.settle` only, whether or not a task runs. A call is sent at most [`MAX_SENDS`] times. This
//! counts the first sending, but not the sendings that are proven not to have run.
//!
//! ```text
//! call                  state of the machine, without an own task          resolution
//! ────────────────────  ─────────────────────────────────────────────────  ──────────────────────
//! power_on, power_off,  the expected power state                           succeeded
//! suspend               the recorded power state, no new foreign task      send again
//!                       any other state                                    unknown
//! revert                a new foreign task                                 unknown
//!                       any other state                                    send again
//! create_snapshot       one new snapshot of the name below the recorded    succeeded
//!                       current snapshot
//!                       no new snapshot of the name, the host rebooted     not done
//!                       any other state                                    unknown
//! remove_snapshot,      the snapshots are gone                             succeeded
//! remove_all_snapshots  some recorded children are left                    unknown
//!                       still there, newer snapshots would be removed too  unknown
//!                       still there                                        send again
//! consolidate_disks     no consolidation is needed                         succeeded
//!                       any other state                                    send again
//! rename_snapshot       the requested name and description                 succeeded
//!                       the snapshot is gone                               unknown
//!                       any other state                                    send again
//! set_media, set_boot   the drive, the boot options are as requested       succeeded
//!                       any other state                                    send again
//! reset                 any state                                          unknown
//! shutdown              off                                                succeeded
//!                       any other state                                    wait until it is off
//! reboot                any state                                          wait for the tools
//! answer                the same question                                  send again
//!                       any other state                                    unknown
//! ```
//! A shutdown, a reboot and an answer have no task. The tasks of changes of media and of boot
//! orders have the same method. So after the task of a lost call, the machine must show the change,
//! or the call is resolved without this task. The success of a revert's own task counts only if the
//! requested snapshot is current. The current snapshot does not prove a lost revert, because it may
//! have been current before; a second revert leads to the same state.

use crate::domain::call::{Evidence, HostCall, RecentTask, SnapshotEvidence};
use crate::domain::ids::{SnapshotId, TaskId};
use crate::domain::job::Intent;
use crate::domain::media::CdDrive;
use crate::domain::names::is_name;
use crate::domain::power::PowerState;

/// The largest number of times that one call is sent, including the first time.
pub const MAX_SENDS: u32 = 4;

/// What becomes of a lost call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The call succeeded: the machine is in the state that the call causes.
    Succeeded,
    /// The call is sent again: it did not run, or two runs have the same effect as one.
    SendAgain,
    /// The call succeeded: it created this snapshot.
    SnapshotCreated(SnapshotId),
    /// The call did not run and will not run. The text says why.
    NotDone(&'static str),
    /// It is not known yet whether the guest does what the call asked of it. The job must wait to
    /// find out.
    WaitForGuest,
    /// The host has this task for the call. The end of the task is the end of the call.
    FollowTask(TaskId),
    /// It cannot be known whether the call ran. The text says why.
    Unknown(&'static str),
}

/// Resolves a lost call by a comparison of the evidence before the call with the evidence now.
///
/// # Parameters
/// - `known`: the tasks of otter's other jobs on the machine.
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
        HostCall::ConsolidateDisks if now.consolidation_needed == Some(false) => {
            Resolution::Succeeded
        }
        HostCall::SetMedia { .. } | HostCall::SetBoot { .. } if has_change(&intent.call, now) => {
            Resolution::Succeeded
        }
        HostCall::RevertToSnapshot { .. }
        | HostCall::ConsolidateDisks
        | HostCall::SetMedia { .. }
        | HostCall::SetBoot { .. } => Resolution::SendAgain,
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
        HostCall::Answer { .. } => {
            Resolution::Unknown("the question is gone, and it is not known who answered it")
        }
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
            None => Resolution::Unknown("the snapshot is gone"),
        },
    };
    match resolution {
        Resolution::SendAgain if intent.asked >= MAX_SENDS => {
            Resolution::Unknown("the call was lost each time that it was sent")
        }
        resolution => resolution,
    }
}

/// The task of this call. `None` if no task, or more than one, can be the task of this call.
#[must_use]
pub fn own_task(intent: &Intent, now: &Evidence, known: &[TaskId]) -> Option<TaskId> {
    let kind = intent.call.kind();
    let mut candidates = new_tasks(intent, now)
        .filter(|task| task.call.is_some_and(|call| call.shares_task_with(kind)))
        .filter(|task| task.by_us && !known.contains(&task.id));
    let only = candidates.next()?;
    candidates.next().is_none().then(|| only.id.clone())
}

/// Whether the machine shows what a call that changes a drive or the boot options causes. False for
/// other calls.
#[must_use]
pub fn has_change(call: &HostCall, now: &Evidence) -> bool {
    match call {
        HostCall::SetMedia { drive } => has_drive_like(now, drive),
        HostCall::SetBoot { boot } => now.media.boot == *boot,
        _ => false,
    }
}

/// Whether a drive of the machine is as `drive` says.
#[must_use]
pub fn has_drive_like(now: &Evidence, drive: &CdDrive) -> bool {
    let on = now.power_state == Some(PowerState::On);
    now.media.drives.iter().any(|seen| seen.is_like(drive, on))
}

/// The tasks that the evidence of now has and the recorded evidence does not have.
fn new_tasks<'e>(intent: &'e Intent, now: &'e Evidence) -> impl Iterator<Item = &'e RecentTask> {
    let recorded = &intent.before.recent_tasks;
    now.recent_tasks.iter().filter(move |task| !recorded.iter().any(|known| known.id == task.id))
}

/// The snapshot that the call created. `None` if no snapshot can be the created one, or more than
/// one can.
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
    now.snapshots.iter().filter(is_new).filter(move |snapshot| is_name(name, &snapshot.name))
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
        "the snapshot may still be created, and two snapshots are not the same as one",
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
            Resolution::Unknown("the snapshot is gone, and some of the snapshots below it are left")
        }
        false => Resolution::Succeeded,
        true if children && !now.descendants(snapshot).iter().all(recorded) => Resolution::Unknown(
            "the call did not run, and running it now would remove newer snapshots",
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
            "the call ran in part, and running it again would remove newer snapshots",
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
            "the machine is neither in the state before the call nor in the state that the call \
             causes",
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::call::CallKind;
    use crate::domain::ids::QuestionId;
    use crate::domain::media::{BootDevice, BootEntry, BootMedia, BootOptions};
    use crate::service::jobs::samples::{drive, evidence, snapshot_evidence};

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

    fn boot() -> BootOptions {
        let order = vec![BootEntry { device: BootDevice::Cdrom, key: None }];
        BootOptions { order, delay: Duration::from_secs(5) }
    }

    fn every_call() -> Vec<HostCall> {
        vec![
            HostCall::SetMedia { drive: drive(Some("[isos] qubes.iso")) },
            HostCall::SetBoot { boot: boot() },
            HostCall::PowerOn,
            HostCall::PowerOff,
            HostCall::Reset,
            HostCall::Suspend,
            HostCall::ShutdownGuest,
            HostCall::RebootGuest,
            HostCall::RemoveAllSnapshots,
            HostCall::ConsolidateDisks,
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
    fn a_lost_creation_is_found_by_each_form_of_the_name() {
        for (asked, shown) in [("11%2f13", "11/13"), ("11/13", "11%2f13"), ("a", "a")] {
            let mut now = evidence(PowerState::Off);
            let parent = now.current_snapshot.as_ref().map(|id| id.backend_text().to_owned());
            let made = snapshot_evidence("16-snapshot-new", parent.as_deref(), shown);
            now.snapshots.push(made.clone());
            let creation = intent(create(), PowerState::Off);
            assert_eq!(created_snapshot(&creation, &now, asked), Some(made.id.clone()), "{asked}");
            assert_eq!(created_snapshot(&creation, &now, "other"), None);
        }
    }

    #[test]
    fn a_power_call_succeeded_if_the_machine_has_the_expected_state() {
        let on =
            resolve(&intent(HostCall::PowerOn, PowerState::Off), &evidence(PowerState::On), &[]);
        let off =
            resolve(&intent(HostCall::PowerOff, PowerState::On), &evidence(PowerState::Off), &[]);
        assert_eq!((on, off), (Resolution::Succeeded, Resolution::Succeeded));
    }

    #[test]
    fn a_power_call_is_sent_again_if_the_machine_has_the_recorded_state() {
        let intent = intent(HostCall::PowerOn, PowerState::Off);
        assert_eq!(resolve(&intent, &evidence(PowerState::Off), &[]), Resolution::SendAgain);
    }

    #[test]
    fn a_power_call_is_unknown_after_a_foreign_task_or_in_a_third_state() {
        let intent = intent(HostCall::PowerOn, PowerState::Off);
        let mut after_foreign_task = evidence(PowerState::Off);
        after_foreign_task.recent_tasks = vec![task("t-9", CallKind::PowerOff, false)];
        assert!(is_unknown(&resolve(&intent, &after_foreign_task, &[])));
        assert!(is_unknown(&resolve(&intent, &evidence(PowerState::Suspended), &[])));
    }

    #[test]
    fn a_revert_is_not_resolved_by_the_current_snapshot() {
        // The requested snapshot is current now. This proves nothing, because it was already
        // current before the call.
        assert_eq!(
            resolve(&intent(revert(), PowerState::Off), &evidence(PowerState::Off), &[]),
            Resolution::SendAgain
        );
        let mut after_foreign_task = evidence(PowerState::Off);
        after_foreign_task.recent_tasks = vec![task("t-9", CallKind::RevertToSnapshot, false)];
        assert!(is_unknown(&resolve(&intent(revert(), PowerState::Off), &after_foreign_task, &[])));
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
    fn a_call_to_the_guest_is_waited_for() {
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
    fn an_answer_is_sent_again_while_the_same_question_is_there() {
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
    fn a_snapshot_was_created_if_exactly_one_new_snapshot_can_be_it() {
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
        assert!(is_unknown(&resolve(&intent, &with(&[], None), &[])), "it may still be created");
        assert!(is_unknown(&resolve(&intent, &with(&[ours, twin], None), &[])), "two candidates");
        assert!(
            is_unknown(&resolve(&intent, &with(&[snapshot_evidence("n", None, "new")], None), &[])),
            "another parent"
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
    fn a_removal_is_resolved_by_the_remaining_snapshots() {
        let tree = |ids: &[(&str, Option<&str>)]| Evidence {
            snapshots: ids.iter().map(|(id, parent)| snapshot_evidence(id, *parent, id)).collect(),
            ..evidence(PowerState::Off)
        };
        let (one, two) = ("16-snapshot-1", "16-snapshot-2");
        let before = tree(&[(one, None), (two, Some(one))]);
        let resolved = |call: HostCall, now: &Evidence| {
            resolve(&Intent { call, before: before.clone(), asked: 1 }, now, &[])
        };
        assert_eq!(
            resolved(remove(false), &tree(&[(two, None)])),
            Resolution::Succeeded,
            "children move up"
        );
        assert_eq!(resolved(remove(true), &tree(&[])), Resolution::Succeeded);
        assert_eq!(resolved(remove(true), &tree(&[("late", None)])), Resolution::Succeeded);
        assert!(
            is_unknown(&resolved(remove(true), &tree(&[(two, None)]))),
            "a recorded child is left"
        );
        assert_eq!(resolved(remove(false), &before), Resolution::SendAgain);
        assert_eq!(resolved(remove(true), &before), Resolution::SendAgain);
        let grown = tree(&[(one, None), (two, Some(one)), ("late", Some(two))]);
        assert_eq!(resolved(remove(false), &grown), Resolution::SendAgain);
        assert!(is_unknown(&resolved(remove(true), &grown)), "it would remove the later snapshot");
        let all = HostCall::RemoveAllSnapshots;
        assert_eq!(resolved(all.clone(), &tree(&[])), Resolution::Succeeded);
        assert_eq!(resolved(all.clone(), &tree(&[("late", None)])), Resolution::Succeeded);
        assert_eq!(resolved(all.clone(), &tree(&[(two, None)])), Resolution::SendAgain);
        assert!(is_unknown(&resolved(all, &grown)));
    }

    #[test]
    fn a_consolidation_is_resolved_by_whether_it_is_still_needed() {
        let intent = intent(HostCall::ConsolidateDisks, PowerState::Off);
        let now =
            |consolidation_needed| Evidence { consolidation_needed, ..evidence(PowerState::Off) };
        assert_eq!(resolve(&intent, &now(Some(false)), &[]), Resolution::Succeeded);
        assert_eq!(resolve(&intent, &now(Some(true)), &[]), Resolution::SendAgain);
        assert_eq!(resolve(&intent, &now(None), &[]), Resolution::SendAgain);
        let last = Intent { asked: MAX_SENDS, ..intent };
        assert!(is_unknown(&resolve(&last, &now(Some(true)), &[])));
    }

    #[test]
    fn a_rename_is_resolved_by_name_and_description() {
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
    fn media_and_boot_are_resolved_by_the_configuration_of_the_machine() {
        let with = |power, iso: Option<&str>, boot: BootOptions| Evidence {
            media: BootMedia { drives: vec![drive(iso)], boot, ..BootMedia::default() },
            ..evidence(power)
        };
        let iso = Some("[isos] qubes.iso");
        let insert = intent(HostCall::SetMedia { drive: drive(iso) }, PowerState::Off);
        let order = intent(HostCall::SetBoot { boot: boot() }, PowerState::Off);
        let nothing = BootOptions::default;
        for (intent, now, expected) in [
            (&insert, with(PowerState::On, iso, nothing()), Resolution::Succeeded),
            (&insert, with(PowerState::On, None, nothing()), Resolution::SendAgain),
            (&insert, evidence(PowerState::On), Resolution::SendAgain),
            (&order, with(PowerState::Off, iso, boot()), Resolution::Succeeded),
            (&order, with(PowerState::Off, iso, nothing()), Resolution::SendAgain),
        ] {
            assert_eq!(resolve(intent, &now, &[]), expected, "{now:?}");
            let last = Intent { asked: MAX_SENDS, ..intent.clone() };
            let at_last = resolve(&last, &now, &[]);
            assert!(at_last == Resolution::Succeeded || is_unknown(&at_last), "{at_last:?}");
        }
        let mut connecting = with(PowerState::Off, iso, nothing());
        connecting.media.drives[0].connected = false;
        assert_eq!(resolve(&insert, &connecting, &[]), Resolution::Succeeded, "it is off");
        connecting.power_state = Some(PowerState::On);
        assert_eq!(resolve(&insert, &connecting, &[]), Resolution::SendAgain);
    }

    #[test]
    fn the_only_new_task_of_the_account_is_followed_for_every_call() {
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
    fn recorded_foreign_and_ambiguous_tasks_are_not_followed() {
        let mut now = evidence(PowerState::On);
        let intent = intent(HostCall::Reset, PowerState::On);
        now.recent_tasks = vec![task("t-1", CallKind::Reset, false)];
        assert!(is_unknown(&resolve(&intent, &now, &[])), "another account");
        now.recent_tasks =
            vec![task("t-1", CallKind::Reset, true), task("t-2", CallKind::Reset, true)];
        assert!(is_unknown(&resolve(&intent, &now, &[])), "two candidates");
        let recorded = Intent { before: now.clone(), ..intent };
        assert!(is_unknown(&resolve(&recorded, &now, &[])), "both are recorded");
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

    /// Whether a lost call of this kind must never be sent again.
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
        // The ids of the tasks come from the keys of a map, so that they differ: a host names each
        // task once.
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
        /// These rules hold for any evidence. A call that must not be repeated is never sent again.
        /// No call is sent more than `MAX_SENDS` times. A call succeeds only if the machine shows
        /// its effect. Only a new task that otter's account started is followed.
        #[test]
        fn a_resolution_is_proven_by_the_evidence(
            call in prop::sample::select(every_call()),
            powers in (any_power(), any_power()),
            tasks in (any_tasks(), any_tasks()),
            trees in (any_tree(), any_tree()),
            consolidation_needed in any::<Option<bool>>(),
            asked in 1..=MAX_SENDS,
        ) {
            let state = |power_state, recent_tasks, snapshots| Evidence {
                power_state,
                snapshots,
                recent_tasks,
                ..evidence(PowerState::Off)
            };
            let before = state(powers.0, tasks.0, trees.0);
            let now =
                Evidence { consolidation_needed, ..state(powers.1, tasks.1, trees.1) };
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
                        HostCall::PowerOff | HostCall::ShutdownGuest => {
                            now.power_state == Some(PowerState::Off)
                        }
                        HostCall::Suspend => now.power_state == Some(PowerState::Suspended),
                        HostCall::RemoveSnapshot { snapshot, .. } => !here(snapshot),
                        HostCall::RemoveAllSnapshots => {
                            !intent.before.snapshots.iter().any(|snapshot| here(&snapshot.id))
                        }
                        HostCall::ConsolidateDisks => consolidation_needed == Some(false),
                        HostCall::SetMedia { drive } => has_drive_like(&now, drive),
                        HostCall::SetBoot { boot } => now.media.boot == *boot,
                        HostCall::RenameSnapshot { snapshot, .. } => {
                            now.snapshot(snapshot).is_some_and(|seen| seen.name == "renamed")
                        }
                        _ => {
                            let reason = "the state of the machine does not prove this call";
                            return Err(TestCaseError::fail(reason));
                        }
                    };
                    prop_assert!(seen);
                }
                Resolution::SnapshotCreated(id) => {
                    prop_assert!(intent.call.kind() == CallKind::CreateSnapshot);
                    prop_assert!(intent.before.snapshot(&id).is_none());
                    prop_assert!(now.snapshot(&id).is_some());
                }
                Resolution::WaitForGuest => prop_assert!(intent.call.kind().is_guest_operation()),
                Resolution::NotDone(_) => prop_assert!(false, "the host did not reboot"),
                Resolution::FollowTask(id) => {
                    let found = now.recent_tasks.iter().find(|task| task.id == id).unwrap();
                    let kind = intent.call.kind();
                    prop_assert!(found.by_us);
                    prop_assert!(found.call.is_some_and(|call| call.shares_task_with(kind)));
                    prop_assert!(intent.before.recent_tasks.iter().all(|task| task.id != id));
                }
                Resolution::Unknown(_) => {}
            }
        }
    }
}
