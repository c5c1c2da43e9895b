//! Limits the number of open connections, and chooses which one to close when another arrives.
//!
//! ```text
//!  arrives ──► idle ──► busy ──► idle ──► … ──► closed
//!               │  head read   answer sent
//!               └──► asked to close: the oldest idle one goes when the limit is reached
//! ```
//! A connection is idle while no request is in flight on it: before the first head is complete, and
//! between an answer and the next head. If none is idle, the new one waits until one is, or ends.
//! One that was upgraded is busy until it ends.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Open files that are kept for the host, the store, the log and the listener.
const RESERVED_FILES: u64 = 96;

/// The connections that are open.
pub struct Connections {
    limit: usize,
    state: Mutex<OpenConnections>,
    /// A connection has ended or become idle.
    changed: Notify,
}

#[derive(Default)]
struct OpenConnections {
    open: usize,
    /// The number of connections that were asked to close.
    closing: usize,
    /// Names the next time that a connection becomes idle.
    next: u64,
    /// How to close each idle connection, the oldest first.
    idle: BTreeMap<u64, CancellationToken>,
}

/// One open connection. It counts until this is dropped.
pub struct ConnectionSlot {
    connections: Arc<Connections>,
    idle_since: AtomicU64,
    close: CancellationToken,
    has_answered: AtomicBool,
    is_upgraded: Arc<AtomicBool>,
}

/// How a new connection got its place.
pub struct Admitted {
    pub slot: Arc<ConnectionSlot>,
    pub admission: Admission,
}

/// What had to happen before a new connection had a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// There was room.
    Free,
    /// An idle connection was closed.
    IdleClosed,
    /// All were busy, and the new one waited.
    Waited,
}

/// How many connections may be open in a process that may have this many open files. Half of a very
/// small number are kept for other files.
#[must_use]
pub fn limit_for_open_files(limit: u64) -> usize {
    usize::try_from(limit - RESERVED_FILES.min(limit / 2)).unwrap_or(usize::MAX)
}

impl Connections {
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, state: Mutex::default(), changed: Notify::new() })
    }

    /// Takes a place for a new connection. If there is none, asks an idle connection to close. Only
    /// the accept loop calls this, one call at a time.
    pub async fn admit(self: &Arc<Self>) -> Admitted {
        let mut admission = Admission::Free;
        loop {
            if let Some(slot) = self.try_admit() {
                return Admitted { slot, admission };
            }
            admission =
                if self.close_oldest_idle() { Admission::IdleClosed } else { Admission::Waited };
            self.changed.notified().await;
        }
    }

    fn try_admit(self: &Arc<Self>) -> Option<Arc<ConnectionSlot>> {
        let mut state = self.state();
        if state.open >= self.limit {
            return None;
        }
        state.open += 1;
        let close = CancellationToken::new();
        let idle_since = AtomicU64::new(state.mark_idle(&close));
        drop(state);
        let connections = Arc::clone(self);
        Some(Arc::new(ConnectionSlot {
            connections,
            idle_since,
            close,
            has_answered: AtomicBool::new(false),
            is_upgraded: Arc::default(),
        }))
    }

    /// Whether a connection is about to close.
    fn close_oldest_idle(&self) -> bool {
        let mut state = self.state();
        if state.closing == 0
            && let Some((_, close)) = state.idle.pop_first()
        {
            state.closing += 1;
            close.cancel();
        }
        state.closing > 0
    }

    fn state(&self) -> MutexGuard<'_, OpenConnections> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnections {
    /// Lists a connection as idle from now on, and gives the name of this time.
    fn mark_idle(&mut self, close: &CancellationToken) -> u64 {
        let since = self.next;
        self.next += 1;
        self.idle.insert(since, close.clone());
        since
    }
}

impl ConnectionSlot {
    /// Ends when the connection must close.
    pub async fn close_requested(&self) {
        self.close.cancelled().await;
    }

    /// Whether the connection answered a request. The end of the answer may still be in transit.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// Whether the connection no longer speaks HTTP.
    #[must_use]
    pub fn is_upgraded(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_upgraded)
    }

    /// Marks the connection as busy until the result is dropped. `None` if it was asked to close
    /// before.
    #[must_use]
    pub fn begin_request(self: &Arc<Self>) -> Option<InFlight> {
        let since = self.idle_since.load(Ordering::Relaxed);
        self.connections.state().idle.remove(&since)?;
        self.has_answered.store(true, Ordering::Relaxed);
        Some(InFlight(Arc::clone(self)))
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut state = self.connections.state();
        state.open -= 1;
        state.idle.remove(&self.idle_since.load(Ordering::Relaxed));
        if self.close.is_cancelled() {
            state.closing -= 1;
        }
        drop(state);
        self.connections.changed.notify_one();
    }
}

/// A request that is being answered.
pub struct InFlight(Arc<ConnectionSlot>);

impl InFlight {
    /// Marks the connection as busy for as long as it is open: the answer says that it goes on as
    /// something else.
    pub fn mark_upgraded(&self) {
        self.0.is_upgraded.store(true, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let slot = &self.0;
        if slot.is_upgraded.load(Ordering::Relaxed) {
            return;
        }
        let since = slot.connections.state().mark_idle(&slot.close);
        slot.idle_since.store(since, Ordering::Relaxed);
        slot.connections.changed.notify_one();
    }
}

/// The body of an answer, with which its request ends.
pub struct AnswerBody {
    body: Body,
    _request: InFlight,
}

impl AnswerBody {
    #[must_use]
    pub const fn new(body: Body, request: InFlight) -> Self {
        Self { body, _request: request }
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn admit(connections: &Arc<Connections>) -> Option<Admitted> {
        connections.admit().now_or_never()
    }

    fn is_asked_to_close(slot: &ConnectionSlot) -> bool {
        slot.close_requested().now_or_never().is_some()
    }

    #[tokio::test]
    async fn at_the_limit_the_oldest_idle_connection_goes() {
        let connections = Connections::new(3);
        let [first, second, third] = [(); 3].map(|()| admit(&connections).unwrap().slot);
        // The first was used last.
        drop(first.begin_request().unwrap());
        assert!(!is_asked_to_close(&second));
        let mut new = Box::pin(connections.admit());
        assert!(new.as_mut().now_or_never().is_none(), "the place is not free yet");
        assert_eq!(
            [&first, &second, &third].map(|slot| is_asked_to_close(slot)),
            [false, true, false]
        );
        assert!(second.begin_request().is_none(), "nothing begins on a connection that closes");
        drop(second);
        assert_eq!(new.await.admission, Admission::IdleClosed);
    }

    #[tokio::test]
    async fn a_busy_connection_is_never_closed_for_another() {
        let connections = Connections::new(2);
        let [first, second] = [(); 2].map(|()| admit(&connections).unwrap().slot);
        let [one, other] = [first.begin_request().unwrap(), second.begin_request().unwrap()];
        let mut new = Box::pin(connections.admit());
        assert!(new.as_mut().now_or_never().is_none());
        assert!(!is_asked_to_close(&first) && !is_asked_to_close(&second));
        drop(other);
        assert!(new.as_mut().now_or_never().is_none());
        assert!(is_asked_to_close(&second) && !is_asked_to_close(&first));
        drop(second);
        let admitted = new.await;
        assert_eq!(admitted.admission, Admission::IdleClosed);
        drop((admitted, one, first));
        assert_eq!(admit(&connections).unwrap().admission, Admission::Free);
    }

    #[tokio::test]
    async fn an_upgraded_connection_is_never_idle() {
        let connections = Connections::new(1);
        let upgraded = admit(&connections).unwrap().slot;
        let request = upgraded.begin_request().unwrap();
        request.mark_upgraded();
        drop(request);
        let mut new = Box::pin(connections.admit());
        assert!(new.as_mut().now_or_never().is_none());
        assert!(!is_asked_to_close(&upgraded));
        drop(upgraded);
        assert_eq!(new.await.admission, Admission::Waited);
    }

    #[test]
    fn files_are_kept_for_the_host_and_the_store() {
        assert_eq!(limit_for_open_files(256), 160);
        assert_eq!(limit_for_open_files(1_024), 928);
        assert_eq!(limit_for_open_files(64), 32);
    }
}
