//! The file of a serial port on a datastore, read by ranges while it grows. What the file has when
//! it is opened does not count as output: as on every other port, output begins with the
//! connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::Clock;
use crate::esx::files::folder_url::folder_url;
use crate::esx::session::{Recheck, Session};
use crate::esx::transport::HttpAnswer;
use crate::hypervisor::{HostError, HostErrorKind};

/// The pause before the next read, if there was nothing new.
const PAUSE: Duration = Duration::from_secs(1);

/// The most bytes of one read.
const PART: u64 = 1024 * 1024;

/// The name of the reads in the metrics.
const METRIC: &str = "serial_file";

/// A file that grows.
pub struct DatastoreFile {
    file: Arc<FileReader>,
    /// Where the next read begins. `None` before the size of the file is known.
    position: Option<u64>,
    unread: Bytes,
    reading: Option<BoxFuture<'static, io::Result<(u64, Bytes)>>>,
}

struct FileReader {
    session: Arc<Session>,
    clock: Clock,
    /// The path in a URL, with its query.
    path: String,
}

/// What the host has at a position of the file.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Bytes(Bytes),
    /// There is nothing yet, and the file has this size.
    End(u64),
}

/// The file at this path of a datastore. The first read asks for its size.
#[must_use]
pub fn open(session: Arc<Session>, clock: Clock, datastore: &str, path: &str) -> DatastoreFile {
    let path = folder_url(datastore, path);
    let file = Arc::new(FileReader { session, clock, path });
    DatastoreFile { file, position: None, unread: Bytes::new(), reading: None }
}

impl FileReader {
    /// Waits for bytes at a position. A failure that may pass is tried again.
    ///
    /// # Parameters
    /// - `position`: `None` for the end that the file has now.
    ///
    /// # Returns
    /// The position behind the bytes, and the bytes.
    async fn read(self: Arc<Self>, position: Option<u64>) -> io::Result<(u64, Bytes)> {
        let mut position = match position {
            Some(position) => position,
            None => self.size().await?,
        };
        loop {
            match self.part(position, PART).await {
                Ok(Part::Bytes(bytes)) if !bytes.is_empty() => {
                    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    return Ok((position.saturating_add(length), bytes));
                }
                // The machine began the file again.
                Ok(Part::End(size)) if size < position => position = 0,
                Ok(Part::Bytes(_) | Part::End(_)) => {}
                Err(error) if may_pass(&error) => {
                    tracing::debug!(path = self.path, %error, "a file of a port is not read");
                }
                Err(error) => return Err(io::Error::other(error.message)),
            }
            self.clock.sleep(PAUSE).await;
        }
    }

    async fn size(&self) -> io::Result<u64> {
        loop {
            match self.part(u64::MAX / 2, 1).await {
                Ok(Part::End(size)) => return Ok(size),
                Ok(Part::Bytes(_)) => return Ok(0),
                Err(error) if may_pass(&error) => self.clock.sleep(PAUSE).await,
                Err(error) => return Err(io::Error::other(error.message)),
            }
        }
    }

    async fn part(&self, from: u64, length: u64) -> Result<Part, HostError> {
        let range = from..=from.saturating_add(length - 1);
        let login = self.session.current_login().await?;
        let refused = |error: crate::esx::session::ExchangeError| {
            error.into_error("The host refused the file of a serial port")
        };
        let answer = self.session.get_part(&login, METRIC, &self.path, range.clone()).await;
        let answer = answer.map_err(refused)?;
        let answer = if matches!(answer.status, 401 | 403) {
            match self.session.recheck(&login).await? {
                Recheck::NewLogin(login) => self
                    .session
                    .get_part(&login, METRIC, &self.path, range)
                    .await
                    .map_err(refused)?,
                Recheck::StillValid => answer,
            }
        } else {
            answer
        };
        judge(answer, from)
    }
}

fn may_pass(error: &HostError) -> bool {
    matches!(error.kind, HostErrorKind::Unreachable | HostErrorKind::NotAuthenticated)
}

/// What an answer says about a position of the file.
fn judge(answer: HttpAnswer, from: u64) -> Result<Part, HostError> {
    let HttpAnswer { status, body, cookie: _, whole_size } = answer;
    match status {
        206 => Ok(Part::Bytes(body)),
        // The host does not know ranges, and sent the whole file.
        200 => {
            let size = u64::try_from(body.len()).unwrap_or(u64::MAX);
            Ok(match usize::try_from(from) {
                Ok(from) if from < body.len() => Part::Bytes(body.slice(from..)),
                _ => Part::End(size),
            })
        }
        416 => Ok(Part::End(whole_size.unwrap_or(from))),
        // The file comes with the next power-on.
        404 => Ok(Part::End(0)),
        401 | 403 => Err(HostError::new(
            HostErrorKind::Forbidden,
            "The host refused the file of a serial port: its account lacks the privilege \
             Datastore.Browse.",
        )),
        _ => Err(HostError::new(
            HostErrorKind::Unreachable,
            format!("The host gave no part of the file: it answered with HTTP status {status}."),
        )),
    }
}

impl AsyncRead for DatastoreFile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() {
            let reading = this
                .reading
                .get_or_insert_with(|| Box::pin(Arc::clone(&this.file).read(this.position)));
            let read = ready!(reading.as_mut().poll(context));
            this.reading = None;
            let (position, bytes) = read?;
            this.position = Some(position);
            this.unread = bytes;
        }
        let length = this.unread.len().min(buffer.remaining());
        buffer.put_slice(&this.unread.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for DatastoreFile {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        let error = "the port writes to a file and takes no input";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::Unsupported, error)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, whole_size: Option<u64>) -> Result<Part, HostErrorKind> {
        let body = Bytes::from_static(b"boot");
        let answer = HttpAnswer { status, body, cookie: None, whole_size };
        judge(answer, 2).map_err(|error| error.kind)
    }

    #[test]
    fn a_part_is_what_the_host_has_behind_the_position() {
        assert_eq!(judged(206, Some(6)), Ok(Part::Bytes(Bytes::from_static(b"boot"))));
        assert_eq!(judged(200, None), Ok(Part::Bytes(Bytes::from_static(b"ot"))));
        assert_eq!(judged(416, Some(1)), Ok(Part::End(1)));
        assert_eq!(judged(416, None), Ok(Part::End(2)), "nothing new");
        assert_eq!(judged(404, None), Ok(Part::End(0)));
        assert_eq!(judged(403, None), Err(HostErrorKind::Forbidden));
        assert_eq!(judged(500, None), Err(HostErrorKind::Unreachable));
    }
}
