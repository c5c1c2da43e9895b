//! The process: its tasks, its signals and its shutdown. Each task has a name and is tracked.
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
//! - `soft`: the service tasks are asked to finish and have the grace time to do so.
//! - `hard`: the tasks that still run are dropped.
//! - `final services`: the service tasks that the others needed, such as the store, are asked to
//!   finish, and are dropped if they do not.
//!
//! A service task that ends before it is asked to, for any reason, shuts the daemon down, and the
//! exit code is 1. An isolated task, such as a job, may panic: its starter gets the failure.

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

/// How long the supervisor waits for dropped tasks and for the final services. The disk may be
/// slow.
const FINAL_GRACE: Duration = Duration::from_secs(10);

/// Starts the tasks of the process and shuts them down. Clones share the tasks.
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

/// Tasks that stop together. `soft` asks them to finish, `hard` drops them.
#[derive(Clone, Default)]
struct TaskGroup {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
}

/// The cause of the shutdown and the failures, as far as they are known.
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

/// Sends states to the service manager. Tests replace it.
type Notify = Box<dyn Fn(&[NotifyState<'_>]) -> io::Result<()> + Send + Sync>;

/// Runs a task.
type Spawn = Box<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

type BoxError = Box<dyn Error + Send + Sync>;

/// The output of a service task: nothing, or a result with any error.
pub trait TaskResult {
    /// Converts the output into a result.
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

/// The failure of a task.
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
    /// The task returned an error: the text of the error and of its causes.
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
    /// The operator or the service manager sent a signal.
    Signal(Signal),
    /// [`Supervisor::stop`] was called.
    Stopped,
    /// A service task ended, and the daemon needs all of them.
    Task(TaskFailure),
}

/// The result of a shutdown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    pub cause: ShutdownCause,
    /// The failures of service tasks since the start.
    pub failures: Vec<TaskFailure>,
}

impl Shutdown {
    /// 0 if the daemon was asked to shut down and no service task failed, otherwise 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(matches!(self.cause, ShutdownCause::Task(_)) || !self.failures.is_empty())
    }
}

/// A task that [`Supervisor::spawn_isolated`] started. The task continues if this handle is
/// dropped.
#[derive(Debug)]
pub struct IsolatedTask<T> {
    name: &'static str,
    result: oneshot::Receiver<Result<T, TaskFailure>>,
}

impl<T> IsolatedTask<T> {
    /// Waits until the task ends.
    ///
    /// # Errors
    /// `Panicked` with the message. `Dropped` in a hard shutdown.
    pub async fn join(self) -> Result<T, TaskFailure> {
        let dropped = TaskFailure { task: self.name, outcome: TaskOutcome::Dropped };
        self.result.await.unwrap_or(Err(dropped))
    }
}

impl Supervisor {
    /// A supervisor whose tasks have `grace` to finish in a soft shutdown.
    #[must_use]
    pub fn new(clock: Clock, grace: Duration) -> Self {
        Self::with(
            clock,
            grace,
            Box::new(sd_notify::notify),
            Box::new(|task| drop(tokio::spawn(task))),
        )
    }

    /// Creates a supervisor whose tasks are run by `spawn`. It does not notify the service manager.
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

    /// Starts a service task, which the daemon needs. The task gets a token that is cancelled when
    /// the task must finish.
    pub fn spawn<F>(&self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output: TaskResult> + Send + 'static,
    {
        self.spawn_in(&self.0.services, name, task);
    }

    /// Starts a service task that the other service tasks need while they finish. Its token is
    /// cancelled after all of them have ended.
    pub fn spawn_stopping_last<F>(
        &self,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F,
    ) where
        F: Future<Output: TaskResult> + Send + 'static,
    {
        self.spawn_in(&self.0.final_services, name, task);
    }

    /// Starts an isolated task. A panic of the task ends only this task. A soft shutdown waits for
    /// the task. The task can observe the shutdown with [`Supervisor::shutdown_token`].
    pub fn spawn_isolated<T, F>(&self, name: &'static str, task: F) -> IsolatedTask<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.spawn_isolated_in(tracing::info_span!("task", task = name), name, task)
    }

    /// Starts the isolated task of a connection. Its log lines name the task only at the level
    /// `debug`, because a span would slow down each request.
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
                    // The receiver may be dropped already.
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

    /// Registers a handler for SIGHUP. If the handler fails, the error is logged. The handler must
    /// then leave the old state in use.
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

    /// Runs until the shutdown is complete, and returns its result.
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

    /// Waits for a group of tasks, but no longer than [`FINAL_GRACE`]: a task that never yields
    /// cannot be dropped.
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

    /// Begins the soft shutdown. Only the first cause is recorded.
    fn begin_shutdown(&self, cause: ShutdownCause) {
        self.0.shutdown.lock().unwrap_or_else(PoisonError::into_inner).cause.get_or_insert(cause);
        self.0.services.soft.cancel();
    }

    fn reload(&self) {
        tracing::info!("SIGHUP: reloading");
        // systemd requires the time in the same message.
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

    /// Notifies the service manager twice per watchdog interval that this runtime is alive.
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
