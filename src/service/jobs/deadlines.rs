//! Ends queued jobs at their deadlines, and moves deadlines after a jump of the wall clock or a
//! downtime.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Jobs;
use super::deadline_clocks::{JumpDetector, Moment, count_downtime};
use super::runner::sleep_until;
use super::state_machine::JobStateMachine;
use crate::domain::event::Subject;
use crate::domain::ids::JobId;
use crate::domain::job::Job;
use crate::storage::StorageError;

/// Publishes the id of the job whose deadline is being stored. When this value is dropped, it
/// publishes that no deadline is being stored, even if its task ends early.
struct StoringDeadline<'a>(&'a watch::Sender<Option<JobId>>);

/// How often otter looks for a jump of the wall clock, and records that it runs. After a crash,
/// otter knows to this precision when it last ran.
const CLOCK_INTERVAL: Duration = Duration::from_secs(10);

impl Jobs {
    /// Ends queued jobs at their deadlines. Runs until `stop` is cancelled.
    pub async fn expire(self, stop: CancellationToken) {
        loop {
            let next = self.0.table.first_deadline();
            let wait = async {
                match next {
                    Some(due) => sleep_until(&self.0.parts.clock, due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.0.table.deadline_added() => continue,
                () = wait => {}
            }
            while let Some(overdue) = self.0.table.withdraw_overdue(self.0.parts.clock.elapsed()) {
                self.end_queued(overdue, JobStateMachine::expire_queued);
            }
        }
    }

    /// Detects jumps of the wall clock until `stop` is cancelled. After a jump, computes the shown
    /// and stored deadlines again. While there are jobs, regularly records in the store that otter
    /// runs.
    pub async fn follow_wall_clock(self, stop: CancellationToken) {
        let parts = &self.0.parts;
        let mut jumps = JumpDetector::new(Moment::now(&parts.clock));
        loop {
            let stopping = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                () = parts.clock.sleep(CLOCK_INTERVAL) => false,
            };
            let now = Moment::now(&parts.clock);
            if let Some(by) = jumps.detect(now) {
                self.wall_clock_jumped(by, now.wall).await;
            }
            if self.counts() != (0, 0) {
                // A failure of this write is ignored. Without the record, the next start counts the
                // downtime from the last change of each job.
                let _ = parts.store.record_last_seen(now.wall).await;
            }
            if stopping {
                return;
            }
        }
    }

    async fn wall_clock_jumped(&self, by: SignedDuration, now: Timestamp) {
        tracing::warn!(seconds = by.as_secs(), "the wall clock jumped; deadlines move with it");
        let moved = self.0.table.shift_deadlines(by, now);
        let storing = StoringDeadline(&self.0.storing_deadline_of);
        for job in moved {
            // A runner that takes the job after this line waits until the deadline is stored, and
            // commits the job only after that.
            storing.0.send_replace(Some(job.id));
            let Some(job) = self.0.table.pending_job(job.id) else { continue };
            self.0.parts.event_stream.publish([Subject::from_job(&job)]);
            if let Err(error) = self.0.parts.store.update_job(&job).await {
                // This failure is harmless. A job that ended meanwhile needs no deadline, and for
                // any other job the next start uses the old deadline.
                let error = &error as &dyn std::error::Error;
                tracing::debug!(job = %job.id, error, "a deadline is not stored");
            }
        }
    }

    /// Subtracts otter's downtime from the time that jobs have left, as [`count_downtime`] says. If
    /// the store refuses the new deadlines, otter starts nevertheless, and the next start computes
    /// them again.
    pub(super) async fn count_downtime(&self, jobs: &mut [Job]) -> Result<(), StorageError> {
        let parts = &self.0.parts;
        let last_seen = parts.store.last_seen().await?;
        let now = parts.clock.now();
        for job in jobs {
            if count_downtime(job, last_seen, now) {
                tracing::warn!(
                    job = %job.id,
                    "the wall clock is behind the last run; no time counts as passed"
                );
                unless_refused(parts.store.update_job(job).await)?;
            }
        }
        unless_refused(parts.store.record_last_seen(now).await)
    }
}

impl Drop for StoringDeadline<'_> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// Makes a success of a refusal by the disk or the database, so that the refusal does not stop the
/// start. The store logs refusals.
fn unless_refused(written: Result<(), StorageError>) -> Result<(), StorageError> {
    written.or_else(|error| if error.refusal().is_some() { Ok(()) } else { Err(error) })
}
