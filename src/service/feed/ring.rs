//! The last events, numbered from 1 on, and no more of them than fit. Pure.

use std::collections::VecDeque;

use crate::domain::event::Event;

/// The newest events; the oldest go when there are too many, or when they weigh too much.
#[derive(Debug)]
pub struct Ring {
    events: VecDeque<Event>,
    /// The number of the newest event ever pushed; 0 before the first.
    newest: u64,
    weight: usize,
    most: usize,
    heaviest: usize,
}

impl Ring {
    /// An empty ring for this many events, of about this many bytes in all.
    #[must_use]
    pub const fn new(most: usize, heaviest: usize) -> Self {
        Self { events: VecDeque::new(), newest: 0, weight: 0, most, heaviest }
    }

    /// Adds an event.
    pub fn push(&mut self, event: Event) {
        self.newest += 1;
        self.weight += event.subject.memory_size();
        self.events.push_back(event);
        while self.events.len() > self.most || self.weight > self.heaviest {
            let Some(oldest) = self.events.pop_front() else { break };
            self.weight -= oldest.subject.memory_size();
        }
    }

    /// The number of the newest event.
    #[must_use]
    pub const fn newest(&self) -> u64 {
        self.newest
    }

    /// The events after this one, each with its number; none where some of them are gone, or it has
    /// not been yet.
    pub fn after(&self, number: u64) -> Option<impl Iterator<Item = (u64, &Event)>> {
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
        /// Against a list of everything ever pushed: what is kept is its end, in order, within both
        /// bounds, and a reader at any number gets all that it misses or is told that it cannot.
        #[test]
        fn the_ring_keeps_the_end_of_the_list(
            ids in prop::collection::vec("[a-z]{0,40}", 0..60),
            most in 0..20_usize,
            bytes in 0..2_000_usize,
            asked in 0..80_u64,
        ) {
            let mut ring = Ring::new(most, bytes);
            for id in &ids {
                ring.push(event(id));
            }
            let all: Vec<(u64, Event)> = (1..).zip(ids.iter().map(|id| event(id))).collect();
            prop_assert_eq!(ring.newest(), ids.len() as u64);
            let fits = |kept: &[(u64, Event)]| {
                kept.len() <= most && kept.iter().map(|(_, event)| event.subject.memory_size()).sum::<usize>() <= bytes
            };
            let first = (0..=all.len()).find(|first| fits(&all[*first..])).unwrap();
            let expected = usize::try_from(asked).ok().and_then(|asked| all.get(asked..)).filter(|rest| {
                rest.len() <= all.len() - first
            });
            let given: Option<Vec<(u64, Event)>> =
                ring.after(asked).map(|events| events.map(|(number, event)| (number, event.clone())).collect());
            prop_assert_eq!(given, expected.map(<[_]>::to_vec));
        }
    }
}
