//! Tests of the supervisor: what shuts the daemon down, what does not, and in which order tasks
//! stop.

use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;

const GRACE: Duration = Duration::from_secs(30);

struct Fixture {
    supervisor: Supervisor,
    clock: Clock,
    signals: mpsc::Sender<Signal>,
    notified: Arc<Mutex<Vec<String>>>,
    ending: JoinHandle<Shutdown>,
}

/// Runs a supervisor with the tasks that `tasks` starts on it.
fn running(tasks: impl FnOnce(&Supervisor)) -> Fixture {
    let clock = Clock::stepped(Timestamp::UNIX_EPOCH);
    let notified = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&notified);
    let notify = move |states: &[NotifyState<'_>]| {
        let first = states.first().map(ToString::to_string).unwrap_or_default();
        log.lock().unwrap().push(first);
        Ok(())
    };
    let supervisor = Supervisor::with(
        clock.clone(),
        GRACE,
        Box::new(notify),
        Box::new(|task| drop(tokio::spawn(task))),
    );
    tasks(&supervisor);
    let (sender, signals) = Signals::from_sender();
    let runner = supervisor.clone();
    let ending = tokio::spawn(async move { runner.run(signals).await });
    Fixture { supervisor, clock, signals: sender, notified, ending }
}

impl Fixture {
    async fn send(&self, signal: Signal) {
        self.signals.send(signal).await.unwrap();
    }

    /// Advances the clock until the daemon has shut down. Returns the result of the shutdown.
    async fn end_by_time(mut self) -> Shutdown {
        while !self.ending.is_finished() {
            self.clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
        (&mut self.ending).await.unwrap()
    }
}

async fn until_asked(stop: CancellationToken) {
    stop.cancelled().await;
}

#[tokio::test]
async fn a_signal_shuts_the_daemon_down_with_exit_code_0() {
    for signal in [Signal::Terminate, Signal::Interrupt] {
        let daemon = running(|supervisor| {
            supervisor.spawn("collector", until_asked);
            supervisor.spawn_stopping_last("store", until_asked);
            supervisor.ready();
        });
        daemon.send(signal).await;
        let ending = daemon.ending.await.unwrap();
        assert_eq!(ending, Shutdown { cause: ShutdownCause::Signal(signal), failures: Vec::new() });
        assert_eq!(ending.exit_code(), 0);
        assert_eq!(*daemon.notified.lock().unwrap(), ["READY=1", "STOPPING=1"]);
    }
}

#[tokio::test]
async fn stop_shuts_the_daemon_down_with_exit_code_0() {
    let daemon = running(|supervisor| supervisor.spawn("collector", until_asked));
    daemon.supervisor.stop();
    let ending = daemon.ending.await.unwrap();
    assert_eq!((ending.cause.clone(), ending.exit_code()), (ShutdownCause::Stopped, 0));
}

#[tokio::test]
async fn a_panic_of_a_service_task_shuts_the_daemon_down() {
    let daemon = running(|supervisor| {
        supervisor.spawn("api", until_asked);
        supervisor.spawn("collector", |_| async {
            tokio::task::yield_now().await;
            assert!(!daemon_is_up(), "no {}", "luck");
        });
    });
    let ending = daemon.ending.await.unwrap();
    let failure =
        TaskFailure { task: "collector", outcome: TaskOutcome::Panicked("no luck".to_owned()) };
    assert_eq!(failure.to_string(), "the task collector panicked: no luck");
    assert_eq!(ending.cause, ShutdownCause::Task(failure.clone()));
    assert_eq!(ending.failures, [failure]);
    assert_eq!(ending.exit_code(), 1);
}

#[tokio::test]
async fn the_end_of_a_service_task_shuts_the_daemon_down() {
    let daemon = running(|supervisor| supervisor.spawn("collector", |_| async {}));
    let ending = daemon.ending.await.unwrap();
    let returned = TaskFailure { task: "collector", outcome: TaskOutcome::Returned };
    assert_eq!((ending.cause.clone(), ending.exit_code()), (ShutdownCause::Task(returned), 1));

    let daemon = running(|supervisor| {
        supervisor.spawn_stopping_last("store", |_| async {
            Err::<(), _>(io::Error::other("disk full"))
        });
    });
    let ending = daemon.ending.await.unwrap();
    let failed =
        TaskFailure { task: "store", outcome: TaskOutcome::Failed("disk full".to_owned()) };
    assert_eq!((ending.cause.clone(), ending.exit_code()), (ShutdownCause::Task(failed), 1));
}

#[tokio::test]
async fn a_failure_during_the_shutdown_sets_exit_code_1() {
    let daemon = running(|supervisor| {
        supervisor.spawn("api", |stop| async move {
            stop.cancelled().await;
            Err::<(), _>("could not say goodbye")
        });
    });
    daemon.send(Signal::Terminate).await;
    let ending = daemon.ending.await.unwrap();
    assert_eq!(ending.cause, ShutdownCause::Signal(Signal::Terminate));
    assert_eq!(ending.exit_code(), 1);
}

#[tokio::test]
async fn tasks_are_dropped_when_the_grace_time_is_over() {
    let daemon = running(|supervisor| {
        supervisor.spawn("api", until_asked);
        supervisor.spawn("stuck", |_| pending::<()>());
    });
    daemon.send(Signal::Terminate).await;
    let ending = daemon.end_by_time().await;
    assert_eq!(ending.failures, [TaskFailure { task: "stuck", outcome: TaskOutcome::Dropped }]);
    assert_eq!(ending.cause, ShutdownCause::Signal(Signal::Terminate));
    assert_eq!(ending.exit_code(), 1);
}

#[tokio::test]
async fn a_second_signal_drops_the_tasks_at_once() {
    let daemon = running(|supervisor| supervisor.spawn("stuck", |_| pending::<()>()));
    daemon.send(Signal::Interrupt).await;
    daemon.send(Signal::Hangup).await;
    daemon.supervisor.shutdown_token().cancelled().await;
    assert!(!daemon.ending.is_finished());
    daemon.send(Signal::Interrupt).await;
    // The clock does not advance, so the grace time cannot have passed: the second signal ended the
    // task.
    let ending = daemon.ending.await.unwrap();
    assert_eq!(ending.failures, [TaskFailure { task: "stuck", outcome: TaskOutcome::Dropped }]);
}

#[tokio::test]
async fn final_services_stop_after_the_others() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let (first, second) = (Arc::clone(&order), Arc::clone(&order));
    let daemon = running(|supervisor| {
        supervisor.spawn_stopping_last("store", |stop| async move {
            stop.cancelled().await;
            second.lock().unwrap().push("store");
        });
        supervisor.spawn("jobs", |stop| async move {
            stop.cancelled().await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            first.lock().unwrap().push("jobs");
        });
    });
    daemon.send(Signal::Terminate).await;
    assert_eq!(daemon.ending.await.unwrap().exit_code(), 0);
    assert_eq!(*order.lock().unwrap(), ["jobs", "store"]);
}

/// A buffer that collects log lines.
#[derive(Clone, Default)]
struct LogLines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_lines_of_an_isolated_task_name_it() {
    let lines = LogLines::default();
    let writer = lines.clone();
    let log =
        tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _log = tracing::subscriber::set_default(log);
    let daemon = running(|supervisor| supervisor.spawn("collector", until_asked));
    let job = daemon.supervisor.spawn_isolated("job", async { tracing::warn!("late") });
    job.join().await.unwrap();
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("task{task=\"job\"}: ") && text.contains("late"), "{text}");
}

#[tokio::test]
async fn a_panic_of_an_isolated_task_ends_only_this_task() {
    let daemon = running(|supervisor| supervisor.spawn("collector", until_asked));
    let job = daemon.supervisor.spawn_isolated("job", async {
        assert!(!daemon_is_up(), "a bug");
        7
    });
    let failure = TaskFailure { task: "job", outcome: TaskOutcome::Panicked("a bug".to_owned()) };
    assert_eq!(job.join().await, Err(failure));
    assert_eq!(daemon.supervisor.spawn_isolated("job", async { 7 }).join().await, Ok(7));
    daemon.send(Signal::Terminate).await;
    assert_eq!(daemon.ending.await.unwrap().exit_code(), 0);
}

/// Always true, but the compiler does not know that. After a plain `panic!`, the compiler would
/// report unreachable code.
fn daemon_is_up() -> bool {
    std::hint::black_box(true)
}

#[tokio::test]
async fn a_shutdown_waits_for_isolated_tasks_and_then_drops_them() {
    let daemon = running(|_| {});
    let stop = daemon.supervisor.shutdown_token();
    let quick = daemon.supervisor.spawn_isolated("job", async move {
        stop.cancelled().await;
        "finished"
    });
    let stuck = daemon.supervisor.spawn_isolated("job", pending::<()>());
    daemon.send(Signal::Terminate).await;
    assert_eq!(quick.join().await, Ok("finished"));
    let ending = daemon.end_by_time().await;
    assert_eq!(stuck.join().await, Err(TaskFailure { task: "job", outcome: TaskOutcome::Dropped }));
    // The exit code is 0 although an isolated task was dropped: the next start continues an
    // unfinished job, so the daemon has not failed.
    assert_eq!(ending.exit_code(), 0);
}

#[tokio::test]
async fn a_hangup_calls_every_reload_handler() {
    let reloaded = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&reloaded);
    let daemon = running(|supervisor| {
        supervisor.spawn("api", until_asked);
        supervisor.on_reload("certificate", || Err(io::Error::other("no such file")));
        supervisor.on_reload("tokens", move || {
            count.fetch_add(1, Ordering::SeqCst);
            Ok::<(), BoxError>(())
        });
    });
    daemon.send(Signal::Hangup).await;
    daemon.send(Signal::Terminate).await;
    assert_eq!(daemon.ending.await.unwrap().exit_code(), 0);
    assert_eq!(reloaded.load(Ordering::SeqCst), 1);
    assert_eq!(*daemon.notified.lock().unwrap(), ["RELOADING=1", "READY=1", "STOPPING=1"]);
}

#[test]
fn the_text_of_an_error_contains_its_causes() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);
    assert_eq!(error_chain(&Outer(io::Error::other("inner"))), "outer: inner");
}
