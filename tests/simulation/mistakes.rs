//! Mistakes made on purpose, each by what surrounds the services: it answers as if they had made
//! it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use otter::clock::{Clock, Time};
use otter::domain::ids::JobId;
use otter::domain::job::{Job, JobKind, JobState};
use otter::hypervisor::Hypervisor;
use otter::storage::{IdempotencyKey, Retention, LeaseTransaction, Storage, StorageError};
use uuid::Uuid;

use super::Run;
use super::committed::Committed;
use super::executor::Handle;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The host is called although the intent never reached the disk.
    CallBeforeCommit,
    /// A restart forgets the idempotency keys.
    KeysForgotten,
    /// A list has a job that has ended as one that runs.
    EndTakenBack,
    /// After a restart a grant of a machine does not count on from the one before.
    FenceForgotten,
    /// A grant is shown before it is committed.
    GrantBeforeCommit,
    /// A machine counts as released because another release succeeded.
    FreeBeforeProven,
    /// Time goes on by the clock that jumps.
    ExpiryByWallClock,
    /// Of what is between otter and the host.
    Host(crate::mistakes::Mistake),
}

impl Run {
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

    /// Done at each start.
    pub async fn forget_keys(&self, storage: &dyn Storage) -> Result<(), StorageError> {
        if self.has_mistake(Mistake::KeysForgotten) {
            let retention = Retention { keys: Duration::ZERO, ..Retention::default() };
            // A day later, whatever its clock says.
            let later = self.clock.now() + SignedDuration::from_hours(24);
            storage.purge(later, &retention).await?;
        }
        Ok(())
    }

    /// Whether the commit of an intent is left out.
    pub fn skips_commit(&self, job: &Job) -> bool {
        let is_intent = job.intent.is_some() && job.host_task.is_none() && !job.state.is_end();
        is_intent && self.has_mistake(Mistake::CallBeforeCommit)
    }

    /// Whether a step counts as committed at once.
    pub fn skips_commit_wait(&self, step: &LeaseTransaction) -> bool {
        let is_grant = step.leases.iter().any(|change| change.held.is_some());
        is_grant && self.has_mistake(Mistake::GrantBeforeCommit)
    }

    /// Which job is said to be that of a key.
    pub fn wrong_job_for_key(&self, key: &IdempotencyKey, disk: &Committed) -> Option<JobId> {
        let is_release = key.method == "LEASE" && key.key.starts_with("release");
        let succeeded =
            |job: &&Job| job.kind() == JobKind::LeaseRelease && job.state == JobState::Succeeded;
        let other = disk.jobs.values().find(succeeded)?;
        (is_release && self.has_mistake(Mistake::FreeBeforeProven)).then_some(other.id)
    }

    /// The jobs that a list has.
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

/// Time of which all jumps with the wall clock.
#[derive(Clone, Debug)]
struct JumpingTime(Handle);

impl Time for JumpingTime {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn elapsed(&self) -> Duration {
        // No jump is as long as a day.
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
