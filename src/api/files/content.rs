//! `GET /v1/datastores/{datastore}/file`

use std::convert::Infallible;
use std::io;

use axum::Extension;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::HeaderMap;
use http::header::CONTENT_RANGE;
use http::request::Parts;
use serde::Deserialize;
use utoipa::IntoParams;

use super::wire::FileBytes;
use super::{DatastorePathSegment, READS, file_path, named_datastore};
use crate::api::ApiState;
use crate::api::attachment::{Attachment, requested_range};
use crate::api::extract::{Query, Segment};
use crate::api::layers::OnlyHead;
use crate::api::openapi_parts::Problems;
use crate::api::problem::ApiError;
use crate::api::respond::{set, set_state_headers};
use crate::domain::artifact::ContentType;
use crate::domain::byte_range::ByteRange;
use crate::domain::failure::{Failure, FailureKind};
use crate::service::callers::Caller;
use crate::service::files::FileRead;

/// The query parameter that names a file.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FileQuery {
    /// The path of the file below the top folder of the datastore, such as `iso/qubes.iso`, encoded
    /// once. A path with `..`, `%`, `\`, `[`, `]` or a control character is refused.
    #[param(required = true, example = "iso/qubes.iso")]
    pub path: Option<String>,
}

/// The headers of a request for a part of a file.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents the header")]
pub struct RangeHeader {
    /// The part that the client wants: `bytes=<first>-<last>`, `bytes=<first>-` or
    /// `bytes=-<count>`. Any other value wants the whole file.
    #[param(rename = "Range", value_type = String, required = false)]
    range: Option<String>,
}

/// Whether the client reads only the headers of the response.
pub struct IsHead(bool);

impl FromRequestParts<ApiState> for IsHead {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<OnlyHead>().is_some()))
    }
}

/// Download a file
///
/// The bytes as the host sends them, or a part of them (`Range`); never compressed. A file can
/// change between two requests, so it has no `ETag`. Four transfers run at a time, and 16 wait for
/// their turn. No time limits a transfer; it ends if the host sends nothing, or if the client reads
/// nothing. Runners read only files below `files.roots`. The host does not give out files that a
/// running machine has locked, such as its disks. A browser stores the bytes and does not run them.
#[utoipa::path(get, path = "/v1/datastores/{datastore}/file", operation_id = "get_file",
    tag = "files",
    params(DatastorePathSegment, FileQuery, RangeHeader),
    responses(
        (status = 200, description = "The bytes",
            content((FileBytes = "application/octet-stream"))),
        (status = 206, description = "A part of the bytes",
            content((FileBytes = "application/octet-stream"))),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        READS, &["offset-out-of-range", "queue-full", "file-in-use"][..]
    ].concat()))))]
pub async fn get_file(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(reference): Segment,
    Query(query, _): Query<FileQuery>,
    IsHead(is_head): IsHead,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let path = file_path("path", query.path.as_deref())?;
    let version = api.services().event_stream.version();
    let datastore = named_datastore(&api, &reference)?;
    // For a HEAD, one byte shows the length of the file.
    let first_byte = ByteRange::From { first: 0, last: Some(0) };
    let range = if is_head { Some(first_byte) } else { requested_range(&headers, None) };
    let read = api.services().files.read(&caller, &datastore, &path, range).await?;
    let attachment = |length| Attachment {
        name: path.name(),
        content_type: ContentType::Bytes,
        length,
        tag: None,
    };
    let mut response = match read {
        FileRead::Bytes { length, .. } | FileRead::Outside(length) if is_head => {
            attachment(length).respond_with(Body::empty(), None)
        }
        FileRead::Bytes { length, part, body } => {
            attachment(length).respond_with(Body::from_stream(body.or_else(cut)), part)
        }
        FileRead::Outside(length) => return Ok(outside(length)),
    };
    set_state_headers(&api, &version, &mut response);
    Ok(response)
}

/// Ends a body that failed. The server drops what it has not sent when it gets the error, so it
/// gets the time to send that first.
async fn cut(error: io::Error) -> io::Result<Bytes> {
    tokio::task::yield_now().await;
    Err(error)
}

/// The answer to a request for a part that the file does not have.
fn outside(length: u64) -> Response {
    let detail = format!("The file has {length} bytes, and none of them is in the range.");
    let failure = Failure::new(FailureKind::OffsetOutOfRange, detail);
    let mut response = ApiError(failure).into_response();
    set(&mut response, CONTENT_RANGE, &format!("bytes */{length}"));
    response
}
