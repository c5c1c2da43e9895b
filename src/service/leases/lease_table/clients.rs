//! The clients of one lease: when one last polled it, and those that wait for it. All versions of
//! the table share this record, so polls and waits do not change the table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::clock::Clock;

/// The clients that poll a lease or wait for it.
#[derive(Debug)]
pub struct LeaseClients {
    /// When a client last polled the lease, in nanoseconds of the monotonic clock.
    last_polled: AtomicU64,
    /// The number of clients that wait for the lease.
    waiting: AtomicUsize,
    state_changed: Notify,
}

/// A client that waits for a lease. It counts as polling the lease until it is dropped.
pub struct WaitingClient {
    clients: Arc<LeaseClients>,
    clock: Clock,
}

impl LeaseClients {
    /// The clients of a lease that is polled now, by the monotonic clock.
    #[must_use]
    pub fn new(elapsed: Duration) -> Self {
        Self {
            last_polled: AtomicU64::new(nanoseconds(elapsed)),
            waiting: AtomicUsize::new(0),
            state_changed: Notify::new(),
        }
    }

    /// Records that a client polls the lease now, by the monotonic clock.
    pub fn record_poll(&self, elapsed: Duration) {
        self.last_polled.fetch_max(nanoseconds(elapsed), Ordering::Relaxed);
    }

    /// When a client last polled the lease. This is `elapsed` if a client waits for the lease now.
    #[must_use]
    pub fn last_polled(&self, elapsed: Duration) -> Duration {
        if self.waiting.load(Ordering::Acquire) > 0 {
            return elapsed;
        }
        Duration::from_nanos(self.last_polled.load(Ordering::Relaxed))
    }

    /// Wakes the clients that wait for the lease. Call it once readers see the new state.
    pub fn wake(&self) {
        self.state_changed.notify_waiters();
    }

    /// The returned future completes at the next [`LeaseClients::wake`]. Call its method `enable`
    /// before you read the state, so that a change after the read is not missed.
    pub fn state_changed(&self) -> Notified<'_> {
        self.state_changed.notified()
    }
}

impl WaitingClient {
    #[must_use]
    pub fn new(clients: Arc<LeaseClients>, clock: Clock) -> Self {
        clients.waiting.fetch_add(1, Ordering::AcqRel);
        Self { clients, clock }
    }
}

impl Drop for WaitingClient {
    fn drop(&mut self) {
        self.clients.record_poll(self.clock.elapsed());
        self.clients.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

fn nanoseconds(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
