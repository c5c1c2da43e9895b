//! One stream of events, made piece by piece as its reader takes them: nothing is made ahead, and
//! no lock is held while an object is written.
//!
//! ```text
//!  reset? ──► objects ──► synced ──► live ──► bye (wait is over, otter stops)
//!    └───────────────────────────────►│  └──► reset (the reader is too slow)
//!  bookmark: now and then while live
//! ```
//! Until `synced` no server-sent event has an `id:`: who connects again before that is to begin
//! anew.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use jiff::Timestamp;

use super::objects::{self, Objects, Shown};
use super::wire::{Event, Form};
use crate::api::Api;
use crate::api::waiting::Place;
use crate::domain::event::EventType;
use crate::domain::failure::Failure;
use crate::service::callers::Caller;
use crate::service::event_stream::{EventReader, NextEvent, Version};
use crate::service::limits::CountedStream;
use crate::telemetry::metrics::OpenStream;

/// A piece is sent once it has this many bytes.
const PIECE: usize = 32 * 1024;

/// A stream and its reader's place in it.
pub struct Stream {
    api: Api,
    caller: Caller,
    form: Form,
    reader: EventReader,
    /// When `wait` is over, by the clock that does not jump.
    until: Option<Duration>,
    bookmark_at: Duration,
    reset_first: bool,
    objects: Option<Objects>,
    began: Timestamp,
    ended: bool,
    _place: Place,
    _counted: Option<CountedStream>,
    _open: OpenStream,
}

impl Stream {
    /// A stream of what comes.
    ///
    /// # Errors
    /// `too-many-requests` if the caller's token may open no more.
    pub fn new(
        api: &Api,
        caller: &Caller,
        form: Form,
        reader: EventReader,
        wait: Option<Duration>,
        place: Place,
    ) -> Result<Self, Failure> {
        let counted =
            api.services().callers.limiter().count_stream(&caller.name, &caller.limits)?;
        let now = api.clock().elapsed();
        Ok(Self {
            api: api.clone(),
            caller: caller.clone(),
            form,
            reader,
            until: wait.map(|wait| now + wait),
            bookmark_at: now + api.settings().bookmark,
            reset_first: false,
            objects: None,
            began: api.clock().now(),
            ended: false,
            _place: place,
            _counted: counted,
            _open: api.metrics().stream_opened(),
        })
    }

    /// Begins it with `reset`.
    pub const fn reset_first(&mut self) {
        self.reset_first = true;
    }

    /// Begins it, after a `reset`, with every object.
    ///
    /// # Errors
    /// `inventory-loading` before the host was first read.
    pub fn objects_first(&mut self) -> Result<(), Failure> {
        self.objects = Some(Objects::new(&self.api, &self.caller, self.reader.filter())?);
        Ok(())
    }

    /// The body of the answer.
    pub fn into_body(self) -> Body {
        Body::from_stream(stream::unfold(self, |mut stream| async {
            let piece = stream.piece().await?;
            Some((Ok::<_, Infallible>(piece), stream))
        }))
    }

    /// The next bytes; none after the end.
    async fn piece(&mut self) -> Option<Bytes> {
        let mut out = String::new();
        while out.is_empty() && !self.ended {
            if let Err(failure) = self.fill(&mut out).await {
                // The reader is told that something is missing, and comes back.
                tracing::warn!(detail = failure.detail, "an event's object cannot be read");
                self.end(&mut out, EventType::Reset);
            }
        }
        (!out.is_empty()).then(|| Bytes::from(out))
    }

    async fn fill(&mut self, out: &mut String) -> Result<(), Failure> {
        if std::mem::take(&mut self.reset_first) {
            self.api.metrics().stream_reset("gone");
            self.tell(out, EventType::Reset);
        }
        self.write_objects(out).await?;
        // What is there when the time is up is still sent.
        let time_up = self.until.is_some_and(|until| self.api.clock().elapsed() >= until);
        if time_up {
            self.reader.finish();
        }
        let mut events = 0;
        while out.len() < PIECE {
            if self.api.stop().is_cancelled() {
                self.end(out, EventType::Bye);
                return Ok(());
            }
            let before = self.reader.version();
            match self.reader.read() {
                NextEvent::Event(event) => {
                    let filter = self.reader.filter();
                    let mut told =
                        objects::of_event(&self.api, &self.caller, filter, &event.subject).await?;
                    let last = told.pop();
                    // A reader that resumes before the last of several events gets all of them
                    // again.
                    for (event_type, shown) in told {
                        self.write_at(out, &before, event.at, event_type, shown);
                    }
                    if let Some((event_type, shown)) = last {
                        self.write(out, event.at, event_type, shown);
                    }
                    events += 1;
                }
                NextEvent::TooSlow => {
                    self.api.metrics().stream_reset("too_slow");
                    self.reader.skip_unread();
                    self.end(out, EventType::Reset);
                    return Ok(());
                }
                NextEvent::Nothing if time_up => {
                    self.end(out, EventType::Bye);
                    return Ok(());
                }
                NextEvent::Nothing => break,
            }
        }
        self.write_bookmark(out);
        if out.is_empty() && events == 0 {
            self.rest().await;
        }
        Ok(())
    }

    /// Writes a piece of the objects that come first, and `synced` after the last.
    async fn write_objects(&mut self, out: &mut String) -> Result<(), Failure> {
        while let Some(objects) = self.objects.as_mut()
            && out.len() < PIECE
            && !self.api.stop().is_cancelled()
        {
            if let Some((event_type, shown)) = objects.next(&self.api).await? {
                self.write(out, self.began, event_type, shown);
            } else {
                self.objects = None;
                self.tell(out, EventType::Synced);
            }
        }
        Ok(())
    }

    fn write_bookmark(&mut self, out: &mut String) {
        let now = self.api.clock().elapsed();
        if now >= self.bookmark_at && self.objects.is_none() {
            self.form.bookmark(out, &self.reader.version());
            self.bookmark_at = now + self.api.settings().bookmark;
        }
    }

    /// Waits for whatever comes first.
    async fn rest(&mut self) {
        let due = self.until.map_or(self.bookmark_at, |until| until.min(self.bookmark_at));
        let left = due.saturating_sub(self.api.clock().elapsed());
        tokio::select! {
            () = self.reader.wait_for_more() => {}
            () = self.api.stop().cancelled() => {}
            () = self.api.clock().sleep(left) => {}
        }
    }

    fn end(&mut self, out: &mut String, event_type: EventType) {
        self.tell(out, event_type);
        self.ended = true;
    }

    fn tell(&self, out: &mut String, event_type: EventType) {
        self.write(out, self.api.clock().now(), event_type, Shown { id: None, object: None });
    }

    fn write(&self, out: &mut String, at: Timestamp, event_type: EventType, shown: Shown) {
        self.write_at(out, &self.reader.version(), at, event_type, shown);
    }

    fn write_at(
        &self,
        out: &mut String,
        version: &Version,
        at: Timestamp,
        event_type: EventType,
        shown: Shown,
    ) {
        let Shown { id, object } = shown;
        let event = Event { id, object, ..Event::bare(version, at, event_type) };
        self.form.event(out, &event, self.objects.is_none());
    }
}
