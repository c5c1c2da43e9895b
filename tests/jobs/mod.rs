//! The whole engine over the backend in this process and a store in memory, on time that is
//! stepped.

mod lab;
mod script;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use otter::domain::call::{CallKind, HostCall};
use otter::domain::failure::FailureKind;
use otter::domain::ids::{DatastoreId, JobId, MachineId};
use otter::domain::job::{Job, JobRequest, JobState, JobTarget};
use otter::domain::origin::Actor;
use otter::domain::power::PowerState;
use otter::service::idempotency::Claimed;
use otter::storage::{IdempotencyKey, RecordRetention, Retention, Storage};

use self::lab::Lab;
use self::script::Answer;

const SUCCEEDED: JobState = JobState::Succeeded;

/// A request whose task can be cancelled.
fn create() -> JobRequest {
    let (name, description) = ("new".to_owned(), String::new());
    JobRequest::CreateSnapshot { name, description, memory: false, quiesce: false }
}

async fn stored(lab: &Lab, id: JobId) -> otter::domain::job::Job {
    lab.store.job(id).await.unwrap().unwrap()
}

#[tokio::test]
async fn jobs_of_one_machine_run_one_by_one_in_order_and_machines_side_by_side() {
    let lab = Lab::new(2).await;
    lab.host.answer(&[Answer::Hold, Answer::Hold]);
    let first = lab.start(1, JobRequest::PowerOn).await;
    let second = lab.start(1, JobRequest::PowerOff).await;
    let third = lab.start(1, JobRequest::PowerOn).await;
    lab.start(2, JobRequest::PowerOn).await;
    lab.host.called(2).await;
    let place = lab.jobs.get(third).await.unwrap().unwrap();
    assert_eq!((place.position, place.job.state), (Some(2), JobState::Queued));
    assert_eq!(place.blocked_by.map(|by| by.kind), Some("job"));
    lab.host.release();
    for id in [first, second, third] {
        assert_eq!(lab.end(id).await.job.state, SUCCEEDED);
    }
    let of_one = lab.host.calls().into_iter().filter(|(machine, _)| *machine == *"1");
    let calls: Vec<HostCall> = of_one.map(|(_, call)| call).collect();
    assert_eq!(calls, [HostCall::PowerOn, HostCall::PowerOff, HostCall::PowerOn]);
}

#[tokio::test]
async fn who_hears_of_the_end_finds_the_machine_changed_and_without_a_job() {
    let lab = Lab::new(1).await;
    for round in 0..50 {
        let (request, state) = match round % 2 {
            0 => (JobRequest::PowerOn, PowerState::On),
            _ => (JobRequest::PowerOff, PowerState::Off),
        };
        let id = lab.start(1, request).await;
        let view = lab.end(id).await;
        assert_eq!(lab.jobs.active(&MachineId::from_backend("1")), None);
        assert_eq!(view.job.result.and_then(|result| result.power_state), Some(state));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_waiters_wake_at_once_and_none_asks_the_store() {
    let lab = Lab::new(1).await;
    lab.host.answer(&[Answer::Hold]);
    let id = lab.start(1, JobRequest::PowerOn).await;
    lab.host.called(1).await;
    let waiters: Vec<_> = (0..10_000)
        .map(|_| {
            let jobs = lab.jobs.clone();
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
    let (before, commits) = (lab.store.statements(), lab.store.transactions());
    lab.host.release();
    for end in ends {
        assert_eq!(end.await.unwrap(), SUCCEEDED);
    }
    let (queries, commits) = (lab.store.statements() - before, lab.store.transactions() - commits);
    assert!(queries <= 20 && commits <= 2, "{queries} queries, {commits} commits");
}

#[tokio::test]
async fn queued_and_running_jobs_are_taken_up_at_the_start() {
    let mut lab = Lab::new(2).await;
    lab.host.answer(&[Answer::Hold]);
    let running = lab.start(1, JobRequest::PowerOn).await;
    let queued = lab.start(1, JobRequest::PowerOff).await;
    lab.host.called(1).await;
    let waiting = lab.jobs.clone();
    let waiter = tokio::spawn(async move { waiting.ended(running).await });
    lab.stop().await;
    let left = waiter.await.unwrap().unwrap().unwrap().job.state;
    assert_eq!(left, JobState::Running, "who waits is told that it goes on");
    assert!(stored(&lab, running).await.host_task.is_some());
    assert_eq!(lab.restart().await, 2);
    lab.host.release();
    assert_eq!(lab.end(running).await.job.state, SUCCEEDED);
    assert_eq!(lab.end(queued).await.job.state, SUCCEEDED);
    assert_eq!(lab.host.calls().len(), 2, "the running one was followed, not asked again");
}

#[tokio::test]
async fn a_job_on_what_otter_does_no_work_on_ends_unknown_and_leaves_its_queue() {
    let mut lab = Lab::new(1).await;
    let on_machine = lab.start(1, JobRequest::PowerOn).await;
    let template = lab.end(on_machine).await.job;
    lab.stop().await;
    let targets = [JobTarget::Host, JobTarget::Datastore(DatastoreId::from_backend("1"))];
    let jobs = targets.map(|target| Job {
        id: JobId::new(lab.clock.uuid()),
        state: JobState::Queued,
        target,
        finished_at: None,
        result: None,
        ..template.clone()
    });
    let mut waiting_twice = jobs.to_vec();
    waiting_twice.push(Job { id: JobId::new(lab.clock.uuid()), ..jobs[0].clone() });
    for job in &waiting_twice {
        lab.store.insert_job(job, None, None).await.unwrap();
    }
    assert_eq!(lab.restart().await, 3);
    for job in &waiting_twice {
        let end = lab.end(job.id).await.job;
        assert_eq!((end.state, &end.target), (JobState::Unknown, &job.target));
        let failure = end.error.unwrap();
        assert_eq!((failure.kind, failure.machine), (FailureKind::OutcomeUnknown, None));
        assert_eq!(stored(&lab, job.id).await.state, JobState::Unknown);
    }
    assert_eq!(lab.host.calls().len(), 1, "the host was asked for the machine alone");
    let last = lab.start(1, JobRequest::PowerOff).await;
    assert_eq!(lab.end(last).await.job.state, SUCCEEDED);
}

#[tokio::test]
async fn a_shutdown_lets_a_call_come_to_its_answer() {
    let mut lab = Lab::new(1).await;
    lab.host.answer(&[Answer::Late]);
    let id = lab.start(1, JobRequest::Reset).await;
    assert_eq!(lab.end(id).await.job.state, JobState::Failed, "off");
    let on = lab.start(1, JobRequest::PowerOn).await;
    lab.host.called(1).await;
    lab.begin_to_stop();
    let refused = lab.jobs.start(lab.new_job(1, JobRequest::PowerOff)).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::ShuttingDown);
    let host = std::sync::Arc::clone(&lab.host);
    tokio::join!(lab.stop(), async move { host.release() });
    assert!(stored(&lab, on).await.host_task.is_some(), "the answer is on the disk");
    lab.restart().await;
    assert_eq!(lab.end(on).await.job.state, SUCCEEDED);
    assert_eq!(lab.host.calls().len(), 1);
}

#[tokio::test]
async fn a_job_that_panics_is_judged_as_after_a_crash_and_its_waiters_hear_of_the_end() {
    for (request, state, calls) in
        [(JobRequest::PowerOn, SUCCEEDED, 2), (JobRequest::Reset, JobState::Unknown, 2)]
    {
        let lab = Lab::new(1).await;
        if request == JobRequest::Reset {
            let id = lab.start(1, JobRequest::PowerOn).await;
            lab.end(id).await;
        }
        lab.host.answer(&[Answer::Panic]);
        let id = lab.start(1, request).await;
        assert_eq!(lab.end_in_time(id).await.job.state, state);
        assert_eq!(lab.host.calls().len(), calls);
        let next = lab.start(1, JobRequest::PowerOff).await;
        assert_eq!(lab.end(next).await.job.state, SUCCEEDED, "the queue goes on");
    }
}

#[tokio::test]
async fn a_job_that_panics_each_time_ends_unknown_and_its_machine_goes_on() {
    let lab = Lab::new(1).await;
    lab.host.panic_if_examined(true);
    let id = lab.start(1, JobRequest::PowerOn).await;
    let end = lab.end_in_time(id).await.job;
    assert_eq!((end.state, lab.host.examinations()), (JobState::Unknown, 5));
    assert_eq!(end.error.map(|failure| failure.kind), Some(FailureKind::OutcomeUnknown));
    assert_eq!(stored(&lab, id).await.state, JobState::Unknown);
    lab.host.panic_if_examined(false);
    let next = lab.start(1, JobRequest::PowerOff).await;
    assert_eq!(lab.end_in_time(next).await.job.state, SUCCEEDED);
}

#[tokio::test]
async fn a_job_that_the_store_lost_leaves_its_machine() {
    let lab = Lab::new(1).await;
    lab.host.answer(&[Answer::Hold]);
    let id = lab.start(1, JobRequest::PowerOn).await;
    lab.host.called(1).await;
    let mut lost = stored(&lab, id).await;
    (lost.state, lost.finished_at) = (SUCCEEDED, Some(lab.clock.now()));
    lab.store.update_job(&lost).await.unwrap();
    let nothing = RecordRetention { time: Duration::ZERO, at_least: 0, at_most: 0 };
    let retention = Retention { jobs: nothing, ..Retention::default() };
    lab.clock.advance(Duration::from_secs(1));
    assert_eq!(lab.store.purge(lab.clock.now(), &retention).await.unwrap().jobs, 1);
    lab.host.release();
    let next = lab.start(1, JobRequest::PowerOff).await;
    assert_eq!(lab.end_in_time(next).await.job.state, SUCCEEDED);
}

#[tokio::test]
async fn a_client_that_goes_away_during_the_start_leaves_a_whole_job() {
    let lab = Lab::new(1).await;
    {
        let mut start = pin!(lab.jobs.start(lab.new_job(1, JobRequest::PowerOn)));
        assert!(start.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    lab.host.called(1).await;
    let after = lab.start(1, JobRequest::PowerOff).await;
    assert_eq!(lab.end(after).await.job.state, SUCCEEDED);
    assert_eq!(lab.host.calls().len(), 2);
}

#[tokio::test]
async fn a_queued_job_ends_at_its_deadline_and_never_starts() {
    let lab = Lab::new(1).await;
    lab.expire();
    lab.host.answer(&[Answer::Hold]);
    let first = lab.start(1, JobRequest::PowerOn).await;
    lab.host.called(1).await;
    let mut new = lab.new_job(1, JobRequest::PowerOff);
    new.deadline = Some(Duration::from_secs(5));
    let late = lab.jobs.start(new).await.unwrap();
    let job = lab.end_in_time(late).await.job;
    assert_eq!((job.state, job.started_at), (JobState::Failed, None));
    assert_eq!(job.error.map(|failure| failure.kind), Some(FailureKind::DeadlineExceeded));
    lab.host.release();
    assert_eq!(lab.end(first).await.job.state, SUCCEEDED);
    assert_eq!(lab.host.calls().len(), 1);
}

#[tokio::test]
async fn a_job_whose_deadline_passed_while_the_daemon_was_down_never_starts() {
    let mut lab = Lab::new(1).await;
    lab.host.answer(&[Answer::Hold]);
    let start = async |lab: &Lab, request| {
        let mut new = lab.new_job(1, request);
        new.deadline = Some(Duration::from_mins(1));
        lab.jobs.start(new).await.unwrap()
    };
    let running = start(&lab, JobRequest::PowerOn).await;
    lab.host.called(1).await;
    let queued = start(&lab, JobRequest::PowerOff).await;
    lab.stop().await;
    lab.host.release();
    // The host remembers a task for ten minutes.
    lab.clock.advance(Duration::from_mins(5));
    lab.restart().await;
    assert_eq!(lab.end(running).await.job.state, SUCCEEDED, "its task had ended well");
    let job = lab.end(queued).await.job;
    assert_eq!((job.state, job.started_at), (JobState::Failed, None));
    assert_eq!(lab.host.calls().len(), 1);
}

#[tokio::test]
async fn a_queued_job_is_cancelled_at_once_and_a_running_one_by_its_task() {
    let lab = Lab::new(1).await;
    lab.host.answer(&[Answer::Hold]);
    let running = lab.start(1, JobRequest::PowerOn).await;
    lab.host.called(1).await;
    let queued = lab.start(1, JobRequest::PowerOff).await;
    let cancelled = lab.jobs.cancel(queued, Actor::otter()).await.unwrap().unwrap();
    assert_eq!(cancelled.job.state, JobState::Cancelled);
    lab.jobs.cancel(running, Actor::otter()).await.unwrap();
    assert_eq!(lab.end(running).await.job.state, JobState::Cancelled);
    assert_eq!((lab.host.cancelled(), lab.host.calls().len()), (1, 1));
    assert_eq!(
        lab.jobs.cancel(running, Actor::otter()).await.unwrap().unwrap().job.state,
        JobState::Cancelled
    );
}

#[tokio::test]
async fn a_kill_passes_the_queue_and_cancels_what_runs() {
    let lab = Lab::new(1).await;
    let on = lab.start(1, JobRequest::PowerOn).await;
    lab.end(on).await;
    lab.host.answer(&[Answer::Hold]);
    let create = lab.start(1, create()).await;
    lab.host.called(2).await;
    let queued = lab.start(1, JobRequest::PowerOn).await;
    let kill = lab.start(1, JobRequest::Kill).await;
    assert_eq!(lab.end(kill).await.job.state, SUCCEEDED);
    assert_eq!(lab.end(create).await.job.state, JobState::Cancelled);
    assert_eq!(lab.end(queued).await.job.state, SUCCEEDED);
    let calls: Vec<CallKind> = lab.host.calls().into_iter().map(|(_, call)| call.kind()).collect();
    let wanted =
        [CallKind::PowerOn, CallKind::CreateSnapshot, CallKind::PowerOff, CallKind::PowerOn];
    assert_eq!(calls, wanted);
}

/// The machine is off when the kill looks, and the call that turns it on has not come to the host.
#[tokio::test]
async fn a_kill_waits_for_a_call_that_is_on_its_way() {
    let lab = Lab::new(1).await;
    lab.host.answer(&[Answer::OnItsWay, Answer::Hold]);
    let on = lab.start(1, JobRequest::PowerOn).await;
    lab.host.called(1).await;
    let before = lab.host.examinations();
    let kill = lab.start(1, JobRequest::Kill).await;
    while lab.host.examinations() == before {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(lab.jobs.get(kill).await.unwrap().unwrap().job.state, JobState::Running);
    lab.host.release();
    assert_eq!(lab.end(on).await.job.state, JobState::Cancelled);
    assert_eq!(lab.end_in_time(kill).await.job.state, SUCCEEDED);
}

#[tokio::test]
async fn after_a_restart_a_kill_cancels_what_runs_beside_it_again() {
    let mut lab = Lab::new(1).await;
    let on = lab.start(1, JobRequest::PowerOn).await;
    lab.end(on).await;
    lab.host.answer(&[Answer::Hold, Answer::Hold]);
    let create = lab.start(1, create()).await;
    lab.host.called(2).await;
    lab.stop().await;
    // The kill was committed and running when the daemon died, and the wish to cancel was not on
    // the disk.
    let mut kill = stored(&lab, create).await;
    kill.id = JobId::new(lab.clock.uuid());
    (kill.request, kill.host_task, kill.intent) = (JobRequest::Kill, None, None);
    kill.steps.clear();
    lab.store.insert_job(&kill, None, None).await.unwrap();
    lab.restart().await;
    assert_eq!(lab.end(create).await.job.state, JobState::Cancelled);
    lab.host.called(3).await;
    lab.host.release();
    assert_eq!(lab.end(kill.id).await.job.state, SUCCEEDED);
}

#[tokio::test]
async fn full_queues_refuse_and_leave_nothing_behind() {
    let lab = Lab::new(3).await;
    lab.host.answer(&[Answer::Hold; 3]);
    for machine in 1..=3 {
        lab.start(machine, JobRequest::PowerOn).await;
    }
    lab.host.called(3).await;
    for _ in 0..16 {
        lab.start(1, JobRequest::PowerOn).await;
        lab.start(2, JobRequest::PowerOn).await;
    }
    let refusal = |machine| lab.jobs.start(lab.new_job(machine, JobRequest::PowerOn));
    assert_eq!(refusal(1).await.unwrap_err().kind, FailureKind::QueueFull);
    for _ in 0..8 {
        lab.start(3, JobRequest::PowerOn).await;
    }
    assert_eq!(refusal(3).await.unwrap_err().kind, FailureKind::QueueFull, "40 in all");
    assert_eq!(lab.store.unfinished_jobs().await.unwrap().len(), 43);
    lab.host.release();
    let last = lab.store.unfinished_jobs().await.unwrap().last().unwrap().id;
    assert_eq!(lab.end(last).await.job.state, SUCCEEDED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_at_the_same_moment_starts_one_job_and_both_hear_of_its_end() {
    let lab = Lab::new(1).await;
    for round in 0..50u8 {
        let key = IdempotencyKey {
            caller: "anonymous".to_owned(),
            method: "POST".to_owned(),
            path: "/".to_owned(),
            key: round.to_string(),
            fingerprint: [0; 32],
            created_at: lab.clock.now(),
        };
        let request = if round % 2 == 0 { JobRequest::PowerOn } else { JobRequest::PowerOff };
        let both = (0..2).map(|_| {
            let mut new = lab.new_job(1, request.clone());
            let (jobs, key) = (lab.jobs.clone(), key.clone());
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
    assert_eq!(lab.host.calls().len(), 50);
}

#[tokio::test]
async fn an_end_whose_commit_came_through_without_an_answer_is_an_end() {
    let lab = Lab::new(1).await;
    lab.host.answer(&[Answer::Hold]);
    let id = lab.start(1, JobRequest::PowerOn).await;
    lab.host.called(1).await;
    let mut committed = stored(&lab, id).await;
    while committed.host_task.is_none() {
        committed = stored(&lab, id).await;
    }
    committed.state = SUCCEEDED;
    committed.finished_at = Some(lab.clock.now());
    lab.store.update_job(&committed).await.unwrap();
    lab.host.release();
    assert_eq!(lab.end(id).await.job.state, SUCCEEDED);
}

#[tokio::test]
async fn a_lost_answer_is_judged_after_the_settling() {
    let lab = Lab::new(1).await;
    lab.host.answer(&[Answer::Lost]);
    let id = lab.start(1, JobRequest::PowerOn).await;
    lab.host.called(1).await;
    let view = lab.end_in_time(id).await;
    assert_eq!((view.job.state, lab.host.calls().len()), (SUCCEEDED, 2));
    let took = view.job.finished_at.unwrap().duration_since(view.job.created_at);
    assert!(took.as_secs() >= 30, "{took:?}");
}

#[tokio::test]
async fn a_task_that_failed_with_an_uncertain_outcome_is_judged_if_a_manager_is_between() {
    let lab = Lab::new(1).await;
    lab.host.answer(&[Answer::UncertainFailure]);
    let id = lab.start(1, JobRequest::PowerOn).await;
    assert_eq!(lab.end(id).await.job.state, JobState::Failed, "an ESX host knows what it did");
    lab.is_vcenter();
    lab.host.answer(&[Answer::UncertainFailure]);
    let id = lab.start(1, JobRequest::PowerOn).await;
    assert_eq!(lab.end_in_time(id).await.job.state, SUCCEEDED);
    assert_eq!(lab.host.calls().len(), 3, "the host is asked again once it is known to be off");
}

#[tokio::test]
async fn a_task_that_outlives_its_job_keeps_the_machine_over_a_restart() {
    let mut lab = Lab::new(1).await;
    let (machine, busy) = (MachineId::from_backend("1"), |lab: &Lab| {
        lab.jobs.is_host_busy(&MachineId::from_backend("1"), None)
    });
    let on = lab.start(1, JobRequest::PowerOn).await;
    lab.end(on).await;
    lab.host.answer(&[Answer::Hold]);
    // The host cancels no reset.
    let mut new = lab.new_job(1, JobRequest::Reset);
    new.deadline = Some(Duration::from_secs(5));
    let id = lab.jobs.start(new).await.unwrap();
    lab.host.called(2).await;
    assert_eq!(lab.end_in_time(id).await.job.state, JobState::Unknown);
    assert!(busy(&lab));
    lab.stop().await;
    assert_eq!(lab.restart().await, 0);
    assert!(busy(&lab), "it still runs");
    let mut changes = lab.inventory.watch(&machine);
    lab.host.release();
    while busy(&lab) {
        changes.changed().await.unwrap();
    }
}

#[tokio::test]
async fn a_question_that_the_inventory_does_not_show_is_not_asked_for_in_a_spin() {
    let lab = Lab::new(1).await;
    lab.host.ask(true);
    let id = lab.start(1, JobRequest::PowerOn).await;
    while lab.jobs.get(id).await.unwrap().unwrap().blocked_by.is_none() {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(lab.host.examinations(), 1);
    let shown =
        lab.inventory.contents().machine(&MachineId::from_backend("1")).unwrap().question.clone();
    assert_eq!(shown, None);
    lab.host.ask(false);
    assert_eq!(lab.end_in_time(id).await.job.state, SUCCEEDED);
}

/// Waits until a job on the disk has this much time left by the wall clock, to the second.
async fn left_on_disk(lab: &Lab, id: JobId, seconds: i64) {
    let mut left = 0;
    for _ in 0..10_000 {
        left = stored(lab, id).await.deadline_at.duration_since(lab.clock.now()).as_secs();
        if left == seconds {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{left} seconds are left in place of {seconds}");
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_ends_no_job_and_moves_the_deadline_that_is_shown() {
    let lab = Lab::new(1).await;
    lab.expire();
    lab.follow_wall_clock();
    lab.host.answer(&[Answer::Hold]);
    let running = lab.start(1, JobRequest::PowerOn).await;
    let queued = lab.start(1, JobRequest::PowerOff).await;
    lab.host.called(1).await;
    let mut left = 600;
    for hours in [5, -9] {
        lab.clock.jump(jiff::SignedDuration::from_hours(hours));
        lab.clock.advance(Duration::from_secs(10));
        left -= 10;
        for (id, state) in [(running, JobState::Running), (queued, JobState::Queued)] {
            left_on_disk(&lab, id, left).await;
            let shown = lab.jobs.get(id).await.unwrap().unwrap().job;
            assert_eq!(shown.state, state);
            assert_eq!(shown.deadline_at.duration_since(lab.clock.now()).as_secs(), left);
        }
    }
    lab.clock.advance(Duration::from_secs(u64::try_from(left).unwrap()));
    let end = lab.end(queued).await.job;
    assert_eq!(end.error.unwrap().kind, FailureKind::DeadlineExceeded);
    lab.host.release();
}

#[tokio::test]
async fn the_time_that_otter_is_down_counts_by_the_wall_clock_and_never_as_negative() {
    let mut lab = Lab::new(1).await;
    lab.follow_wall_clock();
    lab.host.answer(&[Answer::Hold]);
    lab.start(1, JobRequest::PowerOn).await;
    let queued = lab.start(1, JobRequest::PowerOff).await;
    lab.host.called(1).await;
    lab.clock.advance(Duration::from_secs(40));
    lab.stop().await;
    lab.clock.jump(jiff::SignedDuration::from_hours(-1));
    lab.restart().await;
    left_on_disk(&lab, queued, 560).await;
    lab.stop().await;
    lab.clock.jump(jiff::SignedDuration::from_secs(60));
    lab.restart().await;
    left_on_disk(&lab, queued, 500).await;
    lab.stop().await;
    lab.clock.jump(jiff::SignedDuration::from_hours(24));
    lab.restart().await;
    lab.expire();
    let end = lab.end(queued).await.job;
    assert_eq!(end.error.unwrap().kind, FailureKind::DeadlineExceeded);
}
