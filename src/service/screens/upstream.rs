//! The connection to the screen of one machine as a pure state machine: events in, effects out.
//!
//! ```text
//!            machine on                 connected                 RFB is ready
//! Closed ───────────────► Opening ────────────────► Handshake ───────────────► Open
//!   ▲                      ▲   │ failed                 │ lost, silent           │ lost, silent
//!   │ machine not on       │   ▼                        ▼                        ▼
//!   └────────────────── Waiting (a pause) ◄─────────────┴────────────────────────┘
//!                          │ the host refuses consoles and gives pictures
//!                          ▼
//!                       Fallback: reads a picture every 2 s, and tries a console now and then
//! ```
//! While it is open, one request for changes is outstanding. Servers answer even a request for the
//! whole screen with a part of it, so the missing part is requested again until every pixel was
//! painted. A screen that does not change is silent, so a silent host gets a probe: a request that
//! it has to answer. A caller that asks for a confirmed frame causes the same probe. `protocol` has
//! the events and effects, and `console` the requests of one connection.

mod console;
mod protocol;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::protocol::{Effect, Event, Moment, Refusal, Status};

use self::console::{Console, Probe};
use super::frame::{Canvas, FrameChange};
use super::state::ConnectionState;
use crate::domain::input::ScreenInput;
use crate::domain::screen::Picture;
use crate::hypervisor::HostErrorKind;
use crate::rfb::{RfbError, ServerEvent, client_messages};

/// A try to connect is given up after this time.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// So many updates without a pixel may follow each other before otter waits for its next request.
const MAX_EMPTY_UPDATES: u32 = 8;

/// After a machine was powered on, its console can fail for a while. So many tries, with this pause
/// between them, are no failure.
const START_TRIES: u32 = 11;
const START_PAUSE: Duration = Duration::from_secs(5);

/// The pauses between tries otherwise: the first, doubled each time up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// A console that lasted this long is opened again at once.
const STABLE: Duration = Duration::from_secs(5);

/// The pause between two pictures of the fallback.
const PICTURE_PAUSE: Duration = Duration::from_secs(2);

/// How often the fallback tries a console.
const FALLBACK_TRY: Duration = Duration::from_secs(30);

/// The state machine of one screen.
#[derive(Debug)]
pub struct Upstream {
    canvas: Canvas,
    link: Link,
    status: Status,
    is_on: bool,
    in_use: bool,
    /// Whether the host gives pictures if it refuses a console.
    has_pictures: bool,
    /// When the guest was last started, as far as it is known.
    started_at: Option<Duration>,
    /// Tries since the last console that was stable, or since the last start.
    tries: u32,
    /// The highest number of [`Event::Ask`].
    asked: u64,
    /// As [`Status::confirmed`]. It is published together with the frame that it is about.
    confirmed: u64,
    /// When the host last answered.
    answered_at: Option<Duration>,
    /// When the host last answered before the published frame.
    heard_at: Option<Duration>,
}

#[derive(Debug)]
enum Link {
    /// The machine is not on.
    Closed,
    Opening {
        since: Duration,
        /// The highest number that was asked before the connection was requested.
        asked: u64,
        /// Whether it is a try of the fallback.
        from_fallback: bool,
    },
    Waiting {
        until: Duration,
        since: Duration,
    },
    Connected(Box<Console>),
    Fallback(Fallback),
}

#[derive(Debug)]
struct Fallback {
    is_reading: bool,
    /// The highest number that was asked before the read began.
    asked: u64,
    read_at: Option<Duration>,
    failed_reads: u32,
    try_console_at: Duration,
}

impl Upstream {
    /// The upstream of a machine whose power is not known yet: [`Event::Power`] begins it.
    ///
    /// # Parameters
    /// - `has_pictures`: whether the host gives pictures if it refuses a console.
    /// - `started_at`: when the guest was last started, if it is known.
    #[must_use]
    pub fn new(has_pictures: bool, started_at: Option<Duration>, now: Moment) -> Self {
        Self {
            canvas: Canvas::new(now.wall),
            link: Link::Closed,
            status: Status::default(),
            is_on: false,
            in_use: true,
            has_pictures,
            started_at,
            tries: 0,
            asked: 0,
            confirmed: 0,
            answered_at: None,
            heard_at: None,
        }
    }

    /// The counters and the last failure.
    #[must_use]
    pub const fn status(&self) -> &Status {
        &self.status
    }

    /// The state of the connection.
    #[must_use]
    pub fn connection(&self) -> ConnectionState {
        match &self.link {
            Link::Closed => ConnectionState::Closed,
            Link::Opening { from_fallback: true, .. } | Link::Fallback(_) => {
                ConnectionState::Fallback
            }
            Link::Waiting { .. } => ConnectionState::Retrying,
            Link::Opening { .. } if self.tries > 1 => ConnectionState::Retrying,
            Link::Connected(console) if console.is_ready => ConnectionState::Open,
            Link::Opening { .. } | Link::Connected(_) => ConnectionState::Opening,
        }
    }

    /// Whether the host reports that the machine is on.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.is_on
    }

    /// When the host last answered before the published frame, as the elapsed time of the clock.
    #[must_use]
    pub const fn heard_at(&self) -> Option<Duration> {
        self.heard_at
    }

    /// The next frame, if anything changed since the last call.
    pub fn publish(&mut self, now: Moment) -> Option<FrameChange> {
        let in_update = match &self.link {
            Link::Connected(console) => console.has_pixels,
            _ => false,
        };
        // Half an update is no picture. The answers before it wait for its end too: they are about
        // pixels that no published frame has yet.
        if in_update {
            return None;
        }
        self.status.confirmed = self.confirmed;
        self.heard_at = self.answered_at;
        self.canvas.publish(now.wall)
    }

    /// The bytes of some input. `None` if no console is ready.
    #[must_use]
    pub fn encode(&self, input: &[ScreenInput]) -> Option<Vec<u8>> {
        let Link::Connected(console) = &self.link else { return None };
        console.is_ready.then(|| {
            let mut bytes = Vec::with_capacity(input.len() * 8);
            for input in input {
                match *input {
                    ScreenInput::Key { keysym, down } => {
                        bytes.extend_from_slice(&client_messages::key(keysym, down));
                    }
                    ScreenInput::Pointer { buttons, at } => {
                        bytes.extend_from_slice(&client_messages::pointer(buttons, at.x, at.y));
                    }
                }
            }
            bytes
        })
    }

    /// When [`Event::TimePassed`] is due, as the elapsed time of the clock. `None`: never.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        match &self.link {
            Link::Closed => None,
            Link::Opening { since, .. } => Some(*since + CONNECT_LIMIT),
            Link::Waiting { until, .. } => Some(*until),
            Link::Connected(console) => Some(console.due(self.canvas.is_complete())),
            Link::Fallback(fallback) if fallback.is_reading => None,
            Link::Fallback(fallback) => {
                let read = self.in_use.then(|| fallback.next_read());
                Some(read.map_or(fallback.try_console_at, |at| at.min(fallback.try_console_at)))
            }
        }
    }

    /// Handles an event.
    ///
    /// # Returns
    /// What the task has to do, in this order.
    pub fn handle(&mut self, event: Event<'_>, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Power { on } => self.set_power(on, now, &mut effects),
            Event::Restarted => self.restart(now, &mut effects),
            Event::InUse(in_use) => self.in_use = in_use,
            Event::Connected => self.begin_handshake(now, &mut effects),
            Event::ConnectFailed(refusal) => self.connect_failed(refusal, now, &mut effects),
            Event::Bytes(bytes) => self.receive(bytes, now, &mut effects),
            Event::Lost(message) => self.lose(message, now, &mut effects),
            Event::Ask(number) => self.ask(number, now, &mut effects),
            Event::PictureRead(picture) => self.picture_read(picture, now),
            Event::PictureFailed(refusal) => self.picture_failed(refusal),
            Event::TimePassed => self.time_passed(now, &mut effects),
        }
        effects
    }

    fn set_power(&mut self, on: bool, now: Moment, effects: &mut Vec<Effect>) {
        if on == self.is_on {
            return;
        }
        self.is_on = on;
        if on {
            self.tries = 0;
            self.open(now, effects);
        } else {
            self.close(effects);
            self.link = Link::Closed;
        }
    }

    fn restart(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.started_at = Some(now.elapsed);
        self.tries = 0;
        self.canvas.uncover();
        match &mut self.link {
            Link::Connected(console) if console.is_ready => {
                console.request(&self.canvas, now.elapsed, effects);
            }
            Link::Waiting { .. } => self.open(now, effects),
            Link::Fallback(fallback) => {
                // The picture that is being read may be older than the restart.
                fallback.is_reading = false;
                self.read_if_due(now, effects);
            }
            _ => {}
        }
    }

    fn open(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let from_fallback = matches!(self.link, Link::Fallback(_));
        self.tries = self.tries.saturating_add(1);
        self.link = Link::Opening { since: now.elapsed, asked: self.asked, from_fallback };
        effects.push(Effect::Connect);
    }

    fn begin_handshake(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let Link::Opening { asked, .. } = self.link else {
            effects.push(Effect::Disconnect);
            return;
        };
        let mut console = Console::new(asked, now.elapsed);
        let greeting = console.codec.to_send();
        if !greeting.is_empty() {
            effects.push(Effect::Send(greeting));
        }
        self.link = Link::Connected(Box::new(console));
    }

    fn connect_failed(&mut self, refusal: &Refusal, now: Moment, effects: &mut Vec<Effect>) {
        let Link::Opening { from_fallback, .. } = self.link else { return };
        let refuses_consoles = matches!(
            refusal.kind,
            Some(
                HostErrorKind::ScreenLimitReached
                    | HostErrorKind::Forbidden
                    | HostErrorKind::LicenseRestricted
                    | HostErrorKind::NotSupported
            )
        );
        if self.has_pictures && (refuses_consoles || from_fallback) {
            self.status.refusal = Some(refusal.clone());
            self.link = Link::Fallback(Fallback {
                is_reading: false,
                asked: 0,
                read_at: None,
                failed_reads: 0,
                try_console_at: now.elapsed + FALLBACK_TRY,
            });
            self.read_if_due(now, effects);
        } else {
            self.fail(refusal.clone(), START_PAUSE, now);
        }
    }

    /// Ends the connection that was lost, and opens another one. A pause comes first if the
    /// connection was short.
    fn lose(&mut self, message: String, now: Moment, effects: &mut Vec<Effect>) {
        let Link::Connected(console) = &self.link else { return };
        let (was_ready, opened_at) = (console.is_ready, console.opened_at);
        self.close(effects);
        let refusal = Refusal { kind: None, message };
        if was_ready && now.elapsed.saturating_sub(opened_at) >= STABLE {
            self.status.failures += 1;
            self.status.refusal = Some(refusal);
            self.tries = 0;
            self.open(now, effects);
        } else {
            // A console that was there comes back soon, also right after a start or a revert.
            self.fail(refusal, if was_ready { FIRST_PAUSE } else { START_PAUSE }, now);
        }
    }

    /// Records a failed try, and waits for the next one.
    ///
    /// # Parameters
    /// - `start_pause`: the pause if the machine was started a short time ago.
    fn fail(&mut self, refusal: Refusal, start_pause: Duration, now: Moment) {
        let is_starting = self.is_starting(now);
        if !is_starting {
            self.status.failures += 1;
        }
        self.status.refusal = Some(refusal);
        let pause = if is_starting {
            start_pause
        } else {
            let doublings = self.tries.saturating_sub(1).min(16);
            FIRST_PAUSE.saturating_mul(1 << doublings).min(LAST_PAUSE)
        };
        self.link = Link::Waiting { until: now.elapsed + pause, since: now.elapsed };
    }

    /// Whether the machine was powered on so recently that its console may not be there yet.
    fn is_starting(&self, now: Moment) -> bool {
        let limit = START_PAUSE * START_TRIES;
        self.tries < START_TRIES
            && self.started_at.is_some_and(|at| now.elapsed.saturating_sub(at) < limit)
    }

    /// Ends the connection, and throws its picture away.
    fn close(&mut self, effects: &mut Vec<Effect>) {
        match &self.link {
            Link::Connected(console) => {
                if console.is_ready {
                    self.status.epoch += 1;
                }
                effects.push(Effect::Disconnect);
            }
            Link::Opening { .. } => effects.push(Effect::Disconnect),
            Link::Closed | Link::Waiting { .. } | Link::Fallback(_) => {}
        }
        self.canvas.set_live(false);
        self.canvas.uncover();
    }

    fn receive(&mut self, bytes: &[u8], now: Moment, effects: &mut Vec<Effect>) {
        let Link::Connected(console) = &mut self.link else { return };
        console.heard_at = now.elapsed;
        console.codec.feed(bytes);
        loop {
            let Link::Connected(console) = &mut self.link else { return };
            match console.codec.next_event() {
                Ok(Some(event)) => self.apply(event, now, effects),
                Ok(None) => break,
                Err(error) => return self.give_up(&error, now, effects),
            }
        }
        let Link::Connected(console) = &mut self.link else { return };
        let answer = console.codec.to_send();
        if !answer.is_empty() {
            // The settings of the connection come before the first request.
            effects.insert(0, Effect::Send(answer));
        }
    }

    fn give_up(&mut self, error: &RfbError, now: Moment, effects: &mut Vec<Effect>) {
        self.lose(format!("The host's screen could not be read: {error}."), now, effects);
    }

    fn apply(&mut self, event: ServerEvent, now: Moment, effects: &mut Vec<Effect>) {
        let Self { canvas, link: Link::Connected(console), .. } = self else { return };
        match event {
            ServerEvent::Ready { size, name: _ } => {
                console.is_ready = true;
                if size == canvas.size() {
                    canvas.uncover();
                } else {
                    canvas.clear(size);
                }
                canvas.set_live(true);
                console.request(canvas, now.elapsed, effects);
                self.status.epoch += 1;
                self.status.refusal = None;
            }
            ServerEvent::Resize(size) => {
                canvas.clear(size);
                if let Some(probe) = &mut console.probe {
                    probe.aim(canvas);
                }
            }
            ServerEvent::Rectangle { region, pixels } => {
                console.has_pixels = true;
                canvas.paint(region, &pixels);
                if let Some(probe) = &mut console.probe {
                    probe.on_painted(region);
                }
            }
            ServerEvent::Copy { region, from_x, from_y } => {
                console.has_pixels = true;
                canvas.copy(region, from_x, from_y);
            }
            ServerEvent::UpdateEnd => self.end_update(now, effects),
            ServerEvent::Bell | ServerEvent::CutText => {}
        }
    }

    fn end_update(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let Self { canvas, link: Link::Connected(console), confirmed, .. } = self else { return };
        self.answered_at = Some(now.elapsed);
        console.unanswered_since = None;
        let is_empty = !std::mem::take(&mut console.has_pixels);
        console.empty_updates = if is_empty { console.empty_updates + 1 } else { 0 };
        let answered = console.probe.take_if(Probe::is_answered);
        if canvas.is_complete() {
            let asked = answered.as_ref().map_or(0, |probe| probe.asked).max(console.asked_before);
            *confirmed = (*confirmed).max(asked);
        } else if let Some(probe) = answered {
            // The answer counts when the frame is complete.
            console.asked_before = console.asked_before.max(probe.asked);
        }
        if console.probe.is_none() && self.asked > (*confirmed).max(console.asked_before) {
            console.probe = Some(Probe::new(self.asked, canvas, now.elapsed));
        }
        console.is_withheld = console.empty_updates > MAX_EMPTY_UPDATES;
        if !console.is_withheld {
            console.request(canvas, now.elapsed, effects);
        }
    }

    fn ask(&mut self, number: u64, now: Moment, effects: &mut Vec<Effect>) {
        self.asked = self.asked.max(number);
        match &mut self.link {
            Link::Connected(console) if console.is_ready && console.probe.is_none() => {
                let probe = Probe::new(number, &self.canvas, now.elapsed);
                effects.push(Effect::Send(console.send_probe(probe, now.elapsed)));
            }
            // Somebody waits now, so the pause is over, but a host is asked once a second at most.
            Link::Waiting { until, since } => {
                *until = (*until).min((*since + FIRST_PAUSE).max(now.elapsed));
            }
            Link::Fallback(_) => self.read_if_due(now, effects),
            _ => {}
        }
    }

    fn picture_read(&mut self, picture: &Picture, now: Moment) {
        let Some(fallback) = self.end_read() else { return };
        fallback.failed_reads = 0;
        let asked = fallback.asked;
        if picture.size != self.canvas.size() {
            self.canvas.clear(picture.size);
        }
        self.canvas.paint(picture.size.whole(), &picture.pixels);
        self.canvas.set_live(true);
        self.answered_at = Some(now.elapsed);
        self.confirmed = self.confirmed.max(asked);
    }

    fn picture_failed(&mut self, refusal: &Refusal) {
        let Some(fallback) = self.end_read() else { return };
        fallback.failed_reads = fallback.failed_reads.saturating_add(1);
        self.canvas.set_live(false);
        self.canvas.uncover();
        self.status.failures += 1;
        self.status.refusal = Some(refusal.clone());
    }

    /// The fallback whose read has ended. `None` if the result of the read does not count, because
    /// it was begun before a restart, or before the fallback.
    fn end_read(&mut self) -> Option<&mut Fallback> {
        let Link::Fallback(fallback) = &mut self.link else { return None };
        std::mem::take(&mut fallback.is_reading).then_some(fallback)
    }

    fn read_if_due(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let Link::Fallback(fallback) = &mut self.link else { return };
        if self.in_use && !fallback.is_reading && fallback.next_read() <= now.elapsed {
            fallback.is_reading = true;
            fallback.read_at = Some(now.elapsed);
            fallback.asked = self.asked;
            effects.push(Effect::ReadPicture);
        }
    }

    fn time_passed(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.due().is_none_or(|due| due > now.elapsed) {
            return;
        }
        match &mut self.link {
            Link::Closed => {}
            Link::Opening { .. } => {
                effects.push(Effect::Disconnect);
                let message = "The host did not open the console in time.".to_owned();
                let refusal = Refusal { kind: None, message };
                self.connect_failed(&refusal, now, effects);
            }
            Link::Waiting { .. } => self.open(now, effects),
            Link::Fallback(fallback) if fallback.try_console_at <= now.elapsed => {
                self.open(now, effects);
            }
            Link::Fallback(_) => self.read_if_due(now, effects),
            Link::Connected(console) => {
                if let Some(reason) = console.reason_to_give_up(now.elapsed) {
                    self.lose(reason.to_owned(), now, effects);
                } else if !console.is_ready {
                    // Its limit is the only time that it has.
                } else if !self.canvas.is_complete() || console.is_withheld {
                    console.request(&self.canvas, now.elapsed, effects);
                } else if console.probe.is_none() {
                    let probe = Probe::new(self.asked, &self.canvas, now.elapsed);
                    effects.push(Effect::Send(console.send_probe(probe, now.elapsed)));
                }
            }
        }
    }
}

impl Fallback {
    /// When the next picture may be read.
    fn next_read(&self) -> Duration {
        let Some(read_at) = self.read_at else { return Duration::ZERO };
        let pause = PICTURE_PAUSE.saturating_mul(1 << self.failed_reads.min(8)).min(LAST_PAUSE);
        read_at + pause
    }
}
