//! A bounded buffer of the newest events, numbered from 1.

use std::collections::VecDeque;

use crate::domain::event::Event;

/// The newest events. If they are too many, or take too much memory, the oldest events are dropped.
#[derive(Debug)]
pub struct RingBuffer {
    events: VecDeque<Event>,
    /// The number of the newest event ever pushed; 0 before the first.
    newest: u64,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

impl RingBuffer {
    /// An empty buffer.
    ///
    /// # Parameters
    /// - `max_bytes`: the approximate memory of all events.
    #[must_use]
    pub const fn new(max_events: usize, max_bytes: usize) -> Self {
        Self { events: VecDeque::new(), newest: 0, bytes: 0, max_events, max_bytes }
    }

    /// Adds an event.
    pub fn push(&mut self, event: Event) {
        self.newest += 1;
        self.bytes += event.subject.memory_size();
        self.events.push_back(event);
        while self.events.len() > self.max_events || self.bytes > self.max_bytes {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.subject.memory_size();
        }
    }

    /// Drops all events. Every reader has then missed an event.
    pub fn start_over(&mut self) {
        self.newest += 1;
        self.events.clear();
        self.bytes = 0;
    }

    /// The number of the newest event.
    #[must_use]
    pub const fn newest(&self) -> u64 {
        self.newest
    }

    /// The events after the event with this number, each with its number. `None` if the buffer has
    /// dropped some of them, or if no event has had this number yet.
    pub fn events_after(&self, number: u64) -> Option<impl Iterator<Item = (u64, &Event)>> {
        let waiting = usize::try_from(self.newest.checked_sub(number)?).ok()?;
        let skipped = self.events.len().checked_sub(waiting)?;
        Some((number + 1..).zip(self.events.range(skipped..)))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::event::Subject;
    use crate::domain::ids::MachineId;

    fn event(id: &str) -> Event {
        Event { at: Timestamp::UNIX_EPOCH, subject: Subject::Machine(MachineId::from_backend(id)) }
    }

    proptest! {
        /// Compares the buffer with a list of all pushed events. The buffer must keep the end of
        /// the list, in order and within both limits. A reader at any number must get every event
        /// after this number, or `None`.
        #[test]
        fn the_ring_buffer_keeps_the_newest_events(
            ids in prop::collection::vec("[a-z]{0,40}", 0..60),
            max_events in 0..20_usize,
            bytes in 0..2_000_usize,
            after in 0..80_u64,
        ) {
            let mut buffer = RingBuffer::new(max_events, bytes);
            for id in &ids {
                buffer.push(event(id));
            }
            let all: Vec<(u64, Event)> = (1..).zip(ids.iter().map(|id| event(id))).collect();
            prop_assert_eq!(buffer.newest(), ids.len() as u64);
            let fits = |kept: &[(u64, Event)]| {
                let sizes = kept.iter().map(|(_, event)| event.subject.memory_size());
                kept.len() <= max_events && sizes.sum::<usize>() <= bytes
            };
            let first = (0..=all.len()).find(|first| fits(&all[*first..])).unwrap();
            let expected = usize::try_from(after)
                .ok()
                .and_then(|after| all.get(after..))
                .filter(|rest| rest.len() <= all.len() - first);
            let actual: Option<Vec<(u64, Event)>> = buffer
                .events_after(after)
                .map(|events| events.map(|(number, event)| (number, event.clone())).collect());
            prop_assert_eq!(actual, expected.map(<[_]>::to_vec));
        }
    }
}
