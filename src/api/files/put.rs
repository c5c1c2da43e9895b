//! `PUT /v1/datastores/{datastore}/file`

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Context;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use axum::response::Response;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::HeaderMap;
use http::header::EXPECT;
use serde::Deserialize;
use utoipa::IntoParams;

use super::wire::FileBytes;
use super::{CHANGES, DatastorePathSegment, file_path, named_datastore};
use crate::api::ApiState;
use crate::api::extract::{Parsed, Query, Segment, content_length, failure_at, header};
use crate::api::jobs::wire::Job;
use crate::api::jobs::{JobReader, require_visible};
use crate::api::long_poll::{WaitEnd, WaitPermit};
use crate::api::openapi_parts::Problems;
use crate::api::problem::ApiError;
use crate::api::start_job::{outcome, read_reference, unfinished_job};
use crate::domain::artifact::Sha256Sum;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::file_job::UploadRequest;
use crate::domain::job::JobRequest;
use crate::service::callers::Caller;
use crate::service::files::FileBody;
use crate::service::files::rules::Change;
use crate::service::jobs::NewFileJob;
use crate::service::jobs::authorization::{LeaseCredential, Requester};
use crate::service::machines::shorten;

/// How long a call waits for the end of its upload. It ends earlier, because a transfer that stalls
/// ends the upload.
const LONG: Duration = Duration::from_hours(365 * 24);

/// How much of a body that no one needs is read, and for how long.
const MAX_DROPPED: usize = 1 << 20;
const DROP_TIME: Duration = Duration::from_secs(1);

/// The query parameters of an upload.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    /// The path of the file below the top folder of the datastore, such as `iso/qubes.iso`, encoded
    /// once. The folder must exist. A path with `..`, `%`, `\`, `[`, `]` or a control character is
    /// refused.
    #[param(required = true, example = "iso/qubes.iso")]
    path: Option<String>,
    /// `true` replaces a file with this name. Default: `false`.
    #[param(value_type = Option<bool>)]
    replace: Option<Parsed<bool>>,
}

/// The headers of an upload.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents the headers")]
pub struct UploadHeaders {
    /// The SHA-256 of the body in hexadecimal. If the body has another one, nothing is stored.
    #[param(rename = "Otter-Content-SHA256", value_type = String, required = false)]
    otter_content_sha256: Option<String>,
    /// A text of the client, at most 512 characters. `GET /v1/jobs?kind=file.upload&reference=`
    /// finds the job by it while the upload runs.
    #[param(rename = "Otter-Reference", value_type = String, required = false)]
    otter_reference: Option<String>,
}

/// Upload a file
///
/// Streams the body to the datastore, and answers with the job when the file is there. While it
/// runs, the job shows the progress. The bytes go to a file with another name in the same folder,
/// `<name>.<job id>.otter-part`, which is renamed when all of them are there: an upload that is cut
/// never shows under the name, and its part is removed at once, or when the host is back. If an
/// upload of otter put the same bytes there before, `result.changed` is false, so that the call may
/// be repeated. `http.body_limit` does not apply. No time limits an upload; it ends if the client
/// sends nothing for `http.body_timeout`, or if the host takes nothing. Four transfers run at a
/// time, and 16 wait for their turn.
#[utoipa::path(put, path = "/v1/datastores/{datastore}/file", operation_id = "put_file",
    tag = "files",
    params(DatastorePathSegment, UploadQuery, UploadHeaders),
    request_body(content = FileBytes, content_type = "application/octet-stream",
        description = "The bytes, of any type"),
    responses(
        (status = 200, description = "The job, which succeeded. `result` has the path, the number \
                                      of bytes and the SHA-256", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        CHANGES, &["length-required", "file-exists", "file-in-use", "host-protocol"][..]
    ].concat()))))]
pub async fn put_file(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    reader: JobReader,
    Segment(reference): Segment,
    Query(query, _): Query<UploadQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = UploadBody::new(body);
    let answer = upload(&api, &caller, &reader, &reference, query, &headers, &body).await;
    // A client that waits before it sends the body sends none after an answer.
    if !headers.contains_key(EXPECT) {
        body.drop_rest(&api).await;
    }
    Ok(answer?)
}

/// The whole of [`put_file`], except for what the client still sends after the answer is known.
async fn upload(
    api: &ApiState,
    caller: &Caller,
    reader: &JobReader,
    reference: &str,
    query: UploadQuery,
    headers: &HeaderMap,
    body: &UploadBody,
) -> Result<Response, Failure> {
    let path = file_path("path", query.path.as_deref())?;
    let replace = query.replace.is_some_and(Parsed::value);
    let version = api.services().event_stream.version();
    let datastore = named_datastore(api, reference)?;
    let (files, jobs) = (&api.services().files, &api.services().jobs);
    let target = files.check_change(&datastore, &path, Change::Upload { replace })?;
    let (bytes, sha256) = (content_length(headers)?, announced_sum(headers)?);
    let request = JobRequest::UploadFile(UploadRequest { bytes, replace, sha256 });
    let credential = LeaseCredential::Absent;
    let requester = Requester { caller: caller.clone(), credential, override_reason: None };
    let reference = read_reference(headers)?;
    let permit = WaitPermit::acquire(api)?;
    let id = jobs.new_id();
    // If the client hangs up before the job receives the body, the job finds none.
    let _offered = files.offer(id, body.stream(), api.settings().body_timeout)?;
    let (deadline, key) = (None, None);
    let new = NewFileJob { id, target, request, requester, reference, deadline, key };
    jobs.start_file(new).await?;
    let ended = permit.wait(api, LONG, jobs.ended(id)).await;
    let text = id.to_string();
    if let WaitEnd::Done(ended) = ended {
        let view = require_visible(api, caller, ended?, &text)?;
        if view.job.state.is_end() {
            return outcome(api, &version, reader, &view).await;
        }
    }
    let view = require_visible(api, caller, jobs.get(id).await?, &text)?;
    Err(unfinished_job(FailureKind::ShuttingDown, id, &view))
}

/// The body of an upload. The job reads it, and after the job the handler.
struct UploadBody(Arc<Mutex<BodyDataStream>>);

impl UploadBody {
    fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(body.into_data_stream())))
    }

    /// What is left of the body.
    fn stream(&self) -> FileBody {
        let body = Arc::clone(&self.0);
        let next = move |context: &mut Context<'_>| {
            body.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
        };
        stream::poll_fn(next).map_err(io::Error::other).boxed()
    }

    /// Reads and drops what the client still sends, up to a limit. If a connection closes while
    /// bytes are unread, the kernel can discard the answer in transit.
    async fn drop_rest(&self, api: &ApiState) {
        let mut rest = self.stream();
        let reading = async {
            let mut dropped = 0;
            while let Some(Ok(piece)) = rest.next().await {
                dropped += piece.len();
                if dropped > MAX_DROPPED {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = reading => {}
            () = api.clock().sleep(DROP_TIME) => {}
        }
    }
}

/// The SHA-256 that the request announces. `None` if it announces none.
///
/// # Errors
/// `invalid-request`
fn announced_sum(headers: &HeaderMap) -> Result<Option<Sha256Sum>, Failure> {
    const NAME: &str = "otter-content-sha256";
    let Some(text) = header(headers, NAME)? else { return Ok(None) };
    Sha256Sum::parse(&text.to_ascii_lowercase()).map(Some).ok_or_else(|| {
        let detail = format!(
            "Otter-Content-SHA256 is {}; write the 64 hexadecimal digits of a SHA-256.",
            shorten(text)
        );
        failure_at(FailureKind::InvalidRequest, NAME, "not-a-hash", detail)
    })
}
