//! What the two halves of a viewer's session tell each other: what the viewer has asked for, and
//! when it was last alive.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::viewer_end::ViewerEnd;
use crate::clock::Clock;
use crate::domain::screen::Region;
use crate::rfb::{PixelFormat, ViewerEncodings};

/// A viewer that neither sends nor reads anything for this long is dropped.
const SILENCE: Duration = Duration::from_mins(1);

/// What a viewer's connection received.
#[derive(Clone, Debug)]
pub enum FromViewer {
    /// Bytes of RFB.
    Bytes(Bytes),
    /// A text, which RFB does not use.
    Text,
    /// The beginning of a message that is too large. It is the last thing that is received.
    TooLarge,
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

/// What the reader tells the writer.
pub struct Exchange {
    pub clock: Clock,
    wishes: Mutex<Wishes>,
    /// Wakes the writer when the viewer has asked for something.
    pub changed: Notify,
}

/// What a viewer has asked for.
pub struct Wishes {
    /// Bytes of the handshake that are still to be sent.
    pub handshake: Vec<u8>,
    /// Whether the viewer ended the handshake by its `ClientInit`.
    pub is_initialised: bool,
    pub format: PixelFormat,
    pub encodings: ViewerEncodings,
    /// The region for which an update is due.
    pub requested: Option<Region>,
    /// The region that must be sent even if it did not change.
    pub repaint: Option<Region>,
    /// When the viewer last sent or read anything, by the monotonic clock.
    pub alive_at: Duration,
}

impl Exchange {
    pub fn new(clock: &Clock) -> Self {
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

    /// What the viewer has asked for.
    pub fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The viewer sent or read something.
    pub fn note_alive(&self) {
        self.wishes().alive_at = self.clock.elapsed();
    }

    /// Ends once the viewer was silent for too long.
    pub async fn until_silent(&self) -> ViewerEnd {
        loop {
            let silent_for = self.clock.elapsed().saturating_sub(self.wishes().alive_at);
            match SILENCE.checked_sub(silent_for).filter(|left| !left.is_zero()) {
                Some(left) => self.clock.sleep(left).await,
                None => return ViewerEnd::Silent,
            }
        }
    }
}
