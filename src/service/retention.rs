//! Deletes old data. Ended jobs, ended leases and idempotency keys are deleted once an hour, and
//! audit records that exceed the limits of the audit once a minute.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::fail_points::fail_point;
use crate::service::jobs::Jobs;
use crate::storage::{PurgedAudit, Retention, Storage};

/// Deletes old data regularly, until `stop` is cancelled.
pub async fn run(
    store: Arc<dyn Storage>,
    clock: Clock,
    retention: Retention,
    jobs: Jobs,
    stop: CancellationToken,
) {
    fail_point!("retention");
    let mut minutes: u32 = 0;
    loop {
        if minutes.is_multiple_of(60) {
            purge(&*store, &clock, &retention).await;
            jobs.forget_ended();
        }
        purge_audit(&*store, &clock, &retention).await;
        minutes = minutes.wrapping_add(1);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = clock.sleep(Duration::from_mins(1)) => {}
        }
    }
}

async fn purge(store: &dyn Storage, clock: &Clock, retention: &Retention) {
    match store.purge(clock.now(), retention).await {
        Ok(purged) => tracing::debug!(?purged, "old jobs, leases and keys are deleted"),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "old jobs and leases cannot be deleted");
        }
    }
}

async fn purge_audit(store: &dyn Storage, clock: &Clock, retention: &Retention) {
    match store.purge_audit(clock.now(), &retention.audit).await {
        Ok(PurgedAudit { by_bytes: 0, .. }) => {}
        Ok(PurgedAudit { by_bytes, .. }) => {
            let max_bytes = retention.audit.max_bytes;
            tracing::warn!(
                rows = by_bytes,
                max_bytes,
                "the oldest audit records were deleted to keep audit.max_bytes"
            );
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "old audit records cannot be deleted");
        }
    }
}
