//! A stream on which reads go on after a write has failed. A host that refuses an upload answers
//! and resets the connection at once, and a client that stops at the failed write never reads why.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose writes wait for ever once one of them has failed. Its reads show how the
/// connection ended: with an answer, with its end, or with an error.
pub struct LateErrors<S> {
    stream: S,
    has_failed: bool,
}

impl<S> LateErrors<S> {
    pub const fn new(stream: S) -> Self {
        Self { stream, has_failed: false }
    }

    /// Turns the failure of a write into a wait. The task is woken by the next read.
    fn hold<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(Err(_)) => {
                self.has_failed = true;
                Poll::Pending
            }
            written => written,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LateErrors<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LateErrors<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.has_failed {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.hold(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.has_failed {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.hold(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_failed {
            return Poll::Pending;
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.hold(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn an_answer_is_read_after_the_other_side_refused_more_bytes() {
        let (reads, mut other) = tokio::io::duplex(64);
        other.write_all(b"HTTP/1.1 401").await.unwrap();
        drop(other);
        // The writing half is closed, so that every write fails.
        let (closed, sink) = tokio::io::duplex(64);
        drop(closed);
        let mut stream = LateErrors::new(tokio::io::join(reads, sink));
        let sending = async {
            let (mut answers, mut writer) = tokio::io::split(&mut stream);
            let mut answer = String::new();
            tokio::select! {
                _ = writer.write_all(b"more") => panic!("the write must wait"),
                read = answers.read_to_string(&mut answer) => read.unwrap(),
            };
            answer
        };
        assert_eq!(sending.await, "HTTP/1.1 401");
    }
}
