//! Ends old work when a store is restored from a backup, because the store does not know what the
//! host and the callers have done since.

use jiff::Timestamp;

use super::failure::{Failure, FailureKind};
use super::job::{Job, JobState, JobStepState};
use super::lease::{EndReason, Lease, LeaseEnd, LeaseState, Quarantine};

/// Fences rise at least by this much, even if the wall clock is wrong.
const FENCE_STEP: u64 = 1_000_000;

/// The reason of the quarantine, which operators and programs can look for.
pub const REASON: &str = "restored";

const OTTER: &str = "otter";

/// The floor of fences after a restore: every later grant gets a higher one.
///
/// The archive knows neither the grants after it was made nor those after an earlier restore of the
/// same archive. The time of the restore in milliseconds is above both: no machine is granted as
/// often as once in a millisecond. It is also exact in every JSON reader.
///
/// # Parameters
/// - `highest`: the highest fence in the archive, or its floor if that is higher.
#[must_use]
pub fn fence_floor(highest: u64, now: Timestamp) -> u64 {
    let clock = u64::try_from(now.as_millisecond()).unwrap_or_default();
    highest.saturating_add(FENCE_STEP).max(clock)
}

/// Ends a job that had not ended: `cancelled` if it was queued, `unknown` if it ran.
pub fn end_job(job: &mut Job, now: Timestamp) {
    let (state, kind, detail) = match job.state {
        JobState::Queued => (
            JobState::Cancelled,
            FailureKind::JobCancelled,
            "The store was restored from a backup while the job was queued; nothing was done for it since.",
        ),
        JobState::Running => (
            JobState::Unknown,
            FailureKind::OutcomeUnknown,
            "The store was restored from a backup that was made while the job ran: look at the machine.",
        ),
        JobState::Succeeded | JobState::Failed | JobState::Cancelled | JobState::Unknown => return,
    };
    for step in job.steps.iter_mut().filter(|step| step.state == JobStepState::Running) {
        step.state = JobStepState::Unknown;
        step.finished_at = Some(now);
    }
    // otter would follow a named task on the host.
    if let Some(task) = job.host_task.take() {
        job.warnings.push(format!("When the backup was made its task on the host was {task}."));
    }
    let failure = job.add_machine_to(Failure::new(kind, detail)).with_job(job.id);
    state.as_str().clone_into(&mut job.phase);
    job.state = state;
    job.updated_at = now;
    job.finished_at = Some(now);
    job.intent = None;
    job.error = Some(failure);
}

/// Ends a lease that had not ended: `revoked`.
pub fn end_lease(lease: &mut Lease, now: Timestamp) {
    if lease.state.is_end() {
        return;
    }
    lease.note(now, "revoked by otter: the store was restored from a backup");
    lease.end = Some(LeaseEnd {
        reason: EndReason::Revoked,
        by: OTTER.to_owned(),
        at: now,
        detail: Some("The store was restored from a backup.".to_owned()),
    });
    lease.state = LeaseState::Revoked;
    lease.ended_at = Some(now);
}

/// The quarantine of a machine that a lease held. The reason keeps an earlier note of an operator.
#[must_use]
pub fn quarantine(before: Option<&Quarantine>, now: Timestamp) -> Quarantine {
    let reason = match before.filter(|before| !before.automatic) {
        Some(Quarantine { reason, by, .. }) => format!("{REASON}; before that, by {by}: {reason}"),
        None => REASON.to_owned(),
    };
    Quarantine { reason, by: OTTER.to_owned(), since: now, automatic: true, job: None }
}
