//! The body of an answer with a part of a file: read block by block, and disturbed as a test has
//! planned.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::fault_injection::{TransferEnd, TransferMishap};
use super::http_answer::ConnectionCut;
use super::world::{FileContent, FilePart};
use crate::clock::Clock;

/// The maximum size of a frame.
const MAX_FRAME: usize = 256 << 10;

/// A part of a file as the body of an answer.
pub struct FileBody {
    content: FileContent,
    offset: u64,
    left: u64,
    sent: u64,
    mishap: TransferMishap,
    /// Whether the server had the time to send what it has, before the connection is cut.
    is_flushed: bool,
    clock: Clock,
    /// The next frame, while it is read from a file of this computer or held back by a rate.
    next: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileBody {
    /// The part of a file from `offset` on, of `length` bytes, which are in the file.
    pub const fn new(
        content: FileContent,
        offset: u64,
        length: u64,
        mishap: TransferMishap,
        clock: Clock,
    ) -> Self {
        let is_flushed = false;
        Self { content, offset, left: length, sent: 0, mishap, is_flushed, clock, next: None }
    }

    /// The number of bytes until the planned end of the transfer. `None` if none is planned.
    fn until_end(&self) -> Option<u64> {
        self.mishap.end.map(|(after, _)| after.saturating_sub(self.sent))
    }

    fn took(&mut self, bytes: &Bytes) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.offset += length;
        self.sent += length;
        self.left = self.left.saturating_sub(length);
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = ConnectionCut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ConnectionCut>>> {
        if let Some(next) = &mut self.next {
            let read = ready!(Pin::new(next).poll(context));
            self.next = None;
            return Poll::Ready(match read {
                Ok(Ok(bytes)) if !bytes.is_empty() => {
                    self.took(&bytes);
                    Some(Ok(Frame::data(bytes)))
                }
                _ => Some(Err(ConnectionCut)),
            });
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let until_end = self.until_end();
        if until_end == Some(0) {
            return match self.mishap.end {
                Some((_, TransferEnd::Stall)) => Poll::Pending,
                // At an error, a server drops what it has not sent. It sends while it waits.
                _ if !self.is_flushed => {
                    self.is_flushed = true;
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                _ => Poll::Ready(Some(Err(ConnectionCut))),
            };
        }
        let most = self.left.min(until_end.unwrap_or(u64::MAX));
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(MAX_FRAME);
        let part = self.content.part(self.offset, most);
        let rate = self.mishap.bytes_per_second;
        match part {
            FilePart::Bytes(bytes) if rate.is_none() => {
                self.took(&bytes);
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            part => {
                let clock = self.clock.clone();
                self.next = Some(tokio::spawn(async move {
                    let bytes = match part {
                        FilePart::Bytes(bytes) => bytes,
                        FilePart::OnDisk { path, offset, length } => {
                            read_disk(&path, offset, length).await?
                        }
                    };
                    if let Some(rate) = rate {
                        clock.sleep(time_for(bytes.len(), rate)).await;
                    }
                    Ok(bytes)
                }));
            }
        }
        self.poll_frame(context)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Drop for FileBody {
    fn drop(&mut self) {
        if let Some(next) = &self.next {
            next.abort();
        }
    }
}

async fn read_disk(path: &Path, offset: u64, length: usize) -> io::Result<Bytes> {
    let path = path.to_owned();
    let read = move || {
        let mut bytes = vec![0; length];
        std::fs::File::open(path)?.read_exact_at(&mut bytes, offset)?;
        Ok(Bytes::from(bytes))
    };
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

/// How long this many bytes take at a rate.
pub fn time_for(bytes: usize, bytes_per_second: u64) -> Duration {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / bytes_per_second.max(1))
}
