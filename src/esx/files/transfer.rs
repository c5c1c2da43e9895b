//! Transfers of files: a GET or a PUT on `/folder`, each on a connection of its own, which is never
//! one of those for calls. No time limits a whole transfer. A transfer ends if the host neither
//! takes nor sends a byte for as long as a call may take.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderValue, Method, Response};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::folder_url::folder_url;
use super::late_errors::LateErrors;
use super::{EsxFiles, as_folder};
use crate::clock::Clock;
use crate::domain::byte_range::ByteRange;
use crate::domain::file_job::FileTarget;
use crate::domain::names::escape_vim;
use crate::esx::connections::Connection;
use crate::esx::session::{Login, Recheck};
use crate::esx::transport::{TransportError, whole_size};
use crate::hypervisor::{FileBody, FileRead, HostError, HostErrorKind};

/// The names of the transfers in the metrics.
const READ_METRIC: &str = "file_get";
const WRITE_METRIC: &str = "file_put";

/// The body of an upload: bytes of a known number, taken from a stream as fast as they are sent.
struct UploadBody {
    bytes: FileBody,
    left: u64,
    activity: Arc<Activity>,
}

/// How far an upload is.
#[derive(Debug, Default)]
struct Activity {
    /// The number of bytes that the connection took.
    taken: AtomicU64,
    /// Whether the connection waits for bytes of the body, so that the host is not the slow one.
    is_waiting: AtomicBool,
}

/// An answer whose body has not been read, with its connection.
struct Answer {
    connection: Connection,
    response: Response<Incoming>,
}

impl EsxFiles {
    /// Reads a file or a part of it.
    ///
    /// # Errors
    /// As [`DatastoreFiles::read`](crate::hypervisor::DatastoreFiles::read).
    pub(super) async fn get(
        &self,
        file: &FileTarget,
        range: Option<ByteRange>,
    ) -> Result<FileRead, HostError> {
        let answer = self.open(file, range).await?;
        let headers = answer.response.headers();
        let status = answer.response.status().as_u16();
        if matches!(status, 200 | 206) && is_html(headers) && self.is_folder(file).await? {
            let message = format!("{} is a folder.", file.text());
            return Err(HostError::new(HostErrorKind::NotFound, message));
        }
        let (length, part) = match status {
            206 => {
                let (first, last, length) = content_range(headers).ok_or_else(|| {
                    let message = "The host does not say which part of the file it sends.";
                    HostError::new(HostErrorKind::Protocol, message)
                })?;
                (length, Some((first, last)))
            }
            // The host does not know ranges, or none was asked for.
            200 => (content_length(headers).ok_or_else(no_length)?, None),
            416 => return Ok(FileRead::Outside(whole_size(headers).unwrap_or(0))),
            status => return Err(refused(file, status)),
        };
        let patience = self.session.transport().patience();
        Ok(FileRead::Bytes { length, part, body: body(answer, self.clock.clone(), patience) })
    }

    /// The length of a file, as a read of its first byte shows it.
    ///
    /// # Errors
    /// As [`EsxFiles::get`].
    pub(super) async fn length(&self, file: &FileTarget) -> Result<u64, HostError> {
        match self.get(file, Some(ByteRange::From { first: 0, last: Some(0) })).await? {
            FileRead::Bytes { length, .. } | FileRead::Outside(length) => Ok(length),
        }
    }

    /// Writes a file.
    ///
    /// # Errors
    /// As [`DatastoreFiles::write`](crate::hypervisor::DatastoreFiles::write).
    pub(super) async fn put(
        &self,
        file: &FileTarget,
        length: u64,
        bytes: FileBody,
    ) -> Result<(), HostError> {
        let (session, began) = (&self.session, self.clock.elapsed());
        let login = session.current_login().await?;
        self.require_standalone(login.content.product.is_standalone_host())?;
        let activity: Arc<Activity> = Arc::default();
        let body = UploadBody { bytes, left: length, activity: Arc::clone(&activity) };
        let mut request = session.request(&login, Method::PUT, &url(file), body);
        let headers = request.headers_mut();
        headers.insert(CONTENT_LENGTH, length.into());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        // Hosts have lost uploads that came after another one on the same connection.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let stream = LateErrors::new(session.transport().dial().await?);
        let connected = Connection::new(stream).await;
        let mut connection = connected.map_err(|error| session.transport().broken(error))?;
        let answered = tokio::select! {
            biased;
            answered = connection.send(request) => {
                answered.map_err(|error| HostError::from(session.transport().broken(error)))
            }
            () = self.stalled(&activity) => Err(session.transport().timed_out(false).into()),
        };
        let status = answered.as_ref().map_or(0, |answer| answer.status().as_u16());
        let result = match status {
            200 | 201 | 204 => "ok",
            0 => "lost",
            _ => "fault",
        };
        let took = self.clock.elapsed().saturating_sub(began);
        session.metrics().record_host_call(WRITE_METRIC, result, took);
        drop((answered?, connection));
        match status {
            200 | 201 | 204 if activity.taken.load(Ordering::Relaxed) == length => Ok(()),
            200 | 201 | 204 => {
                let message = "The host confirmed the file before it had all bytes of it.";
                Err(HostError::new(HostErrorKind::Protocol, message))
            }
            401 | 403 => Err(self.not_admitted(&login).await),
            status => Err(refused(file, status)),
        }
    }

    /// Opens a connection and asks for a file. If the host does not know the session, it asks once
    /// more over the next one.
    async fn open(&self, file: &FileTarget, range: Option<ByteRange>) -> Result<Answer, HostError> {
        let login = self.session.current_login().await?;
        self.require_standalone(login.content.product.is_standalone_host())?;
        let answer = self.ask(&login, file, range).await?;
        if !matches!(answer.response.status().as_u16(), 401 | 403) {
            return Ok(answer);
        }
        match self.session.recheck(&login).await? {
            Recheck::NewLogin(login) => self.ask(&login, file, range).await,
            Recheck::StillValid => Err(no_privilege("Datastore.Browse")),
        }
    }

    async fn ask(
        &self,
        login: &Login,
        file: &FileTarget,
        range: Option<ByteRange>,
    ) -> Result<Answer, HostError> {
        let (session, began) = (&self.session, self.clock.elapsed());
        let transport = session.transport();
        let mut request = session.request(login, Method::GET, &url(file), Full::default());
        if let Some(range) = range
            && let Ok(range) = HeaderValue::from_str(&range.to_string())
        {
            request.headers_mut().insert(RANGE, range);
        }
        let asking = async {
            let connected = Connection::new(transport.dial().await?).await;
            let mut connection = connected.map_err(|error| transport.broken(error))?;
            let response =
                connection.send(request).await.map_err(|error| transport.broken(error))?;
            Ok::<_, TransportError>(Answer { connection, response })
        };
        let answer = tokio::select! {
            biased;
            answer = asking => answer,
            () = self.clock.sleep(transport.patience()) => Err(transport.timed_out(false)),
        };
        let result = match answer.as_ref().map(|answer| answer.response.status().as_u16()) {
            Ok(200 | 206) => "ok",
            Ok(_) => "fault",
            Err(error) if error.never_sent => "not_sent",
            Err(_) => "lost",
        };
        let took = self.clock.elapsed().saturating_sub(began);
        session.metrics().record_host_call(READ_METRIC, result, took);
        Ok(answer?)
    }

    /// Whether a path is a folder. For a folder, a host answers a GET with a page that lists it.
    async fn is_folder(&self, file: &FileTarget) -> Result<bool, HostError> {
        match self.search(&as_folder(file), None).await {
            Ok(_) => Ok(true),
            Err(error) => match error.kind {
                HostErrorKind::NotFound | HostErrorKind::Rejected => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// The error of an upload whose session the host did not accept. It cannot be sent again,
    /// because its bytes are gone.
    async fn not_admitted(&self, login: &Login) -> HostError {
        match self.session.recheck(login).await {
            Ok(Recheck::StillValid) => no_privilege("Datastore.FileManagement"),
            Ok(Recheck::NewLogin(_)) => {
                let message = "The host ended the session during the upload. Send the file again.";
                HostError::new(HostErrorKind::Unreachable, message)
            }
            Err(error) => error,
        }
    }

    /// Waits until the host has taken no byte for as long as a call may take.
    async fn stalled(&self, activity: &Activity) {
        let patience = self.session.transport().patience();
        let mut seen = activity.taken.load(Ordering::Relaxed);
        loop {
            self.clock.sleep(patience).await;
            let taken = activity.taken.load(Ordering::Relaxed);
            if taken == seen && !activity.is_waiting.load(Ordering::Relaxed) {
                return;
            }
            seen = taken;
        }
    }
}

fn url(file: &FileTarget) -> String {
    folder_url(&escape_vim(&file.datastore_name), file.path.as_str())
}

/// The body of an answer. Each part must arrive in time, counted from when it is asked for.
fn body(answer: Answer, clock: Clock, patience: Duration) -> FileBody {
    let Answer { connection, response } = answer;
    let state = (connection, response.into_body(), clock);
    stream::try_unfold(state, move |(mut connection, mut incoming, clock)| async move {
        let part = tokio::select! {
            biased;
            part = connection.next_part(&mut incoming) => part.map_err(io::Error::other)?,
            () = clock.sleep(patience) => return Err(io::ErrorKind::TimedOut.into()),
        };
        Ok::<_, io::Error>(part.map(|part| (part, (connection, incoming, clock))))
    })
    .boxed()
}

fn is_html(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/html")
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// The first byte, the last byte and the size of the whole file in a `Content-Range`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64, u64)> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes")?;
    let (range, length) = range.trim_start_matches(['=', ' ']).split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (first, last, length) = (number(first)?, number(last)?, number(length)?);
    (first <= last && last < length).then_some((first, last, length))
}

fn no_length() -> HostError {
    let message = "The host does not say how many bytes the file has.";
    HostError::new(HostErrorKind::Protocol, message)
}

fn no_privilege(privilege: &str) -> HostError {
    let message =
        format!("The host refused the file: its account lacks the privilege {privilege}.");
    HostError::new(HostErrorKind::Forbidden, message)
}

/// The error for an answer with a status that is no success.
fn refused(file: &FileTarget, status: u16) -> HostError {
    let place = file.text();
    let (kind, message) = match status {
        404 => (HostErrorKind::NotFound, format!("The host has no {place}.")),
        409 | 423 => (HostErrorKind::FileInUse, format!("The host has locked {place}.")),
        413 | 507 => (
            HostErrorKind::InsufficientResources,
            format!("The datastore of {place} has too little room."),
        ),
        // Hosts answer so for disks of running machines.
        500 => (
            HostErrorKind::FileInUse,
            format!(
                "The host does not give access to {place} (HTTP status 500): it may be locked."
            ),
        ),
        502..=504 => (
            HostErrorKind::Unreachable,
            format!("The host's service is down or starting (HTTP status {status})."),
        ),
        _ => (
            HostErrorKind::Rejected,
            format!("The host refused {place} with HTTP status {status}."),
        ),
    };
    HostError::new(kind, message)
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.activity.is_waiting.store(true, Ordering::Relaxed);
        let next = ready!(self.bytes.poll_next_unpin(context));
        self.activity.is_waiting.store(false, Ordering::Relaxed);
        let Some(bytes) = next else {
            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let Some(left) = self.left.checked_sub(length) else {
            let error = "the body has more bytes than it announced";
            return Poll::Ready(Some(Err(io::Error::other(error))));
        };
        self.left = left;
        self.activity.taken.fetch_add(length, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: http::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_part_of_a_file_says_where_it_is() {
        for (value, expected) in [
            ("bytes 0-0/7", Some((0, 0, 7))),
            ("bytes 2-5/7", Some((2, 5, 7))),
            ("bytes 2-7/7", None),
            ("bytes 5-2/7", None),
            ("bytes 2-5/*", None),
            ("bytes */7", None),
            ("lines 1-2/7", None),
        ] {
            assert_eq!(content_range(&headers(CONTENT_RANGE, value)), expected, "{value}");
        }
    }

    #[test]
    fn only_a_page_can_be_a_folder() {
        assert!(is_html(&headers(CONTENT_TYPE, "text/html; charset=utf-8")));
        assert!(!is_html(&headers(CONTENT_TYPE, "application/octet-stream")));
        assert!(!is_html(&HeaderMap::new()));
    }
}
