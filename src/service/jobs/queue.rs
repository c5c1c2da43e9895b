//! Who is next on each machine: pure, no I/O, no clock.
//!
//! One job at a time per machine, in order of arrival; different machines run side by side. A kill goes
//! before everything that waits and does not wait for what runs; an answer to a question runs beside the job that
//! it unblocks. A place is taken before the job is committed
//! to disk and counts at once, so that the limits hold; the job may start when it is [`Place::ready`].

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use crate::domain::ids::{JobId, MachineId};
use crate::domain::job::JobKind;

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
    /// An answer beside both.
    answering: Option<JobId>,
    /// Kills, then answers, then the rest; each in order of arrival.
    waiting: VecDeque<Place>,
}

/// Which way a job takes through its machine's queue, the first to go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    Kill,
    Answer,
    Ordinary,
}

/// Which way a kind of job takes through its queue.
#[must_use]
pub const fn lane(kind: JobKind) -> Lane {
    match kind {
        JobKind::MachineKill => Lane::Kill,
        JobKind::MachineAnswer => Lane::Answer,
        _ => Lane::Ordinary,
    }
}

#[derive(Debug)]
struct Place {
    job: JobId,
    lane: Lane,
    ready: bool,
}

/// A job whose turn has come, and the running job that it cancels if it is a kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub job: JobId,
    pub cancel: Option<Killed>,
}

/// A running job, and the kill on its machine that cancels it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Killed {
    pub job: JobId,
    pub by: JobId,
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
        let run =
            |queue: &Queue| [queue.running, queue.killing, queue.answering].into_iter().flatten().count();
        (self.waiting, self.machines.values().map(run).sum())
    }

    /// Takes a place for a job that is not yet committed.
    pub fn reserve(&mut self, machine: &MachineId, job: JobId, lane: Lane) -> Result<(), Full> {
        let full = self.machines.get(machine).is_some_and(|queue| queue.waiting.len() >= self.per_machine);
        if full && lane == Lane::Ordinary {
            return Err(Full::Machine);
        }
        if self.waiting >= self.in_all {
            return Err(Full::All);
        }
        self.add(machine, Place { job, lane, ready: false });
        Ok(())
    }

    /// Puts back a job that waited before a restart; the limits do not apply to what was accepted.
    pub fn restore(&mut self, machine: &MachineId, job: JobId, lane: Lane) {
        self.add(machine, Place { job, lane, ready: true });
    }

    /// Puts back a job that ran before a restart.
    pub fn restore_running(&mut self, machine: &MachineId, job: JobId, lane: Lane) {
        *self.machines.entry(machine.clone()).or_default().slot(lane) = Some(job);
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

    /// The next job that may start on this machine, which then counts as running. A kill has what runs beside it
    /// cancelled.
    pub fn next_turn(&mut self, machine: &MachineId) -> Option<Turn> {
        let job = self.start_next(machine)?;
        Some(Turn { job, cancel: self.beside_kill(machine) })
    }

    /// The next job that may start on this machine, which then counts as running.
    fn start_next(&mut self, machine: &MachineId) -> Option<JobId> {
        let queue = self.machines.get_mut(machine)?;
        // Of each lane the first: who is behind it waits for it.
        let firsts = [Lane::Kill, Lane::Answer, Lane::Ordinary]
            .into_iter()
            .filter_map(|lane| queue.waiting.iter().position(|place| place.lane == lane));
        let at = firsts.into_iter().find(|at| queue.may_start(&queue.waiting[*at]))?;
        let place = queue.waiting.remove(at)?;
        self.waiting -= 1;
        *queue.slot(place.lane) = Some(place.job);
        Some(place.job)
    }

    /// A running job ended.
    pub fn finish(&mut self, machine: &MachineId, job: JobId) {
        if let Some(queue) = self.machines.get_mut(machine) {
            queue.running = queue.running.filter(|running| *running != job);
            queue.killing = queue.killing.filter(|killing| *killing != job);
            queue.answering = queue.answering.filter(|answering| *answering != job);
        }
        self.tidy(machine);
    }

    /// The job that runs on a machine, a kill before the one that it ends; else the first that is committed and waits.
    #[must_use]
    pub fn active(&self, machine: &MachineId) -> Option<JobId> {
        let queue = self.machines.get(machine)?;
        let first = || queue.waiting.iter().find(|place| place.ready).map(|place| place.job);
        queue.killing.or(queue.running).or(queue.answering).or_else(first)
    }

    /// Whether any job has its place on a machine, be it committed or not.
    #[must_use]
    pub fn has_any(&self, machine: &MachineId) -> bool {
        self.machines.contains_key(machine)
    }

    /// The job that runs on a machine, other than a kill or an answer.
    #[must_use]
    pub fn running(&self, machine: &MachineId) -> Option<JobId> {
        self.machines.get(machine)?.running
    }

    /// The job that runs beside a kill.
    #[must_use]
    pub fn beside_kill(&self, machine: &MachineId) -> Option<Killed> {
        let queue = self.machines.get(machine)?;
        Some(Killed { job: queue.running?, by: queue.killing? })
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
        let at = queue.waiting.iter().position(|place| place.job == job)?;
        let lane = queue.waiting[at].lane;
        // An answer holds up other answers alone, and is held up by nothing else.
        let counts = |other: Lane| (other == Lane::Answer) == (lane == Lane::Answer);
        let ahead = queue.waiting.iter().take(at).filter(|place| counts(place.lane)).count();
        let running = match lane {
            Lane::Answer => usize::from(queue.answering.is_some()),
            _ => usize::from(queue.running.is_some()) + usize::from(queue.killing.is_some()),
        };
        Some(ahead + running)
    }

    /// How many jobs wait.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    fn add(&mut self, machine: &MachineId, place: Place) {
        let queue = self.machines.entry(machine.clone()).or_default();
        let at = queue.waiting.iter().take_while(|other| other.lane <= place.lane).count();
        queue.waiting.insert(at, place);
        self.waiting += 1;
    }

    fn place_mut(&mut self, machine: &MachineId, job: JobId) -> Option<&mut Place> {
        self.machines.get_mut(machine)?.waiting.iter_mut().find(|place| place.job == job)
    }

    fn tidy(&mut self, machine: &MachineId) {
        let idle = |queue: &Queue| {
            [queue.running, queue.killing, queue.answering] == [None; 3] && queue.waiting.is_empty()
        };
        if self.machines.get(machine).is_some_and(idle) {
            self.machines.remove(machine);
        }
    }
}

impl Queue {
    fn slot(&mut self, lane: Lane) -> &mut Option<JobId> {
        match lane {
            Lane::Kill => &mut self.killing,
            Lane::Answer => &mut self.answering,
            Lane::Ordinary => &mut self.running,
        }
    }

    fn may_start(&self, place: &Place) -> bool {
        let waiting_kill = self.waiting.iter().any(|place| place.lane == Lane::Kill);
        place.ready
            && match place.lane {
                Lane::Kill => self.killing.is_none(),
                Lane::Answer => self.answering.is_none(),
                Lane::Ordinary => self.running.is_none() && self.killing.is_none() && !waiting_kill,
            }
    }
}
