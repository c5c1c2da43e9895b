//! What became of a host call whose answer was lost: a pure function, and this table.
//!
//! "Recorded" is what was committed before the call. "Own task" is the one task on the machine that was not
//! recorded, belongs to no other job, is of the method and was started by our account; it is followed to its
//! end, whatever the call. Every other new task is foreign, one of another job of otter's included. The driver
//! judges once the machine was quiet for `esx.settle` (a kill: once that time is over), and a call is sent
//! [`MAX_ASKS`] times at most, the first included and those not counted that are proven not to have run.
//!
//! | call | own task | otherwise |
//! | --- | --- | --- |
//! | `power_on`, `power_off` (a kill's too) | follow it | wanted state: succeeded. Still the recorded state and no foreign task since: ask again. Else unknown |
//! | `revert` | follow it; its success counts if the wanted snapshot is current | foreign task since: unknown. Else ask again: looking proves nothing, the same snapshot may have been current before, and twice gives the same state |
//! | `reset` | follow it | unknown; never sent again |

use crate::domain::call::{Evidence, HostCall, RecentTask};
use crate::domain::ids::TaskId;
use crate::domain::job::Intent;
use crate::domain::machine::PowerState;

/// How often one call may be sent, the first time included.
pub const MAX_ASKS: u32 = 4;

/// What the evidence says of a lost call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The machine is as the call was to make it.
    Succeeded,
    /// It did not happen, or doing it twice is the same as once.
    AskAgain,
    /// This is the call's own task: its end is the call's.
    Follow(TaskId),
    /// What happened cannot be known. The sentence says why.
    Unknown(&'static str),
}

/// Judges a lost call by what was recorded before it and what the machine shows now. `known` are the tasks of
/// otter's other jobs on the machine.
#[must_use]
pub fn judge(intent: &Intent, now: &Evidence, known: &[TaskId]) -> Verdict {
    if let Some(task) = own_task(intent, now, known) {
        return Verdict::Follow(task);
    }
    let foreign = new_tasks(intent, now).next().is_some();
    let verdict = match intent.call {
        HostCall::PowerOn => by_power_state(intent, now, PowerState::On, foreign),
        HostCall::PowerOff => by_power_state(intent, now, PowerState::Off, foreign),
        HostCall::RevertToSnapshot { .. } if foreign => Verdict::Unknown(
            "another task worked on the machine meanwhile, so the revert may have been undone",
        ),
        HostCall::RevertToSnapshot { .. } => Verdict::AskAgain,
        HostCall::Reset => {
            Verdict::Unknown("a reset leaves no trace, and resetting twice is not the same as once")
        }
    };
    match verdict {
        Verdict::AskAgain if intent.asked >= MAX_ASKS => {
            Verdict::Unknown("the call was lost each time that it was sent")
        }
        verdict => verdict,
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

fn by_power_state(intent: &Intent, now: &Evidence, wanted: PowerState, foreign: bool) -> Verdict {
    if now.power_state == Some(wanted) {
        Verdict::Succeeded
    } else if now.power_state == intent.before.power_state && !foreign {
        Verdict::AskAgain
    } else {
        Verdict::Unknown("the machine is neither as it was before the call nor as the call was to make it")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::call::CallKind;
    use crate::domain::ids::SnapshotId;
    use crate::service::inventory::samples;

    fn evidence(power_state: PowerState) -> Evidence {
        Evidence {
            identity: samples::machine("16", "qubes").identity(),
            power_state: Some(power_state),
            current_snapshot: Some(SnapshotId::new("16-snapshot-1")),
            snapshots: vec![SnapshotId::new("16-snapshot-1")],
            question: None,
            host_boot_time: None,
            recent_tasks: Vec::new(),
        }
    }

    fn task(id: &str, call: CallKind, by_us: bool) -> RecentTask {
        RecentTask { id: TaskId::new(id), call: Some(call), by_us, running: false }
    }

    fn intent(call: HostCall, before: PowerState) -> Intent {
        Intent { call, before: evidence(before), asked: 1 }
    }

    fn revert() -> HostCall {
        HostCall::RevertToSnapshot { snapshot: SnapshotId::new("16-snapshot-1"), suppress_power_on: false }
    }

    fn unknown(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Unknown(_))
    }

    #[test]
    fn power_calls_in_the_wanted_state_have_succeeded() {
        let on = judge(&intent(HostCall::PowerOn, PowerState::Off), &evidence(PowerState::On), &[]);
        let off = judge(&intent(HostCall::PowerOff, PowerState::On), &evidence(PowerState::Off), &[]);
        assert_eq!((on, off), (Verdict::Succeeded, Verdict::Succeeded));
    }

    #[test]
    fn power_calls_in_the_recorded_state_are_asked_again() {
        let intent = intent(HostCall::PowerOn, PowerState::Off);
        assert_eq!(judge(&intent, &evidence(PowerState::Off), &[]), Verdict::AskAgain);
    }

    #[test]
    fn power_calls_beside_a_foreign_task_or_in_a_third_state_are_unknown() {
        let intent = intent(HostCall::PowerOn, PowerState::Off);
        let mut beside = evidence(PowerState::Off);
        beside.recent_tasks = vec![task("t-9", CallKind::PowerOff, false)];
        assert!(unknown(&judge(&intent, &beside, &[])));
        assert!(unknown(&judge(&intent, &evidence(PowerState::Suspended), &[])));
    }

    #[test]
    fn a_revert_is_never_judged_by_looking() {
        // The wanted snapshot is current, and was before.
        assert_eq!(
            judge(&intent(revert(), PowerState::Off), &evidence(PowerState::Off), &[]),
            Verdict::AskAgain
        );
        let mut beside = evidence(PowerState::Off);
        beside.recent_tasks = vec![task("t-9", CallKind::RevertToSnapshot, false)];
        assert!(unknown(&judge(&intent(revert(), PowerState::Off), &beside, &[])));
    }

    #[test]
    fn a_reset_without_its_own_task_is_unknown() {
        assert!(unknown(&judge(&intent(HostCall::Reset, PowerState::On), &evidence(PowerState::On), &[])));
    }

    #[test]
    fn the_only_new_task_of_ours_is_followed_for_every_call() {
        for call in [HostCall::PowerOn, HostCall::PowerOff, HostCall::Reset, revert()] {
            let mut now = evidence(PowerState::On);
            now.recent_tasks = vec![task("t-1", call.kind(), true)];
            let intent = intent(call, PowerState::Off);
            assert_eq!(judge(&intent, &now, &[]), Verdict::Follow(TaskId::new("t-1")));
            assert_ne!(judge(&intent, &now, &[TaskId::new("t-1")]), Verdict::Follow(TaskId::new("t-1")));
        }
    }

    #[test]
    fn recorded_foreign_and_doubled_tasks_are_not_followed() {
        let mut now = evidence(PowerState::On);
        let intent = intent(HostCall::Reset, PowerState::On);
        now.recent_tasks = vec![task("t-1", CallKind::Reset, false)];
        assert!(unknown(&judge(&intent, &now, &[])), "not ours");
        now.recent_tasks = vec![task("t-1", CallKind::Reset, true), task("t-2", CallKind::Reset, true)];
        assert!(unknown(&judge(&intent, &now, &[])), "which of the two?");
        let recorded = Intent { before: now.clone(), ..intent };
        assert!(unknown(&judge(&recorded, &now, &[])), "both were there before");
    }

    fn any_power() -> impl Strategy<Value = Option<PowerState>> {
        prop::sample::select(vec![
            None,
            Some(PowerState::On),
            Some(PowerState::Off),
            Some(PowerState::Suspended),
        ])
    }

    fn any_tasks() -> impl Strategy<Value = Vec<RecentTask>> {
        let kind = prop::sample::select(vec![
            None,
            Some(CallKind::PowerOn),
            Some(CallKind::PowerOff),
            Some(CallKind::Reset),
            Some(CallKind::RevertToSnapshot),
        ]);
        // A map, since a host names a task once.
        prop::collection::btree_map(0..6u8, (kind, any::<bool>(), any::<bool>()), 0..4).prop_map(|tasks| {
            let task = |(id, (call, by_us, running))| RecentTask {
                id: TaskId::new(format!("t-{id}")),
                call,
                by_us,
                running,
            };
            tasks.into_iter().map(task).collect()
        })
    }

    proptest! {
        /// Whatever the evidence: a reset is never sent again, nothing is sent more than `MAX_ASKS` times, success
        /// is claimed of power calls in their wanted state alone, and only a new task of ours is followed.
        #[test]
        fn the_table_never_promises_too_much(
            call in prop::sample::select(vec![HostCall::PowerOn, HostCall::PowerOff, HostCall::Reset, revert()]),
            powers in (any_power(), any_power()),
            tasks in (any_tasks(), any_tasks()),
            asked in 1..=MAX_ASKS,
        ) {
            let before = Evidence { power_state: powers.0, recent_tasks: tasks.0, ..evidence(PowerState::Off) };
            let now = Evidence { power_state: powers.1, recent_tasks: tasks.1, ..evidence(PowerState::Off) };
            let intent = Intent { call, before, asked };
            match judge(&intent, &now, &[]) {
                Verdict::AskAgain => {
                    prop_assert!(asked < MAX_ASKS);
                    prop_assert!(intent.call != HostCall::Reset);
                }
                Verdict::Succeeded => {
                    let wanted = match intent.call {
                        HostCall::PowerOn => PowerState::On,
                        HostCall::PowerOff => PowerState::Off,
                        _ => return Err(TestCaseError::fail("only power calls are judged by looking")),
                    };
                    prop_assert_eq!(now.power_state, Some(wanted));
                }
                Verdict::Follow(id) => {
                    let found = now.recent_tasks.iter().find(|task| task.id == id).unwrap();
                    prop_assert!(found.by_us && found.call == Some(intent.call.kind()));
                    prop_assert!(intent.before.recent_tasks.iter().all(|task| task.id != id));
                }
                Verdict::Unknown(_) => {}
            }
        }
    }
}
