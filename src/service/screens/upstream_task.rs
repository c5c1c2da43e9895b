//! The task of one screen: does the I/O of the [`Upstream`] state machine and publishes its frames.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};

use super::png;
use super::shared_screen::{InputLost, InputMessage, SharedScreen};
use super::upstream::{Effect, Event, Moment, Refusal, Upstream};
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::power::PowerState;
use crate::domain::screen::Picture;
use crate::hypervisor::{
    ByteStream, Capability, HostError, HostErrorKind, Hypervisor, ScreenConnection, ScreenObject,
};
use crate::service::inventory::Inventory;
use crate::telemetry::screens::ScreenMetrics;

/// The bytes that are read from a connection at a time.
const READ_SIZE: usize = 64 << 10;

/// The socket of the host has to take a message within this time.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// The proper end of a connection may take this long.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// The users of a screen that ends release their keys within this time.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// What a task is made of.
pub struct TaskParts {
    pub host: Arc<dyn Hypervisor>,
    pub inventory: Arc<Inventory>,
    pub clock: Clock,
    pub metrics: ScreenMetrics,
    /// `screens.idle`
    pub idle: Duration,
    pub shared: Arc<SharedScreen>,
    pub inputs: mpsc::Receiver<InputMessage>,
}

/// The task of one screen, before it runs.
pub struct UpstreamTask {
    host: Arc<dyn Hypervisor>,
    inventory: Arc<Inventory>,
    clock: Clock,
    metrics: ScreenMetrics,
    idle: Duration,
    shared: Arc<SharedScreen>,
    inputs: mpsc::Receiver<InputMessage>,
    upstream: Upstream,
    /// The restarts of the guest that the upstream knows of.
    restarts: u64,
    /// The highest number of a request for a confirmed frame that the upstream knows of.
    asked: u64,
    /// Since when no one uses the screen.
    unused_since: Option<Duration>,
    io: Io,
}

/// The calls and the connection that are under way.
#[derive(Default)]
struct Io {
    connecting: Option<BoxFuture<'static, Result<ScreenConnection, HostError>>>,
    connection: Option<Connection>,
    picture: Option<BoxFuture<'static, Result<Picture, Refusal>>>,
}

struct Connection {
    reader: ReadHalf<Box<dyn ByteStream>>,
    writer: WriteHalf<Box<dyn ByteStream>>,
}

/// What woke the task.
enum Wake {
    Stop,
    Inventory,
    Asked,
    Input(InputMessage),
    Users,
    Connected(Result<ScreenConnection, HostError>),
    Read(io::Result<usize>),
    Picture(Result<Picture, Refusal>),
    Time,
}

impl UpstreamTask {
    pub fn new(parts: TaskParts) -> Self {
        let TaskParts { host, inventory, clock, metrics, idle, shared, inputs } = parts;
        let has_pictures = host.capabilities().contains(&Capability::ScreenPictures);
        let contents = inventory.contents();
        let machine = &shared.machine.id;
        let now = Moment { elapsed: clock.elapsed(), wall: clock.now() };
        let upstream = Upstream::new(has_pictures, contents.restarted_at(machine), now);
        let restarts = contents.restarts(machine);
        Self {
            host,
            inventory,
            clock,
            metrics,
            idle,
            shared,
            inputs,
            upstream,
            restarts,
            asked: 0,
            unused_since: None,
            io: Io::default(),
        }
    }

    /// Runs until the screen is stopped, or the machine is gone, or no one uses the screen.
    ///
    /// # Parameters
    /// - `may_end`: called when no one has used the screen for a while. Returns whether the task
    ///   ends.
    pub async fn run(mut self, may_end: impl Fn(&Arc<SharedScreen>) -> bool + Send) {
        let shared = Arc::clone(&self.shared);
        let mut machine_changes = self.inventory.watch(&shared.machine.id);
        let mut users = shared.users.subscribe();
        let mut buffer = vec![0; READ_SIZE];
        let mut end = self.machine_changed().await;
        while end.is_none() {
            let wake = self.next_wake(&mut machine_changes, &mut users, &mut buffer).await;
            match wake {
                Wake::Stop => end = Some(self.stopped()),
                Wake::Inventory => end = self.machine_changed().await,
                Wake::Asked => self.pass_asks().await,
                Wake::Input(message) => self.send_input(message).await,
                Wake::Users => self.users_changed().await,
                Wake::Connected(connected) => self.connected(connected).await,
                Wake::Read(Ok(0)) => {
                    let message = "The host closed the console of the machine.".to_owned();
                    self.handle(Event::Lost(message)).await;
                }
                Wake::Read(Ok(length)) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    self.handle(Event::Bytes(bytes)).await;
                }
                Wake::Read(Err(error)) => self.lost(&error).await,
                Wake::Picture(read) => self.picture_read(read).await,
                Wake::Time if self.is_unused_for_long() => {
                    if may_end(&shared) {
                        break;
                    }
                    self.unused_since = None;
                }
                Wake::Time => self.handle(Event::TimePassed).await,
            }
        }
        if let Some(failure) = end {
            shared.publish_end(failure);
            self.drain(&mut users).await;
        }
        self.inputs.close();
        while let Ok(message) = self.inputs.try_recv() {
            // The sender may have gone.
            let _ = message.reply.send(Err(InputLost { maybe_sent: false }));
        }
        self.disconnect().await;
    }

    /// Sends the input that releases held keys, until no one uses the screen any more.
    async fn drain(&mut self, users: &mut watch::Receiver<usize>) {
        let clock = self.clock.clone();
        let mut over = std::pin::pin!(clock.sleep(DRAIN_LIMIT));
        while self.io.connection.is_some() && *users.borrow_and_update() > 0 {
            tokio::select! {
                biased;
                Some(message) = self.inputs.recv() => self.send_input(message).await,
                Ok(()) = users.changed() => {}
                () = &mut over => return,
            }
        }
    }

    /// Waits for whatever comes first. Input comes before what the host sends, so that a busy
    /// screen does not delay keys.
    async fn next_wake(
        &mut self,
        machine_changes: &mut watch::Receiver<()>,
        users: &mut watch::Receiver<usize>,
        buffer: &mut [u8],
    ) -> Wake {
        let shared = Arc::clone(&self.shared);
        let due = self.due();
        let Io { connecting, connection, picture } = &mut self.io;
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => Wake::Stop,
            // The inventory may drop a watcher between two changes. `run` then subscribes again.
            changed = machine_changes.changed() => {
                if changed.is_err() {
                    *machine_changes = self.inventory.watch(&shared.machine.id);
                }
                Wake::Inventory
            }
            Some(message) = self.inputs.recv() => Wake::Input(message),
            () = shared.asked.notified() => Wake::Asked,
            Ok(()) = users.changed() => Wake::Users,
            connected = pending_or(connecting.as_mut()) => Wake::Connected(connected),
            read = async {
                match connection {
                    Some(connection) => connection.reader.read(buffer).await,
                    None => std::future::pending().await,
                }
            } => Wake::Read(read),
            picture = pending_or(picture.as_mut()) => Wake::Picture(picture),
            () = async {
                match due {
                    Some(due) => {
                        self.clock.sleep(due.saturating_sub(self.clock.elapsed())).await;
                    }
                    None => std::future::pending().await,
                }
            } => Wake::Time,
        }
    }

    fn due(&self) -> Option<Duration> {
        let idle = self.unused_since.map(|since| since + self.idle);
        [self.upstream.due(), idle].into_iter().flatten().min()
    }

    fn is_unused_for_long(&self) -> bool {
        let is_over = |since| self.clock.elapsed().saturating_sub(since) >= self.idle;
        self.unused_since.is_some_and(is_over)
    }

    fn now(&self) -> Moment {
        Moment { elapsed: self.clock.elapsed(), wall: self.clock.now() }
    }

    /// Passes the power and the restarts of the machine to the upstream.
    ///
    /// # Returns
    /// The end of the screen, if the machine is gone.
    async fn machine_changed(&mut self) -> Option<Failure> {
        let contents = self.inventory.contents();
        let opened_for = &self.shared.machine;
        let machine = contents
            .machine(&opened_for.id)
            .filter(|machine| machine.identity().agrees_with(&opened_for.identity()));
        let Some(machine) = machine else {
            let detail = "The machine was removed from the host, and its screen with it.";
            return Some(
                Failure::new(FailureKind::MachineGone, detail)
                    .with_machine(&opened_for.id, &opened_for.name),
            );
        };
        let on = machine.power_state == Some(PowerState::On);
        let restarts = contents.restarts(&machine.id);
        if std::mem::replace(&mut self.restarts, restarts) != restarts {
            self.handle(Event::Restarted).await;
        }
        self.handle(Event::Power { on }).await;
        // The screen may have been opened after the last change of its users.
        self.users_changed().await;
        None
    }

    async fn users_changed(&mut self) {
        let in_use = *self.shared.users.borrow() > 0;
        if in_use {
            self.unused_since = None;
        } else {
            self.unused_since.get_or_insert(self.clock.elapsed());
        }
        self.handle(Event::InUse(in_use)).await;
    }

    async fn pass_asks(&mut self) {
        let asks = self.shared.asks();
        if std::mem::replace(&mut self.asked, asks) != asks {
            self.handle(Event::Ask(asks)).await;
        }
    }

    async fn connected(&mut self, connected: Result<ScreenConnection, HostError>) {
        self.io.connecting = None;
        match connected {
            Ok(ScreenConnection { stream }) => {
                self.metrics.record_connection("ok");
                self.metrics.connection_open(true);
                let (reader, writer) = tokio::io::split(stream);
                self.io.connection = Some(Connection { reader, writer });
                self.handle(Event::Connected).await;
            }
            Err(error) => {
                self.metrics.record_connection("failed");
                let machine = &self.shared.machine.id;
                tracing::debug!(
                    %machine,
                    error = &error as &dyn std::error::Error,
                    "no connection to the screen"
                );
                self.handle(Event::ConnectFailed(&Refusal::from(&error))).await;
            }
        }
    }

    async fn picture_read(&mut self, read: Result<Picture, Refusal>) {
        self.io.picture = None;
        match read {
            Ok(picture) => {
                self.metrics.record_picture("ok");
                self.handle(Event::PictureRead(&picture)).await;
            }
            Err(refusal) => {
                self.metrics.record_picture("failed");
                self.handle(Event::PictureFailed(&refusal)).await;
            }
        }
    }

    /// Sends input if the console is the right one.
    async fn send_input(&mut self, message: InputMessage) {
        let InputMessage { input, epoch, since, reply } = message;
        let is_right = epoch.is_none_or(|epoch| epoch == self.upstream.status().epoch);
        let bytes = self.upstream.encode(&input).filter(|_| is_right);
        let result = match bytes {
            None => Err(InputLost { maybe_sent: false }),
            Some(bytes) => match self.write(&bytes).await {
                Ok(()) => Ok(()),
                Err(error) => {
                    self.lost(&error).await;
                    Err(InputLost { maybe_sent: true })
                }
            },
        };
        if result.is_ok() {
            self.metrics.record_input(self.clock.elapsed().saturating_sub(since));
        }
        // The sender may have gone.
        let _ = reply.send(result);
    }

    async fn lost(&mut self, error: &io::Error) {
        let message = format!("The connection to the console of the machine broke: {error}.");
        self.handle(Event::Lost(message)).await;
    }

    /// Handles an event, does its effects, and publishes what changed.
    async fn handle(&mut self, event: Event<'_>) {
        let now = self.now();
        let mut effects = self.upstream.handle(event, now);
        while !effects.is_empty() {
            let mut broken = None;
            for effect in std::mem::take(&mut effects) {
                if let Err(error) = self.do_effect(effect).await {
                    broken = Some(error);
                    break;
                }
            }
            if let Some(error) = broken {
                let message =
                    format!("The connection to the console of the machine broke: {error}.");
                effects = self.upstream.handle(Event::Lost(message), self.now());
            }
        }
        let now = self.now();
        let change = self.upstream.publish(now);
        if change.is_some() {
            self.metrics.record_frame();
        }
        let (connection, is_on) = (self.upstream.connection(), self.upstream.is_on());
        self.shared.publish(change, connection, self.upstream.status(), is_on);
        // After the frame: who reads the time first then never takes an older frame for it.
        if let Some(heard_at) = self.upstream.heard_at() {
            self.shared.set_heard_at(heard_at);
        }
    }

    async fn do_effect(&mut self, effect: Effect) -> io::Result<()> {
        match effect {
            Effect::Connect => {
                let (host, machine) = (Arc::clone(&self.host), self.shared.machine.id.clone());
                self.io.connecting =
                    Some(Box::pin(async move { host.open_screen(&machine).await }));
                Ok(())
            }
            Effect::Send(bytes) => self.write(&bytes).await,
            Effect::Disconnect => {
                self.disconnect().await;
                Ok(())
            }
            Effect::ReadPicture => {
                let (host, machine) = (Arc::clone(&self.host), self.shared.machine.id.clone());
                self.io.picture =
                    Some(Box::pin(read_picture(host, ScreenObject::Machine(machine))));
                Ok(())
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(connection) = &mut self.io.connection else {
            return Err(io::Error::from(io::ErrorKind::NotConnected));
        };
        let write = async {
            connection.writer.write_all(bytes).await?;
            connection.writer.flush().await
        };
        let slow = || io::Error::new(io::ErrorKind::TimedOut, "the host does not read");
        tokio::select! {
            biased;
            written = write => written,
            () = self.clock.sleep(WRITE_LIMIT) => Err(slow()),
        }
    }

    /// Ends the connection properly, because the host counts connections that are only cut as open.
    async fn disconnect(&mut self) {
        self.io.connecting = None;
        let Some(Connection { mut writer, reader }) = self.io.connection.take() else { return };
        self.metrics.connection_open(false);
        tokio::select! {
            biased;
            // The connection may be broken already.
            _ = writer.shutdown() => {}
            () = self.clock.sleep(CLOSE_LIMIT) => {}
        }
        drop(reader);
    }

    fn stopped(&self) -> Failure {
        let machine = &self.shared.machine;
        Failure::new(FailureKind::ShuttingDown, "otter is shutting down.")
            .with_machine(&machine.id, &machine.name)
    }
}

impl From<&HostError> for Refusal {
    fn from(error: &HostError) -> Self {
        Self { kind: Some(error.kind), message: error.message.clone() }
    }
}

/// Reads and decodes a picture of a screen.
async fn read_picture(host: Arc<dyn Hypervisor>, object: ScreenObject) -> Result<Picture, Refusal> {
    let bytes = host.screen_picture(&object).await.map_err(|error| Refusal::from(&error))?;
    let unreadable = |error: String| Refusal {
        kind: Some(HostErrorKind::Protocol),
        message: format!("The host's picture of the screen cannot be read: {error}."),
    };
    let decoded = tokio::task::spawn_blocking(move || png::decode(&bytes)).await;
    decoded
        .map_err(|error| unreadable(error.to_string()))?
        .map_err(|error| unreadable(error.to_string()))
}

/// Waits for a future, or forever if there is none.
async fn pending_or<F: Future + Unpin>(future: Option<&mut F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
