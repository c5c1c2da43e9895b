//! Replaces the empty error responses of hyper by problems.
//!
//! hyper itself answers a request that it cannot parse, or whose URI or headers exceed its limits,
//! with an empty 400, 414 or 431. otter does not see these requests, so they are in no log and in
//! no metric. A wrapper around the connection finds the responses in the written bytes and replaces
//! them. It leaves the bytes of an upgraded connection unchanged.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{links, problem};
use crate::clock::Clock;
use crate::domain::base_path::BasePath;
use crate::domain::failure::{Failure, FailureKind};

/// A connection that replaces the empty error responses of hyper.
pub struct HyperErrorReplacer<C> {
    connection: C,
    clock: Clock,
    is_upgraded: Arc<AtomicBool>,
    /// The path under which clients reach otter.
    base_path: BasePath,
    /// The replacement that is being written.
    pending: Vec<u8>,
    written: usize,
}

impl<C> HyperErrorReplacer<C> {
    pub fn new(
        connection: C,
        clock: Clock,
        is_upgraded: Arc<AtomicBool>,
        base_path: BasePath,
    ) -> Self {
        Self { connection, clock, is_upgraded, base_path, pending: Vec::new(), written: 0 }
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

    /// The replacement for bytes that hyper wrote. `None` if the bytes are not an error response of
    /// hyper.
    fn replace(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let kind = ErrorResponse::from_bytes(bytes)?;
        if self.is_upgraded.load(Ordering::Relaxed) {
            return None;
        }
        links::under_sync(&self.base_path, || problem_response(&kind, bytes, &self.clock))
    }

    /// Begins to write a replacement, and reports all of the replaced bytes as written. The next
    /// write or flush sends the rest.
    fn begin_replacement(
        &mut self,
        context: &mut Context<'_>,
        response: Vec<u8>,
        replaced: usize,
    ) -> Poll<io::Result<usize>> {
        self.pending = response;
        match self.poll_pending(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(replaced)),
        }
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
        match self.replace(bytes) {
            Some(response) => self.begin_replacement(context, response, bytes.len()),
            None => Pin::new(&mut self.connection).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_pending(context))?;
        // An error response of hyper has no body, so hyper writes it as one slice. A write of
        // several slices is never replaced.
        let only = match slices {
            [only] => self.replace(only).map(|response| (response, only.len())),
            _ => None,
        };
        match only {
            Some((response, length)) => self.begin_replacement(context, response, length),
            None => Pin::new(&mut self.connection).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
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

/// The parts of a response that begins in the way in which hyper's error responses begin.
struct ErrorResponse {
    kind: FailureKind,
    detail: &'static str,
}

impl ErrorResponse {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        // The version can be 1.1 or 1.0: hyper answers in the version of the last request of the
        // connection.
        let status =
            bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 "))?;
        let (kind, detail) = match status.get(..4)? {
            b"414 " => (
                FailureKind::UriTooLong,
                "The path and query are longer than otter accepts. Use ids in place of names.",
            ),
            b"431 " => (
                FailureKind::HeadersTooLarge,
                "The request has more or longer headers than otter accepts: at most 100 headers \
                 with 32,768 bytes in all.",
            ),
            b"400 " => {
                (FailureKind::InvalidRequest, "The request is not valid HTTP/1.1 (RFC 9112).")
            }
            _ => return None,
        };
        Some(Self { kind, detail })
    }
}

/// The replacement for an empty error response of hyper. `None` if the bytes are anything else.
/// otter's own responses always have a request id, so they are never replaced.
fn problem_response(
    ErrorResponse { kind, detail }: &ErrorResponse,
    bytes: &[u8],
    clock: &Clock,
) -> Option<Vec<u8>> {
    let kind = *kind;
    let head = std::str::from_utf8(bytes).ok()?.to_ascii_lowercase();
    if !head.ends_with("\r\n\r\n")
        || !head.contains("content-length: 0\r\n")
        || head.contains("x-request-id")
    {
        return None;
    }
    let id = clock.uuid().to_string();
    let body = serde_json::to_string(&problem::Problem::from_failure(
        &Failure::new(kind, *detail),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_error_of_hyper_in_either_version_is_replaced() {
        let replaced = |text: &str| {
            let bytes = text.as_bytes();
            let kind = ErrorResponse::from_bytes(bytes)?;
            problem_response(&kind, bytes, &Clock::system()).map(|_| kind.kind)
        };
        let end = "content-length: 0\r\n\r\n";
        for version in ["HTTP/1.1", "HTTP/1.0"] {
            let with = |status: &str| replaced(&format!("{version} {status} x\r\n{end}"));
            assert_eq!(with("400"), Some(FailureKind::InvalidRequest));
            assert_eq!(with("414"), Some(FailureKind::UriTooLong));
            assert_eq!(with("431"), Some(FailureKind::HeadersTooLarge));
            assert_eq!(with("404"), None);
        }
        assert_eq!(replaced(&format!("HTTP/1.1 400 x\r\nx-request-id: 1\r\n{end}")), None);
        assert_eq!(replaced("HTTP/1.1 400 x\r\ncontent-length: 3\r\n\r\n"), None);
    }
}
