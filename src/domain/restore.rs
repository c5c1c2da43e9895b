//! The rules of a restore from a backup: it ends all unfinished jobs and leases, because the backup
//! does not contain what the host and the callers have done since.

use jiff::Timestamp;

use super::failure::{Failure, FailureKind};
use super::job::{Job, JobState, JobStepState};
use super::lease::{EndReason, Lease, LeaseEnd, LeaseState, Quarantine};

/// The minimum by which a restore raises the fence floor, even if the wall clock is wrong.
const FENCE_STEP: u64 = 1_000_000;

/// The reason of a quarantine after a restore. Operators and programs can search for it.
pub const REASON: &str = "restored";

const OTTER: &str = "otter";

/// The fence floor after a restore: every later grant gets a higher fence.
///
/// The archive contains neither the grants after the backup nor those after an earlier restore of
/// the same archive. The time of the restore in milliseconds is higher than all these fences,
/// because no machine is granted as often as once per millisecond. JSON readers that use
/// double-precision numbers read this value exactly.
///
/// # Parameters
/// - `highest`: the highest fence in the archive, or the floor in the archive if that is higher.
#[must_use]
pub fn fence_floor(highest: u64, now: Timestamp) -> u64 {
    let clock = u64::try_from(now.as_millisecond()).unwrap_or_default();
    highest.saturating_add(FENCE_STEP).max(clock)
}

/// Ends an unfinished job: `cancelled` if it was queued, `unknown` if it was running. Does nothing
/// to an ended job.
pub fn end_job(job: &mut Job, now: Timestamp) {
    let (state, kind, detail) = match job.state {
        JobState::Queued => (
            JobState::Cancelled,
            FailureKind::JobCancelled,
            "The store was restored from a backup in which the job was queued. otter did \
             not start it after the restore. Check the machine.",
        ),
        JobState::Running => (
            JobState::Unknown,
            FailureKind::OutcomeUnknown,
            "The store was restored from a backup in which the job was running. Check the machine.",
        ),
        JobState::Succeeded | JobState::Failed | JobState::Cancelled | JobState::Unknown => return,
    };
    for step in job.steps.iter_mut().filter(|step| step.state == JobStepState::Running) {
        step.state = JobStepState::Unknown;
        step.finished_at = Some(now);
    }
    // `host_task` is cleared, because otter would follow the task, but the job has ended.
    if let Some(task) = job.host_task.take() {
        job.warnings
            .push(format!("At the time of the backup the job's task on the host was {task}."));
    }
    let failure = job.add_machine_to(Failure::new(kind, detail)).with_job(job.id);
    state.as_str().clone_into(&mut job.phase);
    job.state = state;
    job.updated_at = now;
    job.finished_at = Some(now);
    job.intent = None;
    job.error = Some(failure);
}

/// Ends an open lease as `revoked`. Does nothing to an ended lease.
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

/// The quarantine of a machine that an open lease held. If an operator had quarantined the machine
/// before, the new reason includes the operator's reason.
#[must_use]
pub fn quarantine(before: Option<&Quarantine>, now: Timestamp) -> Quarantine {
    let reason = match before.filter(|before| !before.automatic) {
        Some(Quarantine { reason, by, .. }) => format!("{REASON}; before that, by {by}: {reason}"),
        None => REASON.to_owned(),
    };
    Quarantine { reason, by: OTTER.to_owned(), since: now, automatic: true, job: None }
}
