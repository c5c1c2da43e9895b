//! The point in time that callers know: one counter for everything that changes, new with every start.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Clock;

/// Counts the changes that callers can see. Clones share the count.
#[derive(Clone, Debug)]
pub struct Feed(Arc<Counter>);

#[derive(Debug)]
struct Counter {
    epoch: String,
    sequence: AtomicU64,
}

/// A point in the stream of changes, opaque to callers: `<epoch>-<seq>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    epoch: String,
    sequence: u64,
}

impl Feed {
    /// A feed of a new epoch, at its start.
    #[must_use]
    pub fn new(clock: &Clock) -> Self {
        let uuid = clock.uuid().simple().to_string();
        Self(Arc::new(Counter { epoch: uuid[20..].to_owned(), sequence: AtomicU64::new(0) }))
    }

    /// Counts one change. Call it once the change can be read.
    pub fn advance(&self) {
        self.0.sequence.fetch_add(1, Ordering::AcqRel);
    }

    /// Where the stream is. Read it before what it is to describe: a list may then show a change that its
    /// version does not count yet, which streaming from there repeats, but it never misses one.
    #[must_use]
    pub fn version(&self) -> Version {
        Version { epoch: self.0.epoch.clone(), sequence: self.0.sequence.load(Ordering::Acquire) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.epoch, self.sequence)
    }
}
