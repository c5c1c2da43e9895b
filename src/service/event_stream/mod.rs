//! The stream of events: one event for each change that callers can see. Events are numbered, a
//! ring buffer keeps the newest ones, and any number of readers read them.
//!
//! ```text
//! inventory, jobs, leases ── publish ──► ring buffer ──► reader (cursor, filter) ──► one response
//!                                             └─ the number of the newest event wakes the readers
//! ```
//! A reader has a cursor and no queue, so a slow reader needs no memory. A reader that falls too
//! far behind gets [`NextEvent::TooSlow`]. A change is published only once it can be read. Each
//! start of the daemon begins a new epoch.

mod ring_buffer;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use self::ring_buffer::RingBuffer;
use crate::clock::Clock;
use crate::domain::event::{Event, EventFilter, Subject};

/// The capacity of the ring buffer, and how far a reader may fall behind.
#[derive(Clone, Debug)]
pub struct EventStreamSettings {
    /// The number of events that the ring buffer keeps.
    pub events: usize,
    /// The largest approximate memory of these events, in bytes. The events reach this limit only
    /// if ids or faults are very long.
    pub bytes: usize,
    /// The number of unread events that a reader may have. Only events count that match the
    /// reader's filter and were published after the reader began.
    pub max_unread: usize,
}

impl Default for EventStreamSettings {
    fn default() -> Self {
        Self { events: 65_536, bytes: 128 << 20, max_unread: 4_096 }
    }
}

/// The stream of events. Clones share it.
#[derive(Clone, Debug)]
pub struct EventStream(Arc<StreamState>);

#[derive(Debug)]
struct StreamState {
    epoch: String,
    clock: Clock,
    max_unread: usize,
    buffer: Mutex<RingBuffer>,
    newest: watch::Sender<u64>,
}

/// A position in the event stream, opaque to callers: `<epoch>-<number of the last event>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    epoch: String,
    sequence: u64,
}

/// The error of a text that is not a version of the event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no version; take one from a list's `version`, an event, or Otter-Version")]
pub struct InvalidVersion;

/// A reader of the event stream.
#[derive(Debug)]
pub struct EventReader {
    event_stream: EventStream,
    filter: EventFilter,
    /// The number of the last event that was read or passed over.
    cursor: u64,
    /// The number of the newest event when the reader began. Older events are history and do not
    /// count as unread.
    begun_at: u64,
    /// The number of the last event to read. `None` if the reader has no end.
    end: Option<u64>,
    newest: watch::Receiver<u64>,
}

/// The result of a read.
#[derive(Clone, Debug, PartialEq)]
pub enum NextEvent {
    Event(Event),
    /// There is no unread event at present. [`EventReader::wait_for_more`] waits for the next
    /// event.
    Nothing,
    /// Too many events are unread, or the ring buffer has dropped some of them.
    TooSlow,
}

impl EventStream {
    /// An empty stream with a new epoch and the default settings.
    #[must_use]
    pub fn new(clock: &Clock) -> Self {
        Self::with_settings(clock, &EventStreamSettings::default())
    }

    /// An empty stream with a new epoch.
    #[must_use]
    pub fn with_settings(clock: &Clock, settings: &EventStreamSettings) -> Self {
        let &EventStreamSettings { events, bytes, max_unread } = settings;
        Self(Arc::new(StreamState {
            // The epoch is the random end of the UUID, so that two starts within one millisecond
            // have different epochs.
            epoch: clock.uuid().simple().to_string()[20..].to_owned(),
            clock: clock.clone(),
            max_unread,
            buffer: Mutex::new(RingBuffer::new(events, bytes)),
            newest: watch::Sender::new(0),
        }))
    }

    /// Publishes an event for each subject, in this order. Call this method only when the changes
    /// can already be read.
    pub fn publish(&self, subjects: impl IntoIterator<Item = Subject>) {
        let at = self.0.clock.now();
        let mut buffer = self.buffer();
        for subject in subjects {
            buffer.push(Event { at, subject });
        }
        self.wake_readers(&buffer);
    }

    /// Makes every reader read all objects again, because any of them may have changed. Call this
    /// method only when the changes can already be read. A reader cannot resume at a version from
    /// before this call.
    pub fn start_over(&self) {
        let mut buffer = self.buffer();
        buffer.start_over();
        self.wake_readers(&buffer);
    }

    /// Tells the readers the number of the newest event. Call this method under the lock of the
    /// buffer, so that the number never decreases.
    fn wake_readers(&self, buffer: &RingBuffer) {
        self.0.newest.send_if_modified(|newest| {
            std::mem::replace(newest, buffer.newest()) != buffer.newest()
        });
    }

    /// The version of the newest event. A caller that reads a list takes its version before it
    /// reads the list: a stream from this version may then repeat a change that the list shows, but
    /// misses no change.
    #[must_use]
    pub fn version(&self) -> Version {
        self.at(*self.0.newest.borrow())
    }

    /// A reader of the events that are published from now on.
    #[must_use]
    pub fn subscribe(&self, filter: EventFilter) -> EventReader {
        let newest = self.0.newest.subscribe();
        let now = *newest.borrow();
        EventReader {
            event_stream: self.clone(),
            filter,
            cursor: now,
            begun_at: now,
            end: None,
            newest,
        }
    }

    /// The number of events that were published in this epoch.
    #[must_use]
    pub fn published(&self) -> u64 {
        *self.0.newest.borrow()
    }

    fn at(&self, sequence: u64) -> Version {
        Version { epoch: self.0.epoch.clone(), sequence }
    }

    fn buffer(&self) -> MutexGuard<'_, RingBuffer> {
        self.0.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventReader {
    /// Moves the reader back to a version, so that its next read gives the event after this
    /// version. Returns `false`, and does not move the reader, if the version has another epoch, or
    /// if the ring buffer has dropped events after the version.
    #[must_use]
    pub fn resume(&mut self, since: &Version) -> bool {
        let can_resume = since.epoch == self.event_stream.0.epoch
            && self.event_stream.buffer().events_after(since.sequence).is_some();
        if can_resume {
            self.cursor = since.sequence;
        }
        can_resume
    }

    /// Reads the next unread event that matches the reader's filter.
    pub fn read(&mut self) -> NextEvent {
        let buffer = self.event_stream.buffer();
        let Some(events) = buffer.events_after(self.cursor) else { return NextEvent::TooSlow };
        let fresh = self.cursor.max(self.begun_at);
        let max_unread = self.event_stream.0.max_unread;
        if buffer.newest() - fresh > max_unread as u64 {
            let unread = buffer.events_after(fresh).into_iter().flatten();
            let unread = unread.filter(|(_, event)| self.filter.matches(&event.subject));
            if unread.take(max_unread + 1).count() > max_unread {
                return NextEvent::TooSlow;
            }
        }
        let end = self.end.unwrap_or(u64::MAX);
        for (number, event) in events.take_while(|(number, _)| *number <= end) {
            self.cursor = number;
            if self.filter.matches(&event.subject) {
                return NextEvent::Event(event.clone());
            }
        }
        NextEvent::Nothing
    }

    /// Ends the reader at the newest event of now: it reads no event that is published later.
    pub fn finish(&mut self) {
        self.end.get_or_insert(*self.newest.borrow());
    }

    /// Waits until there is an event after the cursor.
    pub async fn wait_for_more(&mut self) {
        let read = self.cursor;
        // The wait cannot fail, because the sender lives as long as `self`.
        let _ = self.newest.wait_for(|newest| *newest > read).await;
    }

    /// The version at the cursor. A reader that resumes at this version misses and repeats no
    /// event.
    #[must_use]
    pub fn version(&self) -> Version {
        self.event_stream.at(self.cursor)
    }

    /// Skips all unread events. Returns the new version.
    pub fn skip_unread(&mut self) -> Version {
        self.cursor = *self.newest.borrow();
        self.version()
    }

    /// Skips all unread events. Returns whether one of them matches the filter, or may do so
    /// because the ring buffer has dropped it.
    pub fn take_unread(&mut self) -> bool {
        let has_any = self.read() != NextEvent::Nothing;
        self.skip_unread();
        has_any
    }

    /// The filter of the events that the reader reads.
    #[must_use]
    pub const fn filter(&self) -> &EventFilter {
        &self.filter
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.epoch, self.sequence)
    }
}

impl std::str::FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        const EPOCH: usize = 12;
        let (epoch, digits) = text.split_once('-').ok_or(InvalidVersion)?;
        let is_epoch = epoch.len() == EPOCH
            && epoch.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let sequence = digits.parse().map_err(|_| InvalidVersion)?;
        let version = Self { epoch: epoch.to_owned(), sequence };
        // Refuse a text that has a sign or leading zeros, which a version never has.
        if is_epoch && version.to_string() == text { Ok(version) } else { Err(InvalidVersion) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::MachineId;

    fn event_stream(events: usize, max_unread: usize) -> EventStream {
        let clock = Clock::stepped(jiff::Timestamp::UNIX_EPOCH);
        EventStream::with_settings(
            &clock,
            &EventStreamSettings { events, max_unread, ..EventStreamSettings::default() },
        )
    }

    fn machine(id: &str) -> Subject {
        Subject::Machine(MachineId::from_backend(id))
    }

    fn machine_filter(id: &str) -> EventFilter {
        EventFilter { machine: Some(MachineId::from_backend(id)), ..EventFilter::default() }
    }

    fn read(reader: &mut EventReader) -> Vec<Subject> {
        std::iter::from_fn(|| match reader.read() {
            NextEvent::Event(event) => Some(event.subject),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn a_reader_gets_later_events_and_may_resume_at_an_earlier_version() {
        let event_stream = event_stream(8, 8);
        event_stream.publish([machine("1")]);
        let before = event_stream.version();
        event_stream.publish([machine("2"), machine("3")]);
        let mut reader = event_stream.subscribe(EventFilter::default());
        assert_eq!(reader.read(), NextEvent::Nothing);
        assert!(reader.resume(&before));
        assert_eq!(read(&mut reader), [machine("2"), machine("3")]);
        assert_eq!(reader.version(), event_stream.version());
    }

    #[test]
    fn a_filtered_reader_passes_over_events_that_do_not_match() {
        let event_stream = event_stream(4, 4);
        let mut reader = event_stream.subscribe(machine_filter("quiet"));
        for _ in 0..10 {
            event_stream.publish([machine("loud")]);
            assert_eq!(reader.read(), NextEvent::Nothing);
        }
        let bookmark = reader.version();
        assert_eq!(bookmark, event_stream.version());
        event_stream.publish([machine("quiet")]);
        let mut again = event_stream.subscribe(machine_filter("quiet"));
        assert!(again.resume(&bookmark));
        assert_eq!(read(&mut again), [machine("quiet")]);
    }

    #[test]
    fn a_version_that_is_dropped_foreign_or_ahead_cannot_be_resumed() {
        let old = event_stream(2, 2);
        let start = old.version();
        old.publish([machine("1"), machine("2")]);
        assert!(old.subscribe(EventFilter::default()).resume(&start));
        old.publish([machine("3")]);
        let mut reader = old.subscribe(EventFilter::default());
        assert!(!reader.resume(&start));
        assert!(!reader.resume(&event_stream(2, 2).version()), "another epoch");
        let ahead = Version { sequence: 9, ..old.version() };
        assert!(!reader.resume(&ahead), "a version after the newest event");
        assert_eq!(reader.version(), old.version());
    }

    #[test]
    fn history_may_exceed_the_limit_of_unread_events() {
        let event_stream = event_stream(100, 3);
        let start = event_stream.version();
        event_stream.publish((0..50).map(|_| machine("1")));
        let mut reader = event_stream.subscribe(EventFilter::default());
        assert!(reader.resume(&start));
        event_stream.publish([machine("2"), machine("2"), machine("2")]);
        assert!(matches!(reader.read(), NextEvent::Event(_)));
        event_stream.publish([machine("2")]);
        assert_eq!(reader.read(), NextEvent::TooSlow);
        assert_eq!(reader.read(), NextEvent::TooSlow, "the reader stays too slow");
        assert_eq!(reader.skip_unread(), event_stream.version());
    }

    #[test]
    fn a_reader_that_finishes_stops_at_the_newest_event_of_that_moment() {
        let event_stream = event_stream(8, 8);
        let mut reader = event_stream.subscribe(EventFilter::default());
        event_stream.publish([machine("1")]);
        reader.finish();
        event_stream.publish([machine("2")]);
        reader.finish();
        assert_eq!(read(&mut reader), [machine("1")]);
        let mut again = event_stream.subscribe(EventFilter::default());
        assert!(again.resume(&reader.version()));
        assert_eq!(read(&mut again), [machine("2")]);
    }

    #[test]
    fn only_matching_events_count_as_unread() {
        let event_stream = event_stream(100, 3);
        let mut reader = event_stream.subscribe(machine_filter("quiet"));
        event_stream.publish((0..50).map(|_| machine("loud")));
        event_stream.publish([machine("quiet")]);
        assert_eq!(read(&mut reader), [machine("quiet")]);
    }

    #[test]
    fn only_the_text_of_a_version_parses_as_a_version() {
        let version = event_stream(1, 1).version();
        assert_eq!(version.to_string().parse(), Ok(version));
        for broken in [
            "",
            "-",
            "7",
            "0123456789ab",
            "0123456789ab-",
            "0123456789ab-x",
            "0123456789ab--1",
            "0123456789ab-+1",
            "0123456789ab-01",
            "0123456789ab-99999999999999999999",
            "0123456789AB-1",
            "0123456789abc-1",
            "0123456789ab-1 ",
            "0123456789ab-1\n",
        ] {
            assert_eq!(broken.parse::<Version>(), Err(InvalidVersion), "{broken:?}");
        }
    }
}
