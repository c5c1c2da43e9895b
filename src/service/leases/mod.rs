//! Leases: a free machine for one caller, never for two, and never leaked.
//!
//! ```text
//! callers ─► orders ─► desk: one step of the table ─► one commit ─► shown ─► prepare and release jobs
//!                       ▲                                                      │
//!                       └──────────── how they ended, what changed ◄───────────┘
//! ```
//! One task takes the steps, one after the other; whoever reads sees what is committed. `table` is
//! the rules.

mod audit_records;
mod command;
mod job_authorization;
mod lease_actor;
mod lease_jobs;
pub mod lease_table;
pub mod matching;
mod metrics;
pub mod published;
pub mod secret;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::command::LeaseCommand;
use self::lease_actor::LeaseActor;
use self::lease_table::{LeaseRules, MachineKey, MachineLedger};
use self::published::PublishedLeases;
use self::secret::LeaseSecrets;
use super::callers::{Caller, Callers};
use super::event_stream::EventStream;
use super::idempotency::{Claimed, mismatch};
use super::inventory::Inventory;
use super::jobs::Jobs;
use super::machines::Machines;
use super::storage_watch::store_failure;
use crate::clock::Clock;
use crate::domain::access::Role;
use crate::domain::duration;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::LeaseId;
use crate::domain::lease::{
    EndReason, Lease, LeaseState, LeaseTerms, Prepare, Quarantine, Release, Select,
};
use crate::domain::machine::Machine;
use crate::domain::pool::{Pool, Pools};
use crate::domain::scope::Scope;
use crate::storage::{IdempotencyKey, KeyOwner, LeaseFilter, Storage, StorageError};
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::Metrics;

/// The desk of leases. Clones share it.
#[derive(Clone)]
pub struct Leases(Arc<LeaseActor>);

/// What the desk is built from.
pub struct LeasesParts {
    pub store: Arc<dyn Storage>,
    pub clock: Clock,
    pub callers: Arc<Callers>,
    pub event_stream: EventStream,
    pub inventory: Arc<Inventory>,
    pub jobs: Jobs,
    pub machines: Arc<Machines>,
    pub published: Arc<PublishedLeases>,
    pub pools: Arc<Pools>,
    pub rules: LeaseRules,
    pub secrets: LeaseSecrets,
    pub supervisor: Supervisor,
    pub metrics: Metrics,
}

/// A lease that is asked for.
#[derive(Clone, Debug)]
pub struct NewLease {
    pub select: Select,
    pub holder: Option<String>,
    pub ttl: Duration,
    pub queue_for: Option<Duration>,
    /// None: as the pool says.
    pub prepare: Option<Prepare>,
    /// None: as the pool says.
    pub release: Option<Release>,
    pub reference: Option<String>,
    pub key: Option<IdempotencyKey>,
}

/// A lease as readers see it.
#[derive(Clone, Debug)]
pub struct LeaseView {
    pub lease: Arc<Lease>,
    pub position: Option<usize>,
    pub expires_at: Option<Timestamp>,
    pub max_expires_at: Option<Timestamp>,
}

/// What came of asking for a lease.
#[derive(Clone, Debug)]
pub enum RequestedLease {
    New(LeaseView),
    /// The key was used before: the lease of that call.
    Existing(LeaseView),
}

/// A pool, and how its machines stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    pub name: String,
    pub machines: usize,
    pub free: usize,
    pub held: usize,
    pub quarantined: usize,
    /// Leases that wait for one of it.
    pub waiting: usize,
}

/// How many orders may wait for the desk; who comes then waits to be let in.
const COMMAND_CAPACITY: usize = 1_024;

impl Leases {
    /// The desk, with all that the store has kept. [`Leases::run`] has to be spawned.
    ///
    /// # Errors
    /// The store's.
    pub async fn load(parts: LeasesParts) -> Result<Self, StorageError> {
        let (commands, receiver) = mpsc::channel(COMMAND_CAPACITY);
        let kept = parts.store.stored_machines().await?;
        let ledgers: BTreeMap<MachineKey, MachineLedger> = kept
            .into_iter()
            .map(|(machine, kept)| (MachineKey(machine), MachineLedger::from(kept)))
            .collect();
        let open = parts.store.open_leases().await?;
        let fence_floor = parts.store.fence_floor().await?;
        let last_seen = parts.store.last_seen().await?;
        let receiver = Mutex::new(Some(receiver));
        let actor = LeaseActor::new(parts, commands, receiver, watch::Sender::new(()), last_seen);
        actor.restore(open, ledgers, fence_floor);
        Ok(Self(Arc::new(actor)))
    }

    /// Takes the steps, and takes up what was under way. Runs until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        LeaseActor::run(&self.0, stop).await;
    }

    /// Asks for a lease: granted at once, or queued if it has time to.
    ///
    /// # Errors
    /// `no-free-machine`, `queue-full`, `invalid-request` for what the rules do not allow;
    /// `idempotency-mismatch`, also if the machine of the key's lease has left the caller's scope.
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
        let id = lease.id;
        let command =
            LeaseCommand::Request { lease: Box::new(lease), key: new.key, limits: caller.limits };
        self.0.submit_with_claim(claim, caller.actor(), command).await?;
        self.get_for(caller, id).await?.map(RequestedLease::New).ok_or_else(|| unknown_lease(id))
    }

    /// A lease as a caller sees it. `None` if it does not exist for the caller. The call shows that
    /// the lease is not abandoned.
    ///
    /// # Errors
    /// The store's.
    pub async fn get_for(
        &self,
        caller: &Caller,
        id: LeaseId,
    ) -> Result<Option<LeaseView>, Failure> {
        // A caller that does not see the lease must not keep it waiting.
        if self.0.view(id).is_some_and(|view| self.visible_to(caller, view).is_none()) {
            return Ok(None);
        }
        Ok(self.get(id).await?.and_then(|view| self.visible_to(caller, view)))
    }

    /// Whether a lease exists for a caller. The call does not count against its being abandoned.
    ///
    /// # Errors
    /// The store's.
    pub async fn exists_for(&self, caller: &Caller, id: LeaseId) -> Result<bool, Failure> {
        let view = match self.0.view(id) {
            Some(view) => Some(view),
            None => self.stored(id).await?.map(LeaseView::ended),
        };
        Ok(view.is_some_and(|view| self.visible_to(caller, view).is_some()))
    }

    /// The view as a caller sees it; `None` if the lease does not exist for the caller. A
    /// restricted caller's position counts only the leases that it sees.
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
        let counts = |lease: &Lease| visibility.shows_lease(caller, lease);
        let position = view
            .position
            .and_then(|_| parts.published.load().table.position_among(view.lease.id, counts));
        Some(LeaseView { position, ..view })
    }

    /// A lease as it is now; none where there is no such lease. Asking counts against its being
    /// abandoned.
    ///
    /// # Errors
    /// The store's.
    async fn get(&self, id: LeaseId) -> Result<Option<LeaseView>, Failure> {
        if let Some(view) = self.0.view(id) {
            self.0.record_poll(id);
            return Ok(Some(view));
        }
        let mut kept = self.stored(id).await?;
        if kept.as_ref().is_some_and(|lease| !lease.state.is_end()) {
            // Committed at this very moment: once the desk takes the next order, it is shown, or
            // has ended.
            self.0.submit(LeaseCommand::RecordPoll(id)).await?;
            if let Some(view) = self.0.view(id) {
                return Ok(Some(view));
            }
            kept = self.stored(id).await?;
        }
        Ok(kept.map(LeaseView::ended))
    }

    async fn stored(&self, id: LeaseId) -> Result<Option<Lease>, Failure> {
        self.0.parts.store.lease(id).await.map_err(|error| store_failure(&error))
    }

    /// The leases that pass the filter and exist for the caller, the newest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(
        &self,
        caller: &Caller,
        filter: &LeaseFilter,
        after: Option<LeaseId>,
        limit: u32,
    ) -> Result<Vec<LeaseView>, Failure> {
        let failed = |error: StorageError| store_failure(&error);
        let store = &self.0.parts.store;
        let shown = |lease: Lease| {
            let view = self.0.view(lease.id).unwrap_or_else(|| LeaseView::ended(lease));
            self.visible_to(caller, view)
        };
        let mut after = match after {
            Some(after) => match store.lease(after).await.map_err(failed)? {
                Some(lease) if shown(lease.clone()).is_some() => Some(lease),
                _ => return Ok(Vec::new()),
            },
            None => None,
        };
        let mut views = Vec::new();
        // Stops at the end of the kept leases. If all leases exist for the caller, the first read
        // suffices.
        loop {
            let leases = store.leases(filter, after.as_ref(), limit).await.map_err(failed)?;
            let is_last = leases.len() < limit as usize;
            after = leases.last().cloned();
            views.extend(leases.into_iter().filter_map(shown));
            if is_last || views.len() >= limit as usize {
                views.truncate(limit as usize);
                return Ok(views);
            }
        }
    }

    /// Every lease that has not ended and exists for the caller, in order of arrival.
    #[must_use]
    pub fn open_leases(&self, caller: &Caller) -> Vec<LeaseView> {
        let shown = self.0.parts.published.load();
        let views = shown.table.open_leases().filter_map(|open| self.0.view(open.lease.id));
        views.filter_map(|view| self.visible_to(caller, view)).collect()
    }

    /// Waits until a lease reaches the requested state or ends. `None` if no such lease exists for
    /// the caller. Returns the lease as it is if the daemon
    /// stops first.
    ///
    /// # Errors
    /// The store's.
    pub async fn wait_until(
        &self,
        caller: &Caller,
        id: LeaseId,
        is_reached: impl Fn(LeaseState) -> bool,
    ) -> Result<Option<LeaseView>, Failure> {
        let mut changes = self.0.changed.subscribe();
        loop {
            changes.mark_unchanged();
            let Some(view) = self.get_for(caller, id).await? else { return Ok(None) };
            let state = view.lease.state;
            if is_reached(state) || state.is_end() {
                return Ok(Some(view));
            }
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                // A waiter that is still there counts as one who asks.
                () = self.0.parts.clock.sleep(self.0.parts.rules.abandon_after / 4) => {}
                () = self.0.stop.cancelled() => return Ok(Some(view)),
            }
        }
    }

    /// Renews a lease.
    ///
    /// # Errors
    /// `lease-ended`; `invalid-request` where the time is longer than allowed.
    pub async fn renew(
        &self,
        caller: &Caller,
        id: LeaseId,
        ttl: Option<Duration>,
    ) -> Result<LeaseView, Failure> {
        if let Some(ttl) = ttl {
            // The pool that was asked for, as with the lease itself.
            let pool = self.0.view(id).and_then(|view| view.lease.select.pool.clone());
            self.check_ttl(ttl, self.visible_pool(caller, pool.as_deref()))?;
        }
        self.0.submit_as(caller.actor(), LeaseCommand::Renew(id, ttl)).await?;
        self.get_for(caller, id).await?.ok_or_else(|| unknown_lease(id))
    }

    /// Ends a lease: its holder gives it back, or an operator takes it.
    ///
    /// # Errors
    /// The store's.
    pub async fn end(
        &self,
        caller: &Caller,
        id: LeaseId,
        reason: EndReason,
        detail: Option<String>,
    ) -> Result<LeaseView, Failure> {
        let command = LeaseCommand::End { id, reason, by: caller.name.to_string(), detail };
        self.0.submit_as(caller.actor(), command).await?;
        self.get_for(caller, id).await?.ok_or_else(|| unknown_lease(id))
    }

    /// Sets a machine aside, or changes why.
    ///
    /// # Errors
    /// The store's.
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

    /// A machine may be granted again.
    ///
    /// # Errors
    /// The store's.
    pub async fn clear_quarantine(&self, machine: &Machine, by: &Caller) -> Result<(), Failure> {
        let key = MachineKey::from_identity(&machine.identity());
        self.0.submit_as(by.actor(), LeaseCommand::ClearQuarantine(key, machine.id.clone())).await
    }

    /// Notes in the lease of a machine, if it has one, that an operator acted on it. The audit has
    /// the job.
    pub async fn record_override(&self, machine: &Machine, by: &str, reason: &str) {
        let holder =
            self.0.parts.published.load().holder_of(&machine.identity()).map(|open| open.lease.id);
        if let Some(id) = holder {
            let (by, reason) = (by.to_owned(), reason.to_owned());
            // The job was accepted already, and its acceptance is audited with the reason.
            let _ = self.0.submit(LeaseCommand::RecordOverride { id, by, reason }).await;
        }
    }

    /// Every pool that exists for the caller, and the state of those of its machines that do.
    ///
    /// # Errors
    /// `inventory-loading`.
    pub fn pools(&self, caller: &Caller) -> Result<Vec<PoolView>, Failure> {
        self.0.pools(caller)
    }

    /// Shows in the metrics how many leases there are, and how many machines are set aside.
    pub fn update_gauges(&self) {
        let LeaseActor { parts, .. } = &*self.0;
        let shown = parts.published.load();
        metrics::set_open_leases(&parts.metrics, &shown.table);
        let is_quarantined = |machine: &&Arc<Machine>| {
            shown.ledger(machine).is_some_and(|ledger| ledger.quarantine.is_some())
        };
        let quarantined = parts.inventory.contents().machines.iter().filter(is_quarantined).count();
        parts.metrics.leases().set_quarantined(quarantined);
    }

    /// When a lease that is active ends.
    #[must_use]
    pub fn expires_at(&self, id: LeaseId) -> Option<Timestamp> {
        self.0.view(id)?.expires_at
    }

    /// The secret of a lease.
    #[must_use]
    pub fn secret_of(&self, id: LeaseId) -> String {
        self.0.parts.secrets.secret_of(id)
    }

    /// Whether this is the secret of a lease.
    #[must_use]
    pub fn is_secret_of(&self, id: LeaseId, secret: &str) -> bool {
        self.0.parts.secrets.is_secret_of(id, secret)
    }

    fn lease_from_request(&self, caller: &Caller, new: &NewLease) -> Result<Lease, Failure> {
        let parts = &self.0.parts;
        let pool = self.visible_pool(caller, new.select.pool.as_deref());
        self.check_ttl(new.ttl, pool)?;
        let release = new
            .release
            .clone()
            .or_else(|| pool.and_then(|pool| pool.release.clone()))
            .unwrap_or_default();
        let may_keep =
            caller.role >= Role::Operator || pool.is_some_and(|pool| pool.may_keep_power);
        if release.keep_power && !may_keep {
            let detail =
                "release.power may be keep only where the pool allows it, or for an operator.";
            return Err(Failure::new(FailureKind::Forbidden, detail));
        }
        Ok(Lease::queued(LeaseTerms {
            id: LeaseId::new(parts.clock.uuid()),
            select: new.select.clone(),
            scope: Scope::clone(&caller.scope),
            holder: new.holder.clone().unwrap_or_else(|| caller.name.to_string()),
            requested_by: caller.name.to_string(),
            token: caller.token,
            origin: caller.origin,
            reference: new.reference.clone(),
            ttl: new.ttl,
            max_total: parts.rules.max_total,
            queue_for: new.queue_for,
            prepare: new.prepare.clone().or_else(|| pool.and_then(|pool| pool.prepare.clone())),
            release,
            created_at: parts.clock.now(),
        }))
    }

    /// What the configuration says of a pool, if the pool exists for the caller.
    fn visible_pool(&self, caller: &Caller, name: Option<&str>) -> Option<&Pool> {
        let LeaseActor { parts, .. } = &*self.0;
        let visibility = parts.machines.visibility();
        name.filter(|name| visibility.has_pool(&caller.scope, name))
            .and_then(|name| parts.pools.get(name))
    }

    fn check_ttl(&self, ttl: Duration, pool: Option<&Pool>) -> Result<(), Failure> {
        let rules = &self.0.parts.rules;
        let pool_limit = pool.and_then(|pool| pool.max_ttl);
        let longest = pool_limit.unwrap_or(rules.max_ttl).min(rules.max_ttl);
        if !ttl.is_zero() && ttl <= longest {
            return Ok(());
        }
        let detail = format!(
            "ttl is {}; from 1s to {} is allowed.",
            duration::format(ttl),
            duration::format(longest)
        );
        let error = crate::domain::failure::InputError {
            pointer: Some("/ttl".to_owned()),
            parameter: None,
            code: "out-of-range".into(),
            detail: detail.clone(),
        };
        Err(Failure::new(FailureKind::InvalidRequest, detail).with_error(error))
    }
}

impl LeaseView {
    /// A lease that ended, as the store keeps it.
    #[must_use]
    pub fn ended(lease: Lease) -> Self {
        Self { lease: Arc::new(lease), position: None, expires_at: None, max_expires_at: None }
    }
}

fn unknown_lease(id: LeaseId) -> Failure {
    Failure::new(FailureKind::NotFound, format!("There is no lease {id}."))
}
