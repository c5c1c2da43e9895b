//! Commits a job to the store, and tries again while the store refuses writes.

use std::time::Duration;

use super::JobsParts;
use crate::domain::job::Job;
use crate::storage::StorageError;

/// Commits the job, and tries again while the store refuses writes. The job makes its next call,
/// and its end is published, only after this commit.
///
/// # Errors
/// The error of the store if another try would fail as well.
pub async fn commit(parts: &JobsParts, job: &Job) -> Result<(), StorageError> {
    let begun = parts.clock.elapsed();
    let mut pause = Duration::from_millis(100);
    let mut refused = false;
    loop {
        let error = match parts.store.update_job(job).await {
            // `AlreadyEnded` is a success: the job on disk has ended, because an earlier try was
            // committed although it reported an error.
            Ok(()) | Err(StorageError::AlreadyEnded(_)) => break,
            Err(error) => error,
        };
        if error.refusal().is_none() {
            let cause = &error as &dyn std::error::Error;
            tracing::error!(
                job = %job.id,
                error = cause,
                "the job can never be committed in this state"
            );
            return Err(error);
        }
        if !std::mem::replace(&mut refused, true) {
            let error = &error as &dyn std::error::Error;
            tracing::error!(
                job = %job.id,
                error,
                "the job cannot be committed; it waits until it can be"
            );
        }
        parts.clock.sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
    if refused {
        let waited = parts.clock.elapsed().saturating_sub(begun);
        tracing::info!(job = %job.id, "the job is committed after {} s", waited.as_secs());
    }
    Ok(())
}
