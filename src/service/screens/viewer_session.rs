//! One viewer of a screen: otter's own RFB server over the frame that all viewers share.
//!
//! ```text
//! handshake ──ClientInit──► (first frame, at most 2 s) ──ServerInit──► serving ──► ended
//! ```
//! Three parts run at the same time, and the first that ends, ends the viewer:
//! - the guard judges the right of the viewer again after each change that may end it;
//! - the reader reads what the viewer sends, and passes the input of a driver on;
//! - the writer (`viewer_writer`) sends the parts of the screen that the viewer lacks and has asked
//!   for.

use std::sync::Arc;

use futures_util::{Sink, Stream, StreamExt};
use tokio_util::sync::CancellationToken;

pub use super::viewer_exchange::{FromViewer, ToViewer};

use super::drive::DriverInput;
use super::screen_user::ScreenUser;
use super::viewer_end::ViewerEnd;
use super::viewer_exchange::Exchange;
use super::viewer_pieces::SharedPieces;
use super::viewer_rights::ViewerRights;
use super::viewer_writer::Writer;
use crate::clock::Clock;
use crate::domain::input::{Point, ScreenInput};
use crate::rfb::{ViewerEvent, ViewerStream};

/// The most messages of input that are sent to the host at once.
const INPUT_BATCH: usize = 64;

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
                FromViewer::TooLarge => return ViewerEnd::TooLarge,
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
                return Some(ScreenInput::Pointer { buttons, at: Point { x, y } });
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
