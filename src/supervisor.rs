//! The life of the process: its tasks, each named and tracked, its signals, and its end.
//!
//! ```text
//! running ──SIGTERM, SIGINT, stop(), a room task that ended──► soft: rooms finish what they do
//!    │ SIGHUP: reload                                            │ all ended   │ grace over, or a second signal
//!    └─► running                                                 │             ▼
//!                                                                │           hard: what still runs is dropped
//!                                                                ▼             ▼
//!                                                              last: the rooms that the others needed (the store)
//! ```
//! A room task that ends before it was asked to, in whatever way, ends the daemon, and the exit
//! code says so. A contained task, such as a job, may panic: whoever started it is told.

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

pub use signals::{Signal, Signals};

/// How long what is dropped, and the rooms that stop last, may take; the disk may be slow.
const LAST_GRACE: Duration = Duration::from_secs(10);

/// Starts tasks and sees them through. Clones are the same supervisor.
#[derive(Clone)]
pub struct Supervisor(Arc<Inner>);

struct Inner {
    clock: Clock,
    grace: Duration,
    rooms: Stage,
    last: Stage,
    end: Mutex<End>,
    reloads: Mutex<Vec<Reload>>,
    notify: Notify,
    spawn: Spawn,
}

/// Tasks that stop together: asked by `soft`, dropped by `hard`.
#[derive(Clone, Default)]
struct Stage {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
}

/// What is known of the end so far.
#[derive(Default)]
struct End {
    cause: Option<Cause>,
    failures: Vec<TaskFailure>,
}

#[derive(Clone)]
struct Reload {
    name: &'static str,
    handler: Arc<dyn Fn() -> Result<(), BoxError> + Send + Sync>,
}

/// Tells the service manager; tests listen in.
type Notify = Box<dyn Fn(&[NotifyState<'_>]) -> io::Result<()> + Send + Sync>;

/// Runs a task.
type Spawn = Box<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

type BoxError = Box<dyn Error + Send + Sync>;

/// What a room task may end in: nothing, or a result with any error.
pub trait TaskResult {
    /// The error, if it is one.
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

/// How a task ended that should not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFailure {
    pub task: &'static str,
    pub how: HowItEnded,
}

/// The ways in which a task fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HowItEnded {
    /// It returned although nobody asked it to stop.
    Returned,
    /// With an error: its text, causes included.
    Failed(String),
    Panicked(String),
    /// It did not stop in time.
    Dropped,
}

impl fmt::Display for TaskFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { task, how } = self;
        match how {
            HowItEnded::Returned => {
                write!(formatter, "the task {task} ended although nothing asked it to")
            }
            HowItEnded::Failed(error) => write!(formatter, "the task {task} failed: {error}"),
            HowItEnded::Panicked(message) => {
                write!(formatter, "the task {task} panicked: {message}")
            }
            HowItEnded::Dropped => write!(formatter, "the task {task} did not stop in time"),
        }
    }
}

impl Error for TaskFailure {}

/// Why the daemon ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The operator, or the service manager, said so.
    Signal(Signal),
    /// [`Supervisor::stop`] was called.
    Stopped,
    /// A room task ended, without which the daemon is not whole.
    Task(TaskFailure),
}

/// How the daemon ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub cause: Cause,
    /// Every task that failed, from the start on, each once.
    pub failures: Vec<TaskFailure>,
}

impl Ending {
    /// 0 if the daemon was asked to end and every task ended well; else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(matches!(self.cause, Cause::Task(_)) || !self.failures.is_empty())
    }
}

/// A task that was started by [`Supervisor::contain`]. Dropping this lets it run on.
#[derive(Debug)]
pub struct Contained<T> {
    name: &'static str,
    result: oneshot::Receiver<Result<T, TaskFailure>>,
}

impl<T> Contained<T> {
    /// Waits for its end.
    ///
    /// # Errors
    /// `Panicked` with the message, or `Dropped` at a hard shutdown.
    pub async fn join(self) -> Result<T, TaskFailure> {
        let dropped = TaskFailure { task: self.name, how: HowItEnded::Dropped };
        self.result.await.unwrap_or(Err(dropped))
    }
}

impl Supervisor {
    /// A supervisor that gives its tasks this long to stop.
    #[must_use]
    pub fn new(clock: Clock, grace: Duration) -> Self {
        Self::with(
            clock,
            grace,
            Box::new(sd_notify::notify),
            Box::new(|task| drop(tokio::spawn(task))),
        )
    }

    /// The same, whose tasks `spawn` runs. It tells the service manager nothing.
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
            rooms: Stage::default(),
            last: Stage::default(),
            end: Mutex::default(),
            reloads: Mutex::default(),
            notify,
            spawn,
        }))
    }

    /// Starts a room's task, without which the daemon cannot live. It is given a token that tells
    /// it to finish.
    pub fn spawn<F>(&self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output: TaskResult> + Send + 'static,
    {
        self.spawn_in(&self.0.rooms, name, task);
    }

    /// Starts a room's task that the others need to finish: it is told to once they all ended.
    pub fn spawn_last<F>(&self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output: TaskResult> + Send + 'static,
    {
        self.spawn_in(&self.0.last, name, task);
    }

    /// Starts a task that may fail by itself. It is waited for at the end; what it should know of
    /// the shutdown it learns from [`Supervisor::stopping`].
    pub fn contain<T, F>(&self, name: &'static str, task: F) -> Contained<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, result) = oneshot::channel();
        let hard = self.0.rooms.hard.clone();
        let guarded = async move {
            let caught = AssertUnwindSafe(task).catch_unwind();
            tokio::select! {
                biased;
                ended = caught => {
                    let ended = ended.map_err(|payload| {
                        let how = HowItEnded::Panicked(panic_message(payload.as_ref()));
                        let failure = TaskFailure { task: name, how };
                        tracing::error!("{failure}");
                        failure
                    });
                    // Nobody may be waiting for it.
                    drop(sender.send(ended));
                }
                () = hard.cancelled() => {}
            }
        };
        self.spawn_tracked(&self.0.rooms.tasks, name, guarded);
        Contained { name, result }
    }

    /// Cancelled when the soft shutdown begins.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.0.rooms.soft.clone()
    }

    /// Begins the soft shutdown.
    pub fn stop(&self) {
        self.begin_end(Cause::Stopped);
    }

    /// Has this called on SIGHUP. An error is logged, and what was before stays.
    pub fn on_reload<E: Into<BoxError>>(
        &self,
        name: &'static str,
        handler: impl Fn() -> Result<(), E> + Send + Sync + 'static,
    ) {
        let handler = Arc::new(move || handler().map_err(Into::into));
        self.0
            .reloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Reload { name, handler });
    }

    /// Tells the service manager that the daemon serves.
    pub fn ready(&self) {
        self.notify(&[NotifyState::Ready]);
    }

    /// Sees the daemon through to its end, and tells how it came to that.
    pub async fn run(&self, mut signals: Signals) -> Ending {
        tokio::select! {
            biased;
            ending = self.until_the_end(&mut signals) => ending,
            never = self.feed_watchdog() => match never {},
        }
    }

    async fn until_the_end(&self, signals: &mut Signals) -> Ending {
        let Inner { clock, grace, rooms, last, .. } = &*self.0;
        loop {
            tokio::select! {
                biased;
                () = rooms.soft.cancelled() => break,
                signal = signals.next() => match signal {
                    Signal::Hangup => self.reload(),
                    signal => {
                        tracing::info!("{signal}: stopping");
                        self.begin_end(Cause::Signal(signal));
                    }
                },
            }
        }
        self.notify(&[NotifyState::Stopping]);
        rooms.tasks.close();
        tokio::select! {
            biased;
            () = rooms.tasks.wait() => {}
            () = signals.next_to_end() => tracing::warn!("a second signal: dropping what still runs"),
            () = clock.sleep(*grace) => {
                tracing::warn!("not everything stopped within {} s: dropping the rest", grace.as_secs());
            }
        }
        rooms.hard.cancel();
        self.wait(rooms).await;
        last.soft.cancel();
        last.tasks.close();
        self.wait(last).await;
        last.hard.cancel();
        self.wait(last).await;
        let mut end = self.0.end.lock().unwrap_or_else(PoisonError::into_inner);
        Ending {
            cause: end.cause.clone().unwrap_or(Cause::Stopped),
            failures: std::mem::take(&mut end.failures),
        }
    }

    /// Waits for a stage, but no longer than [`LAST_GRACE`]: a task that never yields cannot be
    /// dropped.
    async fn wait(&self, stage: &Stage) {
        tokio::select! {
            biased;
            () = stage.tasks.wait() => {}
            () = self.0.clock.sleep(LAST_GRACE) => {}
        }
    }

    fn spawn_in<F>(
        &self,
        stage: &Stage,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F,
    ) where
        F: Future<Output: TaskResult> + Send + 'static,
    {
        let supervisor = self.clone();
        let Stage { soft, hard, tasks } = stage.clone();
        let task = task(soft.clone());
        let guarded = async move {
            let how = tokio::select! {
                biased;
                ended = AssertUnwindSafe(task).catch_unwind() => match ended {
                    Err(payload) => HowItEnded::Panicked(panic_message(payload.as_ref())),
                    Ok(result) => match result.into_result() {
                        Err(error) => HowItEnded::Failed(chain(error.as_ref())),
                        Ok(()) if soft.is_cancelled() => return,
                        Ok(()) => HowItEnded::Returned,
                    },
                },
                () = hard.cancelled() => HowItEnded::Dropped,
            };
            supervisor.failed(TaskFailure { task: name, how });
        };
        self.spawn_tracked(&tasks, name, guarded);
    }

    fn spawn_tracked(
        &self,
        tasks: &TaskTracker,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = task.instrument(tracing::info_span!("task", task = name));
        (self.0.spawn)(tasks.track_future(task).boxed());
    }

    fn failed(&self, failure: TaskFailure) {
        tracing::error!("{failure}");
        {
            let mut end = self.0.end.lock().unwrap_or_else(PoisonError::into_inner);
            end.failures.push(failure.clone());
        }
        self.begin_end(Cause::Task(failure));
    }

    /// The first cause is the one that counts.
    fn begin_end(&self, cause: Cause) {
        self.0.end.lock().unwrap_or_else(PoisonError::into_inner).cause.get_or_insert(cause);
        self.0.rooms.soft.cancel();
    }

    fn reload(&self) {
        tracing::info!("SIGHUP: reloading");
        // systemd wants the time together with the word.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "the service manager was not told of the reload"),
        }
        let reloads = self.0.reloads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for Reload { name, handler } in reloads {
            match handler() {
                Ok(()) => tracing::info!("reloaded: {name}"),
                Err(error) => tracing::error!("not reloaded: {name}: {}", chain(error.as_ref())),
            }
        }
        self.notify(&[NotifyState::Ready]);
    }

    fn notify(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = (self.0.notify)(states) {
            tracing::warn!(%error, "the service manager could not be told");
        }
    }

    /// Says twice in the service manager's interval that this runtime is alive.
    async fn feed_watchdog(&self) -> std::convert::Infallible {
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

/// An error and its causes in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
