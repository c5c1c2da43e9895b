//! Gives hyper's bare refusals a body.
//!
//! hyper answers an address or headers beyond its own limits, and what it cannot parse, with an
//! empty 400, 414 or 431 of its own making, which no layer sees. This wraps the connection and puts
//! a problem in their place. What is written once the connection was upgraded passes as it is.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::problem;
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};

/// A connection whose bare refusals are replaced on their way out.
pub struct HyperErrorReplacer<C> {
    connection: C,
    clock: Clock,
    is_upgraded: Arc<AtomicBool>,
    /// A refusal of ours that is being written in place of hyper's.
    pending: Vec<u8>,
    written: usize,
}

impl<C> HyperErrorReplacer<C> {
    pub fn new(connection: C, clock: Clock, is_upgraded: Arc<AtomicBool>) -> Self {
        Self { connection, clock, is_upgraded, pending: Vec::new(), written: 0 }
    }
}

impl<C: AsyncWrite + Unpin> HyperErrorReplacer<C> {
    fn poll_pending(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.pending.len() {
            let rest = &self.pending[self.written..];
            let written = ready!(Pin::new(&mut self.connection).poll_write(context, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        self.pending.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for HyperErrorReplacer<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(context, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for HyperErrorReplacer<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_pending(context))?;
        let is_upgraded = self.is_upgraded.load(Ordering::Relaxed);
        let replaced = if is_upgraded { None } else { problem_response(bytes, &self.clock) };
        match replaced {
            Some(response) => {
                self.pending = response;
                // Taken whole; what does not go out at once goes with the next write or flush.
                match self.poll_pending(context) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    _ => Poll::Ready(Ok(bytes.len())),
                }
            }
            None => Pin::new(&mut self.connection).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(context))?;
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(context))?;
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

/// Our answer in place of a bare refusal. Answers of otter's own always carry a request id, so
/// nothing else is taken for one.
fn problem_response(bytes: &[u8], clock: &Clock) -> Option<Vec<u8>> {
    let (kind, detail) = match bytes.get(..13)? {
        b"HTTP/1.1 414 " => (
            FailureKind::UriTooLong,
            "The path and query are longer than otter reads. Use ids in place of names.",
        ),
        b"HTTP/1.1 431 " => (
            FailureKind::HeadersTooLarge,
            "There are more headers, or longer ones, than otter reads.",
        ),
        b"HTTP/1.1 400 " => {
            (FailureKind::InvalidRequest, "This is not HTTP/1.1 as RFC 9112 has it.")
        }
        _ => return None,
    };
    let head = std::str::from_utf8(bytes).ok()?.to_ascii_lowercase();
    if !head.ends_with("\r\n\r\n")
        || !head.contains("content-length: 0\r\n")
        || head.contains("x-request-id")
    {
        return None;
    }
    let id = clock.uuid().to_string();
    let body = serde_json::to_string(&problem::Problem::from_failure(
        &Failure::new(kind, detail),
        Some(&id),
    ))
    .ok()?;
    let status = problem::status(kind);
    Some(
        format!(
            "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\nx-request-id: {id}\r\n\
             x-content-type-options: nosniff\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            status.as_u16(),
            status.canonical_reason().unwrap_or(""),
            body.len()
        )
        .into_bytes(),
    )
}
