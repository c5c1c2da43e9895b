//! Jobs: accepted, committed to disk, run to their one end, and waited for by any number of
//! callers.

mod accepting;
mod admission;
pub(super) mod clocks;
pub mod driver;
pub mod gate;
pub mod judgement;
mod plan;
pub mod queue;
mod recovery;
mod runner;
mod running;
#[cfg(test)]
mod samples;
mod showing;
mod sight;
mod times;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::driver::Rules;
use self::gate::{Gate, Right};
use self::queue::Queues;
use self::view::Board;
pub use self::view::{BlockedBy, JobView};
use super::event_stream::EventStream;
use super::hosts::Hosts;
use super::idempotency::{IdempotencyKeys, KeyClaim};
use super::inventory::Inventory;
use super::snapshots::SnapshotProtection;
use crate::clock::Clock;
use crate::domain::ids::{JobId, MachineId, TaskId};
use crate::domain::job::{JobKind, JobRequest, TargetId};
use crate::domain::machine::Machine;
use crate::storage::{JobCursor, Storage};
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::Metrics;

/// All jobs. Clones share them.
#[derive(Clone)]
pub struct Jobs(Arc<Shared>);

/// What all clones share.
struct Shared {
    parts: JobsParts,
    board: Arc<Board>,
    queues: Mutex<Queues>,
    keys: IdempotencyKeys,
    /// The deadlines of jobs that wait in a queue, by the clock that never jumps.
    expiries: Mutex<BTreeSet<(Duration, JobId, TargetId)>>,
    expiries_changed: Notify,
    /// Tasks that outlived their jobs: until they end their machines are not free.
    leftovers: Mutex<BTreeMap<MachineId, BTreeSet<TaskId>>>,
    stop: CancellationToken,
}

/// What [`Jobs`] work with.
pub struct JobsParts {
    pub store: Arc<dyn Storage>,
    pub hosts: Hosts,
    pub inventory: Arc<Inventory>,
    pub clock: Clock,
    pub event_stream: EventStream,
    pub supervisor: Supervisor,
    pub settings: JobSettings,
    pub metrics: Metrics,
    pub gate: Arc<dyn Gate>,
    pub snapshots: Arc<SnapshotProtection>,
}

/// What the configuration says of jobs.
#[derive(Clone, Debug)]
pub struct JobSettings {
    /// How long a machine must be quiet before a lost call is judged.
    pub settle: Duration,
    /// For how long jobs are accepted while the host is away.
    pub outage_grace: Duration,
    pub queue_per_machine: usize,
    pub queue_in_all: usize,
    pub deadlines: Deadlines,
}

/// How long a job of each kind may take unless the caller says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// On, off, reset, suspend and kill; answers and renames, which are as quick.
    pub power: Duration,
    /// What the guest does by itself: shutdown and reboot.
    pub guest: Duration,
    pub create: Duration,
    pub revert: Duration,
    /// Removals of snapshots.
    pub remove: Duration,
    /// Making a machine ready for a lease, and bringing it back after one.
    pub prepare: Duration,
}

/// A job to be accepted.
#[derive(Clone, Debug)]
pub struct NewJob {
    pub machine: Arc<Machine>,
    pub request: JobRequest,
    /// Who asks, and by what right.
    pub right: Right,
    pub reference: Option<String>,
    /// None: the default of its kind.
    pub deadline: Option<Duration>,
    pub key: Option<KeyClaim>,
}

/// One page of jobs, newest first.
#[derive(Clone, Debug)]
pub struct JobsPage {
    pub items: Vec<JobView>,
    pub next: Option<JobCursor>,
}

impl Deadlines {
    const fn of(&self, kind: JobKind) -> Duration {
        match kind {
            JobKind::MachinePowerOn
            | JobKind::MachinePowerOff
            | JobKind::MachineReset
            | JobKind::MachineSuspend
            | JobKind::MachineKill
            | JobKind::MachineAnswer
            | JobKind::SnapshotRename => self.power,
            JobKind::MachineShutdown | JobKind::MachineReboot => self.guest,
            JobKind::SnapshotCreate => self.create,
            JobKind::SnapshotRevert => self.revert,
            JobKind::SnapshotRemove | JobKind::SnapshotRemoveAll => self.remove,
            JobKind::LeasePrepare | JobKind::LeaseRelease => self.prepare,
        }
    }
}

impl Jobs {
    /// Without any job. Call [`Jobs::recover`] before anything is accepted.
    #[must_use]
    pub fn new(parts: JobsParts) -> Self {
        let queues = Queues::new(parts.settings.queue_per_machine, parts.settings.queue_in_all);
        let stop = parts.supervisor.shutdown_token();
        let keys = IdempotencyKeys::new(Arc::clone(&parts.store));
        Self(Arc::new(Shared {
            parts,
            board: Arc::new(Board::default()),
            queues: Mutex::new(queues),
            keys,
            expiries: Mutex::new(BTreeSet::new()),
            expiries_changed: Notify::new(),
            leftovers: Mutex::new(BTreeMap::new()),
            stop,
        }))
    }

    fn rules(&self) -> Rules {
        Rules { settle: self.0.parts.settings.settle }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leftovers(&self) -> MutexGuard<'_, BTreeMap<MachineId, BTreeSet<TaskId>>> {
        self.0.leftovers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expiries(&self) -> MutexGuard<'_, BTreeSet<(Duration, JobId, TargetId)>> {
        self.0.expiries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
