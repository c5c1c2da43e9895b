//! Tests of the queues: examples, and a comparison with a simple model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::ids::MachineId;

fn job(n: u128) -> JobId {
    JobId::new(Uuid::from_u128(n))
}

fn machine(n: u8) -> TargetId {
    TargetId::Machine(MachineId::from_backend(n.to_string()))
}

#[test]
fn a_job_counts_before_it_is_committed() {
    let mut queues = Queues::new(16, 100);
    let m = machine(1);
    queues.reserve(&m, job(1), Lane::Ordinary).unwrap();
    assert!(queues.has_any(&m) && queues.active(&m).is_none());
    queues.withdraw(&m, job(1));
    assert!(!queues.has_any(&m));
}

#[test]
fn a_kill_goes_first_and_runs_at_the_same_time_as_the_running_job() {
    let mut queues = Queues::new(16, 100);
    let m = machine(1);
    for n in 1..=3 {
        queues.reserve(&m, job(n), if n == 3 { Lane::Kill } else { Lane::Ordinary }).unwrap();
        queues.mark_ready(&m, job(n));
        if n == 1 {
            assert_eq!(queues.start_next(&m), Some(job(1)));
        }
    }
    assert_eq!(queues.start_next(&m), Some(job(3)), "the kill does not wait");
    assert_eq!((queues.active(&m), queues.running(&m)), (Some(job(3)), Some(job(1))));
    queues.finish(&m, job(1));
    assert_eq!(queues.start_next(&m), None, "nothing starts while a machine is being killed");
    queues.finish(&m, job(3));
    assert_eq!(queues.start_next(&m), Some(job(2)));
}

#[test]
fn limits_count_uncommitted_jobs_and_a_kill_always_fits_its_machine() {
    let mut queues = Queues::new(2, 4);
    let m = machine(1);
    queues.reserve(&m, job(1), Lane::Ordinary).unwrap();
    queues.reserve(&m, job(2), Lane::Ordinary).unwrap();
    assert_eq!(queues.reserve(&m, job(3), Lane::Ordinary), Err(QueueLimit::Machine));
    assert_eq!(queues.reserve(&m, job(4), Lane::Kill), Ok(()));
    assert_eq!(queues.start_next(&m), None, "not committed");
    queues.reserve(&machine(2), job(5), Lane::Ordinary).unwrap();
    assert_eq!(queues.reserve(&machine(2), job(6), Lane::Kill), Err(QueueLimit::All));
    assert!(queues.withdraw(&m, job(1)));
    assert!(!queues.withdraw(&m, job(1)));
    assert_eq!(queues.reserve(&machine(2), job(6), Lane::Ordinary), Ok(()));
    assert_eq!(queues.position(&m, job(2)), Some(1));
}

#[test]
fn an_answer_waits_only_for_answers() {
    let mut queues = Queues::new(1, 100);
    let m = machine(1);
    for (n, lane) in [(1, Lane::Ordinary), (2, Lane::Answer), (3, Lane::Answer)] {
        queues.reserve(&m, job(n), lane).unwrap();
        queues.mark_ready(&m, job(n));
    }
    assert_eq!(queues.position(&m, job(1)), Some(0));
    assert_eq!([queues.start_next(&m), queues.start_next(&m)], [Some(job(2)), Some(job(1))]);
    assert_eq!((queues.start_next(&m), queues.position(&m, job(3))), (None, Some(1)));
    assert_eq!((queues.active(&m), queues.running(&m)), (Some(job(1)), Some(job(1))));
    queues.finish(&m, job(2));
    assert_eq!(queues.start_next(&m), Some(job(3)));
    for n in [1, 3] {
        queues.finish(&m, job(n));
    }
    assert_eq!(queues.active(&m), None);
}

const LANES: [Lane; 3] = [Lane::Kill, Lane::Answer, Lane::Ordinary];
const PER_MACHINE: usize = 3;
const IN_TOTAL: usize = 6;

/// The jobs of one machine.
#[derive(Clone, Debug, Default)]
struct Model {
    /// The waiting jobs in order of arrival: the id of the job, its lane, and whether it is
    /// committed.
    waiting: Vec<(JobId, Lane, bool)>,
    running: BTreeMap<Lane, JobId>,
}

impl Model {
    fn killed_job(&self) -> Option<Killed> {
        let running = |lane| self.running.get(&lane).copied();
        Some(Killed { job: running(Lane::Ordinary)?, by: running(Lane::Kill)? })
    }

    fn in_order(&self) -> Vec<(JobId, Lane, bool)> {
        let mut line = self.waiting.clone();
        line.sort_by_key(|(_, lane, _)| *lane);
        line
    }

    fn next(&self) -> Option<(JobId, Lane)> {
        let killed = self.running.contains_key(&Lane::Kill)
            || self.waiting.iter().any(|place| place.1 == Lane::Kill);
        let firsts =
            LANES.iter().filter_map(|lane| self.waiting.iter().find(|place| place.1 == *lane));
        let may = |(_, lane, ready): &&(JobId, Lane, bool)| {
            *ready && !self.running.contains_key(lane) && !(killed && *lane == Lane::Ordinary)
        };
        firsts.into_iter().find(may).map(|(job, lane, _)| (*job, *lane))
    }

    fn committed(&self) -> Vec<JobId> {
        self.in_order().into_iter().filter(|(_, _, ready)| *ready).map(|(job, ..)| job).collect()
    }

    fn active(&self) -> Option<JobId> {
        let runs = [Lane::Kill, Lane::Ordinary, Lane::Answer]
            .iter()
            .find_map(|lane| self.running.get(lane).copied());
        runs.or_else(|| self.committed().first().copied())
    }

    fn position(&self, job: JobId) -> Option<usize> {
        let line = self.in_order();
        let at = line.iter().position(|place| place.0 == job)?;
        let answers = line[at].1 == Lane::Answer;
        let ahead = line[..at].iter().map(|place| place.1).chain(self.running.keys().copied());
        Some(ahead.filter(|lane| (*lane == Lane::Answer) == answers).count())
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }
}

#[derive(Clone, Debug)]
enum Action {
    Arrive(Lane),
    /// Puts a job back after a restart. `true` if the job ran before the restart, `false` if it
    /// waited.
    Restore(Lane, bool),
    Commit(prop::sample::Index),
    Withdraw(prop::sample::Index),
    Start,
    Finish(prop::sample::Index),
}

fn any_action() -> impl Strategy<Value = Action> {
    let lane =
        || prop_oneof![4 => Just(Lane::Ordinary), 1 => Just(Lane::Kill), 1 => Just(Lane::Answer)];
    prop_oneof![
        3 => lane().prop_map(Action::Arrive),
        1 => (lane(), any::<bool>()).prop_map(|(lane, ran)| Action::Restore(lane, ran)),
        3 => any::<prop::sample::Index>().prop_map(Action::Commit),
        1 => any::<prop::sample::Index>().prop_map(Action::Withdraw),
        4 => Just(Action::Start),
        2 => any::<prop::sample::Index>().prop_map(Action::Finish),
    ]
}

fn some<T: Copy>(index: prop::sample::Index, of: &[T]) -> Option<T> {
    (!of.is_empty()).then(|| of[index.index(of.len())])
}

proptest! {
    /// After any sequence of actions, the queues agree with the model. They also agree about a job
    /// that neither of them knows.
    #[test]
    fn the_queues_agree_with_the_model(
        actions in prop::collection::vec((0..3u8, any_action()), 0..80)
    ) {
        let mut queues = Queues::new(PER_MACHINE, IN_TOTAL);
        let mut models = vec![Model::default(); 3];
        let mut last = 0;
        for (number, action) in actions {
            let m = machine(number);
            let in_total: usize = models.iter().map(|model| model.waiting.len()).sum();
            let model = &mut models[usize::from(number)];
            match action {
                Action::Arrive(lane) => {
                    last += 1;
                    let expected = if lane == Lane::Ordinary && model.waiting.len() >= PER_MACHINE {
                        Err(QueueLimit::Machine)
                    } else if in_total >= IN_TOTAL {
                        Err(QueueLimit::All)
                    } else {
                        model.waiting.push((job(last), lane, false));
                        Ok(())
                    };
                    prop_assert_eq!(queues.reserve(&m, job(last), lane), expected);
                }
                Action::Restore(lane, true) if !model.running.contains_key(&lane) => {
                    last += 1;
                    queues.restore_running(&m, job(last), lane);
                    model.running.insert(lane, job(last));
                }
                Action::Restore(lane, _) => {
                    last += 1;
                    queues.restore(&m, job(last), lane);
                    model.waiting.push((job(last), lane, true));
                }
                Action::Commit(index) => {
                    let Some((job, ..)) = some(index, &model.waiting) else { continue };
                    queues.mark_ready(&m, job);
                    let committed = model.waiting.iter_mut().filter(|place| place.0 == job);
                    committed.for_each(|place| place.2 = true);
                }
                Action::Withdraw(index) => {
                    let Some((job, ..)) = some(index, &model.waiting) else { continue };
                    model.waiting.retain(|place| place.0 != job);
                    prop_assert!(queues.withdraw(&m, job));
                }
                Action::Start => {
                    let next = model.next();
                    if let Some((job, lane)) = next {
                        model.waiting.retain(|place| place.0 != job);
                        model.running.insert(lane, job);
                    }
                    let expected = next.map(|(job, _)| Turn { job, cancel: model.killed_job() });
                    prop_assert_eq!(queues.next_turn(&m), expected);
                }
                Action::Finish(index) => {
                    let running: Vec<JobId> = model.running.values().copied().collect();
                    let Some(job) = some(index, &running) else { continue };
                    model.running.retain(|_, other| *other != job);
                    queues.finish(&m, job);
                }
            }
            let mut active = Vec::new();
            for (number, model) in (0u8..).zip(&models) {
                let m = machine(number);
                let running = model.running.get(&Lane::Ordinary).copied();
                prop_assert_eq!(queues.has_any(&m), !model.is_idle());
                prop_assert_eq!(queues.active(&m), model.active());
                prop_assert_eq!(queues.running(&m), running);
                prop_assert_eq!(queues.killed_job(&m), model.killed_job());
                prop_assert_eq!(queues.waiting_on(&m).collect::<Vec<_>>(), model.committed());
                for number in 0..=last {
                    prop_assert_eq!(queues.position(&m, job(number)), model.position(job(number)));
                }
                prop_assert!(!queues.withdraw(&m, job(0)));
                active.extend(model.active().map(|job| (m, job)));
            }
            let all_active = queues.all_active();
            let mut all_active: Vec<_> =
                all_active.map(|(machine, job)| (machine.clone(), job)).collect();
            all_active.sort();
            prop_assert_eq!(all_active, active);
            let waiting: usize = models.iter().map(|model| model.waiting.len()).sum();
            let running: usize = models.iter().map(|model| model.running.len()).sum();
            prop_assert_eq!(queues.counts(), (waiting, running));
        }
    }
}

#[test]
fn kills_and_answers_have_their_own_lanes() {
    assert_eq!(Lane::for_kind(JobKind::MachineKill), Lane::Kill);
    assert_eq!(Lane::for_kind(JobKind::MachineAnswer), Lane::Answer);
    assert_eq!(Lane::for_kind(JobKind::MachinePowerOn), Lane::Ordinary);
    assert_eq!(Lane::for_kind(JobKind::LeaseRelease), Lane::Ordinary);
}
