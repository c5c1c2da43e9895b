//! Leases: a free machine for one caller, never for two, and never leaked.
//!
//! ```text
//! callers ─► orders ─► desk: one step of the book ─► one commit ─► shown ─► prepare and release jobs
//!                       ▲                                                      │
//!                       └──────────── how they ended, what changed ◄───────────┘
//! ```
//! One task takes the steps, one after the other; whoever reads sees what is committed. `book` is
//! the rules.

mod audited;
pub mod book;
mod counted;
mod desk;
pub mod fit;
pub mod holds;
pub mod secret;
mod stepped;
#[cfg(test)]
mod tests;
mod work;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::book::{Kept, LeaseRules, MachineKey};
use self::desk::Desk;
use self::holds::Holds;
use self::secret::Secrets;
use self::stepped::Stepped;
use super::callers::{Caller, Callers};
use super::feed::Feed;
use super::idempotency::{Claimed, mismatch};
use super::inventory::{Inventory, MachineRecord};
use super::jobs::Jobs;
use super::machines::Machines;
use super::storage_watch::store_failure;
use crate::clock::Clock;
use crate::domain::access::Role;
use crate::domain::duration;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::LeaseId;
use crate::domain::lease::{
    EndReason, Lease, LeaseState, Prepare, Quarantine, Release, Select, Wanted,
};
use crate::domain::machine::Machine;
use crate::domain::pool::{Pool, Pools};
use crate::domain::scope::Scope;
use crate::storage::{IdempotencyKey, KeyOwner, LeaseFilter, Storage, StorageError};
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::Metrics;

/// The desk of leases. Clones share it.
#[derive(Clone)]
pub struct Leases(Arc<Desk>);

/// What the desk is built from.
pub struct LeasesParts {
    pub store: Arc<dyn Storage>,
    pub clock: Clock,
    pub callers: Arc<Callers>,
    pub feed: Feed,
    pub inventory: Arc<Inventory>,
    pub jobs: Jobs,
    pub machines: Arc<Machines>,
    pub holds: Arc<Holds>,
    pub pools: Arc<Pools>,
    pub rules: LeaseRules,
    pub secrets: Secrets,
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
pub enum Asked {
    Now(LeaseView),
    /// The key was used before: the lease of that call.
    Before(LeaseView),
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
const ORDERS: usize = 1_024;

impl Leases {
    /// The desk, with all that the store has kept. [`Leases::run`] has to be spawned.
    ///
    /// # Errors
    /// The store's.
    pub async fn load(parts: LeasesParts) -> Result<Self, StorageError> {
        let (orders, inbox) = mpsc::channel(ORDERS);
        let kept = parts.store.kept_machines().await?;
        let machines: BTreeMap<MachineKey, Kept> = kept
            .into_iter()
            .map(|(machine, kept)| (MachineKey(machine), Kept::from(kept)))
            .collect();
        let open = parts.store.open_leases().await?;
        let fence_floor = parts.store.fence_floor().await?;
        let last_seen = parts.store.last_seen().await?;
        let inbox = Mutex::new(Some(inbox));
        let desk = Desk::new(parts, orders, inbox, watch::Sender::new(()), last_seen);
        desk.restore(open, machines, fence_floor);
        Ok(Self(Arc::new(desk)))
    }

    /// Takes the steps, and takes up what was under way. Runs until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        Desk::run(&self.0, stop).await;
    }

    /// Asks for a lease: granted at once, or queued if it has time to.
    ///
    /// # Errors
    /// `no-free-machine`, `queue-full`, `invalid-request` for what the rules do not allow;
    /// `idempotency-mismatch`, also if the machine of the key's lease has left the caller's scope.
    pub async fn ask(&self, caller: &Caller, new: NewLease) -> Result<Asked, Failure> {
        let lease = self.lease_of(caller, &new)?;
        let claim = match new.key.clone() {
            None => None,
            Some(key) => {
                let name = key.key.clone();
                match self.0.keys.claim(key, KeyOwner::lease).await? {
                    Claimed::New(claim) => Some(claim),
                    Claimed::Used(first) => {
                        let before = self.get(first).await?.ok_or_else(|| unknown(first))?;
                        let shown = self.shown_to(caller, before).map(Asked::Before);
                        return shown.ok_or_else(|| mismatch(&name));
                    }
                }
            }
        };
        let id = lease.id;
        let step = Stepped::Ask { lease: Box::new(lease), key: new.key, limits: caller.limits };
        self.0.order_with(claim, caller.actor(), step).await?;
        self.get_for(caller, id).await?.map(Asked::Now).ok_or_else(|| unknown(id))
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
        if self.0.view(id).is_some_and(|view| self.shown_to(caller, view).is_none()) {
            return Ok(None);
        }
        Ok(self.get(id).await?.and_then(|view| self.shown_to(caller, view)))
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
        Ok(view.is_some_and(|view| self.shown_to(caller, view).is_some()))
    }

    /// The view as a caller sees it; `None` if the lease does not exist for the caller. A
    /// restricted caller's position counts only the leases that it sees.
    #[must_use]
    pub fn shown_to(&self, caller: &Caller, view: LeaseView) -> Option<LeaseView> {
        if !caller.scope.is_restricted() {
            return Some(view);
        }
        let Desk { parts, .. } = &*self.0;
        let visibility = parts.machines.visibility();
        if !visibility.shows_lease(caller, &view.lease) {
            return None;
        }
        let counts = |lease: &Lease| visibility.shows_lease(caller, lease);
        let position = view
            .position
            .and_then(|_| parts.holds.shown().book.position_among(view.lease.id, counts));
        Some(LeaseView { position, ..view })
    }

    /// A lease as it is now; none where there is no such lease. Asking counts against its being
    /// abandoned.
    ///
    /// # Errors
    /// The store's.
    async fn get(&self, id: LeaseId) -> Result<Option<LeaseView>, Failure> {
        if let Some(view) = self.0.view(id) {
            self.0.asked(id);
            return Ok(Some(view));
        }
        let mut kept = self.stored(id).await?;
        if kept.as_ref().is_some_and(|lease| !lease.state.is_end()) {
            // Committed at this very moment: once the desk takes the next order, it is shown, or
            // has ended.
            self.0.order(Stepped::Asked(id)).await?;
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
            self.shown_to(caller, view)
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
    pub fn open(&self, caller: &Caller) -> Vec<LeaseView> {
        let shown = self.0.parts.holds.shown();
        let views = shown.book.open().filter_map(|open| self.0.view(open.lease.id));
        views.filter_map(|view| self.shown_to(caller, view)).collect()
    }

    /// Waits until a lease reaches the requested state or ends. `None` if no such lease exists for
    /// the caller. Returns the lease as it is if the daemon
    /// stops first.
    ///
    /// # Errors
    /// The store's.
    pub async fn until(
        &self,
        caller: &Caller,
        id: LeaseId,
        wanted: impl Fn(LeaseState) -> bool,
    ) -> Result<Option<LeaseView>, Failure> {
        let mut changes = self.0.changed.subscribe();
        loop {
            changes.mark_unchanged();
            let Some(view) = self.get_for(caller, id).await? else { return Ok(None) };
            let state = view.lease.state;
            if wanted(state) || state.is_end() {
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
            self.allowed(ttl, self.pool_of(caller, pool.as_deref()))?;
        }
        self.0.order_by(caller.actor(), Stepped::Renew(id, ttl)).await?;
        self.get_for(caller, id).await?.ok_or_else(|| unknown(id))
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
        let step = Stepped::End { id, reason, by: caller.name.to_string(), detail };
        self.0.order_by(caller.actor(), step).await?;
        self.get_for(caller, id).await?.ok_or_else(|| unknown(id))
    }

    /// Sets a machine aside, or changes why.
    ///
    /// # Errors
    /// The store's.
    pub async fn set_aside(
        &self,
        machine: &Machine,
        reason: String,
        by: &Caller,
    ) -> Result<(), Failure> {
        let since = self.0.parts.clock.now();
        let name = by.name.to_string();
        let quarantine = Quarantine { reason, by: name, since, automatic: false, job: None };
        let key = MachineKey::of(&machine.identity());
        let step = Stepped::SetAside(key, quarantine, machine.id.clone());
        self.0.order_by(by.actor(), step).await
    }

    /// A machine may be granted again.
    ///
    /// # Errors
    /// The store's.
    pub async fn clear(&self, machine: &Machine, by: &Caller) -> Result<(), Failure> {
        let key = MachineKey::of(&machine.identity());
        self.0.order_by(by.actor(), Stepped::Clear(key, machine.id.clone())).await
    }

    /// Notes in the lease of a machine, if it has one, that an operator acted on it. The audit has
    /// the job.
    pub async fn overridden(&self, machine: &Machine, by: &str, reason: &str) {
        let holder =
            self.0.parts.holds.shown().holder_of(&machine.identity()).map(|open| open.lease.id);
        if let Some(id) = holder {
            let (by, reason) = (by.to_owned(), reason.to_owned());
            // The job was accepted already, and its acceptance is audited with the reason.
            let _ = self.0.order(Stepped::Overridden { id, by, reason }).await;
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
    pub fn measure(&self) {
        let Desk { parts, .. } = &*self.0;
        let shown = parts.holds.shown();
        counted::open(&parts.metrics, &shown.book);
        let aside = |record: &&Arc<MachineRecord>| {
            shown.kept(&record.machine).is_some_and(|kept| kept.quarantine.is_some())
        };
        let aside = parts.inventory.picture().machines.iter().filter(aside).count();
        parts.metrics.leases().aside(aside);
    }

    /// When a lease that is active ends.
    #[must_use]
    pub fn expires_at(&self, id: LeaseId) -> Option<Timestamp> {
        self.0.view(id)?.expires_at
    }

    /// The secret of a lease.
    #[must_use]
    pub fn secret(&self, id: LeaseId) -> String {
        self.0.parts.secrets.of(id)
    }

    /// Whether this is the secret of a lease.
    #[must_use]
    pub fn knows(&self, id: LeaseId, secret: &str) -> bool {
        self.0.parts.secrets.is_of(id, secret)
    }

    fn lease_of(&self, caller: &Caller, new: &NewLease) -> Result<Lease, Failure> {
        let parts = &self.0.parts;
        let pool = self.pool_of(caller, new.select.pool.as_deref());
        self.allowed(new.ttl, pool)?;
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
        Ok(Lease::queued(Wanted {
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
    fn pool_of(&self, caller: &Caller, name: Option<&str>) -> Option<&Pool> {
        let Desk { parts, .. } = &*self.0;
        let visibility = parts.machines.visibility();
        name.filter(|name| visibility.has_pool(&caller.scope, name))
            .and_then(|name| parts.pools.get(name))
    }

    fn allowed(&self, ttl: Duration, pool: Option<&Pool>) -> Result<(), Failure> {
        let rules = &self.0.parts.rules;
        let of_pool = pool.and_then(|pool| pool.max_ttl);
        let longest = of_pool.unwrap_or(rules.max_ttl).min(rules.max_ttl);
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

fn unknown(id: LeaseId) -> Failure {
    Failure::new(FailureKind::NotFound, format!("There is no lease {id}."))
}
