//! Deliberate mistakes, made by the surroundings of the services: these answer as if the services
//! had made the mistake. A test asserts that the simulation notices each.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use otter::clock::{Clock, Time};
use otter::domain::ids::JobId;
use otter::domain::job::{Job, JobKind, JobState};
use otter::hypervisor::Hypervisor;
use otter::storage::{IdempotencyKey, LeaseTransaction, Retention, Storage, StorageError};
use uuid::Uuid;

use super::Run;
use super::committed::Committed;
use super::executor::Handle;

/// A deliberate mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// otter calls the host although the intent never reached the disk.
    CallBeforeCommit,
    /// A restart forgets the idempotency keys.
    KeysForgotten,
    /// A list reports an ended job as running.
    EndTakenBack,
    /// After a restart the fence of a machine starts from zero.
    FenceForgotten,
    /// A grant is reported before it is committed.
    GrantBeforeCommit,
    /// A machine counts as released because another release succeeded.
    FreeBeforeProven,
    /// Leases expire by the wall clock, which may jump.
    ExpiryByWallClock,
    /// A mistake between otter and the host.
    Host(crate::mistakes::Mistake),
}

impl Run {
    /// Whether this run has the mistake.
    pub fn has_mistake(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// The clock of the services.
    pub fn clock_of_services(&self) -> Clock {
        if self.has_mistake(Mistake::ExpiryByWallClock) {
            return Clock::from_time(JumpingTime(self.handle.clone()));
        }
        self.clock.clone()
    }

    /// The host of the services.
    pub fn host_of_services(&self, host: Arc<dyn Hypervisor>) -> Arc<dyn Hypervisor> {
        match self.mistake {
            Some(Mistake::Host(mistake)) => {
                Arc::new(crate::mistakes::HostWithMistake::new(host, mistake))
            }
            _ => host,
        }
    }

    /// Forgets the idempotency keys at each start, if that is the mistake.
    pub async fn forget_keys(&self, storage: &dyn Storage) -> Result<(), StorageError> {
        if self.has_mistake(Mistake::KeysForgotten) {
            let retention = Retention { keys: Duration::ZERO, ..Retention::default() };
            // All keys are old one day later.
            let later = self.clock.now() + SignedDuration::from_hours(24);
            storage.purge(later, &retention).await?;
        }
        Ok(())
    }

    /// Whether the commit of this job is skipped.
    pub fn skips_commit(&self, job: &Job) -> bool {
        let is_intent = job.intent.is_some() && job.host_task.is_none() && !job.state.is_end();
        is_intent && self.has_mistake(Mistake::CallBeforeCommit)
    }

    /// Whether this commit counts as done before it is done.
    pub fn skips_commit_wait(&self, step: &LeaseTransaction) -> bool {
        let is_grant = step.leases.iter().any(|change| change.held.is_some());
        is_grant && self.has_mistake(Mistake::GrantBeforeCommit)
    }

    /// The wrong job that is returned for a key. `None` without that mistake.
    pub fn wrong_job_for_key(&self, key: &IdempotencyKey, disk: &Committed) -> Option<JobId> {
        let is_release = key.method == "LEASE" && key.key.starts_with("release");
        let succeeded =
            |job: &&Job| job.kind() == JobKind::LeaseRelease && job.state == JobState::Succeeded;
        let other = disk.jobs.values().find(succeeded)?;
        (is_release && self.has_mistake(Mistake::FreeBeforeProven)).then_some(other.id)
    }

    /// The jobs that a list reports.
    pub fn jobs_with_mistake(&self, jobs: Vec<Job>) -> Vec<Job> {
        let is_mistaken = self.has_mistake(Mistake::EndTakenBack);
        let with_mistake = |job: Job| {
            if is_mistaken && job.state.is_end() {
                return Job { state: JobState::Running, finished_at: None, ..job };
            }
            job
        };
        jobs.into_iter().map(with_mistake).collect()
    }
}

/// A time whose elapsed time jumps with the wall clock.
#[derive(Clone, Debug)]
struct JumpingTime(Handle);

impl Time for JumpingTime {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn elapsed(&self) -> Duration {
        // Every jump is shorter than a day.
        let jumped = self.0.skew() + SignedDuration::from_hours(24);
        self.0.elapsed() + Duration::try_from(jumped).unwrap()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        self.0.sleep(duration)
    }

    fn random(&self) -> [u8; 32] {
        self.0.random()
    }

    fn uuid(&self) -> Uuid {
        self.0.uuid()
    }
}
