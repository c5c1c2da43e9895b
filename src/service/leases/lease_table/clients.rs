//! The clients of one lease: when a client last polled the lease, and the clients that wait for it.
//! All versions of the lease table share this record, so polls and waits do not change the table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::clock::Clock;

/// The clients that poll a lease or wait for it.
#[derive(Debug)]
pub struct LeaseClients {
    /// When a client last polled the lease, in nanoseconds of the clock that never jumps.
    last_polled: AtomicU64,
    /// The number of clients that wait for the lease.
    waiting: AtomicUsize,
    state_changed: Notify,
}

/// A client that waits for a lease. Until this value is dropped, the wait counts as a poll of the
/// lease.
pub struct WaitingClient {
    clients: Arc<LeaseClients>,
    clock: Clock,
}

impl LeaseClients {
    /// The clients of a lease that a client polls now.
    ///
    /// # Parameters
    /// - `elapsed`: the elapsed time of the clock that never jumps.
    #[must_use]
    pub fn new(elapsed: Duration) -> Self {
        Self {
            last_polled: AtomicU64::new(nanoseconds(elapsed)),
            waiting: AtomicUsize::new(0),
            state_changed: Notify::new(),
        }
    }

    /// Records that a client polls the lease now.
    ///
    /// # Parameters
    /// - `elapsed`: the elapsed time of the clock that never jumps.
    pub fn record_poll(&self, elapsed: Duration) {
        self.last_polled.fetch_max(nanoseconds(elapsed), Ordering::Relaxed);
    }

    /// When a client last polled the lease. If a client waits for the lease at present, the result
    /// is the present time, which is `elapsed`.
    #[must_use]
    pub fn last_polled(&self, elapsed: Duration) -> Duration {
        if self.waiting.load(Ordering::Acquire) > 0 {
            return elapsed;
        }
        Duration::from_nanos(self.last_polled.load(Ordering::Relaxed))
    }

    /// Wakes the clients that wait for the lease. The new state of the lease must be published
    /// before this call.
    pub fn wake(&self) {
        self.state_changed.notify_waiters();
    }

    /// A future that completes at the next call of [`LeaseClients::wake`]. To miss no change, call
    /// the method `enable` of the future first, and read the state of the lease after that.
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
