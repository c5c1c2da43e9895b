//! Jobs: accepts them, commits them to disk, runs each to its one end, and lets any number of
//! callers wait for the end.

mod accept;
mod accept_file;
mod admission;
pub mod authorization;
mod busy_paths;
mod commit;
pub(super) mod deadline_clocks;
mod deadlines;
mod effects;
mod ended_jobs;
pub mod file_machine;
mod file_runner;
pub mod file_work;
mod lifecycle;
pub mod lost_call;
mod observation;
mod plan;
mod queries;
mod question_timer;
pub mod queue;
mod runner;
#[cfg(test)]
pub(super) mod samples;
pub mod state_machine;
mod status;
mod table;
pub mod text_watch;
mod view;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::authorization::{JobAuthorizer, Requester};
use self::busy_paths::BusyPaths;
use self::ended_jobs::EndedJobs;
pub use self::ended_jobs::{EncodedJob, EndedJob};
use self::file_work::FileWork;
use self::state_machine::JobRules;
use self::table::JobTable;
pub use self::table::MachineActivity;
use self::text_watch::{ScreenWatch, SerialWatch};
pub use self::view::{BlockedBy, BlockedByKind, JobView};
use super::event_stream::EventStream;
use super::hosts::Hosts;
use super::idempotency::{IdempotencyKeys, KeyClaim};
use super::inventory::Inventory;
use super::snapshots::SnapshotProtection;
use crate::clock::Clock;
use crate::domain::file_job::FileTarget;
use crate::domain::ids::JobId;
use crate::domain::job::{JobKind, JobRequest};
use crate::domain::machine::Machine;
use crate::storage::{JobCursor, Storage};
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::Metrics;

/// All jobs. Clones share the same jobs.
#[derive(Clone)]
pub struct Jobs(Arc<Shared>);

/// The state that all clones of [`Jobs`] share.
struct Shared {
    parts: JobsParts,
    table: JobTable,
    /// The jobs that ended last.
    ended: EndedJobs,
    keys: IdempotencyKeys,
    /// The paths on which jobs on files run.
    paths: BusyPaths,
    /// The id of the pending job whose new deadline is being stored after a jump of the wall clock.
    /// The runner of this job waits until the deadline is stored.
    storing_deadline_of: watch::Sender<Option<JobId>>,
    stop: CancellationToken,
}

/// The services and settings that [`Jobs`] need.
pub struct JobsParts {
    pub store: Arc<dyn Storage>,
    pub hosts: Hosts,
    pub inventory: Arc<Inventory>,
    pub clock: Clock,
    pub event_stream: EventStream,
    pub supervisor: Supervisor,
    pub settings: JobSettings,
    pub metrics: Metrics,
    pub authorizer: Arc<dyn JobAuthorizer>,
    pub snapshots: Arc<SnapshotProtection>,
    pub screens: Arc<dyn ScreenWatch>,
    pub serial: Arc<dyn SerialWatch>,
    pub files: Arc<dyn FileWork>,
}

/// The configuration of jobs.
#[derive(Clone, Debug)]
pub struct JobSettings {
    /// How long no task may run on a machine before a lost call is resolved.
    pub settle: Duration,
    /// How long jobs are still accepted after the host became unreachable.
    pub outage_grace: Duration,
    /// How long a preparation waits for the answer to a question of its machine.
    pub question_grace: Duration,
    pub queue_per_machine: usize,
    pub queue_in_all: usize,
    pub deadlines: Deadlines,
}

/// The default deadline of each kind of job.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Power on, power off, reset, suspend and kill. Answers, renames, changes of what a machine
    /// boots from, and deletions of files have the same deadline.
    pub power: Duration,
    /// Operations of the guest: shutdown and reboot.
    pub guest: Duration,
    pub create: Duration,
    pub revert: Duration,
    /// Removals of snapshots.
    pub remove: Duration,
    /// The jobs that prepare a machine for a lease, and that release it after the lease.
    pub prepare: Duration,
}

/// A request to start a job.
#[derive(Clone, Debug)]
pub struct NewJob {
    pub machine: Arc<Machine>,
    pub request: JobRequest,
    /// The caller, the lease that it presented, and the override.
    pub requester: Requester,
    pub reference: Option<String>,
    /// The time limit of the job. `None` means the default of the job's kind.
    pub deadline: Option<Duration>,
    pub key: Option<KeyClaim>,
}

/// A request to start a job on a file.
#[derive(Clone, Debug)]
pub struct NewFileJob {
    /// The id of the job, of [`Jobs::new_id`]. The body of an upload waits under it.
    pub id: JobId,
    pub target: FileTarget,
    pub request: JobRequest,
    pub requester: Requester,
    pub reference: Option<String>,
    /// The time limit of the job. `None` means the default of the job's kind.
    pub deadline: Option<Duration>,
    pub key: Option<KeyClaim>,
}

/// One page of jobs, newest first.
#[derive(Clone, Debug)]
pub struct JobsPage {
    pub items: Vec<JobView>,
    pub next: Option<JobCursor>,
}

/// The time limit of an upload, which only bounds what is stored: an upload ends when its body
/// stalls, however long it takes.
const UPLOAD_LIMIT: Duration = Duration::from_hours(365 * 24);

impl Deadlines {
    const fn for_kind(&self, kind: JobKind) -> Duration {
        match kind {
            JobKind::MachinePowerOn
            | JobKind::MachinePowerOff
            | JobKind::MachineReset
            | JobKind::MachineSuspend
            | JobKind::MachineKill
            | JobKind::MachineAnswer
            | JobKind::MachineMedia
            | JobKind::MachineBoot
            | JobKind::FileDelete
            | JobKind::FileCreateFolder
            | JobKind::SnapshotRename => self.power,
            JobKind::FileUpload => UPLOAD_LIMIT,
            JobKind::MachineShutdown | JobKind::MachineReboot => self.guest,
            JobKind::SnapshotCreate => self.create,
            JobKind::SnapshotRevert => self.revert,
            JobKind::SnapshotRemove | JobKind::SnapshotRemoveAll | JobKind::MachineConsolidate => {
                self.remove
            }
            JobKind::LeasePrepare | JobKind::LeaseRelease => self.prepare,
        }
    }
}

impl Jobs {
    /// A service that has no jobs yet. Its owner must call [`Jobs::recover`] before the service
    /// accepts a job.
    #[must_use]
    pub fn new(parts: JobsParts) -> Self {
        let JobSettings { queue_per_machine, queue_in_all, .. } = parts.settings;
        let stop = parts.supervisor.shutdown_token();
        let keys = IdempotencyKeys::new(Arc::clone(&parts.store));
        Self(Arc::new(Shared {
            parts,
            table: JobTable::new(queue_per_machine, queue_in_all),
            ended: EndedJobs::default(),
            keys,
            paths: BusyPaths::default(),
            storing_deadline_of: watch::Sender::new(None),
            stop,
        }))
    }

    /// A new id for a job whose id must be known before the job is accepted.
    #[must_use]
    pub fn new_id(&self) -> JobId {
        JobId::new(self.0.parts.clock.uuid())
    }

    fn rules(&self) -> JobRules {
        let JobSettings { settle, question_grace, .. } = self.0.parts.settings;
        JobRules { settle, question_grace }
    }
}
