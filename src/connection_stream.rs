//! The byte stream of a connection. It holds the permit of the connection, and it fails when the
//! server ends. It does so even after an upgrade to another protocol, when hyper hands the stream
//! over to a handler and no longer closes it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that also holds a value, such as a permit, until the stream is dropped. Reads and
/// writes fail once the future `end` is ready.
pub struct ConnectionStream<S, H> {
    stream: S,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    has_ended: bool,
    _held: H,
}

impl<S, H> ConnectionStream<S, H> {
    /// Wraps a stream.
    ///
    /// # Parameters
    /// - `held`: the value that is held until the stream is dropped.
    /// - `end`: a future that completes when the stream must end.
    pub fn new(stream: S, held: H, end: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { stream, end: Box::pin(end), has_ended: false, _held: held }
    }

    /// Fails if the stream must end. Otherwise arranges that the task is woken when the stream must
    /// end.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.has_ended = self.has_ended || self.end.as_mut().poll(context).is_ready();
        if self.has_ended { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl<S: AsyncRead + Unpin, H: Unpin> AsyncRead for ConnectionStream<S, H> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin, H: Unpin> AsyncWrite for ConnectionStream<S, H> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
