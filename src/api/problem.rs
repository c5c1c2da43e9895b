//! Failures as problem details (RFC 9457), and the table with the HTTP status, texts and retry rule
//! of each kind of failure.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{
    CONNECTION, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::document::problems::ProblemPage;
use crate::domain::failure::{Failure, FailureKind, Fault, InputError};
use crate::domain::input::SentInput;
use crate::domain::terminal::printable;

/// The HTTP form of a kind of failure.
struct ProblemRow {
    kind: FailureKind,
    status: StatusCode,
    title: &'static str,
    retry: Retry,
    meaning: &'static str,
    what_to_do: &'static str,
}

/// Whether the client may repeat the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    No,
    After,
    SameKey,
}

impl Retry {
    const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::After => "after",
            Self::SameKey => "same-key",
        }
    }
}

/// A row of the table of problems.
const fn row(
    kind: FailureKind,
    status: StatusCode,
    retry: Retry,
    title: &'static str,
    meaning: &'static str,
    what_to_do: &'static str,
) -> ProblemRow {
    ProblemRow { kind, status, title, retry, meaning, what_to_do }
}

use FailureKind as Kind;
use StatusCode as Status;

/// One row for each kind of failure. The statuses 502, 503 and 504 are only for temporary problems,
/// because curl and proxies repeat requests that get them. rustfmt skips the table, so that each
/// row keeps its layout.
#[rustfmt::skip]
const TABLE: &[ProblemRow] = &[
    row(Kind::InvalidRequest, Status::BAD_REQUEST, Retry::No, "The request is not valid",
        "A part of the request is malformed or out of range; `errors` names the part.",
        "Correct the parts in `errors` and send the request again."),
    row(Kind::UnknownParameter, Status::BAD_REQUEST, Retry::No, "Unknown or repeated parameter",
        "The operation does not have a query parameter of this name, or the parameter is repeated.",
        "Check the spelling; the detail suggests a known name. Only `path` may be repeated."),
    row(Kind::InvalidCursor, Status::BAD_REQUEST, Retry::No,
        "The cursor is not valid for this list",
        "`cursor` must be the `next` of an earlier response of the same list to a request with the \
         same filters.",
        "Start again without a cursor."),
    row(Kind::Unauthenticated, Status::UNAUTHORIZED, Retry::No, "No valid token",
        "The operation requires a token, and the request has none or an invalid one.",
        "Send `Authorization: Bearer otter_…`."),
    row(Kind::Forbidden, Status::FORBIDDEN, Retry::No, "Not allowed",
        "The caller may not do this; the detail says why. otter refuses changes that a web page of \
         another server sends. While no token exists, otter serves only its own machine: it \
         refuses a `Host` that is not loopback, and requests through a proxy.",
        "Follow the detail, or ask the administrator of this otter."),
    row(Kind::NotFound, Status::NOT_FOUND, Retry::No, "Not found",
        "No object has this name or id, or the path does not exist.",
        "List the objects. Note that a path with a trailing slash is a different path."),
    row(Kind::MethodNotAllowed, Status::METHOD_NOT_ALLOWED, Retry::No, "Method not allowed",
        "The path does not support this method.",
        "Use one of the methods in the `Allow` header."),
    row(Kind::RequestTimeout, Status::REQUEST_TIMEOUT, Retry::No,
        "The request took too long to arrive",
        "The body did not arrive in time.",
        "Send the whole request at once."),
    row(Kind::AmbiguousName, Status::CONFLICT, Retry::No, "The name is ambiguous",
        "More than one machine or snapshot has this name; `candidates` lists them.",
        "Use the id, or the path of a snapshot."),
    row(Kind::InvalidPowerState, Status::CONFLICT, Retry::No, "Not possible in this power state",
        "The machine's power state does not allow this operation, or makes the condition \
         impossible.",
        "Change the power state first: POST /v1/machines/{machine}/power."),
    row(Kind::NoDrive, Status::CONFLICT, Retry::No, "The machine has no CD drive",
        "The machine has no CD drive into which otter could put an ISO.",
        "Add a CD drive to the machine, or lease another one."),
    row(Kind::ArtifactExists, Status::CONFLICT, Retry::No, "The artifact exists",
        "The lease has an artifact with this name and other bytes.",
        "Choose another name, or delete the artifact first."),
    row(Kind::FileExists, Status::CONFLICT, Retry::No, "The file exists",
        "The datastore has a file or a folder with this name.",
        "Choose another name, or replace the file: `replace=true`."),
    row(Kind::FileInUse, Status::CONFLICT, Retry::No, "The file is in use",
        "The file is in a drive of a machine, or the host has locked it.",
        "Eject it first: DELETE /v1/machines/{machine}/cdrom."),
    row(Kind::FolderNotEmpty, Status::CONFLICT, Retry::No, "The folder is not empty",
        "The folder has files or folders. otter deletes only empty folders.",
        "Delete what is in it first: GET /v1/datastores/{datastore}/files lists it."),
    row(Kind::MachineBusy, Status::CONFLICT, Retry::No, "The machine is busy",
        "Another task of the host kept the machine busy until the job's deadline.",
        "Wait for that task or kill the machine, then start again."),
    row(Kind::MachineGone, Status::CONFLICT, Retry::No, "The machine is gone",
        "The machine was deleted or registered again. otter does not act on another machine that \
         now has the same id.",
        "Find the machine by name and start again."),
    row(Kind::SelfProtection, Status::CONFLICT, Retry::No, "The machine is protected",
        "The configuration protects this machine, or otter itself runs in it.",
        "Use another machine, or change `machines.protected`."),
    row(Kind::QuestionPending, Status::CONFLICT, Retry::No, "The machine waits for an answer",
        "ESX asks a question about the machine and does nothing else with it until the question is \
         answered.",
        "Answer the question, or kill the machine. If it comes often, add a rule for it to \
         [answers] of the configuration."),
    row(Kind::ToolsUnavailable, Status::CONFLICT, Retry::No, "VMware Tools do not run",
        "The operation needs VMware Tools in the guest, and they do not run.",
        "Use `off` or `reset` instead."),
    row(Kind::NoFreeMachine, Status::CONFLICT, Retry::No, "No machine is free",
        "No matching machine is free, or none became free during `queue_for`.",
        "Set `queue_for` to wait for a machine. GET /v1/machines says why a machine is not free."),
    row(Kind::LeaseFailed, Status::CONFLICT, Retry::No, "The lease failed",
        "The lease ended before it was active; its `end` says why.",
        "Read the lease, then request another one."),
    row(Kind::JobCancelled, Status::CONFLICT, Retry::No, "The job was cancelled",
        "The job was cancelled on request, by a kill, by the end of its lease, or by a restore.",
        "Start the job again if you still need it."),
    row(Kind::JobFailed, Status::CONFLICT, Retry::No, "The job failed",
        "The job called the host, and then ended with a failure whose status (429, 500, 502, 503 \
         or 504) makes clients repeat the request. A repeated request without an \
         `Idempotency-Key` would start a second job. `errors` has the code of the failure.",
        "Look at the machine and at the job, which `links` names, then decide. Send an \
         `Idempotency-Key` with requests that you may repeat."),
    row(Kind::JobStillRunning, Status::CONFLICT, Retry::No, "The job is still running",
        "The wait timed out and the job is still running. A repeated POST without an \
         `Idempotency-Key` would start a second job.",
        "Wait for the job: GET the `wait` of `links`. Send an `Idempotency-Key` with requests that \
         you may repeat."),
    row(Kind::OutcomeUnknown, Status::CONFLICT, Retry::No, "The outcome is unknown",
        "otter sent the call to the host but lost the answer, and the state of the machine does \
         not show whether the call took effect. Or the request has no `Idempotency-Key`, and \
         otter could not confirm that it stored the job or the lease.",
        "Check the machine, and the job or the lease that `links` names, then decide. A revert to \
         a snapshot restores a known state."),
    row(Kind::LengthRequired, Status::LENGTH_REQUIRED, Retry::No, "The length is missing",
        "The request has a file as its body and no `Content-Length`, so otter cannot tell whether \
         all of it arrived.",
        "Send `Content-Length`. curl does so for a file: `curl -T FILE URL`."),
    row(Kind::PayloadTooLarge, Status::PAYLOAD_TOO_LARGE, Retry::No, "The body is too large",
        "The body is larger than otter accepts.",
        "Send a smaller body, or raise `http.body_limit`, or `artifacts.max_bytes` for artifacts."),
    row(Kind::UriTooLong, Status::URI_TOO_LONG, Retry::No, "The URL is too long",
        "The path and query are longer than otter accepts.",
        "Use shorter names, or ids."),
    row(Kind::UnsupportedMediaType, Status::UNSUPPORTED_MEDIA_TYPE, Retry::No, "Not JSON",
        "The `Content-Type` of the body is not JSON in UTF-8, the body has a `Content-Encoding`, \
         or a request without a body has another `Content-Type`.",
        "Send `Content-Type: application/json` with a body, and no `Content-Type` without one. Do \
         not send `Content-Encoding`."),
    row(Kind::OffsetOutOfRange, Status::RANGE_NOT_SATISFIABLE, Retry::No,
        "The part is out of range",
        "The part that the request wants has no byte that otter has; the detail says which bytes \
         there are.",
        "Ask for a part of these bytes."),
    row(Kind::HeadersTooLarge, Status::REQUEST_HEADER_FIELDS_TOO_LARGE, Retry::No,
        "The headers are too large",
        "The request has more or longer headers than otter accepts.",
        "Send fewer or shorter headers."),
    row(Kind::IdempotencyMismatch, Status::UNPROCESSABLE_ENTITY, Retry::No,
        "The key was used for another request",
        "The same `Idempotency-Key` was used before with another body or query.",
        "Use a new key for a new request."),
    row(Kind::InputInterrupted, Status::CONFLICT, Retry::No, "The input was interrupted",
        "The machine got a part of the input: the connection to its screen or serial port ended, \
         the machine was turned off, suspended or reverted, the right to drive ended, a condition \
         of `until` or `wait_for` did not become true, the client hung up, or otter stopped. \
         `sent` says what the machine got; it is null if otter died in between. otter sends \
         nothing twice.",
        "Look at the screen or the output of the port, then decide what to send. Do not repeat the \
         call."),
    row(Kind::HostRejected, Status::UNPROCESSABLE_ENTITY, Retry::No, "The host refused",
        "ESX refused the operation; `fault` has the reason.",
        "Read `fault` and remove the cause."),
    row(Kind::ForbiddenByHost, Status::UNPROCESSABLE_ENTITY, Retry::No,
        "otter's account lacks a privilege",
        "otter's account on the host lacks a privilege; `fault` names it.",
        "Give the account the privilege."),
    row(Kind::LicenseRestricted, Status::UNPROCESSABLE_ENTITY, Retry::No,
        "The host's licence forbids it",
        "The free ESXi licence makes the API read-only.",
        "Assign a licence that allows the API."),
    row(Kind::MachineLeased, Status::LOCKED, Retry::No, "Another caller leases the machine",
        "The machine is leased. To change it, send the lease: `Otter-Lease: <id>.<secret>`.",
        "Wait until the machine is free, or lease another one: POST /v1/leases. An operator may \
         override the lease: `Otter-Override: <reason>`."),
    row(Kind::LeaseEnded, Status::LOCKED, Retry::No, "The lease has ended",
        "The lease in the request has ended. The request had no effect.",
        "Request a new lease: POST /v1/leases."),
    row(Kind::LeaseNotActive, Status::CONFLICT, Retry::No, "The lease is not active yet",
        "The lease in the request is queued or is being prepared. The request had no effect.",
        "Wait until the lease is active: GET /v1/leases/{lease}/wait."),
    row(Kind::ConsoleBusy, Status::CONFLICT, Retry::No, "Another viewer drives the machine",
        "One viewer at a time may type and click, and another one does. GET \
         /v1/machines/{machine}/screen names it as `driver`.",
        "Look without driving (`mode=view`), or take over with `force=true`."),
    row(Kind::SerialBusy, Status::CONFLICT, Retry::No, "Another client writes to the serial port",
        "One client at a time may write to a serial port, and another one does. GET \
         /v1/machines/{machine}/serial names it as `writer`.",
        "Read without writing, or take over: open the stream with `mode=drive` and `force=true`."),
    row(Kind::UpgradeRequired, Status::UPGRADE_REQUIRED, Retry::No, "This path is a WebSocket",
        "The path serves WebSockets (RFC 6455), and the request is a plain GET or has another \
         version of the protocol.",
        "Open it with a client for WebSockets, with the subprotocol `binary`."),
    row(Kind::QueueFull, Status::TOO_MANY_REQUESTS, Retry::After, "The queue is full",
        "Too many jobs are queued for this machine, for this token or in total, or too many leases \
         are queued, or eight calls wait to send input to this machine, or 16 transfers of files \
         wait.",
        "Try again after `Retry-After`."),
    row(Kind::TooManyRequests, Status::TOO_MANY_REQUESTS, Retry::After,
        "The token's limit is reached",
        "The token has reached its limit of requests, open leases, streams of events or unused \
         console tokens.",
        "Try again after `Retry-After`. End leases and streams that you no longer need."),
    row(Kind::Internal, Status::INTERNAL_SERVER_ERROR, Retry::No, "Internal error",
        "otter failed; its log has the cause with the request id.",
        "Report the problem with the request id."),
    row(Kind::NotSupported, Status::NOT_IMPLEMENTED, Retry::No, "Not supported here",
        "The host does not support this operation, or a program that otter needs for it is not \
         installed: the detail says which.",
        "Install what the detail names, or use another host or another operation."),
    row(Kind::HostProtocol, Status::BAD_GATEWAY, Retry::After, "The response is not vim25",
        "otter cannot read the host's response: another server listens there, or a proxy answered.",
        "Check `esx.url`; try again later."),
    row(Kind::HostUnreachable, Status::SERVICE_UNAVAILABLE, Retry::After,
        "The host cannot be reached",
        "otter has had no session with the host for too long, or needs one for this call.",
        "Try again after `Retry-After`; GET /readyz?host=true says why."),
    row(Kind::HostLoginRefused, Status::SERVICE_UNAVAILABLE, Retry::After,
        "The host refuses otter's account",
        "The host refused the user name and password. otter does not retry, because that would \
         lock the account.",
        "Correct the account or the configuration."),
    row(Kind::InventoryLoading, Status::SERVICE_UNAVAILABLE, Retry::After,
        "The inventory is loading",
        "otter has not read the host yet.",
        "Try again in a moment. GET /readyz returns 200 when the inventory is loaded."),
    row(Kind::StorageUnavailable, Status::SERVICE_UNAVAILABLE, Retry::After,
        "The store cannot write",
        "otter's disk is full or read-only. otter starts nothing that it cannot store first.",
        "Free space on the disk of the state directory; otter then continues by itself. GET \
         /readyz says why."),
    row(Kind::TooManyConsoles, Status::SERVICE_UNAVAILABLE, Retry::After,
        "Too many consoles are open",
        "The screens of `screens.max_open` machines or `serial.max_open` serial ports are in use \
         at the same time, a machine has as many viewers or streams as it may, a token has 64 \
         viewers, or otter serves 256 viewers.",
        "Try again after `Retry-After`, or close viewers, streams and waits. Pictures need no \
         viewer."),
    row(Kind::ConsoleUnavailable, Status::SERVICE_UNAVAILABLE, Retry::After,
        "The console cannot be reached",
        "The host does not open a console of the machine, or the console does not answer. A \
         machine that was just powered on has none for some seconds. Or otter has no connection to \
         the serial port; the detail says why.",
        "Try again after `Retry-After`. The detail has the host's reason: it may limit the \
         consoles of a machine, or the account lacks VirtualMachine.Interact.ConsoleInteract. A \
         serial port takes one client at a time."),
    row(Kind::TooManyWaits, Status::SERVICE_UNAVAILABLE, Retry::After, "Too many calls are waiting",
        "The number of waiting calls has reached `http.max_waits`, or the waits for screens use \
         all the memory for their images.",
        "Try again after `Retry-After`."),
    row(Kind::ShuttingDown, Status::SERVICE_UNAVAILABLE, Retry::SameKey, "otter is shutting down",
        "The daemon is stopping. Accepted jobs continue when it starts again.",
        "When otter is back, repeat the request with the same `Idempotency-Key`, or GET the job."),
    row(Kind::WaitTimeout, Status::GATEWAY_TIMEOUT, Retry::SameKey, "The wait timed out",
        "The condition did not become true in time. It can still become true. After a wait for a \
         screen, `seen` and `links.screen` show what it saw last.",
        "Repeat the request with the same `Idempotency-Key`, or wait again."),
    row(Kind::DeadlineExceeded, Status::GATEWAY_TIMEOUT, Retry::After, "The deadline passed",
        "The job did not finish before its deadline. otter asked the host to cancel the task if \
         possible.",
        "Check the machine, then start again, with a longer `deadline` if necessary."),
    row(Kind::InsufficientResources, Status::INSUFFICIENT_STORAGE, Retry::No,
        "Resources are missing",
        "The host does not have enough memory, disk or another resource; the detail or `fault` \
         says which. Or \
         the artifacts of otter have reached `artifacts.max_total`.",
        "Free resources: power other machines off, or delete artifacts."),
];

/// An invalid part of a request, or the failure of the job that the request started.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProblemError {
    /// JSON Pointer (RFC 6901) to the invalid field of the body. Null if the part is no field.
    #[schema(required, example = "/action")]
    pub pointer: Option<String>,
    /// The name of the invalid query parameter, path parameter or header. Null if the part is no
    /// parameter.
    #[schema(required, example = "limit")]
    pub parameter: Option<String>,
    /// A stable code of the mistake, or the code of the job's failure.
    #[schema(example = "out-of-range")]
    pub code: String,
    /// The mistake or the failure in a sentence.
    pub detail: String,
}

/// One of the objects that an ambiguous name matches.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Candidate {
    /// The unique id of the object.
    pub id: String,
    /// The name of the machine, or the path of the snapshot.
    pub name: String,
}

/// A fault that the host reported.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HostFault {
    /// The vim25 type of the fault.
    #[serde(rename = "type")]
    #[schema(example = "InvalidPowerState")]
    pub fault_type: String,
    /// The message of the host.
    pub message: String,
    /// The fields of the fault.
    pub details: BTreeMap<String, String>,
}

/// The part of a call of input that a machine got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InputSent {
    /// The number of events that were done completely, from the first one on. The input for a
    /// serial port is one event.
    #[schema(example = 2)]
    pub events: u32,
    /// The number of characters of `text` that were typed, or of bytes that a serial port got.
    #[schema(example = 5)]
    pub characters: u32,
}

impl InputSent {
    /// The wire form of what was sent.
    #[must_use]
    pub const fn from_sent(sent: SentInput) -> Self {
        let SentInput { events, characters } = sent;
        Self { events, characters }
    }
}

/// A failure: RFC 9457 problem details with a stable code.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// The path of the page that explains the code.
    #[serde(rename = "type")]
    #[schema(example = "/problems/not-found")]
    pub problem_type: String,
    /// A summary of the code, the same for all problems with this code.
    pub title: String,
    /// The HTTP status of all problems with this code.
    #[schema(example = 404)]
    pub status: u16,
    /// The failure in a sentence: the object, the cause, and the remedy.
    pub detail: String,
    /// A stable code for programs.
    #[schema(example = "not-found", extensions(("x-extensible-enum" = json!(codes()))))]
    pub code: String,
    /// The id of the request, which is also in `X-Request-Id` and in otter's log. Null in the
    /// `error` of a job.
    #[schema(required)]
    pub request_id: Option<String>,
    /// Whether to repeat the request: `no`, `after` (after `Retry-After`) or `same-key` (with the
    /// same `Idempotency-Key`).
    #[schema(extensions(("x-extensible-enum" = json!(["no", "after", "same-key"]))))]
    pub retry: String,
    /// The invalid parts of the request. For `job-failed`: the failure of the job.
    pub errors: Vec<ProblemError>,
    /// The objects that an ambiguous name matches.
    pub candidates: Vec<Candidate>,
    /// The id of the machine that the problem concerns. Null if there is none.
    #[schema(required)]
    pub machine: Option<String>,
    /// The name of the machine that the problem concerns. Null if there is none.
    #[schema(required)]
    pub machine_name: Option<String>,
    /// The id of the job that the problem concerns. Null if there is none.
    #[schema(required)]
    pub job: Option<String>,
    /// The id of the lease that the problem concerns. Null if there is none.
    #[schema(required)]
    pub lease: Option<String>,
    /// Paths by kind of object: `machine`, `job`, `lease`, `wait`, which waits for the job, and
    /// `screen`, the picture that a wait for a screen saw last.
    pub links: BTreeMap<String, String>,
    /// The fault that the host reported. Null if the host did not cause the problem.
    #[schema(required)]
    pub fault: Option<HostFault>,
    /// For `input-interrupted`: what the machine got. Null if it is not known, and for other codes.
    #[schema(required)]
    pub sent: Option<InputSent>,
    /// For waits for a screen or a serial port that timed out: the last text on the screen or from
    /// the port, at most 2,000 characters. Null if there was none, and for other problems.
    #[schema(required)]
    pub seen: Option<String>,
}

impl Problem {
    /// A failure as a problem. An internal failure shows only its request id.
    ///
    /// # Parameters
    /// - `request_id`: the id of the request; `None` for the error of a job.
    #[must_use]
    pub fn from_failure(failure: &Failure, request_id: Option<&str>) -> Self {
        let row = find(failure.kind);
        let Failure {
            kind,
            detail,
            fault,
            machine,
            job,
            lease,
            candidates,
            errors,
            retry_after: _,
            sent,
            seen,
            // Not shown: the cause. The detail describes it in words.
            cause: _,
        } = failure;
        let internal = *kind == FailureKind::Internal;
        let shown = |yes: bool| yes && !internal;
        let mut links = BTreeMap::new();
        if let Some(job) = job.filter(|_| shown(true)) {
            let path = super::links::job(job);
            links.insert("wait".to_owned(), format!("{path}/wait"));
            links.insert("job".to_owned(), path);
        }
        if let Some(lease) = lease.filter(|_| shown(true)) {
            links.insert("lease".to_owned(), super::links::lease(lease));
        }
        if let Some((id, _)) = machine.as_ref().filter(|_| shown(true)) {
            links.insert("machine".to_owned(), super::links::machine(id));
        }
        if let Some(picture) = seen.as_ref().and_then(|seen| seen.picture) {
            links.insert("screen".to_owned(), super::links::screen_picture(picture));
        }
        Self {
            problem_type: super::links::problem(kind.code()),
            title: row.title.to_owned(),
            status: row.status.as_u16(),
            detail: if internal { row.meaning.to_owned() } else { printable(detail).into_owned() },
            code: kind.code().to_owned(),
            request_id: request_id.map(str::to_owned),
            retry: row.retry.as_str().to_owned(),
            errors: errors
                .iter()
                .filter(|_| shown(true))
                .map(ProblemError::from_input_error)
                .collect(),
            candidates: candidates
                .iter()
                .map(|(id, name)| Candidate { id: id.clone(), name: name.clone() })
                .collect(),
            machine: machine.as_ref().filter(|_| shown(true)).map(|(id, _)| id.to_string()),
            machine_name: machine.as_ref().filter(|_| shown(true)).map(|(_, name)| name.clone()),
            job: job.filter(|_| shown(true)).map(|job| job.to_string()),
            lease: lease.filter(|_| shown(true)).map(|lease| lease.to_string()),
            links,
            fault: fault.as_ref().filter(|_| shown(true)).map(HostFault::from_fault),
            sent: sent.map(InputSent::from_sent),
            seen: seen.as_ref().and_then(|seen| seen.text.clone()),
        }
    }
}

impl ProblemError {
    fn from_input_error(error: &InputError) -> Self {
        let InputError { pointer, parameter, code, detail } = error;
        Self {
            pointer: pointer.clone(),
            parameter: parameter.clone(),
            code: code.clone().into_owned(),
            detail: printable(detail).into_owned(),
        }
    }
}

impl HostFault {
    fn from_fault(fault: &Fault) -> Self {
        let Fault { name, message, details } = fault;
        Self { fault_type: name.clone(), message: message.clone(), details: details.clone() }
    }
}

/// The failure of a handler. `Layers` adds the request id and converts the failure to a problem.
#[derive(Debug)]
pub struct ApiError(pub Failure);

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = find(self.0.kind).status.into_response();
        response.extensions_mut().insert(FailedResponse(std::sync::Arc::new(self.0)));
        response
    }
}

/// An extension of a response whose body `Layers` creates from this failure.
#[derive(Clone, Debug)]
pub struct FailedResponse(pub std::sync::Arc<Failure>);

/// The `Retry-After` of a failure for which it is not known when it ends.
const RETRY: Duration = Duration::from_secs(5);

/// The response for a failure: its status, the problem as the body, `WWW-Authenticate` for status
/// 401, `Upgrade` for status 426, and `Retry-After` for status 429, 502 and 503.
#[must_use]
pub fn respond(failure: &Failure, request_id: &str) -> Response {
    let row = find(failure.kind);
    let problem = Problem::from_failure(failure, Some(request_id));
    // Serialising a problem cannot fail, because it has only plain strings and maps.
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = (row.status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if row.status == Status::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if row.status == Status::UPGRADE_REQUIRED {
        // RFC 9110, section 15.5.22, and RFC 6455, section 4.4.
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    let soon = matches!(
        row.status,
        Status::TOO_MANY_REQUESTS | Status::SERVICE_UNAVAILABLE | Status::BAD_GATEWAY
    );
    if soon {
        headers
            .insert(RETRY_AFTER, HeaderValue::from(seconds(failure.retry_after.unwrap_or(RETRY))));
    }
    response
}

/// A time in whole seconds, rounded up, and at least one second.
fn seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

/// The HTTP status of a kind of failure.
#[must_use]
pub fn status(kind: FailureKind) -> StatusCode {
    find(kind).status
}

/// Whether clients such as `curl --retry` repeat a request that fails with this kind of failure.
/// They look only at the status, not at the retry advice of the problem.
#[must_use]
pub fn invites_repetition(kind: FailureKind) -> bool {
    matches!(status(kind).as_u16(), 408 | 429 | 500 | 502..=504)
}

/// The contents of the pages under `/problems/`.
#[must_use]
pub fn pages() -> Vec<ProblemPage<'static>> {
    let page = |row: &ProblemRow| ProblemPage {
        code: row.kind.code(),
        status: row.status.as_u16(),
        title: row.title,
        retry: row.retry.as_str(),
        meaning: row.meaning,
        what_to_do: row.what_to_do,
    };
    TABLE.iter().map(page).collect()
}

/// The codes of all problems.
fn codes() -> Vec<&'static str> {
    TABLE.iter().map(|row| row.kind.code()).collect()
}

fn find(kind: FailureKind) -> &'static ProblemRow {
    // A test checks that each kind has exactly one row. The fallback is the row of internal errors.
    let internal = || TABLE.iter().find(|row| row.kind == FailureKind::Internal);
    TABLE.iter().find(|row| row.kind == kind).or_else(internal).unwrap_or(&TABLE[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_exactly_one_row() {
        for kind in FailureKind::ALL {
            assert_eq!(TABLE.iter().filter(|row| row.kind == *kind).count(), 1, "{kind:?}");
        }
        assert_eq!(TABLE.len(), FailureKind::ALL.len());
    }

    #[test]
    fn only_temporary_problems_have_a_gateway_status() {
        for row in TABLE.iter().filter(|row| (502..=504).contains(&row.status.as_u16())) {
            assert!(row.retry != Retry::No, "{:?}", row.kind);
        }
    }

    #[test]
    fn an_internal_failure_hides_its_detail() {
        let failure = Failure::new(FailureKind::Internal, "the password is hunter2");
        let shown = serde_json::to_string(&Problem::from_failure(&failure, Some("r-1"))).unwrap();
        assert!(!shown.contains("hunter2") && shown.contains("r-1"));
    }
}
