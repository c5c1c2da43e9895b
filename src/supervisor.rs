//! Supervises the process: its tasks, its signals and its shutdown. Each task has a name and is
//! tracked.
//!
//! ```text
//! running ──SIGTERM, SIGINT, stop(), end of a service task──► soft
//!    │ SIGHUP: reload                                          │ all ended  │ grace over, or
//!    └─► running                                               │            ▼ a second signal
//!                                                              │          hard
//!                                                              ▼            ▼
//!                                                            final services
//! ```
//! - `running`: the tasks run. SIGHUP calls the reload handlers.
//! - `soft`: the supervisor asks the service tasks to finish. They have the grace time to do so.
//! - `hard`: the tasks that still run are dropped.
//! - `final services`: the supervisor asks those service tasks to finish that the others needed,
//!   such as the store. If they do not finish in time, they are dropped.
//!
//! If a service task ends before the supervisor asks it to, for whatever reason, the daemon shuts
//! down with exit code 1. An isolated task, such as a job, may panic: only the task that started it
//! learns of the failure.

mod activation;
mod signals;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sd_notify::NotifyState;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::clock::Clock;

pub use activation::{PassedListener, PassedSocket};
pub use signals::{Signal, Signals};

/// How long the supervisor waits for tasks that it has dropped, and for the final services. The
/// time is long because the disk may be slow.
const FINAL_GRACE: Duration = Duration::from_secs(10);

/// Starts the tasks of the process and shuts them down. Clones supervise the same tasks.
#[derive(Clone)]
pub struct Supervisor(Arc<Inner>);

struct Inner {
    clock: Clock,
    grace: Duration,
    services: TaskGroup,
    final_services: TaskGroup,
    shutdown: Mutex<ShutdownState>,
    reload_handlers: Mutex<Vec<ReloadHandler>>,
    notify: Notify,
    spawn: Spawn,
}

/// A group of tasks that stop together. Cancelling `soft` asks them to finish, and cancelling
/// `hard` drops them.
#[derive(Clone, Default)]
struct TaskGroup {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
}

/// Why the daemon shuts down, and which tasks have failed so far.
#[derive(Default)]
struct ShutdownState {
    cause: Option<ShutdownCause>,
    failures: Vec<TaskFailure>,
}

#[derive(Clone)]
struct ReloadHandler {
    name: &'static str,
    handler: Arc<dyn Fn() -> Result<(), BoxError> + Send + Sync>,
}

/// A function that sends states to the service manager. Tests use another one.
type Notify = Box<dyn Fn(&[NotifyState<'_>]) -> io::Result<()> + Send + Sync>;

/// A function that runs a task in the background.
type Spawn = Box<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

type BoxError = Box<dyn Error + Send + Sync>;

/// What a service task may return: nothing, or a result with any error.
pub trait TaskResult {
    /// Converts the returned value into a result.
    fn into_result(self) -> Result<(), BoxError>;
}

impl TaskResult for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError>> TaskResult for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// The failure of a task, with the name of the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFailure {
    pub task: &'static str,
    pub outcome: TaskOutcome,
}

/// How a failed task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskOutcome {
    /// The task returned although it was not asked to stop.
    Returned,
    /// The task returned an error. This is the text of the error and of its causes.
    Failed(String),
    /// The task panicked with this message.
    Panicked(String),
    /// The task was dropped because it did not stop in time.
    Dropped,
}

impl fmt::Display for TaskFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { task, outcome } = self;
        match outcome {
            TaskOutcome::Returned => {
                write!(formatter, "the task {task} ended although it was not asked to stop")
            }
            TaskOutcome::Failed(error) => write!(formatter, "the task {task} failed: {error}"),
            TaskOutcome::Panicked(message) => {
                write!(formatter, "the task {task} panicked: {message}")
            }
            TaskOutcome::Dropped => write!(formatter, "the task {task} did not stop in time"),
        }
    }
}

impl Error for TaskFailure {}

/// Why the daemon shut down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShutdownCause {
    /// The operator or the service manager sent this signal.
    Signal(Signal),
    /// [`Supervisor::stop`] was called.
    Stopped,
    /// This service task ended although the daemon needs all service tasks.
    Task(TaskFailure),
}

/// Why and with which failures the daemon shut down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    pub cause: ShutdownCause,
    /// The failures of service tasks since the start of the daemon.
    pub failures: Vec<TaskFailure>,
}

impl Shutdown {
    /// The exit code: 0 if a signal or a call asked the daemon to shut down and no service task
    /// failed, otherwise 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(matches!(self.cause, ShutdownCause::Task(_)) || !self.failures.is_empty())
    }
}

/// A handle to a task that [`Supervisor::spawn_isolated`] started. If this handle is dropped, the
/// task goes on.
#[derive(Debug)]
pub struct IsolatedTask<T> {
    name: &'static str,
    result: oneshot::Receiver<Result<T, TaskFailure>>,
}

impl<T> IsolatedTask<T> {
    /// Waits until the task ends, and returns its output.
    ///
    /// # Errors
    /// `Panicked`, with the message, if the task panicked. `Dropped` if a hard shutdown dropped the
    /// task.
    pub async fn join(self) -> Result<T, TaskFailure> {
        let dropped = TaskFailure { task: self.name, outcome: TaskOutcome::Dropped };
        self.result.await.unwrap_or(Err(dropped))
    }
}

impl Supervisor {
    /// Makes a supervisor. In a soft shutdown its tasks have the time `grace` to finish.
    #[must_use]
    pub fn new(clock: Clock, grace: Duration) -> Self {
        Self::with(
            clock,
            grace,
            Box::new(sd_notify::notify),
            Box::new(|task| drop(tokio::spawn(task))),
        )
    }

    /// Makes a supervisor that runs its tasks with `spawn`. It does not notify the service manager.
    pub fn with_spawn(
        clock: Clock,
        grace: Duration,
        spawn: impl Fn(BoxFuture<'static, ()>) + Send + Sync + 'static,
    ) -> Self {
        Self::with(clock, grace, Box::new(|_| Ok(())), Box::new(spawn))
    }

    fn with(clock: Clock, grace: Duration, notify: Notify, spawn: Spawn) -> Self {
        Self(Arc::new(Inner {
            clock,
            grace,
            services: TaskGroup::default(),
            final_services: TaskGroup::default(),
            shutdown: Mutex::default(),
            reload_handlers: Mutex::default(),
            notify,
            spawn,
        }))
    }

    /// Starts a service task: a task without which the daemon cannot run. It gets a token that is
    /// cancelled when the task must finish.
    pub fn spawn<F>(&self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output: TaskResult> + Send + 'static,
    {
        self.spawn_in(&self.0.services, name, task);
    }

    /// Starts a service task that other service tasks need while they finish, such as the store.
    /// The token of this task is cancelled after those tasks have ended.
    pub fn spawn_stopping_last<F>(
        &self,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F,
    ) where
        F: Future<Output: TaskResult> + Send + 'static,
    {
        self.spawn_in(&self.0.final_services, name, task);
    }

    /// Starts an isolated task. If the task panics, only this task ends. A soft shutdown waits for
    /// the task. With [`Supervisor::shutdown_token`] the task can see that a shutdown has begun.
    pub fn spawn_isolated<T, F>(&self, name: &'static str, task: F) -> IsolatedTask<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.spawn_isolated_in(tracing::info_span!("task", task = name), name, task)
    }

    /// Starts the isolated task of a connection. The log lines of this task name the task only if
    /// the level `debug` is enabled, because a span would slow down each request.
    pub fn spawn_connection<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        const NAME: &str = "connection";
        drop(self.spawn_isolated_in(tracing::debug_span!("task", task = NAME), NAME, task));
    }

    fn spawn_isolated_in<T, F>(
        &self,
        span: tracing::Span,
        name: &'static str,
        task: F,
    ) -> IsolatedTask<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, result) = oneshot::channel();
        let hard = self.0.services.hard.clone();
        let guarded = async move {
            let caught = AssertUnwindSafe(task).catch_unwind();
            tokio::select! {
                biased;
                ended = caught => {
                    let ended = ended.map_err(|payload| {
                        let outcome = TaskOutcome::Panicked(panic_message(payload.as_ref()));
                        let failure = TaskFailure { task: name, outcome };
                        tracing::error!("{failure}");
                        failure
                    });
                    // An error is ignored, because the caller may have dropped the handle that
                    // receives the result.
                    drop(sender.send(ended));
                }
                () = hard.cancelled() => {}
            }
        };
        self.spawn_tracked(&self.0.services.tasks, guarded.instrument(span));
        IsolatedTask { name, result }
    }

    /// A token that is cancelled when the soft shutdown begins.
    #[must_use]
    pub fn shutdown_token(&self) -> CancellationToken {
        self.0.services.soft.clone()
    }

    /// Begins the soft shutdown.
    pub fn stop(&self) {
        self.begin_shutdown(ShutdownCause::Stopped);
    }

    /// Registers a handler that SIGHUP calls. If the handler returns an error, the error is logged.
    /// A handler that fails must leave the old state in use.
    pub fn on_reload<E: Into<BoxError>>(
        &self,
        name: &'static str,
        handler: impl Fn() -> Result<(), E> + Send + Sync + 'static,
    ) {
        let handler = Arc::new(move || handler().map_err(Into::into));
        self.0
            .reload_handlers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(ReloadHandler { name, handler });
    }

    /// Notifies the service manager that the daemon is ready.
    pub fn ready(&self) {
        self.notify(&[NotifyState::Ready]);
    }

    /// Supervises the process until the shutdown is complete, and returns the result.
    pub async fn run(&self, mut signals: Signals) -> Shutdown {
        tokio::select! {
            biased;
            ending = self.run_until_shutdown(&mut signals) => ending,
            never = self.notify_watchdog() => match never {},
        }
    }

    async fn run_until_shutdown(&self, signals: &mut Signals) -> Shutdown {
        let Inner { clock, grace, services, final_services, .. } = &*self.0;
        loop {
            tokio::select! {
                biased;
                () = services.soft.cancelled() => break,
                signal = signals.next() => match signal {
                    Signal::Hangup => self.reload(),
                    signal => {
                        tracing::info!("{signal}: stopping");
                        self.begin_shutdown(ShutdownCause::Signal(signal));
                    }
                },
            }
        }
        self.notify(&[NotifyState::Stopping]);
        services.tasks.close();
        tokio::select! {
            biased;
            () = services.tasks.wait() => {}
            () = signals.next_termination() => {
                tracing::warn!("second signal: otter does not wait for the remaining tasks");
            }
            () = clock.sleep(*grace) => {
                let grace = grace.as_secs();
                tracing::warn!("tasks still run after {grace} s: otter does not wait for them");
            }
        }
        services.hard.cancel();
        self.wait(services).await;
        final_services.soft.cancel();
        final_services.tasks.close();
        self.wait(final_services).await;
        final_services.hard.cancel();
        self.wait(final_services).await;
        let mut shutdown = self.0.shutdown.lock().unwrap_or_else(PoisonError::into_inner);
        Shutdown {
            cause: shutdown.cause.clone().unwrap_or(ShutdownCause::Stopped),
            failures: std::mem::take(&mut shutdown.failures),
        }
    }

    /// Waits until all tasks of a group have ended, but no longer than [`FINAL_GRACE`]. The limit
    /// is needed because a task that never yields cannot be dropped.
    async fn wait(&self, group: &TaskGroup) {
        tokio::select! {
            biased;
            () = group.tasks.wait() => {}
            () = self.0.clock.sleep(FINAL_GRACE) => {}
        }
    }

    fn spawn_in<F>(
        &self,
        group: &TaskGroup,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F,
    ) where
        F: Future<Output: TaskResult> + Send + 'static,
    {
        let supervisor = self.clone();
        let TaskGroup { soft, hard, tasks } = group.clone();
        let task = task(soft.clone());
        let guarded = async move {
            let outcome = tokio::select! {
                biased;
                ended = AssertUnwindSafe(task).catch_unwind() => match ended {
                    Err(payload) => TaskOutcome::Panicked(panic_message(payload.as_ref())),
                    Ok(result) => match result.into_result() {
                        Err(error) => TaskOutcome::Failed(error_chain(error.as_ref())),
                        Ok(()) if soft.is_cancelled() => return,
                        Ok(()) => TaskOutcome::Returned,
                    },
                },
                () = hard.cancelled() => TaskOutcome::Dropped,
            };
            supervisor.record_failure(TaskFailure { task: name, outcome });
        };
        let guarded = guarded.instrument(tracing::info_span!("task", task = name));
        self.spawn_tracked(&tasks, guarded);
    }

    fn spawn_tracked(&self, tasks: &TaskTracker, task: impl Future<Output = ()> + Send + 'static) {
        (self.0.spawn)(tasks.track_future(task).boxed());
    }

    fn record_failure(&self, failure: TaskFailure) {
        tracing::error!("{failure}");
        {
            let mut shutdown = self.0.shutdown.lock().unwrap_or_else(PoisonError::into_inner);
            shutdown.failures.push(failure.clone());
        }
        self.begin_shutdown(ShutdownCause::Task(failure));
    }

    /// Begins the soft shutdown. If one has begun already, the new cause is ignored.
    fn begin_shutdown(&self, cause: ShutdownCause) {
        self.0.shutdown.lock().unwrap_or_else(PoisonError::into_inner).cause.get_or_insert(cause);
        self.0.services.soft.cancel();
    }

    fn reload(&self) {
        tracing::info!("SIGHUP: reloading");
        // systemd requires that the message about the reload also contains the time.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "cannot notify the service manager of the reload"),
        }
        let reload_handlers =
            self.0.reload_handlers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for ReloadHandler { name, handler } in reload_handlers {
            match handler() {
                Ok(()) => tracing::info!("reloaded: {name}"),
                Err(error) => {
                    tracing::error!("cannot reload {name}: {}", error_chain(error.as_ref()));
                }
            }
        }
        self.notify(&[NotifyState::Ready]);
    }

    fn notify(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = (self.0.notify)(states) {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }

    /// Tells the service manager twice in each watchdog interval that this runtime is alive.
    async fn notify_watchdog(&self) -> std::convert::Infallible {
        let Some(interval) = sd_notify::watchdog_enabled() else {
            return std::future::pending().await;
        };
        loop {
            self.notify(&[NotifyState::Watchdog]);
            self.0.clock.sleep(interval / 2).await;
        }
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

/// The text of an error and of its causes, in one line.
fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
