//! The jobs that ended last, in memory. A job never changes after its end. So all readers share the
//! job and its JSON, and a read of a job that has just ended does not need the store.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use crate::domain::ids::JobId;
use crate::domain::job::Job;

/// The number of ended jobs that are kept in memory.
const CAPACITY: usize = 512;

/// A job that ended. All its readers share it.
#[derive(Debug)]
pub struct EndedJob {
    job: Arc<Job>,
    encoded: OnceLock<EncodedJob>,
}

/// A job as JSON.
#[derive(Debug)]
pub struct EncodedJob {
    pub json: Bytes,
    /// The beginning of the SHA-256 digest of the text, for its entity tag.
    pub digest: [u8; 12],
}

/// The jobs that ended last. When a new job is added, the oldest job is dropped.
#[derive(Debug, Default)]
pub struct EndedJobs(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    jobs: HashMap<JobId, Arc<EndedJob>>,
    order: VecDeque<JobId>,
    /// How often all jobs were dropped from memory.
    generation: u64,
}

/// Marks the moment before a read of the store: the number of times that all jobs had been dropped
/// from memory.
#[derive(Clone, Copy, Debug)]
pub struct BeforeRead(u64);

impl EndedJob {
    #[must_use]
    pub fn new(job: Arc<Job>) -> Arc<Self> {
        Arc::new(Self { job, encoded: OnceLock::new() })
    }

    #[must_use]
    pub const fn job(&self) -> &Arc<Job> {
        &self.job
    }

    /// The job as JSON. Only the first call encodes the job; later calls return the same text.
    pub fn encoded(&self, encode: impl FnOnce() -> EncodedJob) -> &EncodedJob {
        self.encoded.get_or_init(encode)
    }
}

impl EndedJobs {
    /// Adds a job that has ended just now.
    pub fn add(&self, ended: Arc<EndedJob>) {
        self.lock().add(ended);
    }

    /// Adds a job that was read from the store, unless the store deleted jobs after the moment
    /// `before`.
    pub fn add_read(&self, ended: Arc<EndedJob>, before: BeforeRead) {
        let mut kept = self.lock();
        if kept.generation == before.0 {
            kept.add(ended);
        }
    }

    /// The mark that [`add_read`](Self::add_read) needs. A caller takes the mark before it reads
    /// the store.
    pub fn before_read(&self) -> BeforeRead {
        BeforeRead(self.lock().generation)
    }

    /// The ended job with this id, if it is in memory.
    pub fn get(&self, id: JobId) -> Option<Arc<EndedJob>> {
        self.lock().jobs.get(&id).cloned()
    }

    /// Drops all jobs from memory, because the store has deleted some of them.
    pub fn clear(&self) {
        let mut kept = self.lock();
        kept.generation += 1;
        kept.jobs.clear();
        kept.order.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn add(&mut self, ended: Arc<EndedJob>) {
        let id = ended.job.id;
        if self.jobs.insert(id, ended).is_none() {
            self.order.push_back(id);
        }
        while self.order.len() > CAPACITY {
            if let Some(oldest) = self.order.pop_front() {
                self.jobs.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::job::JobRequest;
    use crate::service::jobs::samples;

    fn ended(number: usize) -> Arc<EndedJob> {
        let id = JobId::new(Uuid::from_u128(number as u128));
        EndedJob::new(Arc::new(Job { id, ..samples::job(JobRequest::PowerOn) }))
    }

    #[test]
    fn the_jobs_that_ended_last_are_kept() {
        let jobs = EndedJobs::default();
        for number in 0..=CAPACITY {
            jobs.add(ended(number));
            jobs.add(ended(number));
        }
        assert!(jobs.get(ended(0).job.id).is_none());
        assert!((1..=CAPACITY).all(|number| jobs.get(ended(number).job.id).is_some()));
    }

    #[test]
    fn a_job_that_was_read_before_jobs_were_deleted_is_not_kept() {
        let jobs = EndedJobs::default();
        let before = jobs.before_read();
        jobs.add_read(ended(1), before);
        assert!(jobs.get(ended(1).job.id).is_some());
        jobs.clear();
        assert!(jobs.get(ended(1).job.id).is_none());
        jobs.add_read(ended(1), before);
        assert!(jobs.get(ended(1).job.id).is_none());
    }
}
