//! The queue of each target, such as a machine. Pure: no I/O, no clock.
//!
//! One job at a time runs on a target, in order of arrival. Different targets are independent. A
//! kill goes before all waiting jobs and does not wait for the running one. An answer to a question
//! runs at the same time as the job that it unblocks. A job enters the queue before the job is
//! committed to disk, and counts at once, so that the limits hold. A job can start once its entry
//! is [`QueueEntry::ready`].

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use crate::domain::ids::JobId;
use crate::domain::job::{JobKind, TargetId};

/// The queues of all targets.
#[derive(Debug)]
pub struct Queues {
    targets: HashMap<TargetId, Queue>,
    per_machine: usize,
    in_total: usize,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Queue {
    running: Option<JobId>,
    /// A kill that runs on the target, at the same time as the job in `running`.
    killing: Option<JobId>,
    /// An answer that runs on the target, at the same time as the jobs in `running` and `killing`.
    answering: Option<JobId>,
    /// The waiting jobs: kills, then answers, then all others. Jobs of one kind are in order of
    /// arrival.
    waiting: VecDeque<QueueEntry>,
}

/// The lane of a job in its target's queue. A job in an earlier lane goes before a job in a later
/// lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    Kill,
    Answer,
    Ordinary,
}

impl Lane {
    /// The lane of a kind of job.
    #[must_use]
    pub const fn for_kind(kind: JobKind) -> Self {
        match kind {
            JobKind::MachineKill => Self::Kill,
            JobKind::MachineAnswer => Self::Answer,
            _ => Self::Ordinary,
        }
    }
}

#[derive(Debug)]
struct QueueEntry {
    job: JobId,
    lane: Lane,
    ready: bool,
}

/// A job whose turn has come. If the job is a kill, also the running job that the kill cancels.
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

/// The limit of waiting jobs that a new job would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueLimit {
    Machine,
    All,
}

impl Queues {
    /// Queues without jobs. At most this many jobs may wait for one machine, and for all machines.
    #[must_use]
    pub fn new(per_machine: usize, in_total: usize) -> Self {
        Self { targets: HashMap::new(), per_machine, in_total, waiting: 0 }
    }

    /// The numbers of waiting and of running jobs.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let run = |queue: &Queue| {
            [queue.running, queue.killing, queue.answering].into_iter().flatten().count()
        };
        (self.waiting, self.targets.values().map(run).sum())
    }

    /// Adds a job to the queue before the job is committed.
    ///
    /// # Errors
    /// Returns the limit of waiting jobs that the job would exceed.
    pub fn reserve(&mut self, target: &TargetId, job: JobId, lane: Lane) -> Result<(), QueueLimit> {
        let full =
            self.targets.get(target).is_some_and(|queue| queue.waiting.len() >= self.per_machine);
        if full && lane == Lane::Ordinary {
            return Err(QueueLimit::Machine);
        }
        if self.waiting >= self.in_total {
            return Err(QueueLimit::All);
        }
        self.add(target, QueueEntry { job, lane, ready: false });
        Ok(())
    }

    /// Puts back a job that waited before a restart. The limits do not apply to it.
    pub fn restore(&mut self, target: &TargetId, job: JobId, lane: Lane) {
        self.add(target, QueueEntry { job, lane, ready: true });
    }

    /// Puts back a job that ran before a restart.
    pub fn restore_running(&mut self, target: &TargetId, job: JobId, lane: Lane) {
        *self.targets.entry(target.clone()).or_default().slot(lane) = Some(job);
    }

    /// Marks a job as committed: it may start when its turn comes.
    pub fn mark_ready(&mut self, target: &TargetId, job: JobId) {
        if let Some(place) = self.entry_mut(target, job) {
            place.ready = true;
        }
    }

    /// Whether a job waits in the queue and is committed.
    #[must_use]
    pub fn is_ready(&self, target: &TargetId, job: JobId) -> bool {
        self.waiting_on(target).any(|ready| ready == job)
    }

    /// Removes a waiting job from the queue. Returns false if the job does not wait.
    pub fn withdraw(&mut self, target: &TargetId, job: JobId) -> bool {
        let Some(queue) = self.targets.get_mut(target) else { return false };
        let before = queue.waiting.len();
        queue.waiting.retain(|place| place.job != job);
        let withdrawn = queue.waiting.len() < before;
        self.waiting -= usize::from(withdrawn);
        self.remove_if_idle(target);
        withdrawn
    }

    /// Takes the next job that can start on this target. The job counts as running from now on. If
    /// it is a kill, it cancels the running job.
    pub fn next_turn(&mut self, target: &TargetId) -> Option<Turn> {
        let job = self.start_next(target)?;
        Some(Turn { job, cancel: self.killed_job(target) })
    }

    /// Takes the next job that can start on this target. The job counts as running from now on.
    fn start_next(&mut self, target: &TargetId) -> Option<JobId> {
        let queue = self.targets.get_mut(target)?;
        // In each lane only the first job can start.
        let firsts = [Lane::Kill, Lane::Answer, Lane::Ordinary]
            .into_iter()
            .filter_map(|lane| queue.waiting.iter().position(|place| place.lane == lane));
        let at = firsts.into_iter().find(|at| queue.may_start(&queue.waiting[*at]))?;
        let place = queue.waiting.remove(at)?;
        self.waiting -= 1;
        *queue.slot(place.lane) = Some(place.job);
        Some(place.job)
    }

    /// Removes a job that was running and has ended.
    pub fn finish(&mut self, target: &TargetId, job: JobId) {
        if let Some(queue) = self.targets.get_mut(target) {
            queue.running = queue.running.filter(|running| *running != job);
            queue.killing = queue.killing.filter(|killing| *killing != job);
            queue.answering = queue.answering.filter(|answering| *answering != job);
        }
        self.remove_if_idle(target);
    }

    /// The active job of a target: the running kill, else another running job, else the first
    /// committed job that waits.
    #[must_use]
    pub fn active(&self, target: &TargetId) -> Option<JobId> {
        let queue = self.targets.get(target)?;
        queue.killing.or(queue.running).or(queue.answering).or_else(|| queue.committed().next())
    }

    /// Whether a target has any job, committed or not.
    #[must_use]
    pub fn has_any(&self, target: &TargetId) -> bool {
        self.targets.contains_key(target)
    }

    /// The job that runs on a target, other than a kill or an answer.
    #[must_use]
    pub fn running(&self, target: &TargetId) -> Option<JobId> {
        self.targets.get(target)?.running
    }

    /// The running job that a running kill cancels. `None` if no kill runs, or if the kill is the
    /// only running job.
    #[must_use]
    pub fn killed_job(&self, target: &TargetId) -> Option<Killed> {
        let queue = self.targets.get(target)?;
        Some(Killed { job: queue.running?, by: queue.killing? })
    }

    /// The committed jobs that wait for a target, in the order of the queue.
    pub fn waiting_on(&self, target: &TargetId) -> impl Iterator<Item = JobId> {
        self.targets.get(target).into_iter().flat_map(Queue::committed)
    }

    /// Every job of a target: those that run, then those that wait, committed or not.
    pub fn jobs_on(&self, target: &TargetId) -> impl Iterator<Item = JobId> {
        let queue = self.targets.get(target).into_iter();
        queue.flat_map(|queue| {
            let running = [queue.running, queue.killing, queue.answering].into_iter().flatten();
            running.chain(queue.waiting.iter().map(|place| place.job))
        })
    }

    /// The targets that have an active job, each with that job.
    pub fn all_active(&self) -> impl Iterator<Item = (&TargetId, JobId)> {
        self.targets.keys().filter_map(|target| Some((target, self.active(target)?)))
    }

    /// The number of jobs before this one in the queue, including the running jobs. `None` if the
    /// job does not wait.
    #[must_use]
    pub fn position(&self, target: &TargetId, job: JobId) -> Option<usize> {
        let queue = self.targets.get(target)?;
        let at = queue.waiting.iter().position(|place| place.job == job)?;
        let lane = queue.waiting[at].lane;
        // An answer waits only for other answers, and no other job waits for an answer.
        let counts = |other: Lane| (other == Lane::Answer) == (lane == Lane::Answer);
        let ahead = queue.waiting.iter().take(at).filter(|place| counts(place.lane)).count();
        let running = match lane {
            Lane::Answer => usize::from(queue.answering.is_some()),
            _ => usize::from(queue.running.is_some()) + usize::from(queue.killing.is_some()),
        };
        Some(ahead + running)
    }

    fn add(&mut self, target: &TargetId, place: QueueEntry) {
        let queue = self.targets.entry(target.clone()).or_default();
        let at = queue.waiting.iter().take_while(|other| other.lane <= place.lane).count();
        queue.waiting.insert(at, place);
        self.waiting += 1;
    }

    fn entry_mut(&mut self, target: &TargetId, job: JobId) -> Option<&mut QueueEntry> {
        self.targets.get_mut(target)?.waiting.iter_mut().find(|place| place.job == job)
    }

    fn remove_if_idle(&mut self, target: &TargetId) {
        let idle = |queue: &Queue| {
            [queue.running, queue.killing, queue.answering] == [None; 3] && queue.waiting.is_empty()
        };
        if self.targets.get(target).is_some_and(idle) {
            self.targets.remove(target);
        }
    }
}

impl Queue {
    fn committed(&self) -> impl Iterator<Item = JobId> {
        self.waiting.iter().filter(|place| place.ready).map(|place| place.job)
    }

    fn slot(&mut self, lane: Lane) -> &mut Option<JobId> {
        match lane {
            Lane::Kill => &mut self.killing,
            Lane::Answer => &mut self.answering,
            Lane::Ordinary => &mut self.running,
        }
    }

    fn may_start(&self, place: &QueueEntry) -> bool {
        let waiting_kill = self.waiting.iter().any(|place| place.lane == Lane::Kill);
        place.ready
            && match place.lane {
                Lane::Kill => self.killing.is_none(),
                Lane::Answer => self.answering.is_none(),
                Lane::Ordinary => self.running.is_none() && self.killing.is_none() && !waiting_kill,
            }
    }
}
