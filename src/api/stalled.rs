//! Ends connections whose reader has stopped: it would keep its answer in memory, and a stream its place, for ever.
//!
//! ```text
//!  write ──► taken, in part or whole ──► (clock stands)
//!    └─ not taken ──► clock runs ──► taken | PATIENCE is over: the write fails, and the connection with it
//! ```

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::Clock;

/// How long a reader may take nothing at all. What the system's buffers hold it need not take.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// A connection that fails once its reader has stopped for [`PATIENCE`].
pub struct Stalled<C> {
    connection: C,
    clock: Clock,
    /// Runs while a write is not taken.
    over: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<C> Stalled<C> {
    pub fn new(connection: C, clock: Clock) -> Self {
        Self { connection, clock, over: None }
    }

    /// Lets the clock run while this is pending, and fails where it has run out.
    fn within_patience<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.over = None;
            return written;
        }
        let clock = &self.clock;
        let over = self.over.get_or_insert_with(|| {
            let clock = clock.clone();
            Box::pin(async move { clock.sleep(PATIENCE).await })
        });
        over.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Stalled<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(context, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Stalled<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.connection).poll_write(context, bytes);
        self.within_patience(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.connection).poll_flush(context);
        self.within_patience(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    use super::*;

    /// Writes ten bytes to a reader whose buffer takes four, and waits until that is full.
    async fn writing(clock: &Clock) -> (JoinHandle<io::Result<()>>, DuplexStream) {
        let (server, client) = duplex(4);
        let mut server = Stalled::new(server, clock.clone());
        let writing = tokio::spawn(async move { server.write_all(b"0123456789").await });
        tokio::task::yield_now().await;
        (writing, client)
    }

    #[tokio::test]
    async fn a_reader_that_stops_ends_the_connection() {
        let clock = Clock::stepped(Timestamp::UNIX_EPOCH);
        let (writing, _client) = writing(&clock).await;
        clock.advance(PATIENCE);
        assert_eq!(writing.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_reader_that_takes_a_little_now_and_then_is_served() {
        let clock = Clock::stepped(Timestamp::UNIX_EPOCH);
        let (writing, mut client) = writing(&clock).await;
        let mut read = String::new();
        for _ in 0..10 {
            clock.advance(PATIENCE.mul_f32(0.9));
            read.push(char::from(client.read_u8().await.unwrap()));
            tokio::task::yield_now().await;
        }
        assert_eq!(read, "0123456789");
        writing.await.unwrap().unwrap();
    }
}
