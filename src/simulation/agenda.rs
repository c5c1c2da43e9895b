//! What happens when: events in the order of virtual time, those of one moment in the order in which they were planned.

use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug)]
pub struct Agenda<E> {
    due: BTreeMap<(Duration, u64), E>,
    planned: u64,
}

impl<E> Agenda<E> {
    pub const fn new() -> Self {
        Self { due: BTreeMap::new(), planned: 0 }
    }

    pub fn plan(&mut self, at: Duration, event: E) {
        self.planned += 1;
        self.due.insert((at, self.planned), event);
    }

    /// When the next event is due.
    pub fn next_at(&self) -> Option<Duration> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the next event.
    pub fn take(&mut self) -> Option<E> {
        self.due.pop_first().map(|(_, event)| event)
    }
}
