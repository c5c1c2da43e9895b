//! `otter files put`: an upload. otter gets the length and the hash of the file before its bytes,
//! so that a repeat sends nothing, and a file that changes meanwhile is refused.
//!
//! ```text
//! file ──► SHA-256        file ──► reader thread ──4 chunks──► body ──► otter
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, Method};
use hyper::body::{Body, Frame, SizeHint};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::bar::{Bar, REDRAW, size};
use super::{PutCommand, TRANSFER_PATIENCE, success};
use crate::cli::run::{Exit, Failure, OtterClient, Progress};
use crate::clock::Clock;

/// The header with the SHA-256 of the body.
const OTTER_CONTENT_SHA256: HeaderName = HeaderName::from_static("otter-content-sha256");

/// The bytes that are read from the file at once.
const CHUNK: usize = 256 << 10;

/// The chunks that are read before otter takes them.
const CHUNKS_AHEAD: usize = 4;

/// How long the bytes of a large file are held back. otter can refuse the request meanwhile, before
/// they are on the way: it closes a connection whose bytes it does not want, and its answer can be
/// lost then. curl waits as long.
const HOLD: Duration = Duration::from_secs(1);

/// The size of a file that is not held back.
const SMALL: u64 = 1 << 20;

/// The job of an upload, with the fields that are printed.
#[derive(Deserialize)]
struct UploadJob {
    result: Option<UploadResult>,
}

#[derive(Deserialize)]
struct UploadResult {
    changed: bool,
}

/// Uploads a file.
///
/// # Errors
/// The file cannot be read, otter refuses it, or the connection breaks.
pub async fn put(
    client: &OtterClient,
    command: &PutCommand,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let PutCommand { from, to, replace, reference, .. } = command;
    let name = from.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    let to = if to.name().is_empty() { to.join(&name) } else { to.clone() };
    let file = File::open(from).map_err(|error| at(from, &error))?;
    let metadata = file.metadata().map_err(|error| at(from, &error))?;
    if !metadata.is_file() {
        let reason = format!("{} is no file, so its length is not known", from.display());
        return Err(Failure::new(Exit::Usage, reason));
    }
    let bytes = metadata.len();
    let mut bar = Bar::new(progress, &format!("reading {name}"), 0, Some(bytes));
    let sha256 = hash(from, &mut bar).await?;

    let sent = Arc::new(AtomicU64::new(0));
    let hold = if bytes > SMALL { HOLD } else { Duration::ZERO };
    let body = FileBody::new(file, bytes, hold, Arc::clone(&sent));
    let replace = if *replace { "&replace=true" } else { "" };
    let mut request = client
        .request(Method::PUT, &format!("{}{replace}", to.query("file")))
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(CONTENT_LENGTH, bytes)
        .header(OTTER_CONTENT_SHA256, &sha256)
        .body(reqwest::Body::wrap(body));
    if let Some(reference) = reference {
        request = request.header("otter-reference", reference);
    }
    let mut bar = Bar::new(progress, &name, 0, Some(bytes));
    let job: UploadJob = {
        let sending = OtterClient::answer_in_any_time(request);
        tokio::pin!(sending);
        let clock = Clock::system();
        let mut patience = Patience::new(clock.elapsed());
        loop {
            tokio::select! {
                biased;
                answered = &mut sending => break success(answered)?.read()?,
                () = clock.sleep(REDRAW) => {
                    let sent = sent.load(Ordering::Relaxed);
                    bar.show(sent);
                    if patience.is_over(sent, clock.elapsed()) {
                        let reason = "otter took no byte and gave no answer for too long";
                        return Err(Failure::new(Exit::Unavailable, reason));
                    }
                }
            }
        }
    };
    let is_new = job.result.is_none_or(|result| result.changed);
    let done = if is_new { "is stored" } else { "was there already, and nothing was sent" };
    progress.info(&format!("{to} {done} ({}, SHA-256 {sha256})", size(bytes)));
    Ok(())
}

/// The SHA-256 of a file, in hexadecimal digits.
async fn hash(path: &Path, bar: &mut Bar<'_>) -> Result<String, Failure> {
    let read = Arc::new(AtomicU64::new(0));
    let (counter, file) = (Arc::clone(&read), path.to_owned());
    let mut hashing = tokio::task::spawn_blocking(move || -> io::Result<String> {
        let (mut file, mut hash) = (File::open(file)?, Sha256::new());
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = file.read(&mut chunk)?;
            if length == 0 {
                return Ok(hex::encode(hash.finalize()));
            }
            hash.update(chunk.get(..length).unwrap_or_default());
            counter.fetch_add(length as u64, Ordering::Relaxed);
        }
    });
    let clock = Clock::system();
    loop {
        tokio::select! {
            biased;
            hashed = &mut hashing => {
                let hashed = hashed.map_err(|error| {
                    Failure::new(Exit::Internal, error.to_string())
                })?;
                return hashed.map_err(|error| at(path, &error));
            }
            () = clock.sleep(REDRAW) => bar.show(read.load(Ordering::Relaxed)),
        }
    }
}

/// Notices that no byte was sent for too long.
struct Patience {
    sent: u64,
    since: Duration,
}

impl Patience {
    const fn new(now: Duration) -> Self {
        Self { sent: 0, since: now }
    }

    fn is_over(&mut self, sent: u64, now: Duration) -> bool {
        if sent != self.sent {
            *self = Self { sent, since: now };
        }
        now.saturating_sub(self.since) > TRANSFER_PATIENCE
    }
}

/// The body of a request: the bytes of a file, with their exact number.
struct FileBody {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    /// The number of bytes that were taken so far.
    sent: Arc<AtomicU64>,
}

impl FileBody {
    /// The first `length` bytes of a file, which a thread of the runtime reads.
    ///
    /// # Parameters
    /// - `hold`: how long the first byte is held back.
    fn new(file: File, length: u64, hold: Duration, sent: Arc<AtomicU64>) -> Self {
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let read_all = move || {
            let mut rest = file.take(length);
            loop {
                let read = read_chunk(&mut rest);
                let goes_on = matches!(&read, Ok(chunk) if !chunk.is_empty());
                // Without a receiver, the request is over.
                if sender.blocking_send(read).is_err() || !goes_on {
                    return;
                }
            }
        };
        tokio::spawn(async move {
            Clock::system().sleep(hold).await;
            tokio::task::spawn_blocking(read_all);
        });
        Self { chunks, left: length, sent }
    }
}

fn read_chunk(file: &mut impl Read) -> io::Result<Bytes> {
    let mut chunk = vec![0; CHUNK];
    let length = file.read(&mut chunk)?;
    chunk.truncate(length);
    Ok(chunk.into())
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let body = self.get_mut();
        let Poll::Ready(chunk) = body.chunks.poll_recv(context) else {
            return Poll::Pending;
        };
        Poll::Ready(match chunk {
            Some(Ok(chunk)) if !chunk.is_empty() => {
                body.left = body.left.saturating_sub(chunk.len() as u64);
                body.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                Some(Ok(Frame::data(chunk)))
            }
            Some(Err(error)) => Some(Err(error)),
            Some(Ok(_)) | None if body.left > 0 => {
                Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter")))
            }
            Some(Ok(_)) | None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Usage, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_has_the_bytes_of_the_file_and_says_how_many() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = vec![7_u8; 3 * CHUNK + 1];
        file.as_file().write_all(&bytes).unwrap();
        let sent = Arc::new(AtomicU64::new(0));
        let open = || File::open(file.path()).unwrap();
        let length = bytes.len() as u64;
        let body = FileBody::new(open(), length, Duration::ZERO, Arc::clone(&sent));
        assert_eq!(body.size_hint().exact(), Some(length));
        assert!(body.collect().await.unwrap().to_bytes() == bytes);
        assert_eq!(sent.load(Ordering::Relaxed), length);
        // A file that grew is cut at the announced length, and one that shrank is an error.
        let body = FileBody::new(open(), 5, Duration::ZERO, Arc::clone(&sent));
        assert_eq!(body.collect().await.unwrap().to_bytes(), bytes[..5]);
        let body = FileBody::new(open(), length + 1, Duration::ZERO, sent);
        assert!(body.collect().await.is_err());
    }

    #[test]
    fn patience_ends_only_if_nothing_is_sent() {
        let mut patience = Patience::new(Duration::ZERO);
        let later = TRANSFER_PATIENCE + Duration::from_secs(1);
        assert!(!patience.is_over(1, later));
        assert!(!patience.is_over(1, later + TRANSFER_PATIENCE));
        assert!(patience.is_over(1, later * 2));
    }
}
