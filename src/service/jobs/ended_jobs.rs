//! The jobs that ended last, in memory. An end never changes, so that readers share the job and its
//! JSON, and reads of a job that has just ended do not read the store.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use crate::domain::ids::JobId;
use crate::domain::job::Job;

/// The number of jobs that are kept.
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

/// The jobs that ended last. The oldest make room for new ones.
#[derive(Debug, Default)]
pub struct EndedJobs(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    jobs: HashMap<JobId, Arc<EndedJob>>,
    order: VecDeque<JobId>,
    /// How often all jobs were dropped.
    generation: u64,
}

/// Marks a moment before a read of the store: the number of times that all jobs had been dropped.
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

    /// The job as JSON. Only the first call encodes it.
    pub fn encoded(&self, encode: impl FnOnce() -> EncodedJob) -> &EncodedJob {
        self.encoded.get_or_init(encode)
    }
}

impl EndedJobs {
    /// Keeps a job that ended now.
    pub fn add(&self, ended: Arc<EndedJob>) {
        self.lock().add(ended);
    }

    /// Keeps a job that was read from the store, unless jobs were deleted since.
    pub fn add_read(&self, ended: Arc<EndedJob>, before: BeforeRead) {
        let mut kept = self.lock();
        if kept.generation == before.0 {
            kept.add(ended);
        }
    }

    /// The mark that [`add_read`](Self::add_read) needs. Call this before the read of the store.
    pub fn before_read(&self) -> BeforeRead {
        BeforeRead(self.lock().generation)
    }

    /// The job, if it is kept.
    pub fn get(&self, id: JobId) -> Option<Arc<EndedJob>> {
        self.lock().jobs.get(&id).cloned()
    }

    /// Drops all jobs, because the store has deleted some.
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
