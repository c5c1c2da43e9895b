//! Who is next on each machine: pure, no I/O, no clock.
//!
//! One job at a time per machine, in order of arrival; different machines run side by side. A kill goes
//! before everything that waits and does not wait for what runs. A place is taken before the job is committed
//! to disk and counts at once, so that the limits hold; the job may start when it is [`Place::ready`].

use std::collections::{HashMap, VecDeque};

use crate::domain::ids::{JobId, MachineId};

/// The queues of all machines.
#[derive(Debug)]
pub struct Queues {
    machines: HashMap<MachineId, Queue>,
    per_machine: usize,
    in_all: usize,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Queue {
    running: Option<JobId>,
    /// A kill beside `running`.
    killing: Option<JobId>,
    waiting: VecDeque<Place>,
}

#[derive(Debug)]
struct Place {
    job: JobId,
    kill: bool,
    ready: bool,
}

/// Why a job finds no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Machine,
    All,
}

impl Queues {
    /// Empty queues with these limits of waiting jobs.
    #[must_use]
    pub fn new(per_machine: usize, in_all: usize) -> Self {
        Self { machines: HashMap::new(), per_machine, in_all, waiting: 0 }
    }

    /// How many jobs wait, and how many run.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let running =
            |queue: &Queue| usize::from(queue.running.is_some()) + usize::from(queue.killing.is_some());
        (self.waiting, self.machines.values().map(running).sum())
    }

    /// Takes a place for a job that is not yet committed.
    pub fn reserve(&mut self, machine: &MachineId, job: JobId, kill: bool) -> Result<(), Full> {
        let full = self.machines.get(machine).is_some_and(|queue| queue.waiting.len() >= self.per_machine);
        if full && !kill {
            return Err(Full::Machine);
        }
        if self.waiting >= self.in_all {
            return Err(Full::All);
        }
        self.add(machine, Place { job, kill, ready: false });
        Ok(())
    }

    /// Puts back a job that waited before a restart; the limits do not apply to what was accepted.
    pub fn restore(&mut self, machine: &MachineId, job: JobId, kill: bool) {
        self.add(machine, Place { job, kill, ready: true });
    }

    /// Puts back a job that ran before a restart.
    pub fn restore_running(&mut self, machine: &MachineId, job: JobId, kill: bool) {
        let queue = self.machines.entry(machine.clone()).or_default();
        let slot = if kill { &mut queue.killing } else { &mut queue.running };
        *slot = Some(job);
    }

    /// The job is committed: it may start when its turn comes.
    pub fn ready(&mut self, machine: &MachineId, job: JobId) {
        if let Some(place) = self.place_mut(machine, job) {
            place.ready = true;
        }
    }

    /// Gives up the place of a job that waits. False where it does not wait: it runs or has ended.
    pub fn withdraw(&mut self, machine: &MachineId, job: JobId) -> bool {
        let Some(queue) = self.machines.get_mut(machine) else { return false };
        let before = queue.waiting.len();
        queue.waiting.retain(|place| place.job != job);
        let withdrawn = queue.waiting.len() < before;
        self.waiting -= usize::from(withdrawn);
        self.tidy(machine);
        withdrawn
    }

    /// The next job that may start on this machine, which then counts as running.
    pub fn start_next(&mut self, machine: &MachineId) -> Option<JobId> {
        let queue = self.machines.get_mut(machine)?;
        let next = queue.waiting.front()?;
        let free = queue.killing.is_none() && (next.kill || queue.running.is_none());
        if !next.ready || !free {
            return None;
        }
        let place = queue.waiting.pop_front()?;
        self.waiting -= 1;
        let slot = if place.kill { &mut queue.killing } else { &mut queue.running };
        *slot = Some(place.job);
        Some(place.job)
    }

    /// A running job ended.
    pub fn finish(&mut self, machine: &MachineId, job: JobId) {
        if let Some(queue) = self.machines.get_mut(machine) {
            queue.running = queue.running.filter(|running| *running != job);
            queue.killing = queue.killing.filter(|killing| *killing != job);
        }
        self.tidy(machine);
    }

    /// The job that runs on a machine, a kill before the one that it ends; else the first that is committed and waits.
    #[must_use]
    pub fn active(&self, machine: &MachineId) -> Option<JobId> {
        let queue = self.machines.get(machine)?;
        let first = || queue.waiting.iter().find(|place| place.ready).map(|place| place.job);
        queue.killing.or(queue.running).or_else(first)
    }

    /// The job that runs on a machine, other than a kill.
    #[must_use]
    pub fn running(&self, machine: &MachineId) -> Option<JobId> {
        self.machines.get(machine)?.running
    }

    /// The job that runs beside a kill.
    #[must_use]
    pub fn beside_kill(&self, machine: &MachineId) -> Option<JobId> {
        let queue = self.machines.get(machine)?;
        queue.running.filter(|_| queue.killing.is_some())
    }

    /// The committed jobs that wait for a machine, in their order.
    #[must_use]
    pub fn waiting_on(&self, machine: &MachineId) -> Vec<JobId> {
        let waiting = self.machines.get(machine).into_iter().flat_map(|queue| &queue.waiting);
        waiting.filter(|place| place.ready).map(|place| place.job).collect()
    }

    /// Every machine that has a job, with its active one.
    pub fn all_active(&self) -> impl Iterator<Item = (&MachineId, JobId)> {
        self.machines.keys().filter_map(|machine| Some((machine, self.active(machine)?)))
    }

    /// How many jobs are before this one in its queue, that which runs included; none where it does not wait.
    #[must_use]
    pub fn position(&self, machine: &MachineId, job: JobId) -> Option<usize> {
        let queue = self.machines.get(machine)?;
        let ahead = queue.waiting.iter().position(|place| place.job == job)?;
        Some(ahead + usize::from(queue.running.is_some()) + usize::from(queue.killing.is_some()))
    }

    /// How many jobs wait.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    fn add(&mut self, machine: &MachineId, place: Place) {
        let queue = self.machines.entry(machine.clone()).or_default();
        let at = if place.kill {
            queue.waiting.iter().take_while(|other| other.kill).count()
        } else {
            queue.waiting.len()
        };
        queue.waiting.insert(at, place);
        self.waiting += 1;
    }

    fn place_mut(&mut self, machine: &MachineId, job: JobId) -> Option<&mut Place> {
        self.machines.get_mut(machine)?.waiting.iter_mut().find(|place| place.job == job)
    }

    fn tidy(&mut self, machine: &MachineId) {
        let idle =
            |queue: &Queue| queue.running.is_none() && queue.killing.is_none() && queue.waiting.is_empty();
        if self.machines.get(machine).is_some_and(idle) {
            self.machines.remove(machine);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn job(n: u128) -> JobId {
        JobId::new(Uuid::from_u128(n))
    }

    fn machine(n: u8) -> MachineId {
        MachineId::new(n.to_string())
    }

    #[test]
    fn a_kill_passes_the_queue_and_runs_beside_what_runs() {
        let mut queues = Queues::new(16, 100);
        let m = machine(1);
        for n in 1..=3 {
            queues.reserve(&m, job(n), n == 3).unwrap();
            queues.ready(&m, job(n));
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
        queues.reserve(&m, job(1), false).unwrap();
        queues.reserve(&m, job(2), false).unwrap();
        assert_eq!(queues.reserve(&m, job(3), false), Err(Full::Machine));
        assert_eq!(queues.reserve(&m, job(4), true), Ok(()));
        assert_eq!(queues.start_next(&m), None, "not committed");
        queues.reserve(&machine(2), job(5), false).unwrap();
        assert_eq!(queues.reserve(&machine(2), job(6), true), Err(Full::All));
        assert!(queues.withdraw(&m, job(1)));
        assert!(!queues.withdraw(&m, job(1)));
        assert_eq!(queues.reserve(&machine(2), job(6), false), Ok(()));
        assert_eq!(queues.position(&m, job(2)), Some(1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arrive { machine: u8, kill: bool },
        Start(u8),
        Finish(u8),
        Withdraw(u8),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3u8, prop::bool::weighted(0.2)).prop_map(|(machine, kill)| Step::Arrive { machine, kill }),
            (0..3u8).prop_map(Step::Start),
            (0..3u8).prop_map(Step::Finish),
            (0..3u8).prop_map(Step::Withdraw),
        ]
    }

    proptest! {
        /// Never two ordinary jobs at once on a machine, arrival order kept among them, and none lost.
        #[test]
        fn order_and_exclusion_hold(steps in prop::collection::vec(any_step(), 0..60)) {
            let mut queues = Queues::new(1000, 1000);
            let mut arrived: Vec<Vec<JobId>> = vec![Vec::new(); 3];
            let mut kills = std::collections::HashSet::new();
            let mut running: Vec<Vec<JobId>> = vec![Vec::new(); 3];
            let mut next = 0;
            for step in steps {
                match step {
                    Step::Arrive { machine: m, kill } => {
                        next += 1;
                        queues.reserve(&machine(m), job(next), kill).unwrap();
                        queues.ready(&machine(m), job(next));
                        if kill { kills.insert(job(next)); } else { arrived[usize::from(m)].push(job(next)); }
                    }
                    Step::Start(m) => {
                        if let Some(started) = queues.start_next(&machine(m)) {
                            let m = usize::from(m);
                            if !kills.contains(&started) {
                                prop_assert!(running[m].is_empty());
                                prop_assert_eq!(arrived[m].remove(0), started);
                            }
                            running[m].push(started);
                        }
                    }
                    Step::Finish(m) => {
                        if let Some(ended) = running[usize::from(m)].pop() {
                            queues.finish(&machine(m), ended);
                        }
                    }
                    Step::Withdraw(m) => {
                        if let Some(last) = arrived[usize::from(m)].pop() {
                            prop_assert!(queues.withdraw(&machine(m), last));
                        }
                    }
                }
                let ordinary = |jobs: &Vec<JobId>| jobs.iter().filter(|job| !kills.contains(job)).count();
                prop_assert!(running.iter().all(|jobs| ordinary(jobs) <= 1));
            }
        }
    }
}
