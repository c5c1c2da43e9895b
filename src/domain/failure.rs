//! Failures: the kinds of failure, and the details of one failure.
//!
//! A kind does not depend on HTTP. One table in `api::problem` gives each kind its HTTP status and
//! its retry advice.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::ids::{JobId, LeaseId, MachineId, ScreenPictureId};
use super::input::SentInput;

/// Declares the kinds of failure together with the stable codes that the HTTP API and the store use
/// for them.
macro_rules! failure_kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// One kind of failure. Its code is part of the contract with callers and never changes its
        /// meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum FailureKind {
            $($(#[$doc])* $name,)*
        }

        impl FailureKind {
            /// Every kind of failure.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable code of this kind in the HTTP API and in the store.
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
    /// The machine has no CD drive.
    NoDrive = "no-drive",
    /// The lease has another artifact with this name.
    ArtifactExists = "artifact-exists",
    /// An upload found a file under its target name.
    FileExists = "file-exists",
    /// A machine or the host uses the file.
    FileInUse = "file-in-use",
    FolderNotEmpty = "folder-not-empty",
    MachineBusy = "machine-busy",
    MachineGone = "machine-gone",
    SelfProtection = "self-protection",
    QuestionPending = "question-pending",
    ToolsUnavailable = "tools-unavailable",
    NoFreeMachine = "no-free-machine",
    /// A caller waited for a lease that failed.
    LeaseFailed = "lease-failed",
    JobCancelled = "job-cancelled",
    /// A call without an `Idempotency-Key` started a job that called the host and then failed. The
    /// call does not get the code of the job's failure, because some of these codes invite clients
    /// to repeat the call.
    JobFailed = "job-failed",
    JobStillRunning = "job-still-running",
    /// The answer of the host was lost, or the store did not confirm a commit.
    OutcomeUnknown = "outcome-unknown",
    /// The request has a body, and does not say how long it is.
    LengthRequired = "length-required",
    PayloadTooLarge = "payload-too-large",
    UriTooLong = "uri-too-long",
    UnsupportedMediaType = "unsupported-media-type",
    /// The asked part lies outside of the bytes that there are.
    OffsetOutOfRange = "offset-out-of-range",
    HeadersTooLarge = "headers-too-large",
    IdempotencyMismatch = "idempotency-mismatch",
    /// Input to a machine ended after its first key. A repeat could type keys twice.
    InputInterrupted = "input-interrupted",
    /// The host refused the call. The failure's fault gives the reason.
    HostRejected = "host-rejected",
    /// The account that otter uses on the host lacks a privilege.
    ForbiddenByHost = "forbidden-by-host",
    /// The licence of the host makes the host's API read-only.
    LicenseRestricted = "license-restricted",
    /// Another lease holds the machine.
    MachineLeased = "machine-leased",
    /// The lease that the call names has ended.
    LeaseEnded = "lease-ended",
    /// The lease that the call names is queued or being prepared.
    LeaseNotActive = "lease-not-active",
    /// Another viewer drives the screen of the machine.
    ConsoleBusy = "console-busy",
    /// Another call or stream writes to the serial port.
    SerialBusy = "serial-busy",
    /// The path serves only `WebSocket` connections.
    UpgradeRequired = "upgrade-required",
    QueueFull = "queue-full",
    /// The call exceeds a limit of the caller's token.
    TooManyRequests = "too-many-requests",
    /// An error within otter. The caller gets only the id of its request.
    Internal = "internal",
    NotSupported = "not-supported",
    /// The server at the host's address does not speak vim25.
    HostProtocol = "host-protocol",
    HostUnreachable = "host-unreachable",
    /// The host refused otter's account. otter does not repeat the login soon, because refused
    /// logins lock the account.
    HostLoginRefused = "host-login-refused",
    InventoryLoading = "inventory-loading",
    /// The store cannot write: its disk is full or read-only.
    StorageUnavailable = "storage-unavailable",
    /// As many screens, serial ports, viewers or streams as allowed are in use.
    TooManyConsoles = "too-many-consoles",
    /// The host gives otter no console of the machine, or the console does not answer. Or otter has
    /// no connection to a serial port.
    ConsoleUnavailable = "console-unavailable",
    TooManyWaits = "too-many-waits",
    ShuttingDown = "shutting-down",
    WaitTimeout = "wait-timeout",
    DeadlineExceeded = "deadline-exceeded",
    InsufficientResources = "insufficient-resources",
}

impl FailureKind {
    /// Parses the code of a failure. `None` if the code names no kind.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.code() == code)
    }
}

/// A vim25 fault with the texts that the host sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The vim25 type of the fault, for example `InvalidPowerState`.
    pub name: String,
    pub message: String,
    /// The simple fields of the fault, for example `existingState`.
    pub details: BTreeMap<String, String>,
}

/// One failure: its kind, the object that it concerns, and a text that says what happened and what
/// to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// One or two sentences for the caller. The text never holds a secret or the message of an
    /// internal error.
    pub detail: String,
    pub fault: Option<Fault>,
    /// The failure of the host that made the job wait until its deadline. Only set if this failure
    /// is that the deadline passed.
    pub cause: Option<FailureKind>,
    pub machine: Option<(MachineId, String)>,
    pub job: Option<JobId>,
    pub lease: Option<LeaseId>,
    /// If a name was ambiguous: the ids and the names of the objects that match it.
    pub candidates: Vec<(String, String)>,
    /// The parts of the request that are wrong, or the failure of the job that the request started.
    pub errors: Vec<InputError>,
    /// The time after which a new try may succeed. `None` if this time is not known.
    pub retry_after: Option<Duration>,
    /// What an interrupted call of input sent. `None` for other failures, and if it is not known.
    pub sent: Option<SentInput>,
    /// What a wait for a screen or a serial port saw last. `None` for other failures.
    pub seen: Option<Box<SeenScreen>>,
}

/// What a wait for a screen or a serial port saw last. A log must not show it, so `Debug` does not
/// either.
#[derive(Clone, PartialEq, Eq)]
pub struct SeenScreen {
    /// The last text on the screen or from the port. `None` if no text was read.
    pub text: Option<String>,
    /// The picture that otter keeps for an hour. `None` if there was none.
    pub picture: Option<ScreenPictureId>,
}

impl SeenScreen {
    /// The largest number of characters of the text.
    pub const MAX_CHARACTERS: usize = 2000;

    /// What was seen. Cuts a long text.
    #[must_use]
    pub fn new(text: Option<&str>, picture: Option<ScreenPictureId>) -> Self {
        let cut = |text: &str| text.chars().take(Self::MAX_CHARACTERS).collect();
        Self { text: text.map(cut), picture }
    }
}

impl fmt::Debug for SeenScreen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SeenScreen").finish_non_exhaustive()
    }
}

/// One wrong part of a request, or the failure of the job that the request started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputError {
    /// The place in the JSON body, as a JSON Pointer (RFC 6901).
    pub pointer: Option<String>,
    /// The name of the query parameter, path segment or header.
    pub parameter: Option<String>,
    pub code: Cow<'static, str>,
    pub detail: String,
}

impl Failure {
    /// Makes a failure with this kind and this detail, and no other fields.
    pub fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            fault: None,
            cause: None,
            machine: None,
            job: None,
            lease: None,
            candidates: Vec::new(),
            errors: Vec::new(),
            retry_after: None,
            sent: None,
            seen: None,
        }
    }

    /// Adds the machine that the failure concerns.
    #[must_use]
    pub fn with_machine(mut self, id: &MachineId, name: &str) -> Self {
        self.machine = Some((id.clone(), name.to_owned()));
        self
    }

    /// Adds the job that the failure concerns.
    #[must_use]
    pub fn with_job(mut self, id: JobId) -> Self {
        self.job = Some(id);
        self
    }

    /// Adds the lease that the failure concerns.
    #[must_use]
    pub fn with_lease(mut self, id: LeaseId) -> Self {
        self.lease = Some(id);
        self
    }

    /// Adds what a wait saw last.
    #[must_use]
    pub fn with_seen(mut self, seen: SeenScreen) -> Self {
        self.seen = Some(Box::new(seen));
        self
    }

    /// Adds the fault of the host, if there is one.
    #[must_use]
    pub fn with_fault(mut self, fault: Option<Fault>) -> Self {
        self.fault = fault;
        self
    }

    /// Adds the failure of the host that lasted until the deadline of the job.
    #[must_use]
    pub const fn caused_by(mut self, cause: FailureKind) -> Self {
        self.cause = Some(cause);
        self
    }

    /// Adds a part of the request that is wrong.
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
