//! The half of a viewer's session that sends: the handshake, pings, and the parts of the screen
//! that the viewer lacks and has asked for.
//!
//! A viewer that reads slowly costs one small piece: the pixels of the next piece are read from the
//! newest frame when the last one was sent, and what changed meanwhile is noted as a few regions.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt};

use super::frame::{Frame, FrameChange};
use super::screen_user::ScreenUser;
use super::viewer_damage::{PendingDamage, split};
use super::viewer_end::ViewerEnd;
use super::viewer_exchange::{Exchange, ToViewer};
use super::viewer_pieces::{Coding, SharedPieces, Shown};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::screen::{Region, ScreenSize};
use crate::rfb::viewer_updates;

/// The time between two pings.
const PING_INTERVAL: Duration = Duration::from_secs(20);

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

/// Sends what the viewer lacks.
pub struct Writer<'s> {
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
    /// A writer to a viewer of which nothing is known yet.
    pub fn new(
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

    /// Sends until the connection or the screen ends.
    pub async fn run(&mut self, outgoing: &mut (impl Sink<ToViewer> + Unpin)) -> ViewerEnd {
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
