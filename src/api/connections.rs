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
    state: Mutex<State>,
    /// A connection has ended or become idle.
    changed: Notify,
}

#[derive(Default)]
struct State {
    open: usize,
    /// The number of connections that were asked to close.
    closing: usize,
    /// Names the next time that a connection becomes idle.
    next: u64,
    /// How to close each idle connection, the oldest first.
    idle: BTreeMap<u64, CancellationToken>,
}

/// One open connection. It counts until this is dropped.
pub struct Place {
    connections: Arc<Connections>,
    idle_since: AtomicU64,
    close: CancellationToken,
    has_served: AtomicBool,
    is_upgraded: Arc<AtomicBool>,
}

/// How a new connection got its place.
pub struct Entered {
    pub place: Arc<Place>,
    pub how: Way,
}

/// What had to happen before a new connection had a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
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
pub fn within_open_files(limit: u64) -> usize {
    usize::try_from(limit - RESERVED_FILES.min(limit / 2)).unwrap_or(usize::MAX)
}

impl Connections {
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, state: Mutex::default(), changed: Notify::new() })
    }

    /// Takes a place for a new connection. If there is none, asks an idle connection to close. Only
    /// the accept loop calls this, one call at a time.
    pub async fn enter(self: &Arc<Self>) -> Entered {
        let mut how = Way::Free;
        loop {
            if let Some(place) = self.place() {
                return Entered { place, how };
            }
            how = if self.close_oldest_idle() { Way::IdleClosed } else { Way::Waited };
            self.changed.notified().await;
        }
    }

    fn place(self: &Arc<Self>) -> Option<Arc<Place>> {
        let mut state = self.state();
        if state.open >= self.limit {
            return None;
        }
        state.open += 1;
        let close = CancellationToken::new();
        let idle_since = AtomicU64::new(state.idle(&close));
        drop(state);
        let connections = Arc::clone(self);
        Some(Arc::new(Place {
            connections,
            idle_since,
            close,
            has_served: AtomicBool::new(false),
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lists a connection as idle from now on, and gives the name of this time.
    fn idle(&mut self, close: &CancellationToken) -> u64 {
        let since = self.next;
        self.next += 1;
        self.idle.insert(since, close.clone());
        since
    }
}

impl Place {
    /// Ends when the connection must close.
    pub async fn told_to_close(&self) {
        self.close.cancelled().await;
    }

    /// Whether the connection answered a request. The end of the answer may still be in transit.
    #[must_use]
    pub fn has_served(&self) -> bool {
        self.has_served.load(Ordering::Relaxed)
    }

    /// Whether the connection no longer speaks HTTP.
    #[must_use]
    pub fn is_upgraded(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_upgraded)
    }

    /// Marks the connection as busy until the result is dropped. `None` if it was asked to close
    /// before.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Option<InFlight> {
        let since = self.idle_since.load(Ordering::Relaxed);
        self.connections.state().idle.remove(&since)?;
        self.has_served.store(true, Ordering::Relaxed);
        Some(InFlight(Arc::clone(self)))
    }
}

impl Drop for Place {
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
pub struct InFlight(Arc<Place>);

impl InFlight {
    /// Marks the connection as busy for as long as it is open: the answer says that it goes on as
    /// something else.
    pub fn upgrade(&self) {
        self.0.is_upgraded.store(true, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let place = &self.0;
        if place.is_upgraded.load(Ordering::Relaxed) {
            return;
        }
        let since = place.connections.state().idle(&place.close);
        place.idle_since.store(since, Ordering::Relaxed);
        place.connections.changed.notify_one();
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

    fn enter(connections: &Arc<Connections>) -> Option<Entered> {
        connections.enter().now_or_never()
    }

    fn is_told_to_close(place: &Place) -> bool {
        place.told_to_close().now_or_never().is_some()
    }

    #[tokio::test]
    async fn at_the_limit_the_oldest_idle_connection_goes() {
        let connections = Connections::new(3);
        let [first, second, third] = [(); 3].map(|()| enter(&connections).unwrap().place);
        // The first was used last.
        drop(first.begin().unwrap());
        assert!(!is_told_to_close(&second));
        let mut new = Box::pin(connections.enter());
        assert!(new.as_mut().now_or_never().is_none(), "the place is not free yet");
        assert_eq!(
            [&first, &second, &third].map(|place| is_told_to_close(place)),
            [false, true, false]
        );
        assert!(second.begin().is_none(), "nothing begins on a connection that closes");
        drop(second);
        assert_eq!(new.await.how, Way::IdleClosed);
    }

    #[tokio::test]
    async fn a_busy_connection_is_never_closed_for_another() {
        let connections = Connections::new(2);
        let [first, second] = [(); 2].map(|()| enter(&connections).unwrap().place);
        let [one, other] = [first.begin().unwrap(), second.begin().unwrap()];
        let mut new = Box::pin(connections.enter());
        assert!(new.as_mut().now_or_never().is_none());
        assert!(!is_told_to_close(&first) && !is_told_to_close(&second));
        drop(other);
        assert!(new.as_mut().now_or_never().is_none());
        assert!(is_told_to_close(&second) && !is_told_to_close(&first));
        drop(second);
        let entered = new.await;
        assert_eq!(entered.how, Way::IdleClosed);
        drop((entered, one, first));
        assert_eq!(enter(&connections).unwrap().how, Way::Free);
    }

    #[tokio::test]
    async fn an_upgraded_connection_is_never_idle() {
        let connections = Connections::new(1);
        let upgraded = enter(&connections).unwrap().place;
        let request = upgraded.begin().unwrap();
        request.upgrade();
        drop(request);
        let mut new = Box::pin(connections.enter());
        assert!(new.as_mut().now_or_never().is_none());
        assert!(!is_told_to_close(&upgraded));
        drop(upgraded);
        assert_eq!(new.await.how, Way::Waited);
    }

    #[test]
    fn files_are_kept_for_the_host_and_the_store() {
        assert_eq!(within_open_files(256), 160);
        assert_eq!(within_open_files(1_024), 928);
        assert_eq!(within_open_files(64), 32);
    }
}
