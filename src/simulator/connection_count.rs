//! Counts the connections that all clients have made to the simulator.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The number of open connections, and the highest number so far.
#[derive(Clone, Debug, Default)]
pub struct ConnectionCount(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    open: usize,
    peak: usize,
    accepted: u64,
}

/// One open connection of a client. The connection counts as open until this value is dropped.
#[derive(Debug)]
pub struct OpenConnection(ConnectionCount);

impl ConnectionCount {
    /// Counts a connection that was accepted.
    pub fn open(&self) -> OpenConnection {
        let mut counts = self.counts();
        counts.open += 1;
        counts.accepted += 1;
        counts.peak = counts.peak.max(counts.open);
        drop(counts);
        OpenConnection(self.clone())
    }

    /// The highest number of connections that were open at the same time.
    pub fn peak(&self) -> usize {
        self.counts().peak
    }

    /// The number of connections that the simulator accepted since its start.
    pub fn accepted(&self) -> u64 {
        self.counts().accepted
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.counts().open -= 1;
    }
}
