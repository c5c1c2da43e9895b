//! The rules for a restore from a backup. A restore ends all unfinished jobs and leases, because
//! the backup does not contain what the host and the callers have done since.

use jiff::Timestamp;

use super::failure::{Failure, FailureKind};
use super::job::{Job, JobState, JobStepState};
use super::lease::{EndReason, Lease, LeaseEnd, LeaseState, Quarantine};

/// The minimum by which a restore raises the fence floor, even if the wall clock is wrong.
const FENCE_STEP: u64 = 1_000_000;

/// The reason of a quarantine that a restore makes. Operators and programs can search for this
/// word.
pub const REASON: &str = "restored";

const OTTER: &str = "otter";

/// The fence floor after a restore: every later grant gets a fence above it.
///
/// The archive does not contain the grants that were made after the backup, or after an earlier
/// restore of the same archive. Their fences must not be used again. The time of the restore in
/// milliseconds is higher than all of them, because no machine is granted as often as once per
/// millisecond. JSON readers that use double-precision numbers read this value exactly.
///
/// # Parameters
/// - `highest`: the highest fence in the archive, or the fence floor in the archive if that is
///   higher.
#[must_use]
pub fn fence_floor(highest: u64, now: Timestamp) -> u64 {
    let clock = u64::try_from(now.as_millisecond()).unwrap_or_default();
    highest.saturating_add(FENCE_STEP).max(clock)
}

/// Ends an unfinished job, because its state was restored from a backup. A queued job becomes
/// `cancelled`, a running job becomes `unknown`, and an ended job stays as it is.
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
    // `host_task` is cleared, because otter would otherwise follow the task although the job has
    // ended.
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

/// Ends an open lease as `revoked`, because its state was restored from a backup. An ended lease
/// stays as it is.
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

/// The quarantine for a machine that an open lease held at the time of the backup. If an operator
/// had already quarantined the machine, the new reason includes the operator's reason.
#[must_use]
pub fn quarantine(before: Option<&Quarantine>, now: Timestamp) -> Quarantine {
    let reason = match before.filter(|before| !before.automatic) {
        Some(Quarantine { reason, by, .. }) => format!("{REASON}; before that, by {by}: {reason}"),
        None => REASON.to_owned(),
    };
    Quarantine { reason, by: OTTER.to_owned(), since: now, automatic: true, job: None }
}
