//! `GET /v1/machines/{machine}/serial/{port}/log`

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::since::Since;
use super::{PortPath, check_may_look};
use crate::api::ApiState;
use crate::api::attachment::set_harmless_headers;
use crate::api::extract::{InvalidValue, Parameter, Parsed, Query, Segments, failure_at};
use crate::api::lease_authorization::read_authorization;
use crate::api::long_poll::{WaitEnd, WaitPermit};
use crate::api::openapi_parts::{MachinePath, Problems};
use crate::api::problem::ApiError;
use crate::api::respond::{set, set_state_headers};
use crate::api::screens::LookHeaders;
use crate::domain::artifact::ContentType;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::machine::{Machine, SerialPort};
use crate::service::callers::Caller;
use crate::service::jobs::authorization::Requester;
use crate::service::serial::plain_text::{PlainText, plain_text};
use crate::service::serial::{ReadFrom, SerialPiece, SerialReader, find_port};

/// The header with the offset of the first byte of the body.
const FIRST: HeaderName = HeaderName::from_static("otter-serial-first");

/// The header with the offset after the last byte of the body.
const NEXT: HeaderName = HeaderName::from_static("otter-serial-next");

/// The most bytes of the output that are made a text at once.
const MAX_TEXT: u64 = 1024 * 1024;

/// The bytes that are read at once.
const PIECE: usize = 64 * 1024;

/// Which part of the output the answer has, and how.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// The offset of the first byte. Negative: so many bytes before the end. Default: the first
    /// byte that otter keeps.
    #[param(value_type = Option<i64>)]
    since: Option<Parsed<Since>>,
    /// `raw` (default): the bytes as they came. `text`: without the sequences that control a
    /// terminal, as UTF-8, at most of 1 MiB of the output.
    #[param(value_type = Option<String>)]
    format: Option<Parsed<LogFormat>>,
    /// Whether the answer goes on with what comes. Only with `format=raw`. Default: false.
    #[param(value_type = Option<bool>)]
    follow: Option<Parsed<bool>>,
    /// Without `follow`: how long the call waits for the first byte, if there is none. With it: how
    /// long the answer goes on. At most `http.max_wait`. Default: not at all, and without end.
    #[param(value_type = Option<String>)]
    wait: Option<Parsed<Duration>>,
}

/// The form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Raw,
    Text,
}

/// The output of a serial port.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "documents the body")]
pub struct SerialBytes(Vec<u8>);

/// Read the output of a serial port
///
/// Every byte that a port outputs has an offset that only grows, and that no other byte ever gets,
/// whatever becomes of the connection, the machine and otter. Reading consumes nothing. otter
/// connects to the port, if it is not connected, and stays so for a short while: bytes from before
/// are there only if otter was connected then, as it is while a lease holds the machine.
///
/// The body has bytes that follow each other, from `Otter-Serial-First` to before
/// `Otter-Serial-Next`, from where to read on. Where offsets are missing, for example after a crash
/// of otter, the body ends. With `follow` it goes on until the client closes the connection, `wait`
/// is over, or the right of the caller ends. A client that is too slow loses the oldest bytes: the
/// body ends, and `gaps` says so.
#[utoipa::path(
    get,
    path = "/v1/machines/{machine}/serial/{port}/log",
    operation_id = "read_serial_log",
    tag = "serial",
    params(MachinePath, PortPath, LogQuery, LookHeaders),
    responses(
        (status = 200, description = "The output",
            headers(
                ("Otter-Serial-First" = u64, description = "The offset of the first byte"),
                ("Otter-Serial-Next" = u64, description = "The offset after the last byte. Absent \
                                                           with `follow`")
            ),
            content((SerialBytes = "application/octet-stream"), (SerialBytes = "text/plain"))),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "inventory-loading",
        "machine-leased", "machine-gone", "not-supported", "offset-out-of-range",
        "too-many-consoles", "too-many-waits", "shutting-down"
    ]))))]
pub async fn read_serial_log(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Segments(reference, port): Segments,
    Query(query, _): Query<LogQuery>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let requester = read_authorization(&api, &caller, &headers)?;
    let format = query.format.map(Parsed::value).unwrap_or_default();
    let follow = query.follow.is_some_and(Parsed::value);
    if follow && format == LogFormat::Text {
        let detail = "follow is only for format=raw.".to_owned();
        return Err(
            failure_at(FailureKind::InvalidRequest, "follow", "not-with-this", detail).into()
        );
    }
    let wait = query.wait.map(|Parsed(wait)| wait.min(api.settings().max_wait));
    let machine = api.services().machines.resolve(&caller.scope, &reference)?.machine;
    api.services().screens.may_look(&requester, &machine)?;
    let port = find_port(&machine, &port)?.clone();
    let permit = if follow || wait.is_some() { Some(WaitPermit::acquire(&api)?) } else { None };
    let since = query.since.map_or(ReadFrom::First, |Parsed(Since(since))| since);
    let reader = api.services().serial.subscribe(&machine, port.key, since).await?;
    let log = Log { api: api.clone(), requester, machine, port, reader };
    let mut response = match permit {
        Some(permit) if follow => log.follow(wait, permit),
        permit => {
            let log = log.wait_for_first(permit.zip(wait)).await?;
            match format {
                LogFormat::Raw => log.bytes(),
                LogFormat::Text => log.text().await,
            }
        }
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    set_state_headers(&api, &version, &mut response);
    Ok(response)
}

/// A call that reads the output of a port.
struct Log {
    api: ApiState,
    requester: Requester,
    machine: Arc<Machine>,
    port: SerialPort,
    reader: SerialReader,
}

impl Log {
    /// Waits until there is a byte, unless the time is up before.
    async fn wait_for_first(
        mut self,
        wait: Option<(WaitPermit, Duration)>,
    ) -> Result<Self, Failure> {
        let Some((permit, wait)) = wait else { return Ok(self) };
        let Self { api, requester, machine, reader, .. } = &mut self;
        let (api, requester, machine) = (&*api, &*requester, &*machine);
        let identity = machine.identity();
        let may_look = |machine: &Machine| check_may_look(api, requester, machine);
        let refused = api.services().serial.until_refused(&identity, may_look);
        let ready = async {
            tokio::select! {
                biased;
                ready = reader.ready() => ready,
                failure = refused => Err(failure),
            }
        };
        match permit.wait(api, wait, ready).await {
            WaitEnd::Done(Err(failure)) => Err(failure.with_machine(&machine.id, &machine.name)),
            WaitEnd::Done(Ok(())) | WaitEnd::TimeUp => Ok(self),
            WaitEnd::ShuttingDown => {
                let detail = "otter is shutting down; read again when it is back.";
                Err(Failure::new(FailureKind::ShuttingDown, detail)
                    .with_machine(&machine.id, &machine.name))
            }
        }
    }

    /// The bytes that there are now.
    fn bytes(mut self) -> Response {
        let first = self.reader.pass_gaps();
        let next = self.reader.run_end();
        let pieces = stream::try_unfold(self.reader, move |mut reader| async move {
            let bytes = next_bytes(&mut reader, next).await?;
            Ok::<_, io::Error>(bytes.map(|bytes| (bytes, reader)))
        });
        let body = Body::from_stream(pieces);
        let mut response = answer(body, &self.machine, &self.port, ContentType::Bytes);
        response.headers_mut().insert(CONTENT_LENGTH, (next - first).into());
        set_offsets(&mut response, first, Some(next));
        response
    }

    /// The bytes that there are now, as text.
    async fn text(mut self) -> Response {
        let first = self.reader.pass_gaps();
        let end = self.reader.run_end().min(first.saturating_add(MAX_TEXT));
        let mut bytes = Vec::new();
        // A part whose file was deleted meanwhile ends the text.
        while let Ok(Some(more)) = next_bytes(&mut self.reader, end).await {
            bytes.extend_from_slice(&more);
        }
        let PlainText { text, taken } = plain_text(&bytes);
        // A character or a sequence that is all there is has no rest to wait for.
        let taken = if taken == 0 { bytes.len() } else { taken };
        let next = first.saturating_add(u64::try_from(taken).unwrap_or(u64::MAX));
        let mut response = answer(Body::from(text), &self.machine, &self.port, ContentType::Text);
        set_offsets(&mut response, first, Some(next));
        response
    }

    /// The bytes that there are now, and those that come.
    fn follow(mut self, wait: Option<Duration>, permit: WaitPermit) -> Response {
        let first = self.reader.pass_gaps();
        let (machine, port) = (Arc::clone(&self.machine), self.port.clone());
        let ends_at = wait.map(|wait| self.api.clock().elapsed() + wait);
        let followed = Followed { log: self, position: first, ends_at, _permit: permit };
        let pieces = stream::unfold(followed, |mut followed| async move {
            let bytes = followed.next().await?;
            Some((Ok::<_, io::Error>(bytes), followed))
        });
        let body = Body::from_stream(pieces);
        let mut response = answer(body, &machine, &port, ContentType::Bytes);
        set_offsets(&mut response, first, None);
        response
    }
}

/// An answer that goes on.
struct Followed {
    log: Log,
    /// The offset of the next byte of the body.
    position: u64,
    /// By the monotonic clock. `None`: it has no end.
    ends_at: Option<Duration>,
    _permit: WaitPermit,
}

impl Followed {
    /// The next bytes. `None` at the end of the body.
    async fn next(&mut self) -> Option<Bytes> {
        let Self { log, position, ends_at, .. } = self;
        let Log { api, requester, machine, reader, .. } = log;
        let (api, requester) = (&*api, &*requester);
        let identity = machine.identity();
        let may_look = |machine: &Machine| check_may_look(api, requester, machine);
        let refused = api.services().serial.until_refused(&identity, may_look);
        let mut refused = std::pin::pin!(refused);
        let time_up = async {
            match ends_at {
                Some(ends_at) => {
                    api.clock().sleep(ends_at.saturating_sub(api.clock().elapsed())).await;
                }
                None => std::future::pending().await,
            }
        };
        let mut time_up = std::pin::pin!(time_up);
        loop {
            let piece = tokio::select! {
                biased;
                failure = &mut refused => {
                    tracing::debug!(%failure, "the reader of a serial port ends");
                    return None;
                }
                () = api.stop().cancelled() => return None,
                () = &mut time_up => return None,
                piece = reader.next() => piece.ok()?,
            };
            match piece {
                SerialPiece::Bytes { bytes, .. } => {
                    *position = reader.position();
                    return Some(bytes);
                }
                // A gap without a hole in the numbers.
                SerialPiece::Gap { offset, .. } if offset == *position => {}
                SerialPiece::Gap { .. } => return None,
            }
        }
    }
}

/// The next bytes before this offset. `None` if the reader is there.
///
/// # Errors
/// The bytes are not kept any more.
async fn next_bytes(reader: &mut SerialReader, end: u64) -> io::Result<Option<Bytes>> {
    loop {
        let left = end.saturating_sub(reader.position());
        if left == 0 {
            return Ok(None);
        }
        let position = reader.position();
        let limit = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
        match reader.available(limit).await {
            Some(SerialPiece::Bytes { bytes, .. }) => return Ok(Some(bytes)),
            Some(SerialPiece::Gap { offset, .. }) if offset == position => {}
            Some(SerialPiece::Gap { .. }) | None => return Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn answer(body: Body, machine: &Machine, port: &SerialPort, content_type: ContentType) -> Response {
    let mut response = Response::new(body);
    let port = port.linux_device.clone().unwrap_or_else(|| port.key.to_string());
    let name = format!("{}-{port}.log", machine.name);
    set_harmless_headers(&mut response, &name, content_type);
    response
}

fn set_offsets(response: &mut Response, first: u64, next: Option<u64>) {
    set(response, FIRST, &first.to_string());
    if let Some(next) = next {
        set(response, NEXT, &next.to_string());
    }
}

impl Parameter for LogFormat {
    fn from_text(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "raw" => Ok(Self::Raw),
            "text" => Ok(Self::Text),
            other => Err(InvalidValue::not_one_of(other, &["raw", "text"])),
        }
    }
}
