//! What is taken up after a restart, and where. Pure.

use std::collections::BTreeSet;

use super::driver::{Driver, Effect, Rules};
use super::queue::{Killed, Queues, lane};
use crate::domain::job::{Job, JobState, TargetId};

/// Every job that had not ended, back in its place.
#[derive(Debug, Default)]
pub struct Recovered {
    /// These wait for their turn.
    pub waiting: Vec<Driver>,
    /// These ran, with their first effects.
    pub running: Vec<(Driver, Effect)>,
    /// Those of them that a kill on their machine cancels.
    pub cancelled: Vec<Killed>,
    /// Where something may start now.
    pub targets: BTreeSet<TargetId>,
}

/// Takes up jobs that had not ended, in their order of arrival, into empty queues.
#[must_use]
pub fn recover(jobs: Vec<Job>, rules: Rules, queues: &mut Queues) -> Recovered {
    let mut recovered = Recovered::default();
    for job in jobs {
        let (id, target, lane) = (job.id, job.target.id(), lane(job.kind()));
        recovered.targets.insert(target.clone());
        if job.state == JobState::Running {
            queues.restore_running(&target, id, lane);
            recovered.running.push(Driver::resume(job, rules));
        } else {
            queues.restore(&target, id, lane);
            recovered.waiting.push(Driver::queued(job, rules));
        }
    }
    recovered.cancelled =
        recovered.targets.iter().filter_map(|target| queues.beside_kill(target)).collect();
    recovered
}
