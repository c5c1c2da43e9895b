//! The seam: what otter asks of a hypervisor, as a trait with a written contract.
//!
//! Commands go down through [`Hypervisor`]; facts come up through [`Observer`]. A backend keeps one
//! session and one stream of updates whatever the load, and is the only one that changes the
//! picture.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::domain::call::{Evidence, HostCall};
use crate::domain::datastore::Datastore;
use crate::domain::failure::Fault;
use crate::domain::ids::{DatastoreId, JobId, MachineId, SnapshotId, TaskId};
use crate::domain::machine::Machine;

/// A host, or a manager of hosts, with machines on it.
///
/// ```text
/// told:  Connecting ──► the whole picture, then Connected ──► changes … ──► Away │ LoginRefused
///                          ▲                                                       │
///                          └───────────────────────────────────────────────────────┘
/// ```
/// What it says here is tried on every backend by `tests/conformance`.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// Connects, keeps the session, and tells `observer` everything until `stop` is cancelled; then
    /// logs out and returns. Outages are not errors: they are told as [`SessionStatus`] and waited
    /// out. A login that was refused is not repeated in a loop.
    ///
    /// Each time that the host is reached, the whole picture is told as one complete set, and then
    /// [`SessionState::Connected`]; so after a loss what went meanwhile is gone from the picture
    /// too. From then on each change is told, whoever made it, and each removal.
    ///
    /// It is called once. Once it has returned, every other method fails without waiting, and those
    /// who follow a task are let go: their receivers are closed.
    ///
    /// # Errors
    /// Only what no waiting can mend, such as a configuration that cannot work, or a second call of
    /// it.
    async fn run(
        &self,
        observer: Arc<dyn Observer>,
        stop: CancellationToken,
    ) -> Result<(), HostError>;

    /// Makes one changing call, at most once: there is no retry inside, but for a call that was
    /// refused because the session was gone, which proves that it did not run. `job` goes along as
    /// the operation id, so that the host's own log can be searched for it.
    ///
    /// A machine that is in the wanted state already, one that something else works on, or a
    /// snapshot that is not there, can show as a refusal or as the failure of the task: the kind of
    /// the error is the same.
    ///
    /// # Errors
    /// [`CallError::Refused`] only where it is proven that the call did not run; else
    /// [`CallError::Lost`].
    async fn call(
        &self,
        machine: &MachineId,
        call: &HostCall,
        job: JobId,
    ) -> Result<Accepted, CallError>;

    /// Follows a task to its end on the one stream of updates; nothing is polled. Dropping the
    /// receiver ends it. The first value may be [`TaskStatus::Running`] without progress.
    ///
    /// It can begin at any moment, after the end too, and goes on over a lost session. Anybody's
    /// task can be followed, and by several. The percentage never falls, whatever the host says. An
    /// end is told once and is the last value; a task that the host does not know is
    /// [`TaskStatus::Vanished`] at once. A [`Fact::GuestRestarted`] that belongs to it is told
    /// before its end.
    async fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus>;

    /// Asks the host to cancel a task. That is a request: the task may still succeed. One that was
    /// cancelled fails as `Cancelled`.
    ///
    /// # Errors
    /// `NotSupported` where the task cannot be cancelled, `InvalidState` where it has ended,
    /// `NotFound`.
    async fn cancel(&self, task: &TaskId) -> Result<(), HostError>;

    /// Returns once the observer was told everything that the host knew when this was called.
    /// Callers share one round trip.
    ///
    /// # Errors
    /// `Unreachable` where there is no session, or it is lost before that; call again once it is
    /// back.
    async fn barrier(&self) -> Result<(), HostError>;

    /// Reads a machine directly from the host, past the picture, its recent tasks among it.
    ///
    /// # Errors
    /// `NotFound` where the host says that there is no such machine.
    async fn read_evidence(&self, machine: &MachineId) -> Result<Evidence, HostError>;

    /// Reads the guest's addresses directly, and returns once the observer was told them as
    /// [`Fact::GuestConfirmed`].
    ///
    /// # Errors
    /// As [`Hypervisor::read_evidence`].
    async fn confirm_guest(&self, machine: &MachineId) -> Result<(), HostError>;

    /// What it can do beyond what every backend does. It never changes.
    fn capabilities(&self) -> &'static [Capability] {
        &[]
    }

    /// Reads raw properties of a machine by their vim25 paths, as JSON: one entry for each path
    /// that was asked for, null where it has no value. A backend of another kind serves those that
    /// it has an equal of.
    ///
    /// # Errors
    /// `NotSupported` without [`Capability::Properties`]; `InvalidProperty` for a path that the
    /// type does not have; and as [`Hypervisor::read_evidence`].
    async fn properties(
        &self,
        _machine: &MachineId,
        _paths: &[String],
    ) -> Result<serde_json::Map<String, serde_json::Value>, HostError> {
        Err(HostError::new(HostErrorKind::NotSupported, "The host gives no raw properties."))
    }

    /// The operator gave a password anew, perhaps the same: the next login uses it, and a refused
    /// account is tried again at once. The session that there is goes on. Nothing to a backend
    /// without a password.
    fn set_password(&self, _password: SecretString) {}
}

/// Something that only some backends can do. Callers ask for it before they use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// [`Hypervisor::properties`]
    Properties,
}

/// Who is told what the host says. Calls come one at a time, in order, and must not block.
pub trait Observer: Send + Sync {
    /// The facts of one update set, to be applied whole before anybody reads.
    fn observe(&self, facts: Facts);

    /// The session changed.
    fn session(&self, status: SessionStatus);
}

/// The facts of one update set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Whether this is the whole picture: what it does not name is gone. Otherwise only changes, at
    /// least one.
    pub complete: bool,
    pub changes: Vec<Fact>,
}

/// One thing that the host said.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// The machine as it is now, whole.
    Machine(Arc<Machine>),
    MachineRemoved(MachineId),
    Datastore(Arc<Datastore>),
    DatastoreRemoved(DatastoreId),
    /// A task that starts the guest anew (power on, reset, revert) and that somebody follows ended
    /// well, even where no property changed: addresses from before it no longer count.
    GuestRestarted(MachineId),
    /// A direct read of the guest. Where the tools run, the address that it shows is the guest's
    /// own.
    GuestConfirmed {
        machine: MachineId,
        tools_running: bool,
        ip_address: Option<String>,
        ip_addresses: Vec<String>,
    },
}

/// What a host says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostProduct {
    /// `VMware ESXi 7.0.3 build-…`
    pub full_name: String,
    pub version: String,
    pub build: String,
    /// `HostAgent` for a lone ESX, `VirtualCenter` for a vCenter.
    pub api_type: String,
    pub api_version: String,
}

impl HostProduct {
    /// Whether it is an ESX host itself. If not, a manager stands between otter and the host, and
    /// may lose touch with the host.
    #[must_use]
    pub fn is_standalone_host(&self) -> bool {
        self.api_type == "HostAgent"
    }
}

/// How the one session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    pub state: SessionState,
    /// Since when it is in this state, by our clock.
    pub since: Timestamp,
    /// How many logins have succeeded since the start; an outage that the session outlived adds
    /// none.
    pub logins: u64,
    /// What the last answer said; kept while the host is away.
    pub product: Option<HostProduct>,
}

/// Whether the host can be talked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Not yet connected for the first time.
    Connecting,
    Connected,
    /// No session; tried again by itself. The text says why, for people.
    Away {
        reason: String,
    },
    /// The host refused the account. The text says what to do.
    LoginRefused {
        reason: String,
    },
}

/// What became of a call that the host took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It goes on as this task.
    Task(TaskId),
    /// It is done; the method has no task.
    Done,
}

/// Why a changing call gave no task.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It is proven that it did not run.
    #[error("the host refused the call")]
    Refused(#[source] HostError),
    /// Whether it ran is not known.
    #[error("the answer to the call was lost")]
    Lost(#[source] HostError),
}

/// Where a followed task is.
#[derive(Clone, Debug)]
pub enum TaskStatus {
    /// Queued or running; percent where the host tells.
    Running {
        progress: Option<u8>,
    },
    /// Ended well. `snapshot` is the result of a task that makes one.
    Succeeded {
        snapshot: Option<SnapshotId>,
    },
    Failed(Arc<HostError>),
    /// The host no longer knows it: only the machine itself can tell what happened.
    Vanished,
}

/// A failure of the host, or on the way to it.
#[derive(Debug)]
pub struct HostError {
    pub kind: HostErrorKind,
    /// A sentence for people, without secrets.
    pub message: String,
    pub fault: Option<Fault>,
    /// For `Busy`: the task that is in the way, if the host named it.
    pub blocking_task: Option<TaskId>,
    /// Whether the host may have done what it was asked although it answered with this fault. A
    /// manager such as vCenter answers so when it loses touch with the host.
    pub outcome_uncertain: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What kind of failure it is; all that callers decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostErrorKind {
    /// No connection, or no answer in time.
    Unreachable,
    /// There is no session, and none can be had just now.
    NotAuthenticated,
    LoginRefused,
    /// An answer that is not vim25, or not readable.
    Protocol,
    NotFound,
    InvalidPowerState,
    /// Something else works on the machine (`TaskInProgress`, `ConcurrentAccess`, `ResourceInUse`).
    Busy,
    /// A property path that does not exist.
    InvalidProperty,
    /// A task that is not in a state for this (`InvalidState`).
    InvalidState,
    /// A task that was cancelled (`RequestCanceled`).
    Cancelled,
    InsufficientResources,
    Forbidden,
    LicenseRestricted,
    ToolsUnavailable,
    NotSupported,
    /// Any other fault.
    Rejected,
}

impl HostError {
    /// A failure of this kind, told by this sentence.
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

    /// Adds the host's own words.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Names the task that is in the way.
    #[must_use]
    pub fn blocked_by(mut self, task: Option<TaskId>) -> Self {
        self.blocking_task = task;
        self
    }

    /// Says whether the host may have done what it was asked.
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
