//! What many operations share in the document: path segments, the parameters of starting calls,
//! problems.

use utoipa::{IntoParams, IntoResponses};

use super::problem::Problem;

/// A machine in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the segment")]
pub struct MachinePath {
    /// A machine's id, `name:<exact>`, `uuid:<instance, then BIOS>` or `mac:<…>`.
    machine: String,
}

/// A snapshot in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the segment")]
pub struct SnapshotPath {
    /// Its id, else exact name, else path `a/b/c`, percent-encoded once more in the address.
    snapshot: String,
}

/// A job in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the segment")]
pub struct JobPath {
    /// The job's id.
    job: String,
}

/// What a starting call may say in headers.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents the headers")]
pub struct StartHeaders {
    /// At most 255 characters: a repeat with the same key and request gets the first one's job, and
    /// starts no second.
    #[param(rename = "Idempotency-Key", value_type = String, required = false)]
    idempotency_key: Option<String>,
    /// At most 512 characters, kept with the job: a CI job's address, say.
    #[param(rename = "Otter-Reference", value_type = String, required = false)]
    otter_reference: Option<String>,
    /// `wait=30` (RFC 7240): the soft form of `wait`; 202 with the job when the time is up.
    #[param(rename = "Prefer", value_type = String, required = false)]
    prefer: Option<String>,
    /// `<id>.<secret>` of the lease that holds the machine.
    #[param(rename = "Otter-Lease", value_type = String, required = false)]
    otter_lease: Option<String>,
    /// Why an operator acts on a machine that another holds; recorded. 1 to 512 characters.
    #[param(rename = "Otter-Override", value_type = String, required = false)]
    otter_override: Option<String>,
}

/// The problems that any operation may answer with; each lists its codes in `x-otter-problems`.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents the answers")]
pub enum Problems {
    /// A problem of the request, or of what it asks for.
    #[response(status = "4XX", content_type = "application/problem+json")]
    Request(Problem),
    /// A problem that may go away by itself, or a fault of otter's own.
    #[response(status = "5XX", content_type = "application/problem+json")]
    Server(Problem),
}

/// The codes that the layers around every operation answer with.
pub const ALL_OPERATIONS: &[&str] = &[
    "invalid-request",
    "forbidden",
    "unsupported-media-type",
    "uri-too-long",
    "headers-too-large",
    "internal",
];

/// The codes that every operation which asks for a token answers with too.
pub const AUTHENTICATED: [&str; 2] = ["unauthenticated", "too-many-requests"];

/// The codes of every call that starts a job.
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

/// What those add that mind a question of the machine: all but its answer, and a kill.
pub const BLOCKED_BY_QUESTION: &[&str] = &["question-pending"];

/// The codes of every read of one machine.
pub const READ_MACHINE: &[&str] =
    &["invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "inventory-loading"];
