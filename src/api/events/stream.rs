//! One stream of events. The stream creates a chunk of its body only when the client reads it, and
//! holds no lock while it writes an object.
//!
//! ```text
//!  reset? ──► objects ──► synced ──► live ──► bye (wait is over, otter stops)
//!    └───────────────────────────────►│  └──► reset (the reader is too slow)
//!  bookmark: now and then while live
//! ```
//! Server-sent events before `synced` have no `id:`, so that a client that reconnects early starts
//! again from the beginning.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use jiff::Timestamp;

use super::objects::{self, EventPayload, InitialObjects};
use super::wire::{Event, StreamFormat};
use crate::api::ApiState;
use crate::api::jobs::JobReader;
use crate::api::long_poll::WaitPermit;
use crate::domain::event::EventType;
use crate::domain::failure::Failure;
use crate::service::callers::Caller;
use crate::service::event_stream::{EventReader, NextEvent, Version};
use crate::service::limits::CountedStream;
use crate::telemetry::metrics::OpenStream;

/// A chunk of the body is sent once it has this number of bytes.
const CHUNK: usize = 32 * 1024;

/// A stream and its position.
pub struct EventStream {
    api: ApiState,
    /// The caller that reads the stream.
    caller: JobReader,
    format: StreamFormat,
    reader: EventReader,
    /// When the `wait` of the request is over, as the elapsed time of the clock. `None` if the
    /// stream has no time limit.
    ends_at: Option<Duration>,
    bookmark_at: Duration,
    reset_first: bool,
    objects: Option<InitialObjects>,
    started_at: Timestamp,
    ended: bool,
    _permit: WaitPermit,
    _counted: Option<CountedStream>,
    _open: OpenStream,
}

impl EventStream {
    /// A stream of changes.
    ///
    /// # Errors
    /// `too-many-requests` if the caller's token has reached its limit of streams.
    pub fn new(
        api: &ApiState,
        caller: JobReader,
        format: StreamFormat,
        reader: EventReader,
        wait: Option<Duration>,
        permit: WaitPermit,
    ) -> Result<Self, Failure> {
        let Caller { name, limits, .. } = &caller.caller;
        let counted = api.services().callers.limiter().count_stream(name, limits)?;
        let now = api.clock().elapsed();
        Ok(Self {
            api: api.clone(),
            caller,
            format,
            reader,
            ends_at: wait.map(|wait| now + wait),
            bookmark_at: now + api.settings().bookmark_interval,
            reset_first: false,
            objects: None,
            started_at: api.clock().now(),
            ended: false,
            _permit: permit,
            _counted: counted,
            _open: api.metrics().stream_opened(),
        })
    }

    /// Makes the stream begin with `reset`.
    pub const fn start_with_reset(&mut self) {
        self.reset_first = true;
    }

    /// Makes the stream begin with all objects, after `reset` if there is one.
    ///
    /// # Errors
    /// `inventory-loading` before the inventory was first loaded.
    pub fn start_with_objects(&mut self) -> Result<(), Failure> {
        self.objects = Some(InitialObjects::new(&self.api, &self.caller, self.reader.filter())?);
        Ok(())
    }

    /// Converts the stream to a response body.
    pub fn into_body(self) -> Body {
        Body::from_stream(stream::unfold(self, |mut stream| async {
            let chunk = stream.next_chunk().await?;
            Some((Ok::<_, Infallible>(chunk), stream))
        }))
    }

    /// The next chunk of the body. `None` after the end of the stream.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        let mut chunk = String::new();
        while chunk.is_empty() && !self.ended {
            if let Err(failure) = self.fill_chunk(&mut chunk).await {
                // End the stream with `reset`, which tells the client that an event is missing and
                // that it must read the lists again.
                tracing::warn!(detail = failure.detail, "an event's object cannot be read");
                self.end(&mut chunk, EventType::Reset);
            }
        }
        (!chunk.is_empty()).then(|| Bytes::from(chunk))
    }

    async fn fill_chunk(&mut self, chunk: &mut String) -> Result<(), Failure> {
        if std::mem::take(&mut self.reset_first) {
            self.api.metrics().stream_reset("gone");
            self.write_without_object(chunk, EventType::Reset);
        }
        self.write_objects(chunk).await?;
        // When the time of the stream is up, the events that exist by then are still sent.
        let time_up = self.ends_at.is_some_and(|ends_at| self.api.clock().elapsed() >= ends_at);
        if time_up {
            self.reader.finish();
        }
        let mut events = 0;
        while chunk.len() < CHUNK {
            if self.api.stop().is_cancelled() {
                self.end(chunk, EventType::Bye);
                return Ok(());
            }
            let before = self.reader.version();
            match self.reader.read() {
                NextEvent::Event(event) => {
                    let filter = self.reader.filter();
                    let mut payloads = objects::payloads_for_event(
                        &self.api,
                        &self.caller,
                        filter,
                        &event.subject,
                    )
                    .await?;
                    let last = payloads.pop();
                    // An event can have several payloads. All but the last carry the version before
                    // the event, so that a client that resumes between two of them gets all of them
                    // again.
                    for (event_type, payload) in payloads {
                        self.write_at(chunk, &before, event.at, event_type, payload);
                    }
                    if let Some((event_type, payload)) = last {
                        self.write(chunk, event.at, event_type, payload);
                    }
                    events += 1;
                }
                NextEvent::TooSlow => {
                    self.api.metrics().stream_reset("too_slow");
                    self.reader.skip_unread();
                    self.end(chunk, EventType::Reset);
                    return Ok(());
                }
                NextEvent::Nothing if time_up => {
                    self.end(chunk, EventType::Bye);
                    return Ok(());
                }
                NextEvent::Nothing => break,
            }
        }
        self.write_bookmark(chunk);
        if chunk.is_empty() && events == 0 {
            self.wait_for_more().await;
        }
        Ok(())
    }

    /// Writes initial objects until the chunk is full, and `synced` after the last object.
    async fn write_objects(&mut self, chunk: &mut String) -> Result<(), Failure> {
        while let Some(objects) = self.objects.as_mut()
            && chunk.len() < CHUNK
            && !self.api.stop().is_cancelled()
        {
            if let Some((event_type, payload)) = objects.next(&self.api).await? {
                self.write(chunk, self.started_at, event_type, payload);
            } else {
                self.objects = None;
                self.write_without_object(chunk, EventType::Synced);
            }
        }
        Ok(())
    }

    fn write_bookmark(&mut self, chunk: &mut String) {
        let now = self.api.clock().elapsed();
        if now >= self.bookmark_at && self.objects.is_none() {
            self.format.bookmark(chunk, &self.reader.version());
            self.bookmark_at = now + self.api.settings().bookmark_interval;
        }
    }

    /// Waits until the next event, until the next bookmark is due, until the `wait` of the request
    /// is over, or until otter stops, whichever is first.
    async fn wait_for_more(&mut self) {
        let due = self.ends_at.map_or(self.bookmark_at, |ends_at| ends_at.min(self.bookmark_at));
        let left = due.saturating_sub(self.api.clock().elapsed());
        tokio::select! {
            () = self.reader.wait_for_more() => {}
            () = self.api.stop().cancelled() => {}
            () = self.api.clock().sleep(left) => {}
        }
    }

    fn end(&mut self, chunk: &mut String, event_type: EventType) {
        self.write_without_object(chunk, event_type);
        self.ended = true;
    }

    fn write_without_object(&self, chunk: &mut String, event_type: EventType) {
        self.write(
            chunk,
            self.api.clock().now(),
            event_type,
            EventPayload { id: None, object: None },
        );
    }

    fn write(
        &self,
        chunk: &mut String,
        at: Timestamp,
        event_type: EventType,
        payload: EventPayload,
    ) {
        self.write_at(chunk, &self.reader.version(), at, event_type, payload);
    }

    fn write_at(
        &self,
        chunk: &mut String,
        version: &Version,
        at: Timestamp,
        event_type: EventType,
        payload: EventPayload,
    ) {
        let EventPayload { id, object } = payload;
        let event = Event { id, object, ..Event::without_object(version, at, event_type) };
        self.format.event(chunk, &event, self.objects.is_none());
    }
}
