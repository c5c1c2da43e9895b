//! One viewer of a screen: otter's own RFB server over the frame that all viewers share.
//!
//! ```text
//! handshake ──ClientInit──► (first frame, at most 2 s) ──ServerInit──► serving ──► ended
//! ```
//! Three parts run at the same time, and the first that ends, ends the viewer:
//! - the guard judges the right of the viewer again after each change that may end it;
//! - the reader reads what the viewer sends, and passes the input of a driver on;
//! - the writer sends the parts of the screen that the viewer lacks and has asked for.
//!
//! A viewer that reads slowly costs one small piece: the pixels of the next piece are read from the
//! newest frame when the last one was sent, and what changed meanwhile is noted as a few regions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::drive::DriverInput;
use super::frame::{Frame, FrameChange};
use super::screen_input::ScreenInput;
use super::screen_user::ScreenUser;
use super::viewer_damage::{PendingDamage, split};
use super::viewer_end::ViewerEnd;
use super::viewer_pieces::{Coding, SharedPieces, Shown};
use super::viewer_rights::ViewerRights;
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::screen::{Region, ScreenSize};
use crate::rfb::{PixelFormat, ViewerEncodings, ViewerEvent, ViewerStream, viewer_updates};

/// The time between two pings.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// A viewer that neither sends nor reads anything for this long is dropped.
const SILENCE: Duration = Duration::from_mins(1);

/// How long a new viewer waits for the first frame, so that it learns the size of the screen.
const FIRST_FRAME: Duration = Duration::from_secs(2);

/// How long a viewer may take for the handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// How long the last picture stays while the host paints a new one, for example after a resize.
const REPAINT: Duration = Duration::from_secs(1);

/// A viewer that does not read a piece for this long does not keep the frame of the piece.
const SLOW: Duration = Duration::from_secs(1);

/// The size that otter tells a viewer before it has seen the screen: the text mode of the BIOS.
const UNKNOWN_SIZE: ScreenSize = ScreenSize { width: 720, height: 400 };

/// The most messages of input that are sent to the host at once.
const INPUT_BATCH: usize = 64;

/// What a viewer's connection received.
#[derive(Clone, Debug)]
pub enum FromViewer {
    /// Bytes of RFB.
    Bytes(Bytes),
    /// A text, which RFB does not use.
    Text,
    /// Something else, which shows that the viewer is there.
    Alive,
}

/// What a viewer's connection has to send.
#[derive(Clone, Debug)]
pub enum ToViewer {
    /// Bytes of RFB.
    Bytes(Bytes),
    Ping,
}

/// The parts of a session.
pub struct SessionParts {
    pub user: ScreenUser,
    pub driver: Option<DriverInput>,
    pub rights: ViewerRights,
    pub pieces: Arc<SharedPieces>,
    /// The name of the machine, which viewers show.
    pub name: String,
    pub clock: Clock,
}

/// Serves a viewer until it ends. Dropping the driver afterwards releases the keys.
///
/// # Parameters
/// - `incoming`: ends when the connection is closed or broken.
/// - `outgoing`: an error is the end of the connection.
pub async fn serve_viewer<I, O>(
    parts: &mut SessionParts,
    incoming: &mut I,
    outgoing: &mut O,
    stop: &CancellationToken,
) -> ViewerEnd
where
    I: Stream<Item = FromViewer> + Unpin,
    O: Sink<ToViewer> + Unpin,
{
    let SessionParts { user, driver, rights, pieces, name, clock } = parts;
    let taken_over = driver.as_ref().map(DriverInput::taken_over);
    let exchange = Exchange::new(clock);
    let mut reader = Reader { driver, rights, exchange: &exchange };
    let mut writer = Writer::new(user, pieces, name, &exchange);
    tokio::select! {
        biased;
        end = rights.until_ended(taken_over, stop) => end,
        end = exchange.until_silent() => end,
        end = reader.run(incoming) => end,
        end = writer.run(outgoing) => end,
    }
}

/// What the reader tells the writer.
struct Exchange {
    clock: Clock,
    wishes: Mutex<Wishes>,
    changed: Notify,
}

/// What a viewer has asked for.
struct Wishes {
    /// Bytes of the handshake that are still to be sent.
    handshake: Vec<u8>,
    /// Whether the viewer ended the handshake by its `ClientInit`.
    is_initialised: bool,
    format: PixelFormat,
    encodings: ViewerEncodings,
    /// The region for which an update is due.
    requested: Option<Region>,
    /// The region that must be sent even if it did not change.
    repaint: Option<Region>,
    /// When the viewer last sent or read anything, by the monotonic clock.
    alive_at: Duration,
}

impl Exchange {
    fn new(clock: &Clock) -> Self {
        let wishes = Wishes {
            handshake: Vec::new(),
            is_initialised: false,
            format: PixelFormat::BGR0,
            encodings: ViewerEncodings::default(),
            requested: None,
            repaint: None,
            alive_at: clock.elapsed(),
        };
        Self { clock: clock.clone(), wishes: Mutex::new(wishes), changed: Notify::new() }
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_alive(&self) {
        self.wishes().alive_at = self.clock.elapsed();
    }

    /// Ends once the viewer was silent for too long.
    async fn until_silent(&self) -> ViewerEnd {
        loop {
            let silent_for = self.clock.elapsed().saturating_sub(self.wishes().alive_at);
            match SILENCE.checked_sub(silent_for).filter(|left| !left.is_zero()) {
                Some(left) => self.clock.sleep(left).await,
                None => return ViewerEnd::Silent,
            }
        }
    }
}

/// Reads what the viewer sends.
struct Reader<'s> {
    /// `None` if the viewer only looks. Its input is then read and ignored.
    driver: &'s mut Option<DriverInput>,
    rights: &'s ViewerRights,
    exchange: &'s Exchange,
}

impl Reader<'_> {
    async fn run(&mut self, incoming: &mut (impl Stream<Item = FromViewer> + Unpin)) -> ViewerEnd {
        let mut stream = ViewerStream::new();
        self.send_handshake(&mut stream);
        while let Some(received) = incoming.next().await {
            self.exchange.note_alive();
            let bytes = match received {
                FromViewer::Bytes(bytes) => bytes,
                FromViewer::Alive => continue,
                FromViewer::Text => {
                    let error = "RFB needs binary messages, and this was a text message";
                    return ViewerEnd::Protocol(error.to_owned());
                }
            };
            stream.feed(&bytes);
            let mut input = Vec::new();
            loop {
                match stream.next_event() {
                    Ok(Some(event)) => input.extend(self.note(&event)),
                    Ok(None) => break,
                    Err(error) => return ViewerEnd::Protocol(error.to_string()),
                }
                if input.len() >= INPUT_BATCH
                    && let Err(end) = self.send(std::mem::take(&mut input)).await
                {
                    return end;
                }
            }
            self.send_handshake(&mut stream);
            self.exchange.changed.notify_one();
            if let Err(end) = self.send(input).await {
                return end;
            }
        }
        ViewerEnd::Left
    }

    fn send_handshake(&self, stream: &mut ViewerStream) {
        let bytes = stream.to_send();
        if !bytes.is_empty() {
            self.exchange.wishes().handshake.extend(bytes);
            self.exchange.changed.notify_one();
        }
    }

    /// Notes what the viewer asks for. Returns the input of a driver.
    fn note(&self, event: &ViewerEvent) -> Option<ScreenInput> {
        let mut wishes = self.exchange.wishes();
        match *event {
            ViewerEvent::ClientInit { .. } => wishes.is_initialised = true,
            ViewerEvent::PixelFormat(format) => wishes.format = format,
            ViewerEvent::Encodings(encodings) => wishes.encodings = encodings,
            ViewerEvent::UpdateRequest { incremental, region } => {
                let requested = wishes.requested.map_or(region, |earlier| earlier.union(region));
                wishes.requested = Some(requested);
                if !incremental {
                    // A viewer that asks more often than it reads gets one repaint.
                    let earlier = wishes.repaint;
                    wishes.repaint = Some(earlier.map_or(region, |earlier| earlier.union(region)));
                }
            }
            ViewerEvent::Key { keysym, down } if self.driver.is_some() => {
                return Some(ScreenInput::Key { keysym, down });
            }
            ViewerEvent::Pointer { buttons, x, y } if self.driver.is_some() => {
                return Some(ScreenInput::Pointer { buttons, x, y });
            }
            ViewerEvent::Version { .. }
            | ViewerEvent::Security
            | ViewerEvent::Key { .. }
            | ViewerEvent::Pointer { .. }
            | ViewerEvent::CutText => {}
        }
        None
    }

    /// Passes input on if the viewer still has the right to send it. The guard notices the end of a
    /// right a moment later than it happens.
    async fn send(&mut self, input: Vec<ScreenInput>) -> Result<(), ViewerEnd> {
        let Some(driver) = self.driver else { return Ok(()) };
        if input.is_empty() {
            return Ok(());
        }
        self.rights.judge()?;
        driver.send(input).await;
        Ok(())
    }
}

/// Sends what the viewer lacks.
struct Writer<'s> {
    user: &'s mut ScreenUser,
    pieces: &'s SharedPieces,
    name: &'s str,
    exchange: &'s Exchange,
    /// The size that the viewer knows. `None` before `ServerInit`.
    size: Option<ScreenSize>,
    /// The size of the frame that was last noted.
    frame_size: ScreenSize,
    signal: Signal,
    /// When the last picture stops to be shown although the new one is not complete.
    repaint_until: Option<Duration>,
    pending: PendingDamage,
    started_at: Duration,
    ping_at: Duration,
}

/// What the viewer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Frame,
    None,
}

/// The connection of the viewer is closed or broken.
struct ConnectionLost;

impl<'s> Writer<'s> {
    fn new(
        user: &'s mut ScreenUser,
        pieces: &'s SharedPieces,
        name: &'s str,
        exchange: &'s Exchange,
    ) -> Self {
        let now = exchange.clock.elapsed();
        let frame = user.frame();
        let mut writer = Self {
            user,
            pieces,
            name,
            exchange,
            size: None,
            frame_size: frame.size,
            signal: Signal::None,
            repaint_until: None,
            pending: PendingDamage::default(),
            started_at: now,
            ping_at: now + PING_INTERVAL,
        };
        writer.note(&frame, &[]);
        writer
    }

    async fn run(&mut self, outgoing: &mut (impl Sink<ToViewer> + Unpin)) -> ViewerEnd {
        loop {
            if let Err(ConnectionLost) = self.send_due(outgoing).await {
                return ViewerEnd::Left;
            }
            if self.size.is_none() && self.now() >= self.started_at + HANDSHAKE {
                return ViewerEnd::Silent;
            }
            let sleep = self.wake_at().saturating_sub(self.now());
            tokio::select! {
                changed = self.user.changed() => match changed {
                    Ok(FrameChange { frame, damage }) => self.note(&frame, &damage),
                    Err(failure) => return end_of_screen(&failure),
                },
                () = self.exchange.changed.notified() => {}
                () = self.exchange.clock.sleep(sleep) => {}
            }
        }
    }

    /// Sends all that is due now.
    async fn send_due(
        &mut self,
        outgoing: &mut (impl Sink<ToViewer> + Unpin),
    ) -> Result<(), ConnectionLost> {
        let handshake = std::mem::take(&mut self.exchange.wishes().handshake);
        if !handshake.is_empty() {
            send(outgoing, ToViewer::Bytes(handshake.into())).await?;
        }
        self.send_ping(outgoing).await?;
        self.end_repaint();
        let is_initialised = self.exchange.wishes().is_initialised;
        let Some(size) = self.size else {
            if is_initialised && self.knows_size() {
                self.send_server_init(outgoing).await?;
            }
            return Ok(());
        };
        self.send_update(size, outgoing).await
    }

    async fn send_ping(
        &mut self,
        outgoing: &mut (impl Sink<ToViewer> + Unpin),
    ) -> Result<(), ConnectionLost> {
        if self.now() < self.ping_at {
            return Ok(());
        }
        self.ping_at = self.now() + PING_INTERVAL;
        send(outgoing, ToViewer::Ping).await
    }

    /// Whether the size of the screen is known, or the viewer has waited long enough for it.
    fn knows_size(&self) -> bool {
        self.signal == Signal::Frame || self.now() >= self.started_at + FIRST_FRAME
    }

    async fn send_server_init(
        &mut self,
        outgoing: &mut (impl Sink<ToViewer> + Unpin),
    ) -> Result<(), ConnectionLost> {
        let size = if self.frame_size.pixels() > 0 { self.frame_size } else { UNKNOWN_SIZE };
        self.size = Some(size);
        self.pending.set_whole(size);
        let init = viewer_updates::server_init(size, self.name);
        send(outgoing, ToViewer::Bytes(init.into())).await
    }

    /// Notes a new frame and what changed in it.
    fn note(&mut self, frame: &Frame, damage: &[Region]) {
        let size = self.size.unwrap_or(frame.size);
        if frame.size != self.frame_size {
            self.frame_size = frame.size;
            self.pending.set_whole(size);
        }
        for region in damage {
            self.pending.add(*region, size);
        }
        let is_painted = frame.is_current();
        if frame.live && !is_painted && self.signal == Signal::Frame {
            // A mode switch is painted within a moment.
            let until = self.now() + REPAINT;
            self.repaint_until.get_or_insert(until);
            return;
        }
        self.repaint_until = None;
        self.show(if is_painted { Signal::Frame } else { Signal::None });
    }

    /// Stops to show the last picture if the new one is not painted in time.
    fn end_repaint(&mut self) {
        if self.repaint_until.is_some_and(|until| self.now() >= until) {
            self.repaint_until = None;
            self.show(Signal::None);
        }
    }

    fn show(&mut self, signal: Signal) {
        if self.signal != signal {
            self.signal = signal;
            self.pending.set_whole(self.size.unwrap_or(self.frame_size));
        }
    }

    /// Sends one update if the viewer has asked for one and lacks something.
    async fn send_update(
        &mut self,
        size: ScreenSize,
        outgoing: &mut (impl Sink<ToViewer> + Unpin),
    ) -> Result<(), ConnectionLost> {
        if self.repaint_until.is_some() {
            return Ok(());
        }
        let Some(shown) = self.shown() else { return Ok(()) };
        let (requested, repaint, coding, encodings) = {
            let mut wishes = self.exchange.wishes();
            let Some(requested) = wishes.requested else { return Ok(()) };
            let repaint = wishes.repaint.take();
            let coding = if wishes.encodings.tight_png {
                Coding::TightPng
            } else {
                Coding::Raw(wishes.format)
            };
            (requested, repaint, coding, wishes.encodings)
        };
        if self.signal == Signal::Frame && self.frame_size != size && encodings.desktop_size {
            self.exchange.wishes().requested = None;
            return self.send_resize(outgoing).await;
        }
        if let Some(region) = repaint {
            self.pending.add(region, size);
        }
        if !self.pending.touches(requested) {
            return Ok(());
        }
        self.exchange.wishes().requested = None;
        let regions = self.pending.take_inside(requested);
        self.send_regions(shown, size, &regions, coding, outgoing).await
    }

    /// What the viewer is shown now. `None` if the newest frame was not noted yet.
    fn shown(&self) -> Option<Shown> {
        match self.signal {
            Signal::None => Some(Shown::NoSignal),
            Signal::Frame => {
                let frame = self.user.frame();
                let is_noted = frame.is_current() && frame.size == self.frame_size;
                is_noted.then_some(Shown::Frame(frame))
            }
        }
    }

    /// Sends the new size alone, as the host does. The viewer then asks for the whole screen.
    async fn send_resize(
        &mut self,
        outgoing: &mut (impl Sink<ToViewer> + Unpin),
    ) -> Result<(), ConnectionLost> {
        let size = self.frame_size;
        self.size = Some(size);
        self.pending.set_whole(size);
        feed(outgoing, ToViewer::Bytes(viewer_updates::resize(size))).await?;
        flush(outgoing).await
    }

    /// Sends regions as one update, in small pieces.
    async fn send_regions(
        &mut self,
        shown: Shown,
        size: ScreenSize,
        regions: &[Region],
        coding: Coding,
        outgoing: &mut (impl Sink<ToViewer> + Unpin),
    ) -> Result<(), ConnectionLost> {
        let mut pieces = split(regions, coding.limits());
        if pieces.len() > usize::from(u16::MAX) {
            // Regions that overlap on a very large screen.
            let whole = regions.iter().copied().reduce(Region::union);
            pieces = split(whole.as_slice(), coding.limits());
        }
        let count = u16::try_from(pieces.len()).map_err(|_| ConnectionLost)?;
        let header = Bytes::copy_from_slice(&viewer_updates::update_header(count));
        feed(outgoing, ToViewer::Bytes(header)).await?;
        let mut kept = Some(shown);
        for region in &pieces {
            let shown = match kept.take() {
                Some(shown) => shown,
                // The viewer read slowly: it gets the pixels that are the newest by now.
                None => self.shown().unwrap_or_else(|| {
                    self.pending.add(*region, size);
                    Shown::NoSignal
                }),
            };
            let encoded = self.pieces.piece(&shown, size, *region, coding).await;
            let encoded = encoded.map_err(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "a screen is not encoded");
                ConnectionLost
            })?;
            {
                let mut sending = std::pin::pin!(feed(outgoing, ToViewer::Bytes(encoded)));
                tokio::select! {
                    biased;
                    sent = &mut sending => {
                        sent?;
                        kept = Some(shown);
                    }
                    () = self.exchange.clock.sleep(SLOW) => {
                        drop(shown);
                        sending.await?;
                    }
                }
            }
            self.exchange.note_alive();
            self.send_ping(outgoing).await?;
        }
        // The rest of the update is in the buffer of the connection.
        drop(kept);
        flush(outgoing).await?;
        self.exchange.note_alive();
        Ok(())
    }

    /// When something may be due although nothing changed.
    fn wake_at(&self) -> Duration {
        let started = [FIRST_FRAME, HANDSHAKE].map(|limit| self.started_at + limit);
        let started = started.into_iter().filter(|at| self.size.is_none() && *at > self.now());
        started.chain(self.repaint_until).fold(self.ping_at, Duration::min)
    }

    fn now(&self) -> Duration {
        self.exchange.clock.elapsed()
    }
}

/// The end of a viewer whose screen has ended.
fn end_of_screen(failure: &Failure) -> ViewerEnd {
    match failure.kind {
        FailureKind::ShuttingDown => ViewerEnd::ShuttingDown,
        _ => ViewerEnd::MachineGone,
    }
}

async fn send(
    outgoing: &mut (impl Sink<ToViewer> + Unpin),
    message: ToViewer,
) -> Result<(), ConnectionLost> {
    outgoing.send(message).await.map_err(|_| ConnectionLost)
}

async fn feed(
    outgoing: &mut (impl Sink<ToViewer> + Unpin),
    message: ToViewer,
) -> Result<(), ConnectionLost> {
    outgoing.feed(message).await.map_err(|_| ConnectionLost)
}

async fn flush(outgoing: &mut (impl Sink<ToViewer> + Unpin)) -> Result<(), ConnectionLost> {
    outgoing.flush().await.map_err(|_| ConnectionLost)
}
