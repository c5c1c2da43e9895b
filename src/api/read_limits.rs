//! Ends a connection that is idle for too long, or whose client sends the head of a request too
//! slowly.
//!
//! ```text
//!  idle ──first byte of a head──► head ──head complete──► request in flight ──► idle
//!   │ idle limit                   │ header limit
//!   └──► closed                    └──► closed
//! ```
//! hyper has only one limit for the idle time and the time of the head together. With that limit,
//! hyper would close a connection on which a client is just sending its next request.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connections::ConnectionSlot;
use crate::clock::Clock;

/// The limits of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// The longest time without a byte before the first request of a connection, and between two
    /// requests.
    pub idle: Duration,
    /// The longest time from the first byte of a request's head to the last byte of this head.
    pub header: Duration,
}

/// A stream whose reads fail with `TimedOut` if the client exceeds a limit.
pub struct LimitedStream<S> {
    stream: S,
    slot: Arc<ConnectionSlot>,
    limits: ReadLimits,
    clock: Clock,
    /// The idle period to which `has_bytes` and `since` belong. `None` while a request is in
    /// flight.
    period: Option<u64>,
    /// Whether a byte of the next request's head has arrived.
    has_bytes: bool,
    /// When the limit that applies now (the idle limit or the header limit) began, as the elapsed
    /// time of the clock. `None` before the first wait for a byte.
    since: Option<Duration>,
    /// Wakes the task at the time at which the limit is exceeded, or earlier. If an existing timer
    /// is due earlier, it stays, because restarting the timer for each request costs more than one
    /// needless wake-up.
    timer: Option<Timer>,
    /// Whether the client has not yet read all of the last response. Then the write timeout limits
    /// the time, and not the idle limit.
    is_write_blocked: bool,
    is_over: bool,
}

struct Timer {
    due: Duration,
    sleep: BoxFuture<'static, ()>,
}

impl<S> LimitedStream<S> {
    /// Wraps the stream of a connection.
    ///
    /// # Parameters
    /// - `slot`: says whether a request is in flight.
    pub fn new(stream: S, slot: Arc<ConnectionSlot>, limits: ReadLimits, clock: Clock) -> Self {
        Self {
            stream,
            slot,
            limits,
            clock,
            period: None,
            has_bytes: false,
            since: None,
            timer: None,
            is_write_blocked: false,
            is_over: false,
        }
    }

    /// Updates the idle period, and forgets the limit of an earlier idle period. Returns whether
    /// the connection is idle. If it is not idle, the task is woken when the connection becomes
    /// idle, because hyper does not read again by itself at that time.
    fn update_period(&mut self, context: &Context<'_>) -> bool {
        let period = self.slot.poll_idle_period(context);
        if self.period != period {
            self.period = period;
            self.has_bytes = false;
            self.since = None;
        }
        period.is_some()
    }

    fn count_bytes(&mut self, context: &Context<'_>) {
        if self.update_period(context) && !self.has_bytes {
            self.has_bytes = true;
            self.since = None;
        }
    }

    /// Ready if the client has exceeded the limit that applies now (the idle limit or the header
    /// limit).
    fn poll_limit(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.is_over {
            if !self.update_period(context) {
                return Poll::Pending;
            }
            let Self { limits, clock, has_bytes, since, timer, .. } = self;
            let time = if *has_bytes { limits.header } else { limits.idle };
            let due = since.get_or_insert_with(|| clock.elapsed()).saturating_add(time);
            let current = match timer {
                Some(current) if current.due <= due => current,
                _ => timer.insert(Timer::new(due, clock)),
            };
            ready!(current.sleep.as_mut().poll(context));
            *timer = None;
            if clock.elapsed() >= due {
                *since = None;
                self.is_over = self.has_bytes || !self.is_write_blocked;
            }
        }
        Poll::Ready(())
    }
}

impl Timer {
    fn new(due: Duration, clock: &Clock) -> Self {
        let (clock, left) = (clock.clone(), due.saturating_sub(clock.elapsed()));
        Self { due, sleep: Box::pin(async move { clock.sleep(left).await }) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LimitedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() {
            ready!(self.poll_limit(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if buffer.filled().len() > before {
            self.count_bytes(context);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LimitedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.is_write_blocked = written.is_pending();
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.is_write_blocked = written.is_pending();
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.is_write_blocked = flushed.is_pending();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::api::connections::Connections;

    const LIMITS: ReadLimits =
        ReadLimits { idle: Duration::from_secs(75), header: Duration::from_secs(10) };

    const SECOND: Duration = Duration::from_secs(1);

    struct Fixture {
        clock: Clock,
        slot: Arc<ConnectionSlot>,
        server: LimitedStream<DuplexStream>,
        client: DuplexStream,
    }

    impl Fixture {
        async fn new() -> Self {
            let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
            let slot = Connections::new(1).admit().await.slot;
            let (server, client) = tokio::io::duplex(8);
            let server = LimitedStream::new(server, Arc::clone(&slot), LIMITS, clock.clone());
            Self { clock, slot, server, client }
        }

        /// Reads once without waiting. `None` if there is nothing to read.
        fn read(&mut self) -> Option<io::Result<u8>> {
            self.server.read_u8().now_or_never()
        }

        /// Advances the clock, and expects that the connection stays open for this time and closes
        /// one second later.
        fn assert_closes_after(&mut self, time: Duration) {
            assert!(self.read().is_none(), "the limit begins with the wait");
            self.clock.advance(time.saturating_sub(SECOND));
            assert!(self.read().is_none(), "closed before {time:?}");
            self.clock.advance(SECOND);
            assert_eq!(self.read().unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
    }

    #[tokio::test]
    async fn an_unused_connection_has_the_idle_limit() {
        Fixture::new().await.assert_closes_after(LIMITS.idle);
    }

    #[tokio::test]
    async fn the_header_limit_begins_with_the_first_byte_and_no_byte_extends_it() {
        let mut fixture = Fixture::new().await;
        assert!(fixture.read().is_none());
        fixture.clock.advance(LIMITS.idle.saturating_sub(SECOND));
        fixture.client.write_all(b"G").await.unwrap();
        assert_eq!(fixture.read().unwrap().unwrap(), b'G');
        assert!(fixture.read().is_none());
        fixture.clock.advance(LIMITS.header.saturating_sub(SECOND));
        fixture.client.write_all(b"E").await.unwrap();
        assert_eq!(fixture.read().unwrap().unwrap(), b'E');
        assert!(fixture.read().is_none());
        fixture.clock.advance(SECOND);
        assert!(fixture.read().unwrap().is_err());
        assert!(fixture.read().unwrap().is_err(), "the limit stays exceeded");
    }

    #[tokio::test]
    async fn a_request_in_flight_has_no_limit_and_the_idle_time_begins_after_it() {
        let mut fixture = Fixture::new().await;
        fixture.client.write_all(b"G").await.unwrap();
        assert_eq!(fixture.read().unwrap().unwrap(), b'G');
        let request = fixture.slot.begin_request().unwrap();
        assert!(fixture.read().is_none());
        fixture.clock.advance(Duration::from_hours(1));
        assert!(fixture.read().is_none());
        drop(request);
        fixture.assert_closes_after(LIMITS.idle);
    }

    #[tokio::test]
    async fn each_request_begins_a_new_idle_time() {
        let mut fixture = Fixture::new().await;
        for _ in 0..3 {
            assert!(fixture.read().is_none());
            fixture.clock.advance(LIMITS.idle.saturating_sub(SECOND));
            fixture.client.write_all(b"G").await.unwrap();
            assert_eq!(fixture.read().unwrap().unwrap(), b'G');
            let request = fixture.slot.begin_request().unwrap();
            assert!(fixture.read().is_none());
            drop(request);
        }
        fixture.assert_closes_after(LIMITS.idle);
    }

    #[tokio::test]
    async fn the_reader_is_woken_when_the_request_ends() {
        let mut fixture = Fixture::new().await;
        let request = fixture.slot.begin_request().unwrap();
        let (waker, woken) = flag_waker();
        let mut context = Context::from_waker(&waker);
        let mut bytes = [0; 1];
        let mut buffer = ReadBuf::new(&mut bytes);
        let read = Pin::new(&mut fixture.server).poll_read(&mut context, &mut buffer);
        assert!(read.is_pending() && !woken.load(Ordering::Relaxed));
        drop(request);
        assert!(woken.load(Ordering::Relaxed));
    }

    /// A waker that sets a flag.
    fn flag_waker() -> (std::task::Waker, Arc<AtomicBool>) {
        struct Flag(Arc<AtomicBool>);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let woken = Arc::new(AtomicBool::new(false));
        (Arc::new(Flag(Arc::clone(&woken))).into(), woken)
    }

    #[tokio::test]
    async fn a_connection_whose_client_still_reads_its_response_is_not_idle() {
        let mut fixture = Fixture::new().await;
        assert!(fixture.server.write_all(b"0123456789").now_or_never().is_none());
        assert!(fixture.read().is_none());
        fixture.clock.advance(LIMITS.idle);
        assert!(fixture.read().is_none());
        let mut rest = [0; 8];
        fixture.client.read_exact(&mut rest).await.unwrap();
        assert!(fixture.server.write_all(b"89").now_or_never().is_some());
        fixture.assert_closes_after(LIMITS.idle);
    }

    #[tokio::test]
    async fn an_upgraded_connection_has_no_limit() {
        let mut fixture = Fixture::new().await;
        let request = fixture.slot.begin_request().unwrap();
        request.mark_upgraded();
        drop(request);
        assert!(fixture.read().is_none());
        fixture.clock.advance(Duration::from_hours(24));
        assert!(fixture.read().is_none());
    }
}
