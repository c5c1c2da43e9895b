//! What the task of a screen and the users of the screen share: the newest frame, its history, the
//! status of the connection, and the ways to ask for more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::frame::{DamageHistory, Frame, FrameChange};
use super::state::ConnectionState;
use super::upstream::Status;
use crate::domain::failure::Failure;
use crate::domain::input::ScreenInput;
use crate::domain::machine::Machine;

/// The input messages that can wait for the task. Further senders wait.
const INPUTS: usize = 64;

/// One screen that is in use, or was a short time ago.
pub struct SharedScreen {
    /// The machine as it was when the screen was opened.
    pub machine: Arc<Machine>,
    pub published: watch::Sender<Published>,
    pub inputs: mpsc::Sender<InputMessage>,
    /// The number of users. Only the registry increases it.
    pub users: watch::Sender<usize>,
    /// Ends the task.
    pub stop: CancellationToken,
    /// Wakes the task when `asks` has grown.
    pub asked: Notify,
    asks: AtomicU64,
    /// When the host last answered, in milliseconds of the elapsed time of the clock, plus 1. 0:
    /// never.
    heard_at: AtomicU64,
}

/// What every user can see.
pub struct Published {
    pub frame: Arc<Frame>,
    pub history: DamageHistory,
    pub connection: ConnectionState,
    pub status: Status,
    /// Whether the host reports that the machine is on.
    pub is_on: bool,
    /// Why there will be no more frames.
    pub end: Option<Failure>,
}

/// One use of a screen. It ends when the value is dropped.
pub struct UseCount(Arc<SharedScreen>);

/// Input on its way to the task.
pub struct InputMessage {
    pub input: Vec<ScreenInput>,
    /// The console on which it may be sent. `None`: the one that is open.
    pub epoch: Option<u64>,
    /// When it was handed over, by the monotonic clock.
    pub since: Duration,
    pub reply: oneshot::Sender<Result<(), InputLost>>,
}

/// Input that the host's socket did not take for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLost {
    /// Whether the machine may have got a part of it. If false, it got nothing.
    pub maybe_sent: bool,
}

impl SharedScreen {
    /// A screen without users, and the inbox of its task.
    pub fn new(
        machine: Arc<Machine>,
        frame: Arc<Frame>,
        stop: CancellationToken,
    ) -> (Self, mpsc::Receiver<InputMessage>) {
        let (inputs, inbox) = mpsc::channel(INPUTS);
        let published = Published {
            frame,
            history: DamageHistory::default(),
            connection: ConnectionState::Opening,
            status: Status::default(),
            is_on: true,
            end: None,
        };
        let shared = Self {
            machine,
            published: watch::Sender::new(published),
            inputs,
            users: watch::Sender::new(0),
            stop,
            asked: Notify::new(),
            asks: AtomicU64::new(0),
            heard_at: AtomicU64::new(0),
        };
        (shared, inbox)
    }

    /// Asks for a frame that the host confirms after now. Returns the number of the request.
    pub fn ask(&self) -> u64 {
        let number = self.asks.fetch_add(1, Ordering::SeqCst) + 1;
        self.asked.notify_one();
        number
    }

    /// The highest number of [`SharedScreen::ask`].
    pub fn asks(&self) -> u64 {
        self.asks.load(Ordering::SeqCst)
    }

    /// When the host last answered, as the elapsed time of the clock.
    pub fn heard_at(&self) -> Option<Duration> {
        let plus_one = self.heard_at.load(Ordering::Relaxed);
        plus_one.checked_sub(1).map(Duration::from_millis)
    }

    /// Records that the host answered.
    pub fn set_heard_at(&self, at: Duration) {
        let millis = u64::try_from(at.as_millis()).unwrap_or(u64::MAX - 1);
        self.heard_at.store(millis + 1, Ordering::Relaxed);
    }

    /// Publishes a new frame, if there is one, and the status. Wakes no one if nothing changed.
    pub fn publish(
        &self,
        change: Option<FrameChange>,
        connection: ConnectionState,
        status: &Status,
        is_on: bool,
    ) {
        self.published.send_if_modified(|published| {
            let is_new = change.is_some()
                || published.connection != connection
                || published.is_on != is_on
                || published.status != *status;
            if let Some(change) = change {
                published.history.record(&change);
                published.frame = change.frame;
            }
            published.connection = connection;
            published.is_on = is_on;
            if published.status != *status {
                published.status.clone_from(status);
            }
            is_new
        });
    }

    /// Publishes that there will be no more frames.
    pub fn publish_end(&self, failure: Failure) {
        self.published.send_modify(|published| {
            published.connection = ConnectionState::Closed;
            published.end.get_or_insert(failure);
        });
    }
}

impl UseCount {
    /// Begins a use. The registry must be locked, so that the screen is not removed meanwhile.
    pub fn of(shared: &Arc<SharedScreen>) -> Self {
        shared.users.send_modify(|users| *users += 1);
        Self(Arc::clone(shared))
    }

    /// The screen that is used.
    #[must_use]
    pub const fn screen(&self) -> &Arc<SharedScreen> {
        &self.0
    }
}

impl Drop for UseCount {
    fn drop(&mut self) {
        self.0.users.send_modify(|users| *users -= 1);
    }
}
