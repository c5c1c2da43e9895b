//! One connection on which RFB is spoken: what it requests of the host, and when it is given up.

use std::time::Duration;

use super::protocol::Effect;
use crate::domain::screen::Region;
use crate::rfb::{ServerStream, client_messages};
use crate::service::screens::frame::Canvas;

/// The RFB handshake may take this long.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// The missing part of the screen is requested again after this time without an answer.
pub const REPEAT_REQUEST: Duration = Duration::from_secs(1);

/// A host that sent nothing for this time gets a probe.
pub const SILENCE: Duration = Duration::from_secs(15);

/// A host that does not answer a request that it has to answer is given up after this time.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A host that sends, but never the answer to the probe, is given up after this time.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// The side of the probe in pixels.
const PROBE_SIDE: u16 = 16;

/// A connection on which RFB is spoken.
#[derive(Debug)]
pub struct Console {
    pub codec: ServerStream,
    pub is_ready: bool,
    pub opened_at: Duration,
    /// The highest number that was asked before the connection was requested. The first complete
    /// frame confirms it.
    pub asked_before: u64,
    /// When bytes last came.
    pub heard_at: Duration,
    /// When the screen was last requested.
    requested_at: Duration,
    /// Since when a request that has to be answered is unanswered.
    pub unanswered_since: Option<Duration>,
    pub probe: Option<Probe>,
    /// Whether the current update painted anything.
    pub has_pixels: bool,
    pub empty_updates: u32,
    /// Whether no request is outstanding, because the server answers each with nothing. The next
    /// one comes when the time has come.
    pub is_withheld: bool,
}

/// A request that the host has to answer although nothing changed.
#[derive(Debug)]
pub struct Probe {
    /// The highest number that was asked before it was first sent.
    pub asked: u64,
    sent_at: Duration,
    region: Region,
    /// Whether the current update has exactly the requested rectangle, or covers it.
    is_exact: bool,
    is_covered: bool,
    /// The updates since it was sent that covered it. The first may have been under way already.
    covering_updates: u32,
}

impl Console {
    /// A connection that was opened now.
    ///
    /// # Parameters
    /// - `asked_before`: the highest number that was asked before it was requested.
    pub fn new(asked_before: u64, now: Duration) -> Self {
        Self {
            codec: ServerStream::new(),
            is_ready: false,
            opened_at: now,
            asked_before,
            heard_at: now,
            requested_at: now,
            unanswered_since: None,
            probe: None,
            has_pixels: false,
            empty_updates: 0,
            is_withheld: false,
        }
    }

    /// When the time of this connection has come.
    pub fn due(&self, is_complete: bool) -> Duration {
        if !self.is_ready {
            return self.opened_at + HANDSHAKE_LIMIT;
        }
        let unanswered = self.unanswered_since.map(|since| since.max(self.heard_at) + ANSWER_LIMIT);
        let probe = self.probe.as_ref().map(|probe| probe.sent_at + PROBE_LIMIT);
        let next = if !is_complete || self.is_withheld {
            self.requested_at + REPEAT_REQUEST
        } else {
            // While a probe is under way, only its limits count.
            probe.unwrap_or(self.heard_at + SILENCE)
        };
        unanswered.into_iter().chain(probe).fold(next, Duration::min)
    }

    /// Why the connection is given up now. `None` if it is not.
    pub fn reason_to_give_up(&self, now: Duration) -> Option<&'static str> {
        let is_over = |since: Duration, limit: Duration| now.saturating_sub(since) >= limit;
        if !self.is_ready {
            return is_over(self.opened_at, HANDSHAKE_LIMIT)
                .then_some("The host's console did not finish the RFB handshake in time.");
        }
        let is_silent = self
            .unanswered_since
            .is_some_and(|since| is_over(since.max(self.heard_at), ANSWER_LIMIT));
        let is_unconfirmed =
            self.probe.as_ref().is_some_and(|probe| is_over(probe.sent_at, PROBE_LIMIT));
        (is_silent || is_unconfirmed).then_some("The host's console does not answer.")
    }

    /// Requests a missing part of the screen, or the next changes if it is complete, and sends the
    /// probe again if it is not answered. The part has no pixel that was painted already: a server
    /// that answers with one rectangle at a time would else send the first one again and again.
    pub fn request(&mut self, canvas: &Canvas, now: Duration, effects: &mut Vec<Effect>) {
        let mut bytes = match canvas.missing() {
            Some(missing) => {
                self.unanswered_since.get_or_insert(now);
                client_messages::update_request(false, missing).to_vec()
            }
            None => client_messages::update_request(true, canvas.size().whole()).to_vec(),
        };
        self.requested_at = now;
        self.is_withheld = false;
        if let Some(probe) = self.probe.take() {
            bytes.extend(self.send_probe(probe, now));
        }
        effects.push(Effect::Send(bytes));
    }

    /// The bytes of a probe, which is under way from now on.
    pub fn send_probe(&mut self, probe: Probe, now: Duration) -> Vec<u8> {
        self.unanswered_since.get_or_insert(now);
        let bytes = client_messages::update_request(false, probe.region).to_vec();
        self.probe = Some(probe);
        bytes
    }
}

impl Probe {
    /// A probe that is sent now, for questions up to the number `asked`.
    pub fn new(asked: u64, canvas: &Canvas, now: Duration) -> Self {
        let mut probe = Self {
            asked,
            sent_at: now,
            region: Region::new(0, 0, 0, 0),
            is_exact: false,
            is_covered: false,
            covering_updates: 0,
        };
        probe.aim(canvas);
        probe
    }

    /// Aims at the top left corner of the screen.
    pub fn aim(&mut self, canvas: &Canvas) {
        let size = canvas.size();
        self.region = Region::new(0, 0, size.width.min(PROBE_SIDE), size.height.min(PROBE_SIDE));
        (self.is_exact, self.is_covered, self.covering_updates) = (false, false, 0);
    }

    /// The current update painted this region.
    pub fn on_painted(&mut self, region: Region) {
        self.is_exact |= region == self.region;
        self.is_covered |= region.contains(self.region);
    }

    /// Whether the update that ends now answers the probe. An update that only covers it may have
    /// been under way when the probe was sent, so it takes two of them.
    pub fn is_answered(&mut self) -> bool {
        self.covering_updates += u32::from(std::mem::take(&mut self.is_covered));
        std::mem::take(&mut self.is_exact) || self.covering_updates >= 2
    }
}
