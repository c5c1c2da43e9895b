//! The interface between otter and a hypervisor: two traits with their contracts, and the types
//! that they use.
//!
//! otter calls the backend through [`Hypervisor`]. The backend reports facts about the host through
//! [`Observer`], and only these facts change the inventory. A backend keeps one session and one
//! stream of updates, whatever the load is.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::domain::byte_range::ByteRange;
use crate::domain::call::{Evidence, HostCall};
use crate::domain::datastore::Datastore;
use crate::domain::failure::Fault;
use crate::domain::file_entry::FileEntry;
use crate::domain::file_job::{FileFact, FileTarget};
use crate::domain::file_path::FilePath;
use crate::domain::ids::{DatastoreId, JobId, MachineId, SnapshotId, TaskId};
use crate::domain::machine::{GuestInterface, Machine};
use crate::domain::network::Network;
use crate::domain::serial::SerialRoute;

/// A backend: the connection of otter to a host with machines, or to a manager of several hosts.
///
/// While [`Hypervisor::run`] runs, the observer gets session states and facts in this order:
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
    /// then [`SessionState::Connected`]. If an object was removed during an outage, the set lacks
    /// the object. From then on the backend reports each change and each removal, no matter which
    /// client of the host made it.
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

    /// Makes one call that changes `machine`. The call runs at most once. The backend sends the
    /// call a second time only if the host refused it because the session had ended, which proves
    /// that the call did not run. The backend sends `job` as the operation id, so that an operator
    /// can find the call in the log of the host.
    ///
    /// If the machine is already in the requested power state, if another task runs on it, or if
    /// the snapshot does not exist, a host may refuse the call. Or it may accept the call, and the
    /// task of the call fails. The error has the same [`HostErrorKind`] in both cases.
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

    /// Makes a call like [`Hypervisor::call`]. `terms` say how long and with which priority the
    /// call may wait for its turn. A backend whose calls do not wait for each other ignores them.
    ///
    /// # Errors
    /// The errors of [`Hypervisor::call`].
    async fn call_on_terms(
        &self,
        machine: &MachineId,
        call: &HostCall,
        job: JobId,
        _terms: CallTerms,
    ) -> Result<Accepted, CallError> {
        self.call(machine, call, job).await
    }

    /// Follows a task to its end on the stream of updates, without polling. A caller stops
    /// following by dropping the receiver. The first value may be [`TaskStatus::Running`] without a
    /// progress.
    ///
    /// A task can be followed at any time, even after its end, and by several callers. It may be a
    /// task of another client of the host. If the session is lost, following goes on with the next
    /// session. The progress never decreases, even if the host reports a lower value. The end is
    /// sent once and is the last value. If the host does not know the task, the value is
    /// [`TaskStatus::Vanished`] at once. If the task restarts a guest, the backend reports
    /// [`Fact::GuestRestarted`] before the end of the task.
    async fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus>;

    /// Asks the host to cancel a task. The task may succeed all the same. If the cancellation
    /// works, the task fails as `Cancelled`.
    ///
    /// # Errors
    /// `NotSupported` if the task cannot be cancelled, `InvalidState` if the task has ended,
    /// `NotFound` if the host does not know the task.
    async fn cancel(&self, task: &TaskId) -> Result<(), HostError>;

    /// Waits until the observer has received every change that the host made before this call.
    /// Callers that wait at the same time share one round trip to the host.
    ///
    /// # Errors
    /// `Unreachable` if there is no session, or if the session is lost meanwhile. The caller can
    /// call again when the session is back.
    async fn barrier(&self) -> Result<(), HostError>;

    /// Waits until the observer has received every change that the host made before the ends of
    /// those tasks whose ends [`Hypervisor::follow`] has reported so far. A backend that knows this
    /// without asking the host returns at once. Any other backend waits as [`Hypervisor::barrier`]
    /// does.
    ///
    /// # Errors
    /// The errors of [`Hypervisor::barrier`].
    async fn barrier_after_task(&self) -> Result<(), HostError> {
        self.barrier().await
    }

    /// Reads the evidence of a machine (its state and its recent tasks) directly from the host, not
    /// from the inventory.
    ///
    /// # Errors
    /// `NotFound` if the host does not know the machine.
    async fn read_evidence(&self, machine: &MachineId) -> Result<Evidence, HostError>;

    /// Reads the same as [`Hypervisor::read_evidence`], but does not wait for other reads and
    /// calls.
    ///
    /// # Errors
    /// The errors of [`Hypervisor::read_evidence`].
    async fn read_evidence_urgently(&self, machine: &MachineId) -> Result<Evidence, HostError> {
        self.read_evidence(machine).await
    }

    /// Reads the addresses of the guest directly from the host. Returns after the observer has
    /// received the addresses as [`Fact::GuestConfirmed`].
    ///
    /// # Errors
    /// The errors of [`Hypervisor::read_evidence`].
    async fn confirm_guest(&self, machine: &MachineId) -> Result<(), HostError>;

    /// The optional abilities that this backend has. They never change.
    fn capabilities(&self) -> &'static [Capability] {
        &[]
    }

    /// Reads properties of a machine by their vim25 paths, as JSON. The result has one entry for
    /// each path; the entry is null if the property has no value. A backend that does not speak
    /// vim25 supports those paths that it can map to its own properties.
    ///
    /// # Errors
    /// `NotSupported` if the backend lacks [`Capability::Properties`], `InvalidProperty` if a
    /// machine has no property at one of the paths, `NotFound` if the host does not know the
    /// machine.
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
    ///   machine, `Rejected` if the host refuses this connection, `Unreachable` and `Protocol` if
    ///   no connection could be made.
    async fn open_screen(&self, _machine: &MachineId) -> Result<ScreenConnection, HostError> {
        Err(HostError::new(HostErrorKind::NotSupported, "The host gives no access to screens."))
    }

    /// Reads one picture of a screen, as PNG: what a running machine shows now, or what a machine
    /// showed when its memory snapshot was taken.
    ///
    /// # Errors
    /// - `NotSupported` without [`Capability::ScreenPictures`].
    /// - `NotFound` if the host does not know the object or has no picture of it.
    /// - `Rejected` if the host answers, but gives no picture.
    /// - `Forbidden`, `InvalidPowerState`, `Unreachable`, `Protocol` as for
    ///   [`Hypervisor::open_screen`].
    async fn screen_picture(&self, _object: &ScreenObject) -> Result<Bytes, HostError> {
        Err(HostError::new(HostErrorKind::NotSupported, "The host gives no pictures of screens."))
    }

    /// Opens a connection to a serial port of a machine, on the way that `route` names. It makes
    /// one try, except that it waits for a machine that dials otter itself. Cancel safe.
    ///
    /// # Parameters
    /// - `port`: the key of the port.
    ///
    /// # Errors
    /// - `NotSupported` without [`Capability::Serial`], or if the backend cannot use the route.
    /// - `Unreachable` if no connection could be made, `Forbidden` if the account or the process
    ///   lacks a right, `Protocol` if the other side speaks something else.
    async fn open_serial(
        &self,
        _machine: &MachineId,
        _port: i32,
        _route: &SerialRoute,
    ) -> Result<SerialConnection, HostError> {
        let message = "The host gives no access to serial ports.";
        Err(HostError::new(HostErrorKind::NotSupported, message))
    }

    /// Accepts the connections of machines that dial otter for their serial ports, until `stop` is
    /// cancelled. [`Hypervisor::open_serial`] hands them over. A backend whose machines do not dial
    /// otter only waits.
    ///
    /// # Parameters
    /// - `allowed`: the networks of the hosts that may dial. Empty: the addresses of the host's
    ///   API.
    /// - `directory`: knows the machines and their ports.
    async fn accept_serial(
        &self,
        _listener: TcpListener,
        _allowed: Vec<Network>,
        _directory: Arc<dyn SerialDirectory>,
        stop: CancellationToken,
    ) {
        stop.cancelled().await;
    }

    /// The files on the datastores. `None` if the backend gives no access to them.
    fn files(&self) -> Option<Arc<dyn DatastoreFiles>> {
        None
    }

    /// Sets the password for the next login. The password may be the same as before. If the host
    /// has refused the login, the backend tries again at once. The current session goes on. A
    /// backend without a password ignores this call.
    fn set_password(&self, _password: SecretString) {}

    /// Asks the backend to connect at once, instead of after its pause, if the host is away. After
    /// a refused login the backend still waits for [`Hypervisor::set_password`]. A backend without
    /// pauses ignores this call.
    fn connect_now(&self) {}
}

/// The files on the datastores of a host. Transfers have connections of their own, so that they
/// neither wait for calls nor hold them up. All methods read the host and remember nothing.
#[async_trait]
pub trait DatastoreFiles: Send + Sync {
    /// Lists a folder of a datastore.
    ///
    /// # Errors
    /// `NotFound` if there is no such folder, `Rejected` if the datastore is not accessible,
    /// `Forbidden`, `Unreachable`.
    async fn list(&self, folder: &FolderPlace) -> Result<Vec<FileEntry>, HostError>;

    /// What is at a path. `None` if there is nothing. A host may list some files and not others, so
    /// a backend looks in the ways that it has.
    ///
    /// # Errors
    /// As [`DatastoreFiles::list`], except that a missing folder has no files.
    async fn look(&self, file: &FileTarget) -> Result<Option<FileFact>, HostError>;

    /// Reads a file, or a part of it. The bytes come as the host sends them. A stream that is
    /// dropped ends the transfer.
    ///
    /// # Parameters
    /// - `range`: `None` for the whole file.
    ///
    /// # Errors
    /// `NotFound` if there is no such file, or if it is a folder; `FileInUse` if the host has
    /// locked it; `Forbidden`, `Unreachable`, `Protocol`. An item of the stream is an error if the
    /// bytes end too early or stall.
    async fn read(
        &self,
        file: &FileTarget,
        range: Option<ByteRange>,
    ) -> Result<FileRead, HostError>;

    /// Writes a file, and replaces one that is there. Returns after the host has confirmed all
    /// bytes. If it fails, a part of the file may be there. It takes bytes from `body` only as fast
    /// as the host takes them.
    ///
    /// # Parameters
    /// - `length`: the number of bytes of `body`.
    /// - `body`: an error in it ends the transfer.
    ///
    /// # Errors
    /// `NotFound` if the folder does not exist, `FileInUse`, `InsufficientResources` if the
    /// datastore is full, `Forbidden`; `Unreachable` if the connection breaks or stalls, or if the
    /// session ends.
    async fn write(&self, file: &FileTarget, length: u64, body: FileBody) -> Result<(), HostError>;

    /// Makes one call that changes files, and waits until it is done.
    ///
    /// # Parameters
    /// - `job`: as in [`Hypervisor::call`].
    ///
    /// # Errors
    /// [`CallError::Refused`] if the host answered that it did not do it: `NotFound`, `FileExists`,
    /// `FileInUse`, `Forbidden`, `LicenseRestricted`. [`CallError::Lost`] if the answer was lost.
    async fn change(&self, change: &FileChange, job: JobId) -> Result<(), CallError>;

    /// Makes the host measure the free space of a datastore again, and reads it.
    ///
    /// # Errors
    /// `NotFound`, `Rejected`, `Forbidden`, `Unreachable`.
    async fn measure(&self, datastore: &DatastoreId) -> Result<DatastoreSpace, HostError>;
}

/// A folder of a datastore.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FolderPlace {
    pub datastore: DatastoreId,
    /// The name of the datastore.
    pub datastore_name: String,
    /// `None` means the top folder.
    pub path: Option<FilePath>,
}

/// The answer to a read of a file.
pub enum FileRead {
    Bytes {
        /// The number of bytes of the whole file.
        length: u64,
        /// The positions of the first and the last byte of the part. `None` if `body` has the
        /// whole file.
        part: Option<(u64, u64)>,
        body: FileBody,
    },
    /// The file has none of the bytes of the range. It has this length.
    Outside(u64),
}

/// The bytes of a file, piece by piece.
pub type FileBody = BoxStream<'static, io::Result<Bytes>>;

/// A call that changes files of a datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileChange {
    /// Gives a file another name on the same datastore (`MoveDatastoreFile_Task`).
    Move { from: FileTarget, to: FilePath, replace: bool },
    /// Deletes a file, or a folder with everything in it (`DeleteDatastoreFile_Task`).
    Delete(FileTarget),
    /// Creates a folder, whose parent must exist (`MakeDirectory`).
    CreateFolder(FileTarget),
}

/// The space on a datastore, as the host measured it at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatastoreSpace {
    pub accessible: bool,
    pub free_bytes: Option<u64>,
}

/// How long and with which priority a call may wait for its turn. Calls wait because a backend has
/// few connections to its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallTerms {
    /// Whether the call goes before calls that are not urgent.
    pub urgent: bool,
    /// The time after which the call must not be sent, by the clock's `elapsed`. A call that is not
    /// sent by then is refused as `Unreachable`.
    pub not_after: Option<Duration>,
}

/// An optional ability of a backend. Callers must look at [`Hypervisor::capabilities`] before they
/// use such an ability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// The backend implements [`Hypervisor::properties`].
    Properties,
    /// [`Hypervisor::open_screen`]
    Screens,
    /// [`Hypervisor::screen_picture`]
    ScreenPictures,
    /// [`Hypervisor::open_serial`]
    Serial,
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
    /// the host and closes the socket. A host to which it is not said counts the connection as
    /// open.
    pub stream: Box<dyn ByteStream>,
}

/// A connection to a serial port.
pub struct SerialConnection {
    /// The bytes of the port in both directions. It ends when the host closes the connection. A
    /// port that takes no input refuses writes as `Unsupported`.
    pub stream: Box<dyn ByteStream>,
    /// Whether the port takes input.
    pub takes_input: bool,
}

/// Knows which ports of the machines dial otter. A backend asks it about machines that dial.
pub trait SerialDirectory: Send + Sync {
    /// The machine with this instance UUID, and its ports that dial otter. `None` if the host has
    /// no such machine.
    fn dialling_ports(&self, instance_uuid: Uuid) -> Option<(MachineId, Vec<DiallingPort>)>;
}

/// A port whose machine dials otter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiallingPort {
    pub key: i32,
    /// The URI of the port, by which the ports of one machine differ.
    pub service: String,
}

/// A stream of bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// Receives what a backend reports. The backend calls the methods one after the other, in order. An
/// implementation must not block.
pub trait Observer: Send + Sync {
    /// Receives the facts of one update set. Readers of the inventory must see all of these facts
    /// or none of them.
    fn observe(&self, facts: Facts);

    /// Receives the new status of the session.
    fn session(&self, status: SessionStatus);
}

/// The facts that one update set reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Whether the facts contain all machines and datastores, so that every other object no longer
    /// exists. If false, the facts are changes, and there is at least one.
    pub complete: bool,
    pub changes: Vec<Fact>,
}

/// One fact about the host: a machine, a datastore, a removal, or news of a guest.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A machine is new or has changed. The fact contains all its properties.
    Machine(Arc<Machine>),
    MachineRemoved(MachineId),
    Datastore(Arc<Datastore>),
    DatastoreRemoved(DatastoreId),
    /// A followed task has succeeded that restarts the guest (power on, reset or revert). otter
    /// learns this even if no property of the machine changed. Addresses that the guest had before
    /// are outdated.
    GuestRestarted {
        machine: MachineId,
        by: GuestRestart,
    },
    /// The addresses of a guest, read directly from the host. If VMware Tools run, the addresses
    /// are current.
    GuestConfirmed {
        machine: MachineId,
        tools_running: bool,
        ip_address: Option<String>,
        interfaces: Vec<GuestInterface>,
    },
}

/// What restarted a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestRestart {
    PowerOn,
    Reset,
    /// The machine was reverted to a snapshot.
    Revert,
}

/// The product that the host or the manager of hosts runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostProduct {
    /// The name with version and build, for example `VMware ESXi 7.0.3 build-…`.
    pub full_name: String,
    pub version: String,
    pub build: String,
    /// The type of the API: `HostAgent` for a standalone ESX, `VirtualCenter` for a vCenter.
    pub api_type: String,
    pub api_version: String,
}

impl HostProduct {
    /// Whether the product is an ESX host itself. If not, otter reaches the host through a manager,
    /// and the manager may lose its connection to the host.
    #[must_use]
    pub fn is_standalone_host(&self) -> bool {
        self.api_type == "HostAgent"
    }
}

/// The status of the session with the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    pub state: SessionState,
    /// The time at which the session entered its state, by otter's clock.
    pub since: Timestamp,
    /// The number of successful logins since the start of otter. If the session survived an outage,
    /// the outage adds no login.
    pub logins: u64,
    /// The product of the host. It stays known while the host is unreachable. `None` before the
    /// first login.
    pub product: Option<HostProduct>,
}

/// Whether there is a session with the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// The backend has never been connected.
    Connecting,
    /// There is a session, and the observer has received all facts.
    Connected,
    /// There is no session. The backend connects again by itself. `reason` is a sentence for
    /// people.
    Away { reason: String },
    /// The host refused the login. `reason` is a sentence for people that also says what to do.
    LoginRefused { reason: String },
}

/// The answer of a host that accepted a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The call runs as this task of the host.
    Task(TaskId),
    /// The call is done, because its method starts no task.
    Done,
}

/// Why a call that changes a machine failed.
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
    /// The task is queued or running. `progress` is in percent. It is `None` if the host reports no
    /// progress.
    Running {
        progress: Option<u8>,
    },
    /// The task has succeeded. `snapshot` is the snapshot that the task created, if it created one.
    Succeeded {
        snapshot: Option<SnapshotId>,
    },
    Failed(Arc<HostError>),
    /// The host does not know the task. Only the state of the machine can show whether the task
    /// ran.
    Vanished,
}

/// A failure of the host, or of the connection to it.
#[derive(Debug)]
pub struct HostError {
    pub kind: HostErrorKind,
    /// A sentence for people. It contains no secrets.
    pub message: String,
    /// The fault with which the host answered. `None` if it did not answer with a fault.
    pub fault: Option<Fault>,
    /// The task that runs on the machine, if the kind is `Busy` and the host named the task.
    pub blocking_task: Option<TaskId>,
    /// Whether the call may have run although the host answered with a fault. A manager such as
    /// vCenter sends such a fault if it loses its connection to the host.
    pub outcome_uncertain: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The kind of a failure of the host. Callers decide only by the kind what they do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostErrorKind {
    /// There is no connection to the host, or no answer came in time.
    Unreachable,
    /// The session ended, and no new session began in time.
    NotAuthenticated,
    /// The host refused the user name or the password (`InvalidLogin`).
    LoginRefused,
    /// The answer is not vim25, or it cannot be parsed.
    Protocol,
    /// The machine, snapshot or task does not exist (`ManagedObjectNotFound`).
    NotFound,
    /// The power state of the machine does not allow the call (`InvalidPowerState`).
    InvalidPowerState,
    /// Another task runs on the machine (`TaskInProgress`, `ConcurrentAccess`, `ResourceInUse`).
    Busy,
    /// The type has no property at this path (`InvalidProperty`).
    InvalidProperty,
    /// A file with this name exists (`FileAlreadyExists`).
    FileExists,
    /// The file is locked, or in use by a machine (`FileLocked`, `CannotDeleteFile`).
    FileInUse,
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
    /// The host answered with any other fault.
    Rejected,
}

impl HostError {
    /// Makes a failure without a fault and without a cause. `message` is a sentence for people.
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

    /// Adds the task that runs on the machine, if the host named it.
    #[must_use]
    pub fn blocked_by(mut self, task: Option<TaskId>) -> Self {
        self.blocking_task = task;
        self
    }

    /// Sets whether the call may have run although the host answered with a fault.
    #[must_use]
    pub const fn with_uncertain_outcome(mut self, outcome_uncertain: bool) -> Self {
        self.outcome_uncertain = outcome_uncertain;
        self
    }

    /// Adds the error that caused this failure, for the log.
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
