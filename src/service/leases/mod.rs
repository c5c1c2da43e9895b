//! Leases: each gives one free machine to one caller for a time.
//!
//! ```text
//! callers ─► commands ─► actor: apply to a copy of the table ─► commit ─► publish ─► follow-ups
//!               ▲                                                                       │
//!               └──────── outcomes of preparation and release jobs ◄────────────────────┘
//! ```
//! The actor applies one command after the other. Readers see only committed tables. `lease_table`
//! is the state machine.

mod audit_records;
pub mod before_release;
mod candidates;
pub mod capacity;
mod command;
mod job_authorization;
mod lease_actor;
mod lease_jobs;
pub mod lease_table;
mod machine_key;
pub mod matching;
mod metrics;
mod persistent_map;
mod pools;
pub mod published;
mod request;
pub mod secret;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::before_release::BeforeRelease;
use self::command::LeaseCommand;
use self::lease_actor::LeaseActor;
pub use self::lease_table::LeaseBlocker;
use self::lease_table::{
    LeaseRules, LeaseTable, MachineKey, MachineLedger, OpenLease, WaitingClient,
};
pub use self::pools::{PoolView, RunningMachines};
use self::published::PublishedLeases;
pub use self::request::{NewLease, RequestedLease};
use self::secret::LeaseSecrets;
use super::callers::{Caller, Callers};
use super::event_stream::EventStream;
use super::idempotency::{Claimed, mismatch};
use super::inventory::Inventory;
use super::jobs::Jobs;
use super::live_settings::LiveSettings;
use super::machines::Machines;
use super::recordings::status::{RecordingStatus, RecordingStatuses};
use super::storage_watch::{store_failure, unconfirmed_start};
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{LeaseId, MachineId};
use crate::domain::lease::{EndReason, Lease, LeaseState, Quarantine, Recovery};
use crate::domain::machine::Machine;
use crate::storage::{KeyOwner, LeaseFilter, Storage, StorageError};
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::Metrics;

/// The operations on leases. All clones use the same lease actor.
#[derive(Clone)]
pub struct Leases(Arc<LeaseActor>);

/// The services and settings that the lease actor uses.
pub struct LeasesParts {
    pub store: Arc<dyn Storage>,
    pub clock: Clock,
    pub callers: Arc<Callers>,
    pub event_stream: EventStream,
    pub inventory: Arc<Inventory>,
    pub jobs: Jobs,
    pub machines: Arc<Machines>,
    pub published: Arc<PublishedLeases>,
    pub settings: LiveSettings,
    pub rules: LeaseRules,
    pub secrets: LeaseSecrets,
    pub supervisor: Supervisor,
    pub metrics: Metrics,
    /// The recordings of leases, which the views show.
    pub recordings: RecordingStatuses,
    pub before_release: Arc<dyn BeforeRelease>,
}

/// A lease as readers see it.
#[derive(Clone, Debug)]
pub struct LeaseView {
    pub lease: Arc<Lease>,
    /// The number of leases that are queued before this lease. `None` if this lease is not queued.
    pub position: Option<usize>,
    /// When the lease expires. `None` if the lease is not active.
    pub expires_at: Option<Timestamp>,
    /// The latest time to which the lease can be renewed. `None` if the lease is not active.
    pub max_expires_at: Option<Timestamp>,
    /// Why the lease gets no machine. `None` if the lease is not queued.
    pub blocked_by: Option<LeaseBlocker>,
    /// The recording of the lease that runs, or whose artifacts are not made yet.
    pub recording: Option<RecordingStatus>,
}

/// The number of commands that fit into the channel to the actor. If the channel is full, a sender
/// waits.
const COMMAND_CAPACITY: usize = 1_024;

impl Leases {
    /// Reads the leases from the store. The actor does not run yet: the caller must spawn
    /// [`Leases::run`].
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn load(parts: LeasesParts) -> Result<Self, StorageError> {
        let (commands, receiver) = mpsc::channel(COMMAND_CAPACITY);
        let kept = parts.store.stored_machines().await?;
        let mut ledgers: BTreeMap<MachineKey, MachineLedger> = kept
            .into_iter()
            .map(|(machine, kept)| (MachineKey(machine), MachineLedger::from(kept)))
            .collect();
        for ledger in ledgers.values_mut().filter(|ledger| ledger.recovery.is_none()) {
            ledger.recovery = recovery_of_earlier(&*parts.store, ledger).await?;
        }
        let open = parts.store.open_leases().await?;
        let fence_floor = parts.store.fence_floor().await?;
        let last_seen = parts.store.last_seen().await?;
        let receiver = Mutex::new(Some(receiver));
        let actor = LeaseActor::new(parts, commands, receiver, last_seen);
        actor.restore(open, ledgers, fence_floor);
        Ok(Self(Arc::new(actor)))
    }

    /// Runs the actor until `stop` is cancelled. First starts the preparations and releases that a
    /// restart interrupted.
    pub async fn run(self, stop: CancellationToken) {
        LeaseActor::run(&self.0, stop).await;
    }

    /// Requests a lease. The lease is granted at once if a matching machine is free. Otherwise it
    /// is queued if `queue_for` is set.
    ///
    /// # Errors
    /// `no-free-machine`; `not-found`; `ambiguous-name`; `queue-full`; `too-many-requests`;
    /// `invalid-request` if `ttl` is too long; `forbidden` if the caller may not keep the power on;
    /// `idempotency-mismatch`, also if the machine of the earlier lease has left the caller's
    /// scope; `storage-unavailable`, or `outcome-unknown` if the request has no idempotency key and
    /// the lease may be stored.
    pub async fn request(&self, caller: &Caller, new: NewLease) -> Result<RequestedLease, Failure> {
        let lease = self.lease_from_request(caller, &new)?;
        let claim = match new.key.clone() {
            None => None,
            Some(key) => {
                let name = key.key.clone();
                match self.0.keys.claim(key, KeyOwner::lease).await? {
                    Claimed::New(claim) => Some(claim),
                    Claimed::Used(first) => {
                        let before = self.get(first).await?.ok_or_else(|| unknown_lease(first))?;
                        let shown = self.visible_to(caller, before).map(RequestedLease::Existing);
                        return shown.ok_or_else(|| mismatch(&name));
                    }
                }
            }
        };
        let (id, has_key) = (lease.id, new.key.is_some());
        let command =
            LeaseCommand::Request { lease: Box::new(lease), key: new.key, limits: caller.limits };
        self.0.submit_with_claim(claim, caller.actor(), command).await?;
        // The lease is stored from here on. If it cannot be read, a request without an idempotency
        // key must not be repeated, because the repeat would request another lease.
        let read = self.get_for(caller, id).await.map_err(|failure| {
            if has_key { failure } else { unconfirmed_start().with_lease(id) }
        })?;
        read.map(RequestedLease::New).ok_or_else(|| unknown_lease(id))
    }

    /// A lease as a caller sees it. `None` if the lease does not exist for the caller. Calling this
    /// method counts as a poll of the lease.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn get_for(
        &self,
        caller: &Caller,
        id: LeaseId,
    ) -> Result<Option<LeaseView>, Failure> {
        // Return here for a caller that does not see the lease, because its call must not count as
        // a poll.
        if self.0.view(id).is_some_and(|view| self.visible_to(caller, view).is_none()) {
            return Ok(None);
        }
        Ok(self.get(id).await?.and_then(|view| self.visible_to(caller, view)))
    }

    /// Whether a lease exists for a caller. Calling this method does not count as a poll of the
    /// lease.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn exists_for(&self, caller: &Caller, id: LeaseId) -> Result<bool, Failure> {
        let view = match self.0.view(id) {
            Some(view) => Some(view),
            None => self.stored(id).await?.map(|lease| self.0.ended_view(lease)),
        };
        Ok(view.is_some_and(|view| self.visible_to(caller, view).is_some()))
    }

    /// Whether the token of a caller created a lease, which may have ended. Calling this method
    /// does not count as a poll of the lease.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn is_created_by(&self, caller: &Caller, id: LeaseId) -> Result<bool, Failure> {
        let lease = match self.0.view(id) {
            Some(view) => Some(view.lease),
            None => self.stored(id).await?.map(Arc::new),
        };
        Ok(lease.is_some_and(|lease| lease.is_created_by(caller.token)))
    }

    /// A lease as a caller sees it. `None` if the lease does not exist for the caller. For a
    /// restricted caller, the position of the lease counts only the leases that the caller sees.
    #[must_use]
    pub fn visible_to(&self, caller: &Caller, view: LeaseView) -> Option<LeaseView> {
        if !caller.scope.is_restricted() {
            return Some(view);
        }
        let LeaseActor { parts, .. } = &*self.0;
        let visibility = parts.machines.visibility();
        if !visibility.shows_lease(caller, &view.lease) {
            return None;
        }
        // The position counts only the leases of the same requester, because a restricted caller
        // sees no other queued leases.
        let position =
            view.position.and_then(|_| parts.published.load().position_of_requester(view.lease.id));
        Some(LeaseView { position, ..view })
    }

    /// The current state of a lease. `None` if the lease does not exist. Calling this method counts
    /// as a poll of the lease.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    async fn get(&self, id: LeaseId) -> Result<Option<LeaseView>, Failure> {
        if let Some(view) = self.0.view(id) {
            self.0.record_poll(id);
            return Ok(Some(view));
        }
        let mut stored = self.stored(id).await?;
        if stored.as_ref().is_some_and(|lease| !lease.state.is_end()) {
            // The lease is committed and not yet published. Once the actor has handled one more
            // command, the lease is published or has ended.
            self.0.submit(LeaseCommand::AwaitPublication).await?;
            if let Some(view) = self.0.view(id) {
                return Ok(Some(view));
            }
            stored = self.stored(id).await?;
        }
        Ok(stored.map(|lease| self.0.ended_view(lease)))
    }

    async fn stored(&self, id: LeaseId) -> Result<Option<Lease>, Failure> {
        self.0.parts.store.lease(id).await.map_err(|error| store_failure(&error))
    }

    /// The leases that pass the filter and exist for the caller, newest first.
    ///
    /// # Parameters
    /// - `after`: the last lease of the previous page.
    /// - `limit`: the largest number of leases to return.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn list(
        &self,
        caller: &Caller,
        filter: &LeaseFilter,
        after: Option<LeaseId>,
        limit: u32,
    ) -> Result<Vec<LeaseView>, Failure> {
        let failed = |error: StorageError| store_failure(&error);
        let store = &self.0.parts.store;
        let visible = |lease: Lease| {
            let view = self.0.view(lease.id).unwrap_or_else(|| self.0.ended_view(lease));
            self.visible_to(caller, view)
        };
        let mut after = match after {
            Some(after) => match store.lease(after).await.map_err(failed)? {
                Some(lease) if visible(lease.clone()).is_some() => Some(lease),
                _ => return Ok(Vec::new()),
            },
            None => None,
        };
        let mut views = Vec::new();
        // One page may need several reads of the store, because the leases that the caller does not
        // see are left out.
        loop {
            let leases = store.leases(filter, after.as_ref(), limit).await.map_err(failed)?;
            let is_last = leases.len() < limit as usize;
            after = leases.last().cloned();
            views.extend(leases.into_iter().filter_map(visible));
            if is_last || views.len() >= limit as usize {
                views.truncate(limit as usize);
                return Ok(views);
            }
        }
    }

    /// The leases that have not ended and exist for the caller, in order of their ids.
    #[must_use]
    pub fn open_leases(&self, caller: &Caller) -> Vec<LeaseView> {
        let shown = self.0.parts.published.load();
        let is_current = self.0.is_inventory_current();
        let views = shown.open_leases().map(|open| LeaseView {
            recording: self.0.parts.recordings.of(open.lease.id),
            ..LeaseView::open(&shown, open, is_current)
        });
        views.filter_map(|view| self.visible_to(caller, view)).collect()
    }

    /// Waits until a lease reaches a state that `is_reached` accepts, until the lease ends, or
    /// until otter stops. Returns the lease. `None` if the lease does not exist for the caller.
    /// During the wait, the lease counts as polled.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn wait_until(
        &self,
        caller: &Caller,
        id: LeaseId,
        is_reached: impl Fn(LeaseState) -> bool,
    ) -> Result<Option<LeaseView>, Failure> {
        loop {
            let clients = self.0.clients(id);
            let mut changed = pin!(clients.as_ref().map(|clients| clients.state_changed()));
            if let Some(changed) = changed.as_mut().as_pin_mut() {
                // The state of the lease is read after this line, so every later change of the
                // state completes `changed`.
                changed.enable();
            }
            let Some(view) = self.get_for(caller, id).await? else { return Ok(None) };
            let state = view.lease.state;
            if is_reached(state) || state.is_end() {
                return Ok(Some(view));
            }
            let (Some(clients), Some(changed)) = (&clients, changed.as_pin_mut()) else {
                // The lease was published only after its clients were looked up. Look them up
                // again.
                continue;
            };
            let _waits = WaitingClient::new(Arc::clone(clients), self.0.parts.clock.clone());
            tokio::select! {
                biased;
                () = changed => {}
                () = self.0.stop.cancelled() => return Ok(Some(view)),
            }
        }
    }

    /// Renews a lease.
    ///
    /// # Parameters
    /// - `ttl`: the new time that the lease has from now on. `None` means the original duration of
    ///   the lease.
    ///
    /// # Errors
    /// `lease-ended`; `lease-not-active` if the lease is queued or being prepared;
    /// `invalid-request` if `ttl` is too long; `not-found`; `storage-unavailable`.
    pub async fn renew(
        &self,
        caller: &Caller,
        id: LeaseId,
        ttl: Option<Duration>,
    ) -> Result<LeaseView, Failure> {
        if let Some(ttl) = ttl {
            // The selected pools limit `ttl`, as they limit it in the request for a lease.
            let pools = self.0.view(id).map(|view| self.selected_pools(caller, &view.lease.select));
            self.check_ttl(ttl, &pools.unwrap_or_default())?;
        }
        self.0.submit_as(caller.actor(), LeaseCommand::Renew(id, ttl)).await?;
        self.get_for(caller, id).await?.ok_or_else(|| unknown_lease(id))
    }

    /// Ends a lease. Does nothing if the lease has already ended.
    ///
    /// # Parameters
    /// - `reason`: `Released` if the holder ends the lease, `Revoked` if an operator does.
    /// - `failed`: whether the use of the machine failed. Then an active lease is kept and does not
    ///   end, if its request has `keep_on_failure`.
    ///
    /// # Errors
    /// `not-found`; `storage-unavailable`.
    pub async fn end(
        &self,
        caller: &Caller,
        id: LeaseId,
        reason: EndReason,
        failed: bool,
        detail: Option<String>,
    ) -> Result<LeaseView, Failure> {
        let by = caller.name.to_string();
        let command = if failed {
            LeaseCommand::EndFailed { id, reason, by, detail }
        } else {
            LeaseCommand::End { id, reason, by, detail }
        };
        self.0.submit_as(caller.actor(), command).await?;
        self.get_for(caller, id).await?.ok_or_else(|| unknown_lease(id))
    }

    /// Quarantines a machine, or changes the reason of its quarantine.
    ///
    /// # Errors
    /// `storage-unavailable`.
    pub async fn quarantine(
        &self,
        machine: &Machine,
        reason: String,
        by: &Caller,
    ) -> Result<(), Failure> {
        let since = self.0.parts.clock.now();
        let name = by.name.to_string();
        let quarantine = Quarantine { reason, by: name, since, automatic: false, job: None };
        let key = MachineKey::from_identity(&machine.identity());
        let command = LeaseCommand::QuarantineMachine(key, quarantine, machine.id.clone());
        self.0.submit_as(by.actor(), command).await
    }

    /// Lifts the quarantine of a machine.
    ///
    /// # Errors
    /// `storage-unavailable`.
    pub async fn clear_quarantine(&self, machine: &Machine, by: &Caller) -> Result<(), Failure> {
        let key = MachineKey::from_identity(&machine.identity());
        self.0.submit_as(by.actor(), LeaseCommand::ClearQuarantine(key, machine.id.clone())).await
    }

    /// Records that an operator changed a machine. The record is in the history of the lease that
    /// holds the machine, if there is one.
    pub async fn record_override(&self, machine: &Machine, by: &str, reason: &str) {
        let holder =
            self.0.parts.published.load().holder_of(&machine.identity()).map(|open| open.lease.id);
        if let Some(id) = holder {
            let (by, reason) = (by.to_owned(), reason.to_owned());
            // A failure is ignored, because the reason is also in the audit record of the accepted
            // job.
            let _ = self.0.submit(LeaseCommand::RecordOverride { id, by, reason }).await;
        }
    }

    /// Records in the history of a lease that a rule of the configuration answers a question of its
    /// machine.
    pub async fn record_answer(&self, id: LeaseId, what: String) {
        // A failure is ignored, because the job that answers the question also names the lease.
        let _ = self.0.submit(LeaseCommand::RecordAnswer { id, what }).await;
    }

    /// The lease that holds a machine, if the screen of the machine is being recorded for it.
    #[must_use]
    pub fn recording_of_screen(&self, machine: &Machine) -> Option<LeaseId> {
        let LeaseActor { parts, .. } = &*self.0;
        let holder = parts.published.load().holder_of(&machine.identity())?.lease.id;
        let is_recorded =
            parts.recordings.is_recording(holder) && parts.recordings.has_screen(holder);
        is_recorded.then_some(holder)
    }

    /// Records in the history of a lease what happens with its recording.
    ///
    /// # Parameters
    /// - `is_warning`: whether the holder must know, so that it is a warning of the lease too.
    pub async fn record_recording(&self, id: LeaseId, what: String, is_warning: bool) {
        // A failure is ignored, because the audit has the recording too.
        let _ = self.0.submit(LeaseCommand::RecordRecording { id, what, is_warning }).await;
    }

    /// The `Otter-Reference` of the request for a lease. `None` if the request had none, or if the
    /// lease has ended.
    #[must_use]
    pub fn reference_of(&self, id: LeaseId) -> Option<String> {
        self.0.view(id)?.lease.reference.clone()
    }

    /// The pools that exist for a caller, each with the state of the machines that the caller sees.
    ///
    /// # Errors
    /// `inventory-loading`.
    pub fn pools(&self, caller: &Caller) -> Result<Vec<PoolView>, Failure> {
        self.0.pools(caller)
    }

    /// Lifts the quarantines that otter set by itself in a pool, and no quarantines that people
    /// set. Returns the machines whose quarantines were lifted, sorted by name.
    ///
    /// # Errors
    /// `not-found` if the pool does not exist for the caller; `inventory-loading`;
    /// `storage-unavailable`.
    pub async fn clear_automatic_quarantines(
        &self,
        caller: &Caller,
        pool: &str,
    ) -> Result<Vec<MachineId>, Failure> {
        self.0.clear_automatic_quarantines(caller, pool).await
    }

    /// How many machines of the host run or are leased, and the host's limits. `None` for a caller
    /// whose scope is restricted.
    #[must_use]
    pub fn running_on_host(&self, caller: &Caller) -> Option<RunningMachines> {
        (!caller.scope.is_restricted()).then(|| self.0.running_on_host())
    }

    /// Sets the metrics with the numbers of open leases and of quarantined machines.
    pub fn update_gauges(&self) {
        let LeaseActor { parts, .. } = &*self.0;
        let shown = parts.published.load();
        metrics::set_open_leases(&parts.metrics, &shown);
        let is_quarantined = |machine: &&Arc<Machine>| {
            shown.ledger_of(machine).is_some_and(|ledger| ledger.quarantine.is_some())
        };
        let quarantined = parts.inventory.contents().machines.iter().filter(is_quarantined).count();
        parts.metrics.leases().set_quarantined(quarantined);
    }

    /// When a lease expires. `None` if the lease is not active.
    #[must_use]
    pub fn expires_at(&self, id: LeaseId) -> Option<Timestamp> {
        self.0.view(id)?.expires_at
    }

    /// The secret of a lease.
    #[must_use]
    pub fn secret_of(&self, id: LeaseId) -> String {
        self.0.parts.secrets.secret_of(id)
    }

    /// Whether the text `secret` is the secret of a lease.
    #[must_use]
    pub fn is_secret_of(&self, id: LeaseId, secret: &str) -> bool {
        self.0.parts.secrets.is_secret_of(id, secret)
    }
}

impl LeaseView {
    /// The view of a lease that has not ended, without its recording.
    ///
    /// # Parameters
    /// - `is_current`: whether the inventory is loaded and the host is connected.
    #[must_use]
    pub fn open(table: &LeaseTable, open: &OpenLease, is_current: bool) -> Self {
        let (expires_at, max_expires_at) = open.expiry().unzip();
        let blocked_by = table.blocked_by(open.lease.id);
        Self {
            lease: Arc::clone(&open.lease),
            position: table.position(open.lease.id),
            expires_at,
            max_expires_at,
            blocked_by: blocked_by.map(|why| if is_current { why } else { LeaseBlocker::HostAway }),
            recording: None,
        }
    }

    /// The view of a lease that has ended, without its recording.
    #[must_use]
    pub fn ended(lease: Lease) -> Self {
        Self {
            lease: Arc::new(lease),
            position: None,
            expires_at: None,
            max_expires_at: None,
            blocked_by: None,
            recording: None,
        }
    }
}

/// The recovery (a release without a lease) for a machine that an earlier version of otter, which
/// had no recoveries, quarantined because a preparation or a release failed. `None` for every other
/// machine. A machine that `otter restore` quarantined has no failed job. It waits for an operator,
/// because leases that were granted after the backup are not known.
///
/// # Errors
/// Fails if the store cannot be read.
async fn recovery_of_earlier(
    store: &dyn Storage,
    ledger: &MachineLedger,
) -> Result<Option<Recovery>, StorageError> {
    let quarantine = ledger.quarantine.as_ref().filter(|quarantine| quarantine.automatic);
    let Some((job, since)) = quarantine.and_then(|found| Some((found.job?, found.since))) else {
        return Ok(None);
    };
    let Some(lease) = store.job(job).await?.and_then(|job| job.lease) else { return Ok(None) };
    let lease = store.lease(lease).await?;
    Ok(lease.map(|lease| Recovery {
        media: lease.recorded_media().cloned(),
        lease: lease.id,
        machine: lease.machine,
        snapshot: lease.release.snapshot,
        attempts: 0,
        pause: Duration::ZERO,
        retry_at: since,
    }))
}

fn unknown_lease(id: LeaseId) -> Failure {
    Failure::new(FailureKind::NotFound, format!("There is no lease {id}."))
}
