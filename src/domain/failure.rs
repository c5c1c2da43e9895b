//! What can go wrong, by kind: the vocabulary in which rooms tell each other of failures.
//!
//! A kind says nothing of HTTP: one table in `api::problem` turns each into a code, a status and
//! advice.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::ids::{JobId, LeaseId, MachineId};

/// Declares the kinds together with their stable codes, which callers and the store know them by.
macro_rules! failure_kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// One kind of failure. The code is part of the contract and never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum FailureKind {
            $($(#[$doc])* $name,)*
        }

        impl FailureKind {
            /// Every kind, in the order of the contract.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable code.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }
    };
}

failure_kinds! {
    InvalidRequest = "invalid-request",
    UnknownParameter = "unknown-parameter",
    InvalidCursor = "invalid-cursor",
    Unauthenticated = "unauthenticated",
    Forbidden = "forbidden",
    NotFound = "not-found",
    MethodNotAllowed = "method-not-allowed",
    RequestTimeout = "request-timeout",
    AmbiguousName = "ambiguous-name",
    InvalidPowerState = "invalid-power-state",
    MachineBusy = "machine-busy",
    MachineGone = "machine-gone",
    SelfProtection = "self-protection",
    QuestionPending = "question-pending",
    ToolsUnavailable = "tools-unavailable",
    NoFreeMachine = "no-free-machine",
    /// A lease that was waited for came to nothing.
    LeaseFailed = "lease-failed",
    JobCancelled = "job-cancelled",
    JobStillRunning = "job-still-running",
    OutcomeUnknown = "outcome-unknown",
    PayloadTooLarge = "payload-too-large",
    UriTooLong = "uri-too-long",
    UnsupportedMediaType = "unsupported-media-type",
    HeadersTooLarge = "headers-too-large",
    IdempotencyMismatch = "idempotency-mismatch",
    /// The host refused for a reason of its own; its fault says which.
    HostRejected = "host-rejected",
    /// The host's account lacks a privilege.
    ForbiddenByHost = "forbidden-by-host",
    /// The host's licence makes its API read-only.
    LicenseRestricted = "license-restricted",
    /// Another holds the machine.
    MachineLeased = "machine-leased",
    /// The lease that a call goes by is over.
    LeaseEnded = "lease-ended",
    QueueFull = "queue-full",
    /// The limits of the caller's token allow no more at a time.
    TooManyRequests = "too-many-requests",
    /// A fault of otter's own. Nothing of it is shown but the request id.
    Internal = "internal",
    NotSupported = "not-supported",
    /// What answered does not speak vim25.
    HostProtocol = "host-protocol",
    HostUnreachable = "host-unreachable",
    /// The host refused the account; otter does not go on trying, for that would lock it.
    HostLoginRefused = "host-login-refused",
    InventoryLoading = "inventory-loading",
    /// The store cannot write: its disk is full, or gone read-only.
    StorageUnavailable = "storage-unavailable",
    TooManyWaits = "too-many-waits",
    ShuttingDown = "shutting-down",
    WaitTimeout = "wait-timeout",
    DeadlineExceeded = "deadline-exceeded",
    InsufficientResources = "insufficient-resources",
}

impl FailureKind {
    /// Reads a code back from the store.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.code() == code)
    }
}

/// A fault in the host's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The vim25 type, such as `InvalidPowerState`.
    pub name: String,
    pub message: String,
    /// The fault's own simple fields, such as `existingState`.
    pub details: BTreeMap<String, String>,
}

/// Something that went wrong, told so that a person knows what happened, to which object, and what
/// to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// One or two sentences for the caller. Never holds a secret or the text of an internal error.
    pub detail: String,
    pub fault: Option<Fault>,
    pub machine: Option<(MachineId, String)>,
    pub job: Option<JobId>,
    pub lease: Option<LeaseId>,
    /// What an ambiguous name could have meant: id and name.
    pub candidates: Vec<(String, String)>,
    /// The parts of the request that were wrong.
    pub errors: Vec<InputError>,
    /// When a repeat may succeed, if that is known.
    pub retry_after: Option<Duration>,
}

/// One wrong part of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputError {
    /// JSON Pointer (RFC 6901) into the body.
    pub pointer: Option<String>,
    /// The name of a query parameter, path segment or header.
    pub parameter: Option<String>,
    pub code: Cow<'static, str>,
    pub detail: String,
}

impl Failure {
    /// A failure of this kind, told by this sentence.
    pub fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            fault: None,
            machine: None,
            job: None,
            lease: None,
            candidates: Vec::new(),
            errors: Vec::new(),
            retry_after: None,
        }
    }

    /// Names the machine that it happened to.
    #[must_use]
    pub fn with_machine(mut self, id: &MachineId, name: &str) -> Self {
        self.machine = Some((id.clone(), name.to_owned()));
        self
    }

    /// Names the job that it happened to.
    #[must_use]
    pub fn with_job(mut self, id: JobId) -> Self {
        self.job = Some(id);
        self
    }

    /// Names the lease that it happened to.
    #[must_use]
    pub fn with_lease(mut self, id: LeaseId) -> Self {
        self.lease = Some(id);
        self
    }

    /// Adds the host's own words.
    #[must_use]
    pub fn with_fault(mut self, fault: Option<Fault>) -> Self {
        self.fault = fault;
        self
    }

    /// Points at the part of the request that was wrong.
    #[must_use]
    pub fn with_error(mut self, error: InputError) -> Self {
        self.errors.push(error);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.kind.code(), self.detail)
    }
}

impl std::error::Error for Failure {}
