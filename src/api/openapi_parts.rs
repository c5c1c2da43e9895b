//! The parts of the OpenAPI document that several operations share: path parameters, the headers of
//! calls that start a job, and problem codes.

use utoipa::{IntoParams, IntoResponses};

use super::problem::Problem;

/// The path parameter that names a machine.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the segment")]
pub struct MachinePath {
    /// A machine: its id, `name:<exact name>`, `uuid:<instance UUID, else BIOS UUID>` or `mac:<MAC
    /// address>`. otter accepts a name as the host sends it, and with its percent-escapes decoded
    /// once or twice. If a proxy refuses `%2F`, write `%252F`.
    machine: String,
}

/// The path parameter that names a snapshot.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the segment")]
pub struct SnapshotPath {
    /// A snapshot: its id, else its name, else its path `a/b/c`. otter accepts a name as the host
    /// sends it, and with its percent-escapes decoded once or twice. Percent-encode the whole value
    /// in the URL.
    snapshot: String,
}

/// The path parameter that names a job.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the segment")]
pub struct JobPath {
    /// The id of the job.
    job: String,
}

/// The request headers of calls that start a job.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents the headers")]
pub struct StartHeaders {
    /// A key that the client chooses, at most 255 characters. A repeat with the same key and the
    /// same request returns the job of the first request and starts no second job.
    #[param(rename = "Idempotency-Key", value_type = String, required = false)]
    idempotency_key: Option<String>,
    /// A text of the client, at most 512 characters, for example the URL of a CI run. otter stores
    /// it with the job.
    #[param(rename = "Otter-Reference", value_type = String, required = false)]
    otter_reference: Option<String>,
    /// `wait=30` (RFC 7240): the longest time, in seconds, that the call waits for the end of the
    /// job. If the job has not ended by then, the response is 202 with the job. The parameter
    /// `wait` takes precedence, and gives a problem in this case.
    #[param(rename = "Prefer", value_type = String, required = false)]
    prefer: Option<String>,
    /// `<id>.<secret>` of the lease that holds the machine.
    #[param(rename = "Otter-Lease", value_type = String, required = false)]
    otter_lease: Option<String>,
    /// The reason why an operator changes a machine without its lease, or a protected snapshot, 1
    /// to 512 characters. otter records it in the audit.
    #[param(rename = "Otter-Override", value_type = String, required = false)]
    otter_override: Option<String>,
}

/// The problems of every operation. Each operation lists its codes in `x-otter-problems`.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents the answers")]
pub enum Problems {
    /// The request is invalid, or the state of the object does not allow it.
    #[response(status = "4XX", content_type = "application/problem+json")]
    Request(Problem),
    /// A temporary problem, or an internal error of otter.
    #[response(status = "5XX", content_type = "application/problem+json")]
    Server(Problem),
}

/// The codes of the problems that every operation can return, because the code around the handlers
/// returns them.
pub const ALL_OPERATIONS: &[&str] = &[
    "invalid-request",
    "forbidden",
    "unsupported-media-type",
    "uri-too-long",
    "headers-too-large",
    "internal",
];

/// The additional codes of operations that require a token.
pub const AUTHENTICATED: [&str; 2] = ["unauthenticated", "too-many-requests"];

/// The codes of operations that start a job.
pub const START: &[&str] = &[
    "invalid-request",
    "unknown-parameter",
    "not-found",
    "request-timeout",
    "ambiguous-name",
    "self-protection",
    "payload-too-large",
    "unsupported-media-type",
    "idempotency-mismatch",
    "machine-leased",
    "lease-ended",
    "lease-not-active",
    "queue-full",
    "inventory-loading",
    "host-unreachable",
    "host-login-refused",
    "storage-unavailable",
    "shutting-down",
    "too-many-waits",
    "wait-timeout",
    "job-still-running",
    "job-cancelled",
    "job-failed",
    "outcome-unknown",
    "invalid-power-state",
    "machine-busy",
    "machine-gone",
    "host-rejected",
    "forbidden-by-host",
    "license-restricted",
    "not-supported",
    "tools-unavailable",
    "deadline-exceeded",
    "insufficient-resources",
];

/// The additional codes of operations that a pending question of the machine blocks: all but answer
/// and kill.
pub const BLOCKED_BY_QUESTION: &[&str] = &["question-pending"];

/// The additional codes of operations on the CD drive of a machine.
pub const NEEDS_DRIVE: &[&str] = &["no-drive"];

/// The codes of operations that read one machine.
pub const READ_MACHINE: &[&str] =
    &["invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "inventory-loading"];
