//! Tests of the transitions of a job in the job table.

use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::domain::job::JobRequest;
use crate::service::jobs::samples;

const LEASE: u128 = 3;
const RULES: JobRules = JobRules { settle: Duration::ZERO, question_grace: Duration::ZERO };

fn job(n: u128) -> Job {
    let lease = Some(LeaseId::new(Uuid::from_u128(LEASE)));
    Job { id: JobId::new(Uuid::from_u128(n)), lease, ..samples::job(JobRequest::PowerOn) }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A table with these jobs. All are committed, and the first job has the latest deadline.
fn table(jobs: &[Job]) -> JobTable {
    let table = JobTable::new(16, 100);
    for (job, due) in jobs.iter().zip((1..=jobs.len() as u64).rev()) {
        let target = job.target.id();
        table.reserve(&target, job.id, Lane::for_kind(job.kind())).unwrap();
        table.show(JobStateMachine::from_queued(job.clone(), RULES), seconds(due));
        table.commit(&target, job.id);
    }
    table
}

fn ended(job: &Job, state: JobState) -> Arc<Job> {
    let task = TaskId::from_backend("task-1");
    Arc::new(Job { state, host_task: Some(task), ..job.clone() })
}

#[test]
fn a_job_is_found_before_its_commit_and_neither_starts_nor_expires() {
    let (table, job) = (JobTable::new(16, 100), job(1));
    let target = job.target.id();
    table.reserve(&target, job.id, Lane::Ordinary).unwrap();
    assert!(table.has_any(&target) && table.read(job.id).is_none());
    table.show(JobStateMachine::from_queued(job.clone(), RULES), seconds(1));
    assert_eq!(table.read(job.id).and_then(|reading| reading.position), Some(0));
    assert_eq!((table.first_deadline(), table.start_next(&target)), (None, None));
    assert!(table.withdraw_overdue(seconds(2)).is_none());
    table.remove(&target, job.id);
    assert!(!table.has_any(&target) && table.read(job.id).is_none());
}

#[test]
fn a_job_waits_behind_the_active_one_until_that_ends() {
    let jobs = [job(1), job(2)];
    let (table, target) = (table(&jobs), jobs[0].target.id());
    let waits_for = || table.read(jobs[1].id).map(|reading| (reading.position, reading.waits_for));
    assert_eq!(table.start_next(&target), Some(jobs[0].id));
    assert!(table.take(jobs[0].id).is_some() && table.take(jobs[0].id).is_none());
    assert_eq!(waits_for(), Some((Some(1), Some(jobs[0].id))));
    assert_eq!(table.start_next(&target), None);
    assert!(table.withdraw(jobs[0].id).is_none(), "it runs");
    let followed = table.follow(jobs[0].id).unwrap();
    assert_eq!(table.finish(&EndedJob::new(ended(&jobs[0], JobState::Succeeded))), None);
    assert_eq!(followed.borrow().job.state, JobState::Succeeded);
    assert_eq!(waits_for(), Some((Some(0), None)));
    assert_eq!(table.start_next(&target), Some(jobs[1].id));
}

#[test]
fn queued_jobs_expire_in_the_order_of_their_deadlines() {
    let jobs = [job(1), job(2), job(3)];
    let table = table(&jobs);
    let overdue = |now| table.withdraw_overdue(seconds(now)).map(|job| job.state_machine.job().id);
    assert_eq!((table.first_deadline(), overdue(0)), (Some(seconds(1)), None));
    assert_eq!([overdue(2), overdue(2), overdue(2)], [Some(jobs[2].id), Some(jobs[1].id), None]);
    assert_eq!(table.start_next(&jobs[0].target.id()), Some(jobs[0].id));
    assert_eq!((table.first_deadline(), overdue(9)), (None, None), "a running job does not");
}

#[test]
fn a_job_is_withdrawn_only_after_its_commit() {
    let (table, job) = (JobTable::new(16, 100), job(1));
    let target = job.target.id();
    table.reserve(&target, job.id, Lane::Ordinary).unwrap();
    table.show(JobStateMachine::from_queued(job.clone(), RULES), seconds(1));
    assert!(table.withdraw(job.id).is_none(), "its end cannot be committed before itself");
    table.commit(&target, job.id);
    assert_eq!(table.first_deadline(), Some(seconds(1)));
    assert!(table.withdraw(job.id).is_some());
    assert_eq!((table.first_deadline(), table.has_any(&target)), (None, false));
}

#[test]
fn a_kill_cancels_the_running_job_in_the_name_of_its_caller() {
    let kill = Job { requested_by: "alice".to_owned(), request: JobRequest::Kill, ..job(2) };
    let jobs = [job(1), kill];
    let (table, target) = (table(&jobs[..1]), jobs[0].target.id());
    table.start_next(&target);
    let mut running = table.take(jobs[0].id).unwrap();
    table.reserve(&target, jobs[1].id, Lane::Kill).unwrap();
    table.show(JobStateMachine::from_queued(jobs[1].clone(), RULES), seconds(1));
    table.commit(&target, jobs[1].id);
    assert_eq!(table.start_next(&target), Some(jobs[1].id));
    assert_eq!(running.interrupts.try_recv(), Ok(Interrupt::Cancel(jobs[1].requester())));
}

#[test]
fn an_ended_job_is_no_longer_a_job_of_its_lease() {
    let jobs = [job(1), job(2)];
    let table = table(&jobs);
    let lease = LeaseId::new(Uuid::from_u128(LEASE));
    assert_eq!(table.jobs_of_lease(lease), [jobs[0].id, jobs[1].id]);
    table.finish(&EndedJob::new(ended(&jobs[0], JobState::Failed)));
    assert_eq!(table.jobs_of_lease(lease), [jobs[1].id]);
}

#[test]
fn a_task_that_outlives_its_job_keeps_its_machine_busy() {
    let jobs = [job(1)];
    let table = table(&jobs);
    let unknown = ended(&jobs[0], JobState::Unknown);
    let machine = unknown.machine_id().unwrap();
    let is_busy = || {
        let activity = table.activity(&unknown.target.id());
        let of_all = table.activities().get(machine).copied().unwrap_or_default();
        assert_eq!(activity, of_all);
        activity.is_host_busy
    };
    assert!(!is_busy());
    let orphaned = table.finish(&EndedJob::new(Arc::clone(&unknown))).unwrap();
    assert!(is_busy());
    assert_eq!(table.add_orphaned_task(&unknown), None, "it is followed already");
    table.remove_orphaned_task(&orphaned);
    assert!(!is_busy());
}

/// Each change of an activity must change the version, because readers keep what they computed from
/// the activities as long as the version stays the same.
#[test]
fn each_change_of_an_activity_changes_its_version() {
    let (table, job) = (JobTable::new(16, 100), job(1));
    let target = job.target.id();
    let (mut version, mut activity) = (table.activity_version(), table.activity(&target));
    let mut differs = |step: &str| {
        let now = (table.activity_version(), table.activity(&target));
        let changed = now.1 != activity;
        assert!(!changed || now.0 != version, "{step}");
        (version, activity) = now;
        changed
    };
    table.reserve(&target, job.id, Lane::Ordinary).unwrap();
    table.show(JobStateMachine::from_queued(job.clone(), RULES), seconds(9));
    assert!(!differs("a job that is being accepted shows nowhere"));
    table.commit(&target, job.id);
    assert!(differs("commit"));
    assert_eq!(table.start_next(&target), Some(job.id));
    let pending = table.take(job.id).unwrap();
    differs("start");
    for settling in [true, false] {
        table.update_status(&pending.status, |status| {
            status.settling = settling;
            true
        });
        assert!(differs("a call that may have run"), "settling: {settling}");
    }
    let orphaned = table.finish(&EndedJob::new(ended(&job, JobState::Unknown))).unwrap();
    assert!(differs("the end"));
    table.remove_orphaned_task(&orphaned);
    assert!(differs("the end of the orphaned task"));
    table.reserve(&target, job.id, Lane::Ordinary).unwrap();
    table.commit(&target, job.id);
    assert!(differs("another commit"));
    table.remove(&target, job.id);
    assert!(differs("the removal"));
}

#[test]
fn a_jump_of_the_wall_clock_moves_the_deadlines_of_pending_jobs() {
    let jobs = [job(1), job(2)];
    let table = table(&jobs);
    table.start_next(&jobs[0].target.id());
    let mut running = table.take(jobs[0].id).unwrap();
    let by = SignedDuration::from_hours(1);
    let moved = table.shift_deadlines(by, Timestamp::UNIX_EPOCH);
    let deadlines: Vec<_> = moved.iter().map(|job| (job.id, job.deadline_at)).collect();
    assert_eq!(deadlines, [(jobs[1].id, jobs[1].deadline_at + by)]);
    assert_eq!(running.jumps.take(), by, "a running job moves its own");
}
