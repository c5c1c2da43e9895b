//! Requests for leases: the new lease of a request, and the checks that reject a request.

use std::time::Duration;

use super::lease_actor::LeaseActor;
use super::lease_table::LeaseTable;
use super::matching::{CandidateMachine, Selection};
use super::{LeaseView, Leases};
use crate::domain::access::{Role, TokenLimits};
use crate::domain::duration;
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::domain::ids::LeaseId;
use crate::domain::lease::{Lease, LeaseState, LeaseTerms, Prepare, Release, Select};
use crate::domain::pool::Pool;
use crate::domain::scope::Scope;
use crate::service::callers::Caller;
use crate::service::limits::{queue_full, too_many};
use crate::storage::IdempotencyKey;

/// A request for a lease.
#[derive(Clone, Debug)]
pub struct NewLease {
    pub select: Select,
    pub holder: Option<String>,
    pub ttl: Duration,
    pub queue_for: Option<Duration>,
    /// `None` means the preparation of the pool.
    pub prepare: Option<Prepare>,
    /// `None` means the release of the pool.
    pub release: Option<Release>,
    pub reference: Option<String>,
    pub key: Option<IdempotencyKey>,
}

/// The result of a request for a lease.
#[derive(Clone, Debug)]
pub enum RequestedLease {
    /// A new lease.
    New(LeaseView),
    /// The lease of an earlier request with the same idempotency key.
    Existing(LeaseView),
}

impl Leases {
    /// The new lease of a request. Missing fields come from the pool.
    ///
    /// # Errors
    /// `invalid-request` if `ttl` is out of range; `forbidden` if the caller may not keep the power
    /// on.
    pub(super) fn lease_from_request(
        &self,
        caller: &Caller,
        new: &NewLease,
    ) -> Result<Lease, Failure> {
        let parts = &self.0.parts;
        let pool = self.visible_pool(caller, new.select.pool.as_deref());
        let pool = pool.as_ref();
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
                "release.power may be keep only if the pool allows it, or for an operator.";
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

    /// The configuration of a pool. `None` if it is not configured or does not exist for the
    /// caller.
    pub(super) fn visible_pool(&self, caller: &Caller, name: Option<&str>) -> Option<Pool> {
        let LeaseActor { parts, .. } = &*self.0;
        let visibility = parts.machines.visibility();
        name.filter(|name| visibility.has_pool(&caller.scope, name))
            .and_then(|name| parts.settings.load().pools.get(name).cloned())
    }

    /// Rejects a duration that is zero or longer than the pool or the rules allow.
    ///
    /// # Errors
    /// `invalid-request`.
    pub(super) fn check_ttl(&self, ttl: Duration, pool: Option<&Pool>) -> Result<(), Failure> {
        let rules = &self.0.parts.rules;
        let pool_limit = pool.and_then(|pool| pool.max_ttl);
        let longest = pool_limit.unwrap_or(rules.max_ttl).min(rules.max_ttl);
        if !ttl.is_zero() && ttl <= longest {
            return Ok(());
        }
        let detail = format!(
            "ttl is {}; it must be from 1s to {}.",
            duration::format(ttl),
            duration::format(longest)
        );
        let error = InputError {
            pointer: Some("/ttl".to_owned()),
            parameter: None,
            code: "out-of-range".into(),
            detail: detail.clone(),
        };
        Err(Failure::new(FailureKind::InvalidRequest, detail).with_error(error))
    }
}

impl LeaseActor {
    /// Rejects a request that no machine of the host can satisfy, free or not.
    ///
    /// # Errors
    /// `no-free-machine` if no machine matches the selection; `not-found` if no matching machine
    /// has the snapshots of `prepare` and `release`; `ambiguous-name` if `select.machine` names
    /// several machines.
    pub fn check_grantable(
        &self,
        lease: &Lease,
        candidates: &[CandidateMachine],
    ) -> Result<(), Failure> {
        self.parts.machines.contents()?;
        if let Some(reference) = &lease.select.machine
            && let Err(failure) = self.parts.machines.resolve_reference(&lease.scope, reference)
            && failure.kind == FailureKind::AmbiguousName
        {
            return Err(failure);
        }
        let (mut missing_snapshot, mut is_any_selected) = (None, false);
        let selection = Selection::new(lease, candidates);
        for candidate in candidates.iter().filter(|machine| selection.includes(machine)) {
            is_any_selected = true;
            let Some(missing) = candidate.missing_snapshots.iter().next() else { return Ok(()) };
            let Some(view) = self.parts.machines.get(&candidate.identity.id) else { continue };
            missing_snapshot =
                missing_snapshot.or(self.parts.machines.snapshot(&view, missing).err());
        }
        if !is_any_selected {
            return Err(self.parts.machines.why_none_fits(&lease.scope, &lease.select)?);
        }
        missing_snapshot.map_or(Ok(()), Err)
    }

    /// Rejects a lease that exceeds the limits of the caller's token.
    pub fn check_token_limits(
        table: &LeaseTable,
        lease: &Lease,
        limits: TokenLimits,
    ) -> Result<(), Failure> {
        let reached = |counts: &dyn Fn(&Lease) -> bool, most: Option<u32>| {
            most.filter(|most| {
                let own = table
                    .open_leases()
                    .filter(|open| open.lease.requested_by == lease.requested_by);
                own.filter(|open| counts(&open.lease)).count() >= *most as usize
            })
        };
        if let Some(most) = reached(&|_| true, limits.leases) {
            return Err(too_many(&lease.requested_by, &format!("{most} open leases")));
        }
        let waits = |lease: &Lease| lease.state == LeaseState::Queued;
        match reached(&waits, limits.queued_leases.filter(|_| lease.queue_for.is_some())) {
            Some(most) => Err(queue_full(&lease.requested_by, &format!("{most} queued leases"))),
            None => Ok(()),
        }
    }
}
