//! Failures on the wire: RFC 9457 problem details, and the one table that says what each kind means
//! over HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::document::problems::ProblemPage;
use crate::domain::failure::{Failure, FailureKind, Fault, InputError};
use crate::domain::terminal::printable;

/// What a kind of failure is over HTTP.
struct ProblemRow {
    kind: FailureKind,
    status: StatusCode,
    title: &'static str,
    retry: Retry,
    meaning: &'static str,
    what_to_do: &'static str,
}

/// Whether the same request may be sent again.
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

/// One line of the table.
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

// Kept as it is: a table is read across.
/// One code, one status. 502, 503 and 504 are only for what may go away by itself: curl and proxies
/// repeat those.
#[rustfmt::skip]
const TABLE: &[ProblemRow] = &[
    row(Kind::InvalidRequest, Status::BAD_REQUEST, Retry::No, "The request is not valid",
        "Something in the request cannot be read or is out of its range; `errors` says which part.",
        "Mend what `errors` names and send it again."),
    row(Kind::UnknownParameter, Status::BAD_REQUEST, Retry::No, "Unknown or repeated parameter",
        "A query parameter is not one of this operation's, or stands there twice.",
        "Check the spelling; the detail names the nearest known one. Only `path` may be repeated."),
    row(Kind::InvalidCursor, Status::BAD_REQUEST, Retry::No, "The cursor is not one of this list's",
        "`cursor` must be the `next` of an earlier answer of the same list to a call with the same filters.",
        "Start again without a cursor."),
    row(Kind::Unauthenticated, Status::UNAUTHORIZED, Retry::No, "No valid token",
        "The call needs a token and came without one, or with one that is not known.",
        "Send `Authorization: Bearer otter_…`."),
    row(Kind::Forbidden, Status::FORBIDDEN, Retry::No, "Not allowed",
        "The caller may not do this; the detail says why. Changes that a web page of another server \
         sends are refused. Without tokens otter serves its own machine only: a `Host` that is not \
         loopback and a request through a proxy are refused.",
        "Do as the detail says, or ask whoever runs otter."),
    row(Kind::NotFound, Status::NOT_FOUND, Retry::No, "Not found",
        "There is nothing of this name or id, or no such path.",
        "List what there is, and mind that a trailing slash makes another path."),
    row(Kind::MethodNotAllowed, Status::METHOD_NOT_ALLOWED, Retry::No, "Method not allowed",
        "The path exists, but not with this method.",
        "Use one of the methods in the `Allow` header."),
    row(Kind::RequestTimeout, Status::REQUEST_TIMEOUT, Retry::No, "The request took too long to arrive",
        "The body did not come in time.",
        "Send the whole request at once."),
    row(Kind::AmbiguousName, Status::CONFLICT, Retry::No, "Several have this name",
        "More than one machine or snapshot goes by this name; `candidates` lists them.",
        "Name one by its id, or a snapshot by its path."),
    row(Kind::InvalidPowerState, Status::CONFLICT, Retry::No, "Not possible in this power state",
        "The machine is not in a state in which this can be done or come true.",
        "Bring it into the state first: POST /v1/machines/{machine}/power."),
    row(Kind::MachineBusy, Status::CONFLICT, Retry::No, "The machine is busy",
        "Another task of the host worked on the machine for as long as the job could wait.",
        "Wait for that task, or kill what hangs, then start again."),
    row(Kind::MachineGone, Status::CONFLICT, Retry::No, "The machine is gone",
        "The machine was deleted or registered anew; nothing is done to another one that has its id now.",
        "Look it up by name and start again."),
    row(Kind::SelfProtection, Status::CONFLICT, Retry::No, "The machine is protected",
        "The configuration protects this machine, or otter itself runs in it.",
        "Choose another machine, or have `machines.protected` changed."),
    row(Kind::QuestionPending, Status::CONFLICT, Retry::No, "The machine waits on a question",
        "ESX asked a question about the machine and does nothing until it is answered.",
        "Answer it, or kill the machine."),
    row(Kind::ToolsUnavailable, Status::CONFLICT, Retry::No, "The guest tools do not run",
        "This needs guest tools in the machine, and none run.",
        "Use the hard form: power off, or reset."),
    row(Kind::NoFreeMachine, Status::CONFLICT, Retry::No, "No machine is free",
        "No machine that fits is free, or none became free in the time that the lease could queue.",
        "Say `queue_for` to wait for one; GET /v1/machines says why each is not free."),
    row(Kind::LeaseFailed, Status::CONFLICT, Retry::No, "The lease came to nothing",
        "The lease ended before it was active; its `end` says why.",
        "Look at the lease, and ask for another."),
    row(Kind::JobCancelled, Status::CONFLICT, Retry::No, "The job was cancelled",
        "Somebody asked to cancel the job, and it ended so.",
        "Start it again if it is still wanted."),
    row(Kind::JobStillRunning, Status::CONFLICT, Retry::No, "The job is still running",
        "The time to wait is up and the job goes on. A repeated POST without an `Idempotency-Key` would start a second one.",
        "Wait for it: GET the `wait` of `links`. Send an `Idempotency-Key` with calls that a client may repeat."),
    row(Kind::OutcomeUnknown, Status::CONFLICT, Retry::No, "What happened cannot be known",
        "The host was asked and its answer was lost, and looking at the machine proves nothing.",
        "Look at the machine, then decide. Reverting to a snapshot gives a known state."),
    row(Kind::PayloadTooLarge, Status::PAYLOAD_TOO_LARGE, Retry::No, "The body is too large",
        "The body is larger than otter reads.",
        "Send less."),
    row(Kind::UriTooLong, Status::URI_TOO_LONG, Retry::No, "The address is too long",
        "The path and query are longer than otter reads.",
        "Shorten the names in it, or use ids."),
    row(Kind::UnsupportedMediaType, Status::UNSUPPORTED_MEDIA_TYPE, Retry::No, "Not JSON",
        "The body is not declared as plain JSON in UTF-8, or something else is declared without a body.",
        "Send `Content-Type: application/json` with a body, and none without a body. Send no \
         `Content-Encoding`."),
    row(Kind::HeadersTooLarge, Status::REQUEST_HEADER_FIELDS_TOO_LARGE, Retry::No, "The headers are too large",
        "There are more headers, or longer ones, than otter reads.",
        "Send fewer."),
    row(Kind::IdempotencyMismatch, Status::UNPROCESSABLE_ENTITY, Retry::No, "The key was used for another request",
        "This `Idempotency-Key` came before with another body or query.",
        "Use a new key for a new request."),
    row(Kind::HostRejected, Status::UNPROCESSABLE_ENTITY, Retry::No, "The host refused",
        "ESX refused for a reason of its own; `fault` holds its words.",
        "Read `fault`."),
    row(Kind::ForbiddenByHost, Status::UNPROCESSABLE_ENTITY, Retry::No, "The host's account may not do this",
        "otter's account on the host lacks a privilege; `fault` names it.",
        "Give the account the privilege."),
    row(Kind::LicenseRestricted, Status::UNPROCESSABLE_ENTITY, Retry::No, "The host's licence forbids it",
        "The free ESXi licence makes the API read-only.",
        "Assign a licence that allows the API."),
    row(Kind::MachineLeased, Status::LOCKED, Retry::No, "Another holds the machine",
        "The machine is leased. Changing it needs the lease: `Otter-Lease: <id>.<secret>`.",
        "Wait until it is free, or take another machine: POST /v1/leases."),
    row(Kind::LeaseEnded, Status::LOCKED, Retry::No, "The lease is over",
        "The lease that the call goes by has ended, or is not active yet; nothing was done.",
        "Ask for a new lease: POST /v1/leases."),
    row(Kind::QueueFull, Status::TOO_MANY_REQUESTS, Retry::After, "The queue is full",
        "Too many jobs wait, for this machine, of this token or in all; or too many leases do.",
        "Try again after `Retry-After`."),
    row(Kind::TooManyRequests, Status::TOO_MANY_REQUESTS, Retry::After, "The token's limit is reached",
        "The token has limits, and has as many requests, open leases or streams of events as it may.",
        "Try again after `Retry-After`; end leases and streams that are no longer needed."),
    row(Kind::Internal, Status::INTERNAL_SERVER_ERROR, Retry::No, "A fault of otter's own",
        "otter failed; its log has the cause under the request id.",
        "Report it with the request id."),
    row(Kind::NotSupported, Status::NOT_IMPLEMENTED, Retry::No, "The host cannot do this",
        "The host does not have this operation.",
        "Nothing to do on this host."),
    row(Kind::HostProtocol, Status::BAD_GATEWAY, Retry::After, "What answered is not vim25",
        "The host's answer could not be read: something else listens there, or a proxy answered.",
        "Check `esx.url`; try again later."),
    row(Kind::HostUnreachable, Status::SERVICE_UNAVAILABLE, Retry::After, "The host cannot be reached",
        "There has been no session with the host for longer than jobs are taken on trust.",
        "Try again after `Retry-After`; GET /readyz?host=true says why."),
    row(Kind::HostLoginRefused, Status::SERVICE_UNAVAILABLE, Retry::After, "The host refuses otter's account",
        "The host refused the name and password; otter does not go on trying, for that would lock the account.",
        "Mend the account or the configuration."),
    row(Kind::InventoryLoading, Status::SERVICE_UNAVAILABLE, Retry::After, "The inventory is loading",
        "otter has not read the host yet.",
        "Try again in a moment; GET /readyz is 200 once it has."),
    row(Kind::StorageUnavailable, Status::SERVICE_UNAVAILABLE, Retry::After, "The store cannot write",
        "otter's disk is full, or gone read-only; nothing is begun that cannot be stored first.",
        "Make room on the disk of the state directory; otter goes on by itself. GET /readyz says why."),
    row(Kind::TooManyWaits, Status::SERVICE_UNAVAILABLE, Retry::After, "Too many calls wait",
        "More callers wait at once than `http.max_waits` allows.",
        "Try again after `Retry-After`."),
    row(Kind::ShuttingDown, Status::SERVICE_UNAVAILABLE, Retry::SameKey, "otter is shutting down",
        "The daemon stops. A job that was accepted goes on when it starts again.",
        "Repeat the call with the same `Idempotency-Key`, or GET the job, once otter is back."),
    row(Kind::WaitTimeout, Status::GATEWAY_TIMEOUT, Retry::SameKey, "The time to wait is up",
        "What was waited for has not happened yet; it still may.",
        "Repeat the call with the same `Idempotency-Key`, or wait again."),
    row(Kind::DeadlineExceeded, Status::GATEWAY_TIMEOUT, Retry::After, "The deadline passed",
        "The job was not done by its deadline; otter had the host cancel what it could.",
        "Look at the machine, then start again, with a longer `deadline` where one is needed."),
    row(Kind::InsufficientResources, Status::INSUFFICIENT_STORAGE, Retry::No, "The host lacks resources",
        "Memory, disk or another resource of the host does not suffice; `fault` says which.",
        "Free some, for example by powering other machines off."),
];

/// One wrong part of a request.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProblemError {
    /// JSON Pointer (RFC 6901) into the body.
    #[schema(required, example = "/action")]
    pub pointer: Option<String>,
    /// The query parameter, path segment or header.
    #[schema(required, example = "limit")]
    pub parameter: Option<String>,
    /// A stable word for what is wrong.
    #[schema(example = "out-of-range")]
    pub code: String,
    /// The same for people.
    pub detail: String,
}

/// One of several things that a name could mean.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Candidate {
    /// Names it beyond doubt.
    pub id: String,
    /// A machine's name, or a snapshot's path.
    pub name: String,
}

/// A fault in the host's own words.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HostFault {
    /// The vim25 type.
    #[serde(rename = "type")]
    #[schema(example = "InvalidPowerState")]
    pub fault_type: String,
    /// What the host says of it.
    pub message: String,
    /// The fault's own fields.
    pub details: BTreeMap<String, String>,
}

/// What went wrong: RFC 9457 problem details with a stable code.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// The page that explains the code.
    #[serde(rename = "type")]
    #[schema(example = "/problems/not-found")]
    pub problem_type: String,
    /// The same for every problem of the code.
    pub title: String,
    /// The HTTP status that goes with the code.
    #[schema(example = 404)]
    pub status: u16,
    /// What happened, to which object, and what to do.
    pub detail: String,
    /// Stable; programs decide by it.
    #[schema(example = "not-found", extensions(("x-extensible-enum" = json!(codes()))))]
    pub code: String,
    /// Also in `X-Request-Id` and in otter's log. Null inside of a job.
    #[schema(required)]
    pub request_id: Option<String>,
    /// `no`, `after` (`Retry-After`) or `same-key` (with the same `Idempotency-Key`).
    #[schema(extensions(("x-extensible-enum" = json!(["no", "after", "same-key"]))))]
    pub retry: String,
    /// The parts of the request that were wrong.
    pub errors: Vec<ProblemError>,
    /// What an ambiguous name could have meant.
    pub candidates: Vec<Candidate>,
    /// The machine that it happened to.
    #[schema(required)]
    pub machine: Option<String>,
    /// Its name.
    #[schema(required)]
    pub machine_name: Option<String>,
    /// The job that it happened to.
    #[schema(required)]
    pub job: Option<String>,
    /// The lease that it happened to.
    #[schema(required)]
    pub lease: Option<String>,
    /// Where to look or go on, by name.
    pub links: BTreeMap<String, String>,
    /// The host's own words, wherever the host caused it.
    #[schema(required)]
    pub fault: Option<HostFault>,
}

impl Problem {
    /// A failure as a problem. Of an internal one nothing of its own is shown but the request id.
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
        Self {
            problem_type: format!("/problems/{}", kind.code()),
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

/// A handler's failure on its way out. The outermost layer, which knows the request's id, makes the
/// problem of it.
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

/// Marks a response whose body is still to be made of this failure.
#[derive(Clone, Debug)]
pub struct FailedResponse(pub std::sync::Arc<Failure>);

/// The `Retry-After` of failures that pass at an unknown time.
const RETRY: Duration = Duration::from_secs(5);

/// The answer for a failure: status, `Retry-After` where a retry helps, and the problem as its
/// body.
#[must_use]
pub fn respond(failure: &Failure, request_id: &str) -> Response {
    let row = find(failure.kind);
    let problem = Problem::from_failure(failure, Some(request_id));
    // A problem is plain strings and maps, which always serialise.
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = (row.status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
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

/// In whole seconds, rounded up; at least one.
fn seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

/// The status of a kind.
#[must_use]
pub fn status(kind: FailureKind) -> StatusCode {
    find(kind).status
}

/// The pages under `/problems/`.
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

/// Every code.
fn codes() -> Vec<&'static str> {
    TABLE.iter().map(|row| row.kind.code()).collect()
}

fn find(kind: FailureKind) -> &'static ProblemRow {
    // A test holds the table to one row for each kind; the last resort is the row of internal
    // faults.
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
    fn only_what_may_go_away_by_itself_is_a_gateway_status() {
        for row in TABLE.iter().filter(|row| (502..=504).contains(&row.status.as_u16())) {
            assert!(row.retry != Retry::No, "{:?}", row.kind);
        }
    }

    #[test]
    fn an_internal_failure_shows_nothing_of_itself() {
        let failure = Failure::new(FailureKind::Internal, "the password is hunter2");
        let shown = serde_json::to_string(&Problem::from_failure(&failure, Some("r-1"))).unwrap();
        assert!(!shown.contains("hunter2") && shown.contains("r-1"));
    }
}
