//! Tests of the job service with a simulated host in this process, a store in memory, and a clock
//! that the test advances.

mod files;
mod fixture;
mod scripted_host;

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use otter::domain::call::{CallKind, HostCall};
use otter::domain::failure::FailureKind;
use otter::domain::ids::{DatastoreId, JobId, LeaseId, MachineId};
use otter::domain::job::{Job, JobRequest, JobState, JobTarget};
use otter::domain::origin::Actor;
use otter::domain::power::PowerState;
use otter::service::idempotency::Claimed;
use otter::service::jobs::BlockedByKind;
use otter::storage::{IdempotencyKey, RecordRetention, Retention, Storage};
use uuid::Uuid;

use self::fixture::JobsFixture;
use self::scripted_host::CallBehavior;

const SUCCEEDED: JobState = JobState::Succeeded;

/// A request whose task can be cancelled.
fn create() -> JobRequest {
    let (name, description) = ("new".to_owned(), String::new());
    JobRequest::CreateSnapshot { name, description, memory: false, quiesce: false }
}

async fn stored(fixture: &JobsFixture, id: JobId) -> otter::domain::job::Job {
    fixture.store.job(id).await.unwrap().unwrap()
}

#[tokio::test]
async fn jobs_of_one_machine_run_in_order_and_jobs_of_two_machines_in_parallel() {
    let fixture = JobsFixture::new(2).await;
    fixture.host.set_behavior(&[CallBehavior::Hold, CallBehavior::Hold]);
    let first = fixture.start(1, JobRequest::PowerOn).await;
    let second = fixture.start(1, JobRequest::PowerOff).await;
    let third = fixture.start(1, JobRequest::PowerOn).await;
    fixture.start(2, JobRequest::PowerOn).await;
    fixture.host.called(2).await;
    let place = fixture.jobs.get(third).await.unwrap().unwrap();
    assert_eq!((place.position, place.job.state), (Some(2), JobState::Queued));
    assert_eq!(place.blocked_by.map(|by| by.kind), Some(BlockedByKind::Job));
    fixture.host.release();
    for id in [first, second, third] {
        assert_eq!(fixture.end(id).await.job.state, SUCCEEDED);
    }
    let of_one = fixture.host.calls().into_iter().filter(|(machine, _)| *machine == *"1");
    let calls: Vec<HostCall> = of_one.map(|(_, call)| call).collect();
    assert_eq!(calls, [HostCall::PowerOn, HostCall::PowerOff, HostCall::PowerOn]);
}

#[tokio::test]
async fn a_job_that_its_lease_admitted_does_not_start_after_the_end_of_the_lease() {
    for restarts in [false, true] {
        let mut fixture = JobsFixture::new(1).await;
        *fixture.authorizer.lease.lock().unwrap() = Some(LeaseId::new(Uuid::from_u128(1)));
        fixture.host.set_behavior(&[CallBehavior::Hold]);
        let running = fixture.start(1, JobRequest::PowerOn).await;
        fixture.host.called(1).await;
        let admitted = fixture.start(1, JobRequest::Reset).await;
        fixture.authorizer.has_ended.store(true, Ordering::SeqCst);
        if restarts {
            fixture.stop().await;
            fixture.restart().await;
        }
        fixture.host.release();
        assert_eq!(fixture.end(running).await.job.state, SUCCEEDED, "it ran already");
        let ended = fixture.end(admitted).await.job;
        assert_eq!(ended.state, JobState::Cancelled);
        assert_eq!(ended.error.as_ref().unwrap().kind, FailureKind::JobCancelled);
        assert_eq!(stored(&fixture, admitted).await, *ended);
        assert_eq!(fixture.host.calls().len(), 1);
    }
}

#[tokio::test]
async fn a_reader_of_the_end_finds_the_machine_changed_and_without_a_job() {
    let fixture = JobsFixture::new(1).await;
    for round in 0..50 {
        let (request, state) = match round % 2 {
            0 => (JobRequest::PowerOn, PowerState::On),
            _ => (JobRequest::PowerOff, PowerState::Off),
        };
        let id = fixture.start(1, request).await;
        let view = fixture.end(id).await;
        assert_eq!(fixture.jobs.activity(&MachineId::from_backend("1")).active_job, None);
        assert_eq!(view.job.result.as_ref().and_then(|result| result.power_state), Some(state));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_waiters_wake_at_once_without_a_read_of_the_store() {
    let fixture = JobsFixture::new(1).await;
    fixture.host.set_behavior(&[CallBehavior::Hold]);
    let id = fixture.start(1, JobRequest::PowerOn).await;
    fixture.host.called(1).await;
    let waiters: Vec<_> = (0..10_000)
        .map(|_| {
            let jobs = fixture.jobs.clone();
            let (started, waits) = tokio::sync::oneshot::channel();
            let waiter = tokio::spawn(async move {
                let mut end = pin!(jobs.ended(id));
                let first =
                    std::future::poll_fn(|context| Poll::Ready(end.as_mut().poll(context))).await;
                assert!(first.is_pending());
                started.send(()).unwrap();
                end.await.unwrap().unwrap().job.state
            });
            (waiter, waits)
        })
        .collect();
    let mut ends = Vec::new();
    for (waiter, waits) in waiters {
        waits.await.unwrap();
        ends.push(waiter);
    }
    // The job commits its task and its end, and nothing else happens.
    let (before, commits) = (fixture.store.statements(), fixture.store.transactions());
    fixture.host.release();
    for end in ends {
        assert_eq!(end.await.unwrap(), SUCCEEDED);
    }
    let (queries, commits) =
        (fixture.store.statements() - before, fixture.store.transactions() - commits);
    assert!(queries <= 20 && commits <= 2, "{queries} queries, {commits} commits");
}

#[tokio::test]
async fn queued_and_running_jobs_are_resumed_at_the_start() {
    let mut fixture = JobsFixture::new(2).await;
    fixture.host.set_behavior(&[CallBehavior::Hold]);
    let running = fixture.start(1, JobRequest::PowerOn).await;
    let queued = fixture.start(1, JobRequest::PowerOff).await;
    fixture.host.called(1).await;
    let waiting = fixture.jobs.clone();
    let waiter = tokio::spawn(async move { waiting.ended(running).await });
    fixture.stop().await;
    let left = waiter.await.unwrap().unwrap().unwrap().job.state;
    assert_eq!(left, JobState::Running, "a waiting caller gets the unfinished job");
    assert!(stored(&fixture, running).await.host_task.is_some());
    assert_eq!(fixture.restart().await, 2);
    fixture.host.release();
    assert_eq!(fixture.end(running).await.job.state, SUCCEEDED);
    assert_eq!(fixture.end(queued).await.job.state, SUCCEEDED);
    assert_eq!(
        fixture.host.calls().len(),
        2,
        "the task of the running job is followed, and the call is not repeated"
    );
}

#[tokio::test]
async fn a_job_on_an_unsupported_target_ends_unknown_and_leaves_its_queue() {
    let mut fixture = JobsFixture::new(1).await;
    let on_machine = fixture.start(1, JobRequest::PowerOn).await;
    let template = fixture.end(on_machine).await.job;
    fixture.stop().await;
    let targets = [JobTarget::Host, JobTarget::Datastore(DatastoreId::from_backend("1"))];
    let jobs = targets.map(|target| Job {
        id: JobId::new(fixture.clock.uuid()),
        state: JobState::Queued,
        target,
        finished_at: None,
        result: None,
        ..Job::clone(&template)
    });
    let mut waiting_twice = jobs.to_vec();
    waiting_twice.push(Job { id: JobId::new(fixture.clock.uuid()), ..jobs[0].clone() });
    for job in &waiting_twice {
        fixture.store.insert_job(job, None, None).await.unwrap();
    }
    assert_eq!(fixture.restart().await, 3);
    for job in &waiting_twice {
        let end = fixture.end(job.id).await.job;
        assert_eq!((end.state, &end.target), (JobState::Unknown, &job.target));
        let failure = end.error.clone().unwrap();
        assert_eq!((failure.kind, failure.machine), (FailureKind::OutcomeUnknown, None));
        assert_eq!(stored(&fixture, job.id).await.state, JobState::Unknown);
    }
    assert_eq!(fixture.host.calls().len(), 1, "the host was called only for the machine");
    let last = fixture.start(1, JobRequest::PowerOff).await;
    assert_eq!(fixture.end(last).await.job.state, SUCCEEDED);
}

#[tokio::test]
async fn a_shutdown_waits_for_the_answer_to_a_call() {
    let mut fixture = JobsFixture::new(1).await;
    fixture.host.set_behavior(&[CallBehavior::AnswerLate]);
    let id = fixture.start(1, JobRequest::Reset).await;
    assert_eq!(fixture.end(id).await.job.state, JobState::Failed, "off");
    let on = fixture.start(1, JobRequest::PowerOn).await;
    fixture.host.called(1).await;
    fixture.start_to_stop();
    let refused = fixture.jobs.start(fixture.new_job(1, JobRequest::PowerOff)).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::ShuttingDown);
    let host = std::sync::Arc::clone(&fixture.host);
    tokio::join!(fixture.stop(), async move { host.release() });
    assert!(stored(&fixture, on).await.host_task.is_some(), "the answer is on the disk");
    fixture.restart().await;
    assert_eq!(fixture.end(on).await.job.state, SUCCEEDED);
    assert_eq!(fixture.host.calls().len(), 1);
}

#[tokio::test]
async fn a_job_that_panics_is_resumed_as_after_a_crash_and_its_waiters_get_the_end() {
    for (request, state, calls) in
        [(JobRequest::PowerOn, SUCCEEDED, 2), (JobRequest::Reset, JobState::Unknown, 2)]
    {
        let fixture = JobsFixture::new(1).await;
        if request == JobRequest::Reset {
            let id = fixture.start(1, JobRequest::PowerOn).await;
            fixture.end(id).await;
        }
        fixture.host.set_behavior(&[CallBehavior::Panic]);
        let id = fixture.start(1, request).await;
        assert_eq!(fixture.end_as_time_passes(id).await.job.state, state);
        assert_eq!(fixture.host.calls().len(), calls);
        let next = fixture.start(1, JobRequest::PowerOff).await;
        assert_eq!(fixture.end(next).await.job.state, SUCCEEDED, "the next job runs");
    }
}

#[tokio::test]
async fn a_job_that_panics_each_time_ends_unknown_and_the_next_job_runs() {
    let fixture = JobsFixture::new(1).await;
    fixture.host.panic_if_examined(true);
    let id = fixture.start(1, JobRequest::PowerOn).await;
    let end = fixture.end_as_time_passes(id).await.job;
    assert_eq!((end.state, fixture.host.examinations()), (JobState::Unknown, 5));
    assert_eq!(end.error.as_ref().map(|failure| failure.kind), Some(FailureKind::OutcomeUnknown));
    assert_eq!(stored(&fixture, id).await.state, JobState::Unknown);
    fixture.host.panic_if_examined(false);
    let next = fixture.start(1, JobRequest::PowerOff).await;
    assert_eq!(fixture.end_as_time_passes(next).await.job.state, SUCCEEDED);
}

#[tokio::test]
async fn a_job_that_is_no_longer_in_the_store_leaves_its_queue() {
    let fixture = JobsFixture::new(1).await;
    fixture.host.set_behavior(&[CallBehavior::Hold]);
    let id = fixture.start(1, JobRequest::PowerOn).await;
    fixture.host.called(1).await;
    let mut lost = stored(&fixture, id).await;
    (lost.state, lost.finished_at) = (SUCCEEDED, Some(fixture.clock.now()));
    fixture.store.update_job(&lost).await.unwrap();
    let nothing = RecordRetention { time: Duration::ZERO, at_least: 0, at_most: 0 };
    let retention = Retention { jobs: nothing, ..Retention::default() };
    fixture.clock.advance(Duration::from_secs(1));
    assert_eq!(fixture.store.purge(fixture.clock.now(), &retention).await.unwrap().jobs, 1);
    fixture.host.release();
    let next = fixture.start(1, JobRequest::PowerOff).await;
    assert_eq!(fixture.end_as_time_passes(next).await.job.state, SUCCEEDED);
}

#[tokio::test]
async fn a_job_is_accepted_completely_if_the_client_disconnects() {
    let fixture = JobsFixture::new(1).await;
    {
        let mut start = pin!(fixture.jobs.start(fixture.new_job(1, JobRequest::PowerOn)));
        assert!(start.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    fixture.host.called(1).await;
    let after = fixture.start(1, JobRequest::PowerOff).await;
    assert_eq!(fixture.end(after).await.job.state, SUCCEEDED);
    assert_eq!(fixture.host.calls().len(), 2);
}

#[tokio::test]
async fn a_queued_job_ends_at_its_deadline_and_never_starts() {
    let fixture = JobsFixture::new(1).await;
    fixture.expire();
    fixture.host.set_behavior(&[CallBehavior::Hold]);
    let first = fixture.start(1, JobRequest::PowerOn).await;
    fixture.host.called(1).await;
    let mut new = fixture.new_job(1, JobRequest::PowerOff);
    new.deadline = Some(Duration::from_secs(5));
    let late = fixture.jobs.start(new).await.unwrap();
    let job = fixture.end_as_time_passes(late).await.job;
    assert_eq!((job.state, job.started_at), (JobState::Failed, None));
    assert_eq!(job.error.as_ref().map(|failure| failure.kind), Some(FailureKind::DeadlineExceeded));
    fixture.host.release();
    assert_eq!(fixture.end(first).await.job.state, SUCCEEDED);
    assert_eq!(fixture.host.calls().len(), 1);
}

#[tokio::test]
async fn a_job_whose_deadline_passed_while_the_daemon_was_down_never_starts() {
    let mut fixture = JobsFixture::new(1).await;
    fixture.host.set_behavior(&[CallBehavior::Hold]);
    let start = async |fixture: &JobsFixture, request| {
        let mut new = fixture.new_job(1, request);
        new.deadline = Some(Duration::from_mins(1));
        fixture.jobs.start(new).await.unwrap()
    };
    let running = start(&fixture, JobRequest::PowerOn).await;
    fixture.host.called(1).await;
    let queued = start(&fixture, JobRequest::PowerOff).await;
    fixture.stop().await;
    fixture.host.release();
    // The host remembers a task for ten minutes.
    fixture.clock.advance(Duration::from_mins(5));
    fixture.restart().await;
    assert_eq!(fixture.end(running).await.job.state, SUCCEEDED, "its task had succeeded");
    let job = fixture.end(queued).await.job;
    assert_eq!((job.state, job.started_at), (JobState::Failed, None));
    assert_eq!(fixture.host.calls().len(), 1);
}

#[tokio::test]
async fn a_queued_job_is_cancelled_at_once_and_a_running_one_by_its_task() {
    let fixture = JobsFixture::new(1).await;
    fixture.host.set_behavior(&[CallBehavior::Hold]);
    let running = fixture.start(1, JobRequest::PowerOn).await;
    fixture.host.called(1).await;
    let queued = fixture.start(1, JobRequest::PowerOff).await;
    let cancelled = fixture.jobs.cancel(queued, Actor::otter()).await.unwrap().unwrap();
    assert_eq!(cancelled.job.state, JobState::Cancelled);
    fixture.jobs.cancel(running, Actor::otter()).await.unwrap();
    assert_eq!(fixture.end(running).await.job.state, JobState::Cancelled);
    assert_eq!((fixture.host.cancelled(), fixture.host.calls().len()), (1, 1));
    assert_eq!(
        fixture.jobs.cancel(running, Actor::otter()).await.unwrap().unwrap().job.state,
        JobState::Cancelled
    );
}

#[tokio::test]
async fn a_kill_goes_first_and_cancels_the_running_job() {
    let fixture = JobsFixture::new(1).await;
    let on = fixture.start(1, JobRequest::PowerOn).await;
    fixture.end(on).await;
    fixture.host.set_behavior(&[CallBehavior::Hold]);
    let create = fixture.start(1, create()).await;
    fixture.host.called(2).await;
    let queued = fixture.start(1, JobRequest::PowerOn).await;
    let kill = fixture.start(1, JobRequest::Kill).await;
    assert_eq!(fixture.end(kill).await.job.state, SUCCEEDED);
    assert_eq!(fixture.end(create).await.job.state, JobState::Cancelled);
    assert_eq!(fixture.end(queued).await.job.state, SUCCEEDED);
    let calls: Vec<CallKind> =
        fixture.host.calls().into_iter().map(|(_, call)| call.kind()).collect();
    let expected =
        [CallKind::PowerOn, CallKind::CreateSnapshot, CallKind::PowerOff, CallKind::PowerOn];
    assert_eq!(calls, expected);
}

/// The machine is off when the kill reads it, and the call that powers it on has not reached the
/// host.
#[tokio::test]
async fn a_kill_waits_for_a_call_that_has_not_reached_the_host() {
    let fixture = JobsFixture::new(1).await;
    fixture.host.set_behavior(&[CallBehavior::Delayed, CallBehavior::Hold]);
    let on = fixture.start(1, JobRequest::PowerOn).await;
    fixture.host.called(1).await;
    let before = fixture.host.examinations();
    let kill = fixture.start(1, JobRequest::Kill).await;
    while fixture.host.examinations() == before {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.jobs.get(kill).await.unwrap().unwrap().job.state, JobState::Running);
    fixture.host.release();
    assert_eq!(fixture.end(on).await.job.state, JobState::Cancelled);
    assert_eq!(fixture.end_as_time_passes(kill).await.job.state, SUCCEEDED);
}

#[tokio::test]
async fn after_a_restart_a_kill_cancels_the_running_job_again() {
    let mut fixture = JobsFixture::new(1).await;
    let on = fixture.start(1, JobRequest::PowerOn).await;
    fixture.end(on).await;
    fixture.host.set_behavior(&[CallBehavior::Hold, CallBehavior::Hold]);
    let create = fixture.start(1, create()).await;
    fixture.host.called(2).await;
    fixture.stop().await;
    // The kill was committed and running when otter died, and the request to cancel was not on
    // disk.
    let mut kill = stored(&fixture, create).await;
    kill.id = JobId::new(fixture.clock.uuid());
    (kill.request, kill.host_task, kill.intent) = (JobRequest::Kill, None, None);
    kill.steps.clear();
    fixture.store.insert_job(&kill, None, None).await.unwrap();
    fixture.restart().await;
    assert_eq!(fixture.end(create).await.job.state, JobState::Cancelled);
    fixture.host.called(3).await;
    fixture.host.release();
    assert_eq!(fixture.end(kill.id).await.job.state, SUCCEEDED);
}

#[tokio::test]
async fn a_full_queue_refuses_a_job_without_a_trace() {
    let fixture = JobsFixture::new(3).await;
    fixture.host.set_behavior(&[CallBehavior::Hold; 3]);
    for machine in 1..=3 {
        fixture.start(machine, JobRequest::PowerOn).await;
    }
    fixture.host.called(3).await;
    for _ in 0..16 {
        fixture.start(1, JobRequest::PowerOn).await;
        fixture.start(2, JobRequest::PowerOn).await;
    }
    let refusal = |machine| fixture.jobs.start(fixture.new_job(machine, JobRequest::PowerOn));
    assert_eq!(refusal(1).await.unwrap_err().kind, FailureKind::QueueFull);
    for _ in 0..8 {
        fixture.start(3, JobRequest::PowerOn).await;
    }
    assert_eq!(refusal(3).await.unwrap_err().kind, FailureKind::QueueFull, "40 in all");
    assert_eq!(fixture.store.unfinished_jobs().await.unwrap().len(), 43);
    fixture.host.release();
    let last = fixture.store.unfinished_jobs().await.unwrap().last().unwrap().id;
    assert_eq!(fixture.end(last).await.job.state, SUCCEEDED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_with_one_key_start_one_job_and_both_get_its_end() {
    let fixture = JobsFixture::new(1).await;
    for round in 0..50u8 {
        let key = IdempotencyKey {
            caller: "anonymous".to_owned(),
            method: "POST".to_owned(),
            path: "/".to_owned(),
            key: round.to_string(),
            fingerprint: [0; 32],
            created_at: fixture.clock.now(),
        };
        let request = if round % 2 == 0 { JobRequest::PowerOn } else { JobRequest::PowerOff };
        let both = (0..2).map(|_| {
            let mut new = fixture.new_job(1, request.clone());
            let (jobs, key) = (fixture.jobs.clone(), key.clone());
            tokio::spawn(async move {
                let id = match jobs.claim(key).await.unwrap() {
                    Claimed::Used(id) => id,
                    Claimed::New(claim) => {
                        new.key = Some(claim);
                        jobs.start(new).await.unwrap()
                    }
                };
                jobs.ended(id).await.unwrap().unwrap().job
            })
        });
        let both: Vec<_> = both.collect();
        let mut ends = Vec::new();
        for one in both {
            ends.push(one.await.unwrap());
        }
        assert_eq!((ends[0].id, ends[0].state), (ends[1].id, SUCCEEDED));
        assert_eq!(ends[1].state, SUCCEEDED);
    }
    assert_eq!(fixture.host.calls().len(), 50);
}

#[tokio::test]
async fn an_end_that_was_committed_without_an_answer_is_an_end() {
    let fixture = JobsFixture::new(1).await;
    fixture.host.set_behavior(&[CallBehavior::Hold]);
    let id = fixture.start(1, JobRequest::PowerOn).await;
    fixture.host.called(1).await;
    let mut committed = stored(&fixture, id).await;
    while committed.host_task.is_none() {
        committed = stored(&fixture, id).await;
    }
    committed.state = SUCCEEDED;
    committed.finished_at = Some(fixture.clock.now());
    fixture.store.update_job(&committed).await.unwrap();
    fixture.host.release();
    assert_eq!(fixture.end(id).await.job.state, SUCCEEDED);
}

#[tokio::test]
async fn a_lost_call_is_resolved_after_the_settle_time() {
    let fixture = JobsFixture::new(1).await;
    fixture.host.set_behavior(&[CallBehavior::Lost]);
    let id = fixture.start(1, JobRequest::PowerOn).await;
    fixture.host.called(1).await;
    let view = fixture.end_as_time_passes(id).await;
    assert_eq!((view.job.state, fixture.host.calls().len()), (SUCCEEDED, 2));
    let took = view.job.finished_at.unwrap().duration_since(view.job.created_at);
    assert!(took.as_secs() >= 30, "{took:?}");
}

#[tokio::test]
async fn a_task_that_failed_uncertainly_is_resolved_if_the_host_has_a_manager() {
    let fixture = JobsFixture::new(1).await;
    fixture.host.set_behavior(&[CallBehavior::UncertainFailure]);
    let id = fixture.start(1, JobRequest::PowerOn).await;
    assert_eq!(fixture.end(id).await.job.state, JobState::Failed, "an ESX host knows the outcome");
    fixture.set_vcenter_product();
    fixture.host.set_behavior(&[CallBehavior::UncertainFailure]);
    let id = fixture.start(1, JobRequest::PowerOn).await;
    assert_eq!(fixture.end_as_time_passes(id).await.job.state, SUCCEEDED);
    assert_eq!(
        fixture.host.calls().len(),
        3,
        "the call is sent again once the machine is known to be off"
    );
}

#[tokio::test]
async fn an_orphaned_task_keeps_the_machine_busy_after_a_restart() {
    let mut fixture = JobsFixture::new(1).await;
    let (machine, busy) = (MachineId::from_backend("1"), |fixture: &JobsFixture| {
        fixture.jobs.activity(&MachineId::from_backend("1")).is_host_busy
    });
    let on = fixture.start(1, JobRequest::PowerOn).await;
    fixture.end(on).await;
    fixture.host.set_behavior(&[CallBehavior::Hold]);
    // The host cancels no reset.
    let mut new = fixture.new_job(1, JobRequest::Reset);
    new.deadline = Some(Duration::from_secs(5));
    let id = fixture.jobs.start(new).await.unwrap();
    fixture.host.called(2).await;
    assert_eq!(fixture.end_as_time_passes(id).await.job.state, JobState::Unknown);
    assert!(busy(&fixture));
    fixture.stop().await;
    assert_eq!(fixture.restart().await, 0);
    assert!(busy(&fixture), "it still runs");
    let mut changes = fixture.inventory.watch(&machine);
    fixture.host.release();
    while busy(&fixture) {
        changes.changed().await.unwrap();
    }
}

#[tokio::test]
async fn a_question_that_the_inventory_does_not_show_causes_no_tight_loop() {
    let fixture = JobsFixture::new(1).await;
    fixture.host.show_question(true);
    let id = fixture.start(1, JobRequest::PowerOn).await;
    while fixture.jobs.get(id).await.unwrap().unwrap().blocked_by.is_none() {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.host.examinations(), 1);
    let shown = fixture
        .inventory
        .contents()
        .machine(&MachineId::from_backend("1"))
        .unwrap()
        .question
        .clone();
    assert_eq!(shown, None);
    fixture.host.show_question(false);
    assert_eq!(fixture.end_as_time_passes(id).await.job.state, SUCCEEDED);
}

/// Waits until the job on disk has this number of seconds left until its deadline, by the wall
/// clock.
async fn wait_for_stored_time_left(fixture: &JobsFixture, id: JobId, seconds: i64) {
    let mut left = 0;
    for _ in 0..10_000 {
        left = stored(fixture, id).await.deadline_at.duration_since(fixture.clock.now()).as_secs();
        if left == seconds {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{left} seconds are left in place of {seconds}");
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_ends_no_job_and_moves_the_shown_deadline() {
    let fixture = JobsFixture::new(1).await;
    fixture.expire();
    fixture.follow_wall_clock();
    fixture.host.set_behavior(&[CallBehavior::Hold]);
    let running = fixture.start(1, JobRequest::PowerOn).await;
    let queued = fixture.start(1, JobRequest::PowerOff).await;
    fixture.host.called(1).await;
    let mut left = 600;
    for hours in [5, -9] {
        fixture.clock.jump(jiff::SignedDuration::from_hours(hours));
        fixture.clock.advance(Duration::from_secs(10));
        left -= 10;
        for (id, state) in [(running, JobState::Running), (queued, JobState::Queued)] {
            wait_for_stored_time_left(&fixture, id, left).await;
            let shown = fixture.jobs.get(id).await.unwrap().unwrap().job;
            assert_eq!(shown.state, state);
            assert_eq!(shown.deadline_at.duration_since(fixture.clock.now()).as_secs(), left);
        }
    }
    fixture.clock.advance(Duration::from_secs(u64::try_from(left).unwrap()));
    let end = fixture.end(queued).await.job;
    assert_eq!(end.error.as_ref().unwrap().kind, FailureKind::DeadlineExceeded);
    fixture.host.release();
}

#[tokio::test]
async fn downtime_counts_by_the_wall_clock_and_is_never_negative() {
    let mut fixture = JobsFixture::new(1).await;
    fixture.follow_wall_clock();
    fixture.host.set_behavior(&[CallBehavior::Hold]);
    fixture.start(1, JobRequest::PowerOn).await;
    let queued = fixture.start(1, JobRequest::PowerOff).await;
    fixture.host.called(1).await;
    fixture.clock.advance(Duration::from_secs(40));
    fixture.stop().await;
    fixture.clock.jump(jiff::SignedDuration::from_hours(-1));
    fixture.restart().await;
    wait_for_stored_time_left(&fixture, queued, 560).await;
    fixture.stop().await;
    fixture.clock.jump(jiff::SignedDuration::from_secs(60));
    fixture.restart().await;
    wait_for_stored_time_left(&fixture, queued, 500).await;
    fixture.stop().await;
    fixture.clock.jump(jiff::SignedDuration::from_hours(24));
    fixture.restart().await;
    fixture.expire();
    let end = fixture.end(queued).await.job;
    assert_eq!(end.error.as_ref().unwrap().kind, FailureKind::DeadlineExceeded);
}
