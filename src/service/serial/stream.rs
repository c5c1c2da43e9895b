//! One client that reads a serial port as it goes, and may write to it: the bytes of a terminal.
//!
//! Three parts run at the same time, and the first that ends, ends the stream:
//! - the guard judges the right of the client again after each change that may end it;
//! - the reader passes what a writer sends on to the port;
//! - the writer sends what the port outputs. A client that falls behind jumps, with a gap.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use super::port_log::Bounds;
use super::shared_port::PortUse;
use super::writer::WriterSeat;
use super::{SerialPiece, SerialReader};
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::serial::GapReason;
use crate::service::screens::viewer_end::ViewerEnd;
use crate::service::screens::viewer_rights::ViewerRights;
use crate::service::screens::viewer_session::FromViewer;

/// The time between two pings.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// A client that neither sends nor reads anything for this long is dropped.
const SILENCE: Duration = Duration::from_mins(1);

/// The most bytes that wait for a client. If more do, it gets the newest half of this.
const MAX_BACKLOG: u64 = 1024 * 1024;

/// The bytes that are passed on to the port at once.
const INPUT_PIECE: usize = 4 * 1024;

/// What a client's connection has to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToStream {
    /// The first message: the next byte has this offset.
    Start(u64),
    Bytes(Bytes),
    /// Bytes may be missing here. The next byte has this offset.
    Gap {
        offset: u64,
        reason: GapReason,
    },
    Ping,
}

/// The parts of a stream.
pub struct StreamParts {
    pub reader: SerialReader,
    /// `None` if the client only reads. What it sends is then ignored.
    pub seat: Option<WriterSeat>,
    pub rights: ViewerRights,
    pub clock: Clock,
    pub counts: InputCounts,
}

/// The bytes that a writer sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InputCounts {
    pub bytes: u64,
    /// Those of them that did not reach the port for certain.
    pub lost: u64,
}

/// Serves a client until it ends.
///
/// # Parameters
/// - `incoming`: ends when the connection is closed or broken.
/// - `outgoing`: an error is the end of the connection.
pub async fn serve_stream<I, O>(
    parts: &mut StreamParts,
    incoming: &mut I,
    outgoing: &mut O,
    stop: &CancellationToken,
) -> ViewerEnd
where
    I: Stream<Item = FromViewer> + Unpin,
    O: Sink<ToStream> + Unpin,
{
    let StreamParts { reader, seat, rights, clock, counts } = parts;
    let taken_over = seat.as_ref().map(WriterSeat::taken_over);
    let alive = Alive::new(clock);
    let usage = reader.usage().clone();
    let mut input = Input { seat: seat.as_mut(), usage, rights, alive: &alive, counts };
    let mut output = Output { reader, alive: &alive, clock };
    tokio::select! {
        biased;
        end = rights.until_ended(taken_over, stop) => end,
        end = alive.until_silent() => end,
        end = input.run(incoming) => end,
        end = output.run(outgoing) => end,
    }
}

/// When the client last sent or read anything, by the monotonic clock.
struct Alive {
    clock: Clock,
    at: Mutex<Duration>,
}

impl Alive {
    fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), at: Mutex::new(clock.elapsed()) }
    }

    fn note(&self) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.elapsed();
    }

    /// Ends once the client was silent for too long.
    async fn until_silent(&self) -> ViewerEnd {
        loop {
            let at = *self.at.lock().unwrap_or_else(PoisonError::into_inner);
            let silent_for = self.clock.elapsed().saturating_sub(at);
            match SILENCE.checked_sub(silent_for).filter(|left| !left.is_zero()) {
                Some(left) => self.clock.sleep(left).await,
                None => return ViewerEnd::Silent,
            }
        }
    }
}

/// Passes on what the client sends.
struct Input<'s> {
    seat: Option<&'s mut WriterSeat>,
    usage: PortUse,
    rights: &'s ViewerRights,
    alive: &'s Alive,
    counts: &'s mut InputCounts,
}

impl Input<'_> {
    async fn run(&mut self, incoming: &mut (impl Stream<Item = FromViewer> + Unpin)) -> ViewerEnd {
        while let Some(received) = incoming.next().await {
            self.alive.note();
            let bytes = match received {
                FromViewer::Bytes(bytes) => bytes,
                FromViewer::Alive => continue,
                FromViewer::TooLarge => return ViewerEnd::TooLarge,
                FromViewer::Text => {
                    let error = "a serial port needs binary messages, and this was a text message";
                    return ViewerEnd::Protocol(error.to_owned());
                }
            };
            let Some(seat) = &mut self.seat else { continue };
            seat.ready().await;
            for piece in bytes.chunks(INPUT_PIECE) {
                // The guard notices the end of a right a moment later than it happens.
                if let Err(end) = self.rights.judge() {
                    return end;
                }
                let length = super::ring::length(piece.len());
                self.counts.bytes += length;
                // Input that is lost with the connection is dropped: it would reach a machine that
                // its sender does not see.
                if self.usage.send(None, Bytes::copy_from_slice(piece)).await.is_err() {
                    self.counts.lost += length;
                }
            }
        }
        ViewerEnd::Left
    }
}

/// Sends what the port outputs.
struct Output<'s> {
    reader: &'s mut SerialReader,
    alive: &'s Alive,
    clock: &'s Clock,
}

impl Output<'_> {
    async fn run(&mut self, outgoing: &mut (impl Sink<ToStream> + Unpin)) -> ViewerEnd {
        let mut message = ToStream::Start(self.reader.position());
        let mut ping_at = self.clock.elapsed() + PING_INTERVAL;
        loop {
            if outgoing.send(message).await.is_err() {
                return ViewerEnd::Left;
            }
            self.alive.note();
            let to_ping = ping_at.saturating_sub(self.clock.elapsed());
            message = tokio::select! {
                biased;
                () = self.clock.sleep(to_ping) => {
                    ping_at = self.clock.elapsed() + PING_INTERVAL;
                    ToStream::Ping
                }
                piece = next(self.reader) => match piece {
                    Ok(SerialPiece::Bytes { bytes, .. }) => ToStream::Bytes(bytes),
                    Ok(SerialPiece::Gap { offset, reason }) => ToStream::Gap { offset, reason },
                    Err(failure) => return end_of(failure),
                },
            };
        }
    }
}

/// The next piece for a client, which may have fallen behind.
async fn next(reader: &mut SerialReader) -> Result<SerialPiece, Failure> {
    let Bounds { next, .. } = reader.bounds();
    if next.saturating_sub(reader.position()) > MAX_BACKLOG {
        return Ok(reader.jump(next - MAX_BACKLOG / 2));
    }
    reader.next().await
}

fn end_of(failure: Failure) -> ViewerEnd {
    match failure.kind {
        FailureKind::MachineGone => ViewerEnd::MachineGone,
        FailureKind::ShuttingDown => ViewerEnd::ShuttingDown,
        _ => ViewerEnd::Failed(failure.detail),
    }
}
