//! Limits the number of open connections, and selects the connection to close when another arrives
//! at the limit.
//!
//! ```text
//!  arrives ──► idle ──► busy ──► idle ──► … ──► closed
//!               │  head read   answer sent
//!               └──► asked to close: at the limit, the connection that is idle for longest
//! ```
//! A connection is *idle* while it has no request in flight: before the first request head is
//! complete, and between a response and the next request head. Otherwise it is *busy*. An upgraded
//! connection is busy until it ends. If no connection is idle, a new one waits until one becomes
//! idle or ends.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The number of open files that otter reserves for the host, the store, the log and the listener.
const RESERVED_FILES: u64 = 96;

/// The open connections and their limit.
pub struct Connections {
    limit: usize,
    state: Mutex<OpenConnections>,
    /// Notified when a connection ends or becomes idle.
    changed: Notify,
}

#[derive(Default)]
struct OpenConnections {
    open: usize,
    /// The number of connections that were asked to close.
    closing: usize,
    /// The key in `idle` of the next connection that becomes idle.
    next: u64,
    /// A token for each idle connection. Cancelling the token asks the connection to close. The
    /// connection that is idle for longest is first.
    idle: BTreeMap<u64, CancellationToken>,
}

/// The key of a connection that is not idle.
const BUSY: u64 = u64::MAX;

/// One open connection. The connection counts towards the limit until the slot is dropped.
pub struct ConnectionSlot {
    connections: Arc<Connections>,
    /// The key of the connection in `OpenConnections::idle`, or [`BUSY`].
    idle_since: AtomicU64,
    close: CancellationToken,
    has_accepted_request: AtomicBool,
    is_upgraded: Arc<AtomicBool>,
    /// The task that waits until the connection is idle. The task is woken when the connection
    /// becomes idle.
    became_idle: AtomicWaker,
}

/// A new connection, and how room was made for it.
pub struct Admitted {
    pub slot: Arc<ConnectionSlot>,
    pub admission: Admission,
}

/// How room was made for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The number of connections was below the limit.
    Free,
    /// An idle connection was closed.
    IdleClosed,
    /// All connections were busy, and the new one waited.
    Waited,
}

/// The limit of connections for a process that may have `limit` open files. If `limit` is small,
/// half of it is reserved for other files.
#[must_use]
pub fn limit_for_open_files(limit: u64) -> usize {
    usize::try_from(limit - RESERVED_FILES.min(limit / 2)).unwrap_or(usize::MAX)
}

impl Connections {
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, state: Mutex::default(), changed: Notify::new() })
    }

    /// Admits a new connection. If the limit is reached, asks an idle connection to close, and
    /// waits for room. Only the accept loop calls this method, one call at a time.
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
            has_accepted_request: AtomicBool::new(false),
            is_upgraded: Arc::default(),
            became_idle: AtomicWaker::new(),
        }))
    }

    /// Asks the connection that is idle for longest to close, unless another connection is closing
    /// already. Returns whether a connection is closing.
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
    /// Marks a connection as idle. Returns its key in `idle`.
    fn mark_idle(&mut self, close: &CancellationToken) -> u64 {
        let since = self.next;
        self.next += 1;
        self.idle.insert(since, close.clone());
        since
    }
}

impl ConnectionSlot {
    /// Completes when the connection must close.
    pub async fn close_requested(&self) {
        self.close.cancelled().await;
    }

    /// Whether the connection has accepted a request. Part of the response to the request may still
    /// have to be sent.
    #[must_use]
    pub fn has_accepted_request(&self) -> bool {
        self.has_accepted_request.load(Ordering::Relaxed)
    }

    /// The flag that is set when the connection no longer speaks HTTP.
    #[must_use]
    pub fn is_upgraded(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_upgraded)
    }

    /// The number of the current idle period of the connection. Each idle period has its own
    /// number. `None` while a request is in flight, and after an upgrade.
    fn idle_period(&self) -> Option<u64> {
        Some(self.idle_since.load(Ordering::Relaxed)).filter(|since| *since != BUSY)
    }

    /// The same number as [`ConnectionSlot::idle_period`]. If the connection is not idle, the task
    /// is woken when the next idle period begins.
    pub fn poll_idle_period(&self, context: &Context<'_>) -> Option<u64> {
        self.idle_period().or_else(|| {
            self.became_idle.register(context.waker());
            // Read the idle period once more, because the request may have ended after the first
            // read and before the waker was registered.
            self.idle_period()
        })
    }

    /// Marks the connection as busy until the result is dropped. `None` if the connection was asked
    /// to close.
    #[must_use]
    pub fn begin_request(self: &Arc<Self>) -> Option<InFlight> {
        let since = self.idle_since.load(Ordering::Relaxed);
        self.connections.state().idle.remove(&since)?;
        self.idle_since.store(BUSY, Ordering::Relaxed);
        self.has_accepted_request.store(true, Ordering::Relaxed);
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

/// A request in flight. Dropping it marks the connection as idle.
pub struct InFlight(Arc<ConnectionSlot>);

impl InFlight {
    /// Marks the connection as upgraded, and thus busy until it ends.
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
        slot.became_idle.wake();
        slot.connections.changed.notify_one();
    }
}

/// A response body that keeps its request in flight until the body is dropped.
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
    async fn at_the_limit_the_connection_that_is_idle_for_longest_closes() {
        let connections = Connections::new(3);
        let [first, second, third] = [(); 3].map(|()| admit(&connections).unwrap().slot);
        // This request makes the first connection the one that was used last.
        drop(first.begin_request().unwrap());
        assert!(!is_asked_to_close(&second));
        let mut new = Box::pin(connections.admit());
        assert!(new.as_mut().now_or_never().is_none(), "the limit is still reached");
        assert_eq!(
            [&first, &second, &third].map(|slot| is_asked_to_close(slot)),
            [false, true, false]
        );
        assert!(second.begin_request().is_none(), "a closing connection accepts no request");
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
    fn files_are_reserved_for_the_host_and_the_store() {
        assert_eq!(limit_for_open_files(256), 160);
        assert_eq!(limit_for_open_files(1_024), 928);
        assert_eq!(limit_for_open_files(64), 32);
    }
}
