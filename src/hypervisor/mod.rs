//! The interface between otter and a hypervisor: two traits with their contract, and their types.
//!
//! otter calls the backend through [`Hypervisor`]. The backend reports facts about the host through
//! [`Observer`]; only these facts change the inventory. A backend keeps one session and one stream
//! of updates, whatever the load.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::domain::call::{Evidence, HostCall};
use crate::domain::datastore::Datastore;
use crate::domain::failure::Fault;
use crate::domain::ids::{DatastoreId, JobId, MachineId, SnapshotId, TaskId};
use crate::domain::machine::{GuestInterface, Machine};

/// A host with machines, or a manager of several hosts.
///
/// The observer receives in this order:
///
/// ```text
/// Connecting ──► complete facts, then Connected ──► changes … ──► Away │ LoginRefused
///                          ▲                                                │
///                          └────────────────────────────────────────────────┘
/// ```
/// `tests/conformance` checks this contract on every backend.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// Connects, keeps the session, and reports every change to `observer`. When `stop` is
    /// cancelled, it logs out and returns. An outage is no error: the backend reports it as a
    /// [`SessionStatus`] and connects again. It does not repeat a refused login in a loop.
    ///
    /// After each connect, the backend reports all machines and datastores as one complete set, and
    /// then [`SessionState::Connected`]. Objects that were removed during an outage are therefore
    /// missing from the set. From then on the backend reports each change and each removal, no
    /// matter which client of the host made it.
    ///
    /// `run` can be called once. After it has returned, every other method fails at once, and the
    /// receivers of followed tasks are closed.
    ///
    /// # Errors
    /// Fails only if waiting cannot help: if the configuration cannot work, or if `run` was called
    /// before.
    async fn run(
        &self,
        observer: Arc<dyn Observer>,
        stop: CancellationToken,
    ) -> Result<(), HostError>;

    /// Makes one call that changes `machine`. The call runs at most once. The backend sends it a
    /// second time only if the host refused it because the session had ended, which proves that it
    /// did not run. The backend sends `job` as the operation id, so that an operator can find the
    /// call in the log of the host.
    ///
    /// A host can refuse a call, or accept it and let its task fail, if the machine is already in
    /// the requested power state, if another task runs on it, or if the snapshot does not exist.
    /// Both have the same [`HostErrorKind`].
    ///
    /// # Errors
    /// [`CallError::Refused`] only if it is proven that the call did not run, otherwise
    /// [`CallError::Lost`].
    async fn call(
        &self,
        machine: &MachineId,
        call: &HostCall,
        job: JobId,
    ) -> Result<Accepted, CallError>;

    /// As [`Hypervisor::call`], on these terms. A backend whose calls do not wait for each other
    /// has no use for them.
    ///
    /// # Errors
    /// As [`Hypervisor::call`].
    async fn call_on_terms(
        &self,
        machine: &MachineId,
        call: &HostCall,
        job: JobId,
        _terms: CallTerms,
    ) -> Result<Accepted, CallError> {
        self.call(machine, call, job).await
    }

    /// Follows a task to its end on the stream of updates, without polling. A caller stops by
    /// dropping the receiver. The first value may be [`TaskStatus::Running`] without progress.
    ///
    /// A task can be followed at any time, also after its end, and by several callers. It can be a
    /// task of another client of the host. Following continues after a lost session. The progress
    /// never decreases, even if the host reports a lower value. The end is sent once and is the
    /// last value. A task that the host does not know is [`TaskStatus::Vanished`] at once. The
    /// backend reports a [`Fact::GuestRestarted`] of the task before the end of the task.
    async fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus>;

    /// Asks the host to cancel a task. The task may still succeed. A cancelled task fails as
    /// `Cancelled`.
    ///
    /// # Errors
    /// `NotSupported` if the task cannot be cancelled, `InvalidState` if it has ended, `NotFound`
    /// if the host does not know it.
    async fn cancel(&self, task: &TaskId) -> Result<(), HostError>;

    /// Returns after the observer has received every change that the host had made before this
    /// call. Concurrent callers share one round trip.
    ///
    /// # Errors
    /// `Unreachable` if there is no session, or if it is lost meanwhile. Call again when the
    /// session is back.
    async fn barrier(&self) -> Result<(), HostError>;

    /// Returns after the observer has received every change that the host had made before the ends
    /// of tasks that [`Hypervisor::follow`] reported until this call. A backend that has this at
    /// hand returns at once; any other waits as [`Hypervisor::barrier`] does.
    ///
    /// # Errors
    /// As [`Hypervisor::barrier`].
    async fn barrier_after_task(&self) -> Result<(), HostError> {
        self.barrier().await
    }

    /// Reads the state of a machine and its recent tasks directly from the host, not from the
    /// inventory.
    ///
    /// # Errors
    /// `NotFound` if the host does not know the machine.
    async fn read_evidence(&self, machine: &MachineId) -> Result<Evidence, HostError>;

    /// As [`Hypervisor::read_evidence`], without waiting for other reads and calls.
    ///
    /// # Errors
    /// As [`Hypervisor::read_evidence`].
    async fn read_evidence_urgently(&self, machine: &MachineId) -> Result<Evidence, HostError> {
        self.read_evidence(machine).await
    }

    /// Reads the addresses of the guest directly from the host. Returns after the observer has
    /// received them as [`Fact::GuestConfirmed`].
    ///
    /// # Errors
    /// As [`Hypervisor::read_evidence`].
    async fn confirm_guest(&self, machine: &MachineId) -> Result<(), HostError>;

    /// The optional abilities of this backend. They never change.
    fn capabilities(&self) -> &'static [Capability] {
        &[]
    }

    /// Reads properties of a machine by their vim25 paths, as JSON. The result has one entry for
    /// each path, null if the property has no value. A backend that does not speak vim25 serves the
    /// paths that it can map.
    ///
    /// # Errors
    /// `NotSupported` without [`Capability::Properties`], `InvalidProperty` if a machine has no
    /// property of this path, `NotFound` if the host does not know the machine.
    async fn properties(
        &self,
        _machine: &MachineId,
        _paths: &[String],
    ) -> Result<serde_json::Map<String, serde_json::Value>, HostError> {
        Err(HostError::new(HostErrorKind::NotSupported, "The host gives no raw properties."))
    }

    /// Opens a connection to the screen of a machine. The caller speaks RFB over it (RFC 6143), as
    /// the client. Each call opens a connection of its own, on which nothing was sent yet. It makes
    /// one try, and the session stays as it is.
    ///
    /// # Errors
    /// - `NotSupported` without [`Capability::Screens`].
    /// - `InvalidPowerState` if the machine is not on.
    /// - `ScreenLimitReached` if the host allows no further connection to this screen.
    /// - `Forbidden` and `LicenseRestricted` as for calls, `NotFound` if the host does not know the
    ///   machine, `Unreachable` and `Protocol` if no connection could be made.
    async fn open_screen(&self, _machine: &MachineId) -> Result<ScreenConnection, HostError> {
        Err(HostError::new(HostErrorKind::NotSupported, "The host gives no access to screens."))
    }

    /// Reads one picture of a screen, as PNG: what a running machine shows now, or what a machine
    /// showed when its memory snapshot was taken.
    ///
    /// # Errors
    /// - `NotSupported` without [`Capability::ScreenPictures`].
    /// - `NotFound` if the host does not know the object or has no picture of it.
    /// - `Forbidden`, `InvalidPowerState`, `Unreachable`, `Protocol` as for
    ///   [`Hypervisor::open_screen`].
    async fn screen_picture(&self, _object: &ScreenObject) -> Result<Bytes, HostError> {
        Err(HostError::new(HostErrorKind::NotSupported, "The host gives no pictures of screens."))
    }

    /// Sets the password of the next login; it may be the same as before. If the host has refused
    /// the login, the backend tries again at once. The current session continues. A backend without
    /// a password ignores it.
    fn set_password(&self, _password: SecretString) {}

    /// If the host is away, the backend tries to connect at once instead of after its pause. A
    /// refused login waits for [`Hypervisor::set_password`]. A backend without pauses ignores it.
    fn connect_now(&self) {}
}

/// How a call waits for its turn. A backend has few connections to its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallTerms {
    /// Whether the call goes before the calls that are not urgent.
    pub urgent: bool,
    /// The call is not sent after this time, by the clock's `elapsed`. It is then refused as
    /// `Unreachable`.
    pub not_after: Option<Duration>,
}

/// An optional ability of a backend. Callers check [`Hypervisor::capabilities`] before they use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// [`Hypervisor::properties`]
    Properties,
    /// [`Hypervisor::open_screen`]
    Screens,
    /// [`Hypervisor::screen_picture`]
    ScreenPictures,
}

/// The object whose picture [`Hypervisor::screen_picture`] reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScreenObject {
    Machine(MachineId),
    Snapshot(SnapshotId),
}

/// A connection to the screen of a machine.
pub struct ScreenConnection {
    /// The bytes of RFB in both directions. `shutdown` ends the connection properly: it says so to
    /// the host and closes the socket. A host to which it is not said counts the connection as open.
    pub stream: Box<dyn ByteStream>,
}

/// A stream of bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// Receives what a backend reports. The backend calls it one call at a time, in order. An
/// implementation must not block.
pub trait Observer: Send + Sync {
    /// Receives the facts of one update set. Readers of the inventory see all of them or none.
    fn observe(&self, facts: Facts);

    /// Receives the new status of the session.
    fn session(&self, status: SessionStatus);
}

/// The facts of one update set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Whether the facts name all machines and datastores, so that any other no longer exists. If
    /// false, the facts are changes, at least one.
    pub complete: bool,
    pub changes: Vec<Fact>,
}

/// One fact about the host.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A machine with all its properties.
    Machine(Arc<Machine>),
    MachineRemoved(MachineId),
    Datastore(Arc<Datastore>),
    DatastoreRemoved(DatastoreId),
    /// A followed task that restarts the guest (power on, reset, revert) has succeeded, even if no
    /// property of the machine changed. Earlier addresses of the guest are outdated.
    GuestRestarted(MachineId),
    /// The result of a direct read of the guest. If the tools run, the address is current.
    GuestConfirmed {
        machine: MachineId,
        tools_running: bool,
        ip_address: Option<String>,
        interfaces: Vec<GuestInterface>,
    },
}

/// The product that a host runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostProduct {
    /// `VMware ESXi 7.0.3 build-…`
    pub full_name: String,
    pub version: String,
    pub build: String,
    /// `HostAgent` for a standalone ESX, `VirtualCenter` for a vCenter.
    pub api_type: String,
    pub api_version: String,
}

impl HostProduct {
    /// Whether the product is an ESX host itself. If not, otter reaches the host through a manager,
    /// which may lose its connection to the host.
    #[must_use]
    pub fn is_standalone_host(&self) -> bool {
        self.api_type == "HostAgent"
    }
}

/// The status of the session with the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    pub state: SessionState,
    /// When the session entered this state, by otter's clock.
    pub since: Timestamp,
    /// The number of successful logins since the start. An outage that the session survived adds
    /// none.
    pub logins: u64,
    /// The product of the host, kept while the host is unreachable. `None` before the first login.
    pub product: Option<HostProduct>,
}

/// Whether there is a session with the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// The backend has never been connected.
    Connecting,
    /// There is a session, and the observer has received all facts.
    Connected,
    /// There is no session; the backend connects again by itself. `reason` is a sentence for
    /// people.
    Away { reason: String },
    /// The host refused the login. `reason` is a sentence for people that says what to do.
    LoginRefused { reason: String },
}

/// The answer of a host that accepted a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The call runs as this task.
    Task(TaskId),
    /// The call is done; its method has no task.
    Done,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It is proven that the call did not run.
    #[error("the call did not run")]
    Refused(#[source] HostError),
    /// The call may have run.
    #[error("the answer to the call was lost")]
    Lost(#[source] HostError),
}

/// The status of a followed task.
#[derive(Clone, Debug)]
pub enum TaskStatus {
    /// Queued or running. `progress` is in percent, `None` if the host reports none.
    Running {
        progress: Option<u8>,
    },
    /// Succeeded. `snapshot` is the snapshot that the task created, if any.
    Succeeded {
        snapshot: Option<SnapshotId>,
    },
    Failed(Arc<HostError>),
    /// The host does not know the task. Only the state of the machine can show whether it ran.
    Vanished,
}

/// A failure of the host, or of the connection to it.
#[derive(Debug)]
pub struct HostError {
    pub kind: HostErrorKind,
    /// A sentence for people, without secrets.
    pub message: String,
    /// The fault that the host answered, if it answered one.
    pub fault: Option<Fault>,
    /// For `Busy`: the task that runs on the machine, if the host named it.
    pub blocking_task: Option<TaskId>,
    /// Whether the call may have run although the host answered with this fault. A manager such as
    /// vCenter sends such a fault if it loses its connection to the host.
    pub outcome_uncertain: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The kind of a failure. Callers base their decisions only on the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostErrorKind {
    /// No connection, or no answer in time.
    Unreachable,
    /// The session ended, and no new one began in time.
    NotAuthenticated,
    /// The host refused the user name or the password (`InvalidLogin`).
    LoginRefused,
    /// The answer is not vim25, or cannot be parsed.
    Protocol,
    /// The machine, snapshot or task does not exist (`ManagedObjectNotFound`).
    NotFound,
    /// The power state of the machine does not allow the call (`InvalidPowerState`).
    InvalidPowerState,
    /// Another task runs on the machine (`TaskInProgress`, `ConcurrentAccess`, `ResourceInUse`).
    Busy,
    /// The type has no property of this path (`InvalidProperty`).
    InvalidProperty,
    /// The state of the task does not allow the call (`InvalidState`).
    InvalidState,
    /// The task was cancelled (`RequestCanceled`).
    Cancelled,
    /// The host lacks memory, CPU or another resource (`Insufficient…`).
    InsufficientResources,
    /// The account lacks a privilege (`NoPermission`).
    Forbidden,
    /// The licence of the host does not allow the call (`RestrictedVersion`).
    LicenseRestricted,
    /// VMware Tools do not run in the guest (`ToolsUnavailable`).
    ToolsUnavailable,
    /// The machine has as many console connections as the host allows
    /// (`MksConnectionLimitReached`).
    ScreenLimitReached,
    /// The host does not have the method (`NotSupported`, `MethodNotFound`, `NotImplemented`).
    NotSupported,
    /// Any other fault.
    Rejected,
}

impl HostError {
    /// A failure without fault and cause. `message` is a sentence for people.
    pub fn new(kind: HostErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            fault: None,
            blocking_task: None,
            outcome_uncertain: false,
            source: None,
        }
    }

    /// Adds the fault from the host's answer.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Adds the task that runs on the machine.
    #[must_use]
    pub fn blocked_by(mut self, task: Option<TaskId>) -> Self {
        self.blocking_task = task;
        self
    }

    /// Sets whether the call may have run.
    #[must_use]
    pub const fn with_uncertain_outcome(mut self, outcome_uncertain: bool) -> Self {
        self.outcome_uncertain = outcome_uncertain;
        self
    }

    /// Adds the cause, for the log.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for HostError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
